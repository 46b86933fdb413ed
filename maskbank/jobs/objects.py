"""Which annotations of a CVAT job are seeds, and which seeds are one object."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from maskbank.shapes import SHAPE_TYPES, Shape

AUTO = "auto"  # the source of what a program made; once a person edits it, CVAT changes it to semi-auto
ELLIPSE_CORNERS = 64  # of the polygon that stands for a rotated ellipse


@dataclass(frozen=True)
class Label:
    id: int
    name: str
    type: str  # the only type of shapes that CVAT lets it have, or "any"
    mutable: frozenset[int]  # ids of the attributes that may change along a track


@dataclass(frozen=True)
class Seed:
    """What a person outlined of an object on one frame."""

    shapes: tuple[Shape, ...]  # one; or several of a group, which are the object together
    z_order: int
    attributes: Mapping[int, str]  # values by id


@dataclass(frozen=True)
class JobObject:
    """One object of a job.

    name: its label, numbered where the label has several objects.
    group: CVAT's number of its group; 0: none.
    type: of the first shape that was drawn of it.
    seeds: by frame, in order; at least one.
    absent: frames on which a person said that it is not there (a track that is "outside").
    """

    name: str
    label: Label
    group: int
    type: str
    seeds: Mapping[int, Seed]
    absent: frozenset[int] = frozenset()

    def nearest_seed(self, frame: int) -> Seed:
        return self.seeds[min(self.seeds, key=lambda seeded: abs(seeded - frame))]


def find_objects(annotations: Mapping, labels: Mapping[int, Label], frames: Sequence[int]) -> list[JobObject]:
    """The objects that a job's annotations outline on some of `frames`, in an order that CVAT's ids have no part in.

    The keyframes of a track are one object. So are shapes with the same label and group, and the ungrouped shapes of
    a label that has at most one on each frame. Ungrouped shapes of a label that are all on one frame are an object
    each.

    Args:
        annotations: what CVAT answers for the job.
        labels: by id; shapes with other labels are left out.
        frames: of the job, in order.

    Raises:
        ValueError: it cannot be told which ungrouped shapes are one object; one sentence.
    """
    drawn = [track for track in annotations["tracks"] if track["label_id"] in labels and track["source"] != AUTO]
    tracks = [_track(track, labels[track["label_id"]], frames) for track in drawn]
    found = [track for track in tracks if track.seeds] + _objects_of_shapes(annotations["shapes"], labels, set(frames))
    found.sort(key=lambda each: (next(iter(each.seeds)), each.label.id, _outlines(each)))
    total, count = Counter(each.label.id for each in found), Counter()
    objects = []
    for each in found:
        count[each.label.id] += 1
        several = total[each.label.id] > 1
        objects.append(replace(each, name=f"{each.name} {count[each.label.id]}") if several else each)
    return objects


def fingerprint(objects: Iterable[JobObject]) -> str:
    """Names what was outlined: the same until somebody adds, changes or removes a seed."""
    return hashlib.sha256(json.dumps([[each.label.id, _outlines(each)] for each in objects]).encode()).hexdigest()


def _outlines(drawn: JobObject) -> list:
    return [
        [frame, [[shape.type, shape.points] for shape in seed.shapes]] for frame, seed in sorted(drawn.seeds.items())
    ]


def _track(track: Mapping, label: Label, frames: Sequence[int]) -> JobObject:
    """The object of a track; without seeds if none of its keyframes outlines anything on `frames`."""
    keyframes = {keyframe["frame"]: keyframe for keyframe in track["shapes"]}
    always = _attributes(track)
    seeds = {
        frame: _seed([keyframes[frame]], always)
        for frame in frames
        if frame in keyframes and _outlines_something(keyframes[frame])
    }
    absent, outside = set(), False
    for frame in sorted({*frames, *keyframes}):
        outside = keyframes[frame]["outside"] if frame in keyframes else outside
        if outside:
            absent.add(frame)
    kind = keyframes[next(iter(seeds))]["type"] if seeds else ""
    return JobObject(label.name, label, track["group"] or 0, kind, seeds, frozenset(absent))


def _objects_of_shapes(shapes: Iterable[Mapping], labels: Mapping[int, Label], frames: set[int]) -> list[JobObject]:
    drawn: dict[tuple[int, int], dict[int, list[Mapping]]] = defaultdict(lambda: defaultdict(list))
    for shape in shapes:
        wanted = shape["label_id"] in labels and shape["frame"] in frames and shape["source"] != AUTO
        if wanted and _outlines_something(shape):
            drawn[shape["label_id"], shape["group"] or 0][shape["frame"]].append(shape)
    found = []
    for (label_id, group), by_frame in drawn.items():
        label = labels[label_id]
        if group or all(len(own) == 1 for own in by_frame.values()):
            found.append(_object(label, group, by_frame))
        elif len(by_frame) == 1:
            [(frame, own)] = by_frame.items()
            found += [_object(label, group, {frame: [shape]}) for shape in own]
        else:
            crowded = ", ".join(str(frame) for frame in sorted(by_frame) if len(by_frame[frame]) > 1)
            every = ", ".join(map(str, sorted(by_frame)))
            raise ValueError(
                f"The label {label.name} is outlined on the frames {every}, and several times on {crowded}, so it "
                "cannot be told which outlines are one object; group those of each object, or make each a track."
            )
    return found


def _object(label: Label, group: int, by_frame: Mapping[int, list[Mapping]]) -> JobObject:
    parts = {frame: sorted(own, key=lambda part: (part["type"], part["points"])) for frame, own in by_frame.items()}
    seeds = {frame: _seed(parts[frame], {}) for frame in sorted(parts)}
    return JobObject(label.name, label, group, parts[min(parts)][0]["type"], seeds)


def _outlines_something(shape: Mapping) -> bool:
    return shape["type"] in SHAPE_TYPES and not shape.get("outside", False)


def _seed(shapes: Sequence[Mapping], attributes: Mapping[int, str]) -> Seed:
    return Seed(tuple(map(_shape, shapes)), shapes[0]["z_order"], {**attributes, **_attributes(shapes[0])})


def _attributes(annotation: Mapping) -> dict[int, str]:
    return {attribute["spec_id"]: attribute["value"] for attribute in annotation["attributes"]}


def _shape(shape: Mapping) -> Shape:
    points = tuple(shape["points"])
    rotation = shape.get("rotation", 0.0)
    return _rotated(shape["type"], points, rotation) if rotation else Shape(shape["type"], points)


def _rotated(type: str, points: tuple[float, ...], degrees: float) -> Shape:
    """The polygon of a rectangle or an ellipse that CVAT shows turned clockwise about its centre."""
    if type == "rectangle":
        x0, y0, x1, y1 = points
        centre = np.array([x0 + x1, y0 + y1]) / 2
        corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]) - centre
    elif type == "ellipse":
        x, y, right, top = points
        centre = np.array([x, y])
        angles = np.linspace(0, 2 * np.pi, ELLIPSE_CORNERS, endpoint=False)
        corners = np.stack([np.cos(angles) * (right - x), np.sin(angles) * (y - top)], axis=1)
    else:
        return Shape(type, points)
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turned = corners @ np.array([[cos, sin], [-sin, cos]]) + centre  # y points down: this is clockwise
    return Shape("polygon", tuple(turned.ravel().tolist()))
