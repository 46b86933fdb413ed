"""A mask that is kept while many others are."""

import numpy as np


class PackedMask:
    """A mask (H, W) bool, kept as a bit per pixel: fifty of a large image would take gigabytes."""

    def __init__(self, mask: np.ndarray):
        self._size = mask.shape
        self._bits = np.packbits(mask)

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool, unpacked anew."""
        height, width = self._size
        return np.unpackbits(self._bits, count=height * width).view(bool).reshape(height, width)
