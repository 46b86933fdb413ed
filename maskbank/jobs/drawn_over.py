"""Outlines that a person drew over results without giving them a group: they are of the results' objects."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from maskbank.errors import RequestError
from maskbank.jobs.objects import AUTO, shape_of
from maskbank.jobs.run_folder import WorkFolder
from maskbank.jobs.sweeps import MAX_PIXELS
from maskbank.jobs.uploads import Annotations
from maskbank.shapes.conversion import shape_to_mask
from maskbank.shapes.shape import SHAPE_TYPES, Shape

SAME = 0.5  # intersection over union from which an outline is drawn over a result; the plugin has the same
APART = 0.5  # of it, that of every other result is lower

NOTE = "drawn over"  # in a job's folder: the groups of such outlines, for the results under them are replaced


def with_groups_of_results(annotations: Annotations, kept: WorkFolder) -> tuple[Annotations, dict[int, int]]:
    """The annotations of a job, in which outlines without a group have that of the result over which they are drawn: of
    the same label, on the same frame. In CVAT a person cannot put a shape into a group that there is.

    kept: the folder of the job; notes which outlines these are.

    Returns them, and the groups by the ids of the outlines that get one.
    """
    known: dict[str, int] = json.loads(kept.noted(NOTE) or "{}")
    groups = dict(known)
    found: dict[int, int] = {}
    drawn = [shape for shape in annotations["shapes"] if shape["type"] in SHAPE_TYPES]
    results: dict[tuple[int, int], list[Mapping[str, Any]]] = defaultdict(list)
    for shape in drawn:
        if shape["source"] == AUTO:
            results[_place(shape)].append(shape)
    for shape in drawn:
        if shape["source"] == AUTO or shape["group"]:
            continue
        name = _name(shape)
        if name not in groups and (group := _group_under(shape, results[_place(shape)])):
            groups[name] = group
        if name in groups:
            found[shape["id"]] = groups[name]
    if groups != known:
        kept.note(NOTE, json.dumps(groups))
    shapes = [shape | {"group": found.get(shape["id"], shape["group"])} for shape in annotations["shapes"]]
    return {**annotations, "shapes": shapes}, found


def _place(shape: Mapping[str, Any]) -> tuple[int, int]:
    return shape["label_id"], shape["frame"]


def _name(shape: Mapping[str, Any]) -> str:
    """Names an outline; CVAT's ids change."""
    said = [shape["label_id"], shape["frame"], shape["type"], shape["rotation"], shape["points"]]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _group_under(outline: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> int:
    """The group of the one result over which an outline is drawn, 0 where there is none or it is not clear which.

    results: those of the same label on the same frame.
    """
    if not any(result["group"] for result in results):
        return 0
    overlaps = [(_overlap(shape_of(outline), shape_of(result)), result["group"]) for result in results]
    best, group = max(overlaps)
    others = [overlap for overlap, other in overlaps if other != group]
    return group if best >= SAME and max(others, default=0.0) < APART * best else 0


def _overlap(one: Shape, other: Shape) -> float:
    """Intersection over union; of the boxes where either is one. 0 for shapes that cannot be filled."""
    if "rectangle" in (one.type, other.type):
        one, other = (Shape("polygon", _corners(_box(shape))) for shape in (one, other))
    right, bottom = np.maximum(_box(one), _box(other))[2:].astype(int) + 1
    if min(right, bottom) < 1 or right * bottom > MAX_PIXELS:
        return 0.0
    try:
        masks = [shape_to_mask(shape, bottom, right) for shape in (one, other)]
    except RequestError:
        return 0.0
    return float((masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum())


def _box(shape: Shape) -> tuple[float, float, float, float]:
    """Left, top, right and bottom."""
    points = shape.points
    if shape.type == "mask":
        left, top, right, bottom = points[-4:]
        return left, top, right + 1, bottom + 1
    if shape.type == "rectangle":
        return points[0], points[1], points[2], points[3]
    if shape.type == "ellipse":
        x, y, right, top = points
        return 2 * x - right, top, right, 2 * y - top
    return min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])


def _corners(box: tuple[float, float, float, float]) -> tuple[float, ...]:
    left, top, right, bottom = box
    return left, top, right, top, right, bottom, left, bottom
