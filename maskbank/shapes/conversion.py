"""CVAT's shapes to boolean masks and back.

Coordinates are CVAT's, in pixels of the image: pixel (column i, row j) is the square from (i, j) to
(i + 1, j + 1). A polygon, a rectangle or an ellipse covers the pixels whose CENTRE it contains, as
COCO does, so an outline has the area of the mask it stands for and neighbours that share an edge neither
overlap nor leave a gap. Only the box of a mask RLE counts whole pixels and includes its last row and column.
"""

import numpy as np

from maskbank.errors import RequestError
from maskbank.shapes.polygon import check_crossings, fill_ellipse, fill_polygon, largest_outline
from maskbank.shapes.rle import decode_rle, encode_rle, mask_box
from maskbank.shapes.shape import SHAPE_TYPES, Shape


def shape_to_mask(shape: Shape, height: int, width: int) -> np.ndarray:
    """The pixels that a mask, a polygon or an ellipse means on an image of a size.

    A mask is decoded; a polygon is filled by the even-odd rule; an ellipse is filled. What lies outside the image is
    cut off, except for a mask, whose box has to lie inside. What a rectangle means depends on the image: see
    `maskbank.networks.outliner`.

    Returns:
        (height, width) bool with at least one pixel set.

    Raises:
        RequestError: the shape does not fit the image or covers none of its pixels.
        TooLargeError: a polygon's edges cross the image more often than those of any object.
    """
    if shape.type == "mask":
        mask = decode_rle(shape.points, height, width)
    elif shape.type == "polygon":
        corners = np.array(shape.points, np.float64).reshape(-1, 2)
        check_crossings(corners, width)
        mask = fill_polygon(corners, height, width)
    elif shape.type == "ellipse":
        mask = fill_ellipse(shape.points, height, width)
    else:
        raise ValueError(f"Which pixels a {shape.type} means depends on the image.")
    if not mask.any():
        raise RequestError(f"The {shape.type} covers no pixel of the image of {width} x {height} pixels.")
    return mask


def mask_to_shape(mask: np.ndarray, type: str) -> Shape | None:
    """The shape of the requested type that stands for a mask, or None for an empty mask.

    mask: exactly the mask. rectangle: the box of all its pixels. ellipse: the upright ellipse with the
    mask's centre and spread. polygon: the simplified outline of the largest part; see `largest_outline`.

    Args:
        mask: (H, W) bool.
        type: one of `SHAPE_TYPES`.
    """
    box = mask_box(mask)
    if box is None:
        return None
    left, top, right, bottom = box
    if type == "mask":
        return Shape("mask", tuple(encode_rle(mask)))
    if type == "rectangle":
        return Shape("rectangle", (float(left), float(top), float(right + 1), float(bottom + 1)))
    crop = mask[top : bottom + 1, left : right + 1]
    if type == "polygon":
        corners = largest_outline(crop) + (left, top)
        return Shape("polygon", tuple(corners.ravel().tolist()))
    if type == "ellipse":
        x, spread_x = _centre_and_spread(crop.sum(axis=0))
        y, spread_y = _centre_and_spread(crop.sum(axis=1))
        # Along each axis of an even ellipse the standard deviation is half the radius.
        return Shape("ellipse", (left + x, top + y, left + x + 2 * spread_x, top + y - 2 * spread_y))
    raise ValueError(f"type must be one of {SHAPE_TYPES}, not {type!r}")


def _centre_and_spread(counts: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation, in pixels, along an axis with `counts[i]` pixels in row or column i."""
    centres = np.arange(len(counts)) + 0.5
    mean = np.average(centres, weights=counts)
    variance = np.average(np.square(centres - mean), weights=counts) + 1 / 12  # of the pixel's own extent
    return float(mean), float(np.sqrt(variance))
