"""Masks as CVAT's run lengths."""

from collections.abc import Sequence

import numpy as np

from maskbank.errors import RequestError
from maskbank.shapes.shape import MAX_RUN


def mask_box(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """The box (left, top, right, bottom) of a mask (H, W) bool in whole pixels, all inclusive, or None."""
    rows = np.flatnonzero(mask.any(axis=1))
    if rows.size == 0:
        return None
    top, bottom = int(rows[0]), int(rows[-1])
    columns = np.flatnonzero(mask[top : bottom + 1].any(axis=0))
    return int(columns[0]), top, int(columns[-1]), bottom


def encode_rle(mask: np.ndarray) -> list[int]:
    """Encode a mask (H, W) bool as CVAT does: run lengths inside its box, then left, top, right, bottom.

    The runs go row by row through the box and alternate, background first (0 long if the first pixel is
    set); right and bottom are inclusive. An empty mask is one background pixel at the origin.
    Equal to `cvat_sdk.masks.encode_mask(mask)`.
    """
    left, top, right, bottom = mask_box(mask) or (0, 0, 0, 0)
    pixels = mask[top : bottom + 1, left : right + 1].ravel()
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    runs: list[int] = np.diff(changes, prepend=0, append=pixels.size).tolist()
    return [0] * bool(pixels[0]) + runs + [left, top, right, bottom]


def decode_rle(points: Sequence[float] | np.ndarray, height: int, width: int) -> np.ndarray:
    """Decode CVAT's mask points (see `encode_rle`) for an image of height x width pixels to (H, W) bool.

    Equal to `cvat_sdk.masks.decode_mask`.

    Raises:
        RequestError: numbers that are not whole, a box that is empty or leaves the image, negative runs,
            or runs that do not fill the box.
    """
    numbers = np.array(points, np.float64)
    if numbers.size < 5:
        raise RequestError("A mask needs run lengths and the 4 numbers of its box.")
    if not np.array_equal(numbers, np.floor(numbers)) or np.abs(numbers).max() > MAX_RUN:
        raise RequestError("The run lengths and the box of a mask must be whole numbers.")
    runs = numbers[:-4].astype(np.int64)
    left, top, right, bottom = (int(number) for number in numbers[-4:])
    if not (0 <= left <= right < width and 0 <= top <= bottom < height):
        raise RequestError(
            f"The mask's box ({left}, {top}) to ({right}, {bottom}) does not lie inside the image of "
            f"{width} x {height} pixels."
        )
    if runs.min() < 0:
        raise RequestError("The run lengths of a mask must not be negative.")
    size = (bottom - top + 1, right - left + 1)
    if runs.sum() != size[0] * size[1]:  # checked before anything as long as the runs is built
        raise RequestError(
            f"The mask's run lengths add up to {runs.sum()} pixels, but its box has {size[0] * size[1]}."
        )
    mask = np.zeros((height, width), bool)
    values = np.arange(runs.size) % 2 == 1
    mask[top : bottom + 1, left : right + 1] = np.repeat(values, runs).reshape(size)
    return mask
