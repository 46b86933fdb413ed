"""A mask that is kept while many others are."""

import zlib

import numpy as np


class PackedMask:
    """A mask (H, W) bool, kept as compressed bits: those of a clip of large images would take gigabytes."""

    def __init__(self, mask: np.ndarray):
        self._size = mask.shape
        self._bits = zlib.compress(np.packbits(mask).tobytes(), level=1)

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool, unpacked anew."""
        height, width = self._size
        bits = np.frombuffer(zlib.decompress(self._bits), np.uint8)
        return np.unpackbits(bits, count=height * width).view(bool).reshape(height, width)
