"""CVAT's interactor protocol: a box and clicks on a frame become the mask of the object."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from maskbank.errors import RequestError, TooLargeError
from maskbank.networks.prompts import Points
from maskbank.service.requests import parse_image, parse_list
from maskbank.shapes.rle import mask_box

MAX_CLICKS = 200
MAX_COORDINATE = 1e6


@dataclass(frozen=True)
class OutlineRequest:
    """An object to outline.

    Attributes:
        image: encoded.
        box: left, top, right, bottom in pixels.
        positive, negative: clicks on the object and beside it, x and y in pixels.
    """

    image: bytes
    box: tuple[float, float, float, float]
    positive: Points
    negative: Points


def is_outline_request(body: dict[str, Any]) -> bool:
    """Whether a request to the function is one for an interactor, and none for a tracker."""
    return "pos_points" in body or "obj_bbox" in body


def parse_outline_request(body: dict[str, Any]) -> OutlineRequest:
    """The request as CVAT's server sends it: `image`, `obj_bbox` (two corners), `pos_points` and `neg_points`.

    Raises RequestError (TooLargeError) with one sentence for the annotator.
    """
    corners = _points(body, "obj_bbox")
    if not corners:
        raise RequestError("Draw a box around the object first; clicks correct what is found in it.")
    if len(corners) != 2:
        raise RequestError(f"The box must have two corners, not {len(corners)}.")
    (left, right), (top, bottom) = (sorted(values) for values in zip(*corners, strict=True))
    positive, negative = _points(body, "pos_points"), _points(body, "neg_points")
    if len(positive) + len(negative) > MAX_CLICKS:
        raise TooLargeError(f"There are more than {MAX_CLICKS} clicks; start again with a new box.")
    return OutlineRequest(parse_image(body), (left, top, right, bottom), positive, negative)


def _points(body: dict[str, Any], name: str) -> list[tuple[float, float]]:
    points = []
    for point in parse_list(body, name):
        if not isinstance(point, list) or len(point) != 2 or not all(map(_is_coordinate, point)):
            raise RequestError(f"Each point in {name} must be two numbers, x and y.")
        points.append((float(point[0]), float(point[1])))
    return points


def _is_coordinate(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_COORDINATE  # nor NaN


def outline_reply(mask: np.ndarray) -> dict[str, list[Any]]:
    """A mask (H, W) bool with at least one pixel, as CVAT's interface reads it.

    `bounds` is its box (left, top, right, bottom, all inclusive), `mask` the rows of pixels in the box, 0 or 1.
    """
    bounds = mask_box(mask)
    assert bounds, "an outline has at least one pixel"
    left, top, right, bottom = bounds
    return {"mask": mask[top : bottom + 1, left : right + 1].astype(np.uint8).tolist(), "bounds": list(bounds)}
