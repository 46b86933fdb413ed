"""Results as CVAT's annotations: masks, polygons, boxes and ellipses, or tracks; and what of them a job lacks."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maskbank.jobs.objects import AUTO, JobObject, SeedShapes
from maskbank.jobs.run_folder import SweepPrediction
from maskbank.shapes.conversion import mask_to_shape
from maskbank.shapes.rle import decode_rle
from maskbank.shapes.shape import SHAPE_TYPES

# What results can be made into; without a choice: what was drawn. Where a person drew a box or an ellipse, that is what
# is wanted of the object: only masks become polygons.
FORMS = ("mask", "polygon", "track")
DECIMALS = 2  # of a pixel; enough for an annotator, and CVAT gives them back as they are
SHAPES_PER_REQUEST = 500
NUMBERS_PER_REQUEST = 500_000  # coordinates and run lengths; some 3 MB

Annotations = dict[str, list[dict[str, Any]]]  # "shapes" and "tracks", as CVAT takes and gives them


def result_type(drawn: JobObject, form: str | None) -> str:
    """The type of the shapes that the results of an object are made into.

    Raises ValueError with one sentence where CVAT does not let the label have them.
    """
    kind = "mask" if form == "mask" else drawn.type
    if form in ("polygon", "track") and kind == "mask":
        kind = "polygon"  # which of a track it has to be: CVAT has no tracks of masks
    allowed = drawn.label.type
    if allowed not in ("any", kind):
        raise ValueError(
            f"In CVAT the label {drawn.label.name} has {allowed} shapes only, so its results cannot be {kind} shapes; "
            "choose another --as."
        )
    return kind


def annotations_of(
    objects: Sequence[JobObject],
    results: Sequence[Mapping[int, SweepPrediction]],
    form: str | None,
    frames: Sequence[int],
) -> Annotations:
    """What CVAT is to have of the results, which are masks by frame for each object."""
    made: Annotations = {"shapes": [], "tracks": []}
    for drawn, found in zip(objects, results, strict=True):
        kind = result_type(drawn, form)
        shown = {frame: points for frame in sorted(found) if (points := _points(found[frame], kind)) is not None}
        if form != "track":
            made["shapes"] += [_shape(drawn, kind, frame, shown[frame], found[frame].confidence) for frame in shown]
        elif shown:
            made["tracks"].append(_track(drawn, kind, shown, frames))
    return made


def _points(answer: SweepPrediction, kind: str) -> list[float] | None:
    if answer.mask is None or kind == "mask":
        return answer.mask if answer.mask is None else answer.mask.tolist()
    right, bottom = answer.mask[-2:]
    shape = mask_to_shape(decode_rle(answer.mask, bottom + 1, right + 1), kind)
    assert shape is not None  # of a mask that is not empty
    return [round(float(number), DECIMALS) for number in shape.points]


def _shape(drawn: JobObject, kind: str, frame: int, points: list[float], confidence: float) -> dict[str, Any]:
    seed = drawn.nearest_seed(frame)
    return {
        "label_id": drawn.label.id,
        "group": drawn.group,
        "source": AUTO,
        "score": confidence,
        "attributes": _attributes(seed, seed.attributes),
        **_drawing(kind, frame, points, seed),
    }


def _track(drawn: JobObject, kind: str, shown: Mapping[int, list[float]], frames: Sequence[int]) -> dict[str, Any]:
    """A track with a keyframe wherever the object was found, and one that ends it where it is not found any more.

    CVAT keeps some attributes for the whole track and some for each keyframe.
    """
    keyframes: list[dict[str, Any]] = []
    before: list[float] | None = None  # the points on the frame before
    for frame in frames:
        seed = drawn.nearest_seed(frame)
        points = shown.get(frame, before)
        if points is not None:
            keyframe = _drawing(kind, frame, points, seed) | {"outside": frame not in shown}
            keyframes.append(keyframe | {"attributes": _attributes(seed, seed.attributes.keys() & drawn.label.mutable)})
        before = shown.get(frame)
    first = drawn.nearest_seed(keyframes[0]["frame"])
    return {
        "label_id": drawn.label.id,
        "group": drawn.group,
        "source": AUTO,
        "frame": keyframes[0]["frame"],
        "attributes": _attributes(first, first.attributes.keys() - drawn.label.mutable),
        "shapes": keyframes,
    }


def _drawing(kind: str, frame: int, points: list[float], seed: SeedShapes) -> dict[str, Any]:
    return {
        "type": kind,
        "frame": frame,
        "points": points,
        "z_order": seed.z_order,
        "occluded": seed.occluded,
        "rotation": 0.0,
    }


def _attributes(seed: SeedShapes, ids: Collection[int]) -> list[dict[str, Any]]:
    return [{"spec_id": id, "value": seed.attributes[id]} for id in sorted(ids)]


def earlier_results(annotations: Mapping[str, Any], label_ids: Collection[int]) -> Annotations:
    """What of a job's annotations can be the results of a run: automatic ones of these labels, of a type we make."""

    def ours(each: Mapping[str, Any], types: set[str]) -> bool:
        return each["source"] == AUTO and each["label_id"] in label_ids and types <= set(SHAPE_TYPES)

    return {
        "shapes": [shape for shape in annotations["shapes"] if ours(shape, {shape["type"]})],
        "tracks": [t for t in annotations["tracks"] if ours(t, {keyframe["type"] for keyframe in t["shapes"]})],
    }


def at_places(shapes: Iterable[dict[str, Any]], places: Collection[tuple[int, int, int]]) -> list[dict[str, Any]]:
    """Those whose label, group and frame are among these; `places` has their numbers."""
    return [each for each in shapes if _place(each) in places]


def keep_attributes(
    made: Iterable[dict[str, Any]], there: Iterable[Mapping[str, Any]], given: Mapping[int, Collection[str]]
) -> list[dict[str, Any]]:
    """Shapes with the attributes that people filled in on those that are there, with the same label, group and frame.

    Where several are made with these it is unclear whose attributes they are, and nothing is kept.

    Args:
        made: the shapes.
        there: automatic ones.
        given: values of attributes that no person filled in there, by the attribute's id.
    """
    made = list(made)
    times = Counter(map(_place, made))
    filled_in: dict[tuple[int, int, int], dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for shape in there:
        for id, value in ((each["spec_id"], each["value"]) for each in shape["attributes"]):
            if value not in given.get(id, ()):
                filled_in[_place(shape)][id].add(value)

    def kept(shape: dict[str, Any]) -> dict[str, Any]:
        if times[_place(shape)] > 1 or _place(shape) not in filled_in:
            return shape
        attributes = {each["spec_id"]: each["value"] for each in shape["attributes"]}
        attributes |= {id: min(values) for id, values in filled_in[_place(shape)].items() if len(values) == 1}
        return shape | {"attributes": [{"spec_id": id, "value": value} for id, value in sorted(attributes.items())]}

    return [kept(shape) for shape in made]


def _place(shape: Mapping[str, Any]) -> tuple[int, int, int]:
    return shape["label_id"], shape["group"] or 0, shape["frame"]


@dataclass(frozen=True)
class Compared:
    """Annotations that were made, beside those that are there."""

    missing: Annotations  # of those that were made
    twins: Annotations  # of those that are there: one is kept, these are the same once more
    others: Annotations  # of those that are there: nothing like them was made


def compared(made: Annotations, there: Annotations) -> Compared:
    """Annotations that were made, beside those that are there; ids, and what CVAT adds by itself, do not count."""
    surplus = without(there, made)
    others: Annotations = {"shapes": [], "tracks": []}
    twins: Annotations = {"shapes": [], "tracks": []}
    for kind, identity in IDENTITIES:
        known = _by_identity(made[kind], identity)
        for each in surplus[kind]:
            alike = any(_say_the_same(each, other) for other in known[identity(each)])
            (twins if alike else others)[kind].append(each)
    return Compared(without(made, there), twins, others)


def without(these: Annotations, those: Annotations) -> Annotations:
    """These annotations without one equal one for each of those; ids, and what CVAT adds by itself, do not count."""
    left: Annotations = {"shapes": [], "tracks": []}
    for kind, identity in IDENTITIES:
        there = _by_identity(those[kind], identity)
        for each in these[kind]:
            alike = there[identity(each)]
            equal = next((i for i, other in enumerate(alike) if _say_the_same(each, other)), None)
            if equal is None:
                left[kind].append(each)
            else:
                del alike[equal]
    return left


def _by_identity(
    annotations: Iterable[dict[str, Any]], identity: Callable[[Mapping[str, Any]], tuple[Any, ...]]
) -> Mapping[tuple[Any, ...], list[dict[str, Any]]]:
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for each in annotations:
        found[identity(each)].append(each)
    return found


def _shape_identity(shape: Mapping[str, Any]) -> tuple[Any, ...]:
    whole = shape["type"] == "mask"  # of which there are many numbers
    points = tuple(shape["points"] if whole else np.round(shape["points"], DECIMALS).tolist())
    look = shape["z_order"], shape.get("occluded", False)
    return *_place(shape), shape["type"], look, points


def _track_identity(track: Mapping[str, Any]) -> tuple[Any, ...]:
    names = ("frame", "outside", "type", "z_order")
    keyframes = [
        (*(each[name] for name in names), each.get("occluded", False), *each["points"]) for each in track["shapes"]
    ]
    return track["label_id"], track["group"] or 0, *keyframes


IDENTITIES = (("shapes", _shape_identity), ("tracks", _track_identity))


def _say_the_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two annotations with the same identity agree in the attributes that both have; CVAT fills in others."""
    parts = zip((one, *one.get("shapes", ())), (other, *other.get("shapes", ())), strict=True)
    values = [[{a["spec_id"]: a["value"] for a in part["attributes"]} for part in both] for both in parts]
    return all(mine[id] == theirs[id] for mine, theirs in values for id in mine.keys() & theirs.keys())


def count(annotations: Annotations) -> int:
    """How many shapes and tracks there are."""
    return sum(map(len, annotations.values()))


def in_requests(annotations: Annotations) -> Iterator[Annotations]:
    """The same in portions of a sensible size; a track stays whole."""
    portion: Annotations = {"shapes": [], "tracks": []}
    numbers = 0
    for kind, each in [(kind, each) for kind, those in annotations.items() for each in those]:
        size = sum(len(shape["points"]) for shape in each.get("shapes", [each]))
        if count(portion) and (numbers + size > NUMBERS_PER_REQUEST or count(portion) == SHAPES_PER_REQUEST):
            yield portion
            portion, numbers = {"shapes": [], "tracks": []}, 0
        portion[kind].append(each)
        numbers += size
    if count(portion):
        yield portion
