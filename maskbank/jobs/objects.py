"""Which annotations of a CVAT job are seeds, and which seeds are one object."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from maskbank.shapes.rotation import unrotated
from maskbank.shapes.shape import SHAPE_TYPES, Shape

AUTO = "auto"  # the source of what a program made; once a person edits it, CVAT changes it to semi-auto


@dataclass(frozen=True)
class Label:
    """A label of a job."""

    id: int
    name: str
    type: str  # the only type of shapes that CVAT lets it have, or "any"
    mutable: frozenset[int]  # ids of the attributes that may change along a track
    defaults: Mapping[int, str] = field(default_factory=dict, hash=False)  # of the attributes, by id


@dataclass(frozen=True)
class SeedShapes:
    """What a person outlined of an object on one frame."""

    shapes: tuple[Shape, ...]  # one; or several of a group, which are the object together
    z_order: int
    attributes: Mapping[int, str]  # values by id
    occluded: bool = False

    @property
    def look(self) -> tuple[int, bool]:
        """How CVAT shows it."""
        return self.z_order, self.occluded


@dataclass(frozen=True)
class JobObject:
    """One object of a job.

    name: its label; where the label has several objects, with its group, or numbered where that does not tell them
        apart.
    group: CVAT's number of its group; 0: none.
    type: of the first shape that was drawn of it.
    seeds: by frame, in order; at least one.
    absent: frames on which a person said that it is not there (a track that is "outside").
    is_track: whether a person made it a track, which CVAT itself shows on all frames behind the first seed, by
        interpolation, but for those on which it is absent.
    """

    name: str
    label: Label
    group: int
    type: str
    seeds: Mapping[int, SeedShapes]
    absent: frozenset[int] = frozenset()
    is_track: bool = False

    def interpolated(self, frames: Iterable[int]) -> list[int]:
        """Those of the frames without a seed on which CVAT shows its track."""
        said = self.seeds.keys() | self.absent
        return [frame for frame in frames if self.is_track and frame > min(self.seeds) and frame not in said]

    def to_find(self, frames: Sequence[int]) -> list[int]:
        """Those of the frames for which no person has said what is to be seen."""
        said = self.seeds.keys() | self.absent | set(self.interpolated(frames))
        return [frame for frame in frames if frame not in said]

    def nearest_seed(self, frame: int) -> SeedShapes:
        """The seed whose frame is nearest, the earlier one of two."""
        return self.seeds[min(self.seeds, key=lambda seeded: abs(seeded - frame))]


def find_objects(annotations: Mapping[str, Any], labels: Mapping[int, Label], frames: Sequence[int]) -> list[JobObject]:
    """The objects that a job's annotations outline on some of `frames`, in an order that CVAT's ids have no part in.

    The keyframes of a track are one object. So are shapes with the same label and group, and the ungrouped shapes of
    a label that has at most one on each frame, whatever their types. Ungrouped shapes of a label that are all on one
    frame are an object each. The plugin for CVAT's user interface has the same rule (`followedObjects`;
    tests/cases/same_object.json holds both to it), but several shapes of a group on one frame, which are the parts of
    one object here, are an object each there, as the plugin does not join shapes.

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
    return _named(found)


def seeds_digest(objects: Iterable[JobObject]) -> str:
    """Names the outlines: the same until somebody adds, changes or removes a seed, or makes a track of shapes."""
    said = [[each.label.id, each.is_track, _outlines(each)] for each in objects]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def without_group(objects: Sequence[JobObject]) -> list[JobObject]:
    """Those that a person may have forgotten to put into a group: shapes of a label whose other objects have one."""
    grouped = {each.label.id for each in objects if each.group}
    return [each for each in objects if each.label.id in grouped and not each.group and not each.is_track]


def _named(objects: Sequence[JobObject]) -> list[JobObject]:
    """The same with names that tell them apart."""
    of_label = Counter(each.label.id for each in objects)
    names = [
        f"{each.name} (group {each.group})" if each.group and of_label[each.label.id] > 1 else each.name
        for each in objects
    ]
    of_name, count = Counter(names), Counter[str]()
    for i, name in enumerate(names):
        if of_name[name] > 1:
            count[name] += 1
            names[i] = f"{name} {count[name]}"
    return [replace(each, name=name) for each, name in zip(objects, names, strict=True)]


def _outlines(drawn: JobObject) -> list[Any]:
    return [
        [frame, [[shape.type, shape.points] for shape in seed.shapes]] for frame, seed in sorted(drawn.seeds.items())
    ]


def _track(track: Mapping[str, Any], label: Label, frames: Sequence[int]) -> JobObject:
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
    return JobObject(label.name, label, track["group"] or 0, kind, seeds, frozenset(absent), is_track=True)


def _objects_of_shapes(
    shapes: Iterable[Mapping[str, Any]], labels: Mapping[int, Label], frames: set[int]
) -> list[JobObject]:
    drawn: dict[tuple[int, int], dict[int, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for shape in shapes:
        relevant = shape["label_id"] in labels and shape["frame"] in frames and shape["source"] != AUTO
        if relevant and _outlines_something(shape):
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
                "cannot be told which outlines are one object; group those of each object (a track would only be "
                "tracked backward)."
            )
    return found


def _object(label: Label, group: int, by_frame: Mapping[int, list[Mapping[str, Any]]]) -> JobObject:
    parts = {frame: sorted(own, key=lambda part: (part["type"], part["points"])) for frame, own in by_frame.items()}
    seeds = {frame: _seed(parts[frame], {}) for frame in sorted(parts)}
    return JobObject(label.name, label, group, parts[min(parts)][0]["type"], seeds)


def _outlines_something(shape: Mapping[str, Any]) -> bool:
    return shape["type"] in SHAPE_TYPES and not shape.get("outside", False)


def _seed(shapes: Sequence[Mapping[str, Any]], attributes: Mapping[int, str]) -> SeedShapes:
    first = shapes[0]
    values = {**attributes, **_attributes(first)}
    return SeedShapes(tuple(map(shape_of, shapes)), first["z_order"], values, first.get("occluded", False))


def _attributes(annotation: Mapping[str, Any]) -> dict[int, str]:
    return {attribute["spec_id"]: attribute["value"] for attribute in annotation["attributes"]}


def shape_of(shape: Mapping[str, Any]) -> Shape:
    """What CVAT shows of a shape or keyframe, which may be turned."""
    return unrotated(Shape(shape["type"], tuple(shape["points"])), shape.get("rotation", 0.0))
