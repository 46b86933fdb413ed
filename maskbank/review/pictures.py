"""The pictures of a page: frames and masks, small enough for a file that people send each other."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from maskbank.files.images import resize_image, resize_mask, working_size
from maskbank.review.record import Finding, RecordedFrame, decode_mask, encode_mask

SHORT_SIDE = 480
JPEG_QUALITY = 75
MAX_BYTES = 14_000_000  # of all pictures and masks of a page, as they are written in it


@dataclass(frozen=True)
class Picture:
    """A frame as the page holds it: a data URI, (height, width), and COCO's run lengths by object."""

    image: str
    size: tuple[int, int]
    masks: tuple[str | None, ...]

    @property
    def bytes(self) -> int:
        """How much of the page it takes."""
        return len(self.image) + sum(len(mask) for mask in self.masks if mask)


def small_jpeg(image: np.ndarray) -> bytes:
    """A frame (H, W, 3) uint8 RGB as a JPEG whose short side is `SHORT_SIDE` at most."""
    small = resize_image(image, *_small_size(image))
    written, data = cv2.imencode(
        ".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    assert written
    return data.tobytes()


def make_pictures(
    frames: Sequence[RecordedFrame],
    images: Iterable[tuple[int, np.ndarray]],
    needed: Collection[int],
    max_bytes: int = MAX_BYTES,
) -> dict[int, Picture]:
    """Pictures by position: of all frames, or of every second, fourth, … one where all would be too many.

    Args:
        frames: of the run.
        images: positions and images (H, W, 3) uint8 RGB.
        needed: positions whose pictures are made in any case.
        max_bytes: of all of them.
    """
    made: dict[int, Picture] = {}
    stride, total = 1, 0
    for i, image in images:
        if i % stride and i not in needed:
            continue
        made[i] = _picture(frames[i], image)
        total += made[i].bytes
        while total > max_bytes and stride < len(frames):
            stride *= 2
            made = {k: picture for k, picture in made.items() if k % stride == 0 or k in needed}
            total = sum(picture.bytes for picture in made.values())
    return dict(sorted(made.items()))


def _picture(frame: RecordedFrame, image: np.ndarray) -> Picture:
    size = _small_size(image)
    encoded = base64.b64encode(small_jpeg(image)).decode("ascii")
    masks = tuple(_small_mask(finding, frame.size, size) for finding in frame.findings)
    return Picture(f"data:image/jpeg;base64,{encoded}", size, masks)


def _small_size(image: np.ndarray) -> tuple[int, int]:
    height, width = image.shape[:2]
    return working_size(height, width, SHORT_SIDE)


def _small_mask(finding: Finding | None, size: tuple[int, int], small: tuple[int, int]) -> str | None:
    if finding is None or finding.mask is None:
        return None
    if size == small:
        return finding.mask
    coverage = resize_mask(decode_mask(finding.mask, size), *small)
    return encode_mask(coverage >= min(0.5, coverage.max()))  # something stays of a small object, too
