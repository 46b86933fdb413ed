"""The parts of `maskbank job` that need neither CVAT nor the function: objects, fusing, the work folder, uploads."""

import email.utils
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
import pytest
from support import one_sentence

from maskbank.files.masks import read_id_mask
from maskbank.function.client import seconds_to_wait
from maskbank.jobs import uploads
from maskbank.jobs.drawn_over import with_groups_of_results
from maskbank.jobs.from_job import Sighting, evenly, place
from maskbank.jobs.objects import JobObject, Label, SeedShapes, find_objects, seeds_digest
from maskbank.jobs.outlined import write_outlined
from maskbank.jobs.retrying import BusyError, retried
from maskbank.jobs.review import Pictures
from maskbank.jobs.run_folder import RunFolder, SweepLog, SweepPrediction, WorkFolder
from maskbank.jobs.stretches import Stretch, stretches_around
from maskbank.jobs.sweeps import backward_order, forward_order, fuse, last_seeds, outlined_object
from maskbank.jobs.uploads import (
    annotations_of,
    compared,
    earlier_results,
    in_requests,
    keep_attributes,
    result_type,
    without,
)
from maskbank.jobs.wording import ranges
from maskbank.jobs.writing import Writer
from maskbank.networks.outliner import FoundObject, certain
from maskbank.shapes.conversion import shape_to_mask
from maskbank.shapes.packed_mask import PackedMask
from maskbank.shapes.rle import decode_rle, encode_rle
from maskbank.shapes.shape import Shape
from maskbank.shapes.window import Window

CAR = Label(1, "car", "any", frozenset({11}))
BIKE = Label(2, "bike", "any", frozenset())
LABELS = {label.id: label for label in (CAR, BIKE)}
FRAMES = range(10)


def shape(frame: int, label: Label = CAR, left: float = 0.0, **facts: object) -> dict:
    """A rectangle as CVAT gives it, unless the facts say otherwise."""
    known = {"type": "rectangle", "points": [left, 0.0, left + 10.0, 10.0], "rotation": 0.0, "outside": False}
    known |= {"id": frame, "frame": frame, "label_id": label.id, "group": 0, "source": "manual", "z_order": 0}
    return known | {"attributes": []} | facts


def keyframe(frame: int, **facts: object) -> dict:
    kept = ("id", "type", "frame", "points", "rotation", "outside", "z_order", "attributes")
    known = shape(frame)
    return {name: known[name] for name in kept} | facts


def track(*keyframes: dict, label: Label = CAR, **facts: object) -> dict:
    known = {"id": 1, "label_id": label.id, "group": 0, "source": "manual", "frame": keyframes[0]["frame"]}
    return known | {"attributes": [], "shapes": list(keyframes)} | facts


def found(*shapes: dict, tracks: tuple = (), labels: Mapping = LABELS, frames: object = FRAMES) -> dict[str, list[int]]:
    """The names of the objects, with their seed frames."""
    objects = find_objects({"shapes": list(shapes), "tracks": list(tracks)}, labels, frames)
    return {each.name: list(each.seeds) for each in objects}


def test_what_training_reads_of_an_object_inside_another_is_the_smaller_one_on_top(tmp_path):
    image = cv2.imencode(".png", np.zeros((20, 20, 3), np.uint8))[1].tobytes()

    def square(left: int, right: int) -> dict:
        return {
            "type": "polygon",
            "points": [float(each) for each in (left, left, right, left, right, right, left, right)],
        }

    for outer, inner in ((CAR, BIKE), (BIKE, CAR)):
        drawn = [shape(3, outer, **square(0, 10)), shape(3, inner, **square(2, 5))]
        objects = find_objects({"shapes": drawn, "tracks": []}, LABELS, FRAMES)
        folder = tmp_path / inner.name
        write_outlined(
            folder,
            objects,
            lambda frame: image,
            lambda box, _: FoundObject(shape_to_mask(box, 20, 20), None, certain),
        )
        ids = read_id_mask(folder / "static" / "outlined" / "000003.png")
        numbers = [number for number in (1, 2) if objects[number - 1].label == inner]
        assert [np.count_nonzero(ids == number) for number in numbers] == [9]
        assert np.count_nonzero(ids) == 100


@pytest.mark.parametrize("in_box", [(), (1,), (0, 1)])  # which of two parts were found in boxes; 0 on the left
def test_the_parts_of_an_object_are_as_sure_as_each_is(in_box):
    parts = []
    for number, mask in enumerate((np.tri(4, 8, -1) > 0, np.tri(4, 8, -1)[:, ::-1] > 0)):
        sure = FoundObject(mask, 0.6 + number / 10, lambda window, number=number: 3.0 + number)
        parts.append(sure if number in in_box else FoundObject(mask, None, certain))
    [car] = find_objects({"shapes": [shape(0, group=4), shape(0, group=4, left=30)], "tracks": []}, LABELS, FRAMES)
    given = iter(parts)
    together = outlined_object(car, 0, np.zeros((4, 8, 3), np.uint8), lambda shape, image: next(given))
    assert (together.mask == (parts[0].mask | parts[1].mask)).all()
    assert together.expected_j == {(): None, (1,): 0.7, (0, 1): 0.6}[in_box]
    logits = np.broadcast_to(together.logits_in(Window(0, 0, 8, 4)), (4, 8))
    for number, part in enumerate(parts):
        assert (logits[part.mask] == (3.0 + number if number in in_box else np.inf)).all()


def test_shapes_of_a_label_that_no_frame_has_twice_are_one_object():
    assert found(shape(5), shape(0), shape(3, BIKE)) == {"car": [0, 5], "bike": [3]}


def test_several_on_the_only_frame_are_an_object_each():
    assert found(shape(2, left=20), shape(2), shape(0, BIKE)) == {"bike": [0], "car 1": [2], "car 2": [2]}


def test_shapes_of_a_group_are_one_object():
    grouped = [shape(0, group=4), shape(6, group=4), shape(0, group=5, left=30), shape(1, BIKE, group=4)]
    assert found(*grouped) == {"car (group 4)": [0, 6], "car (group 5)": [0], "bike": [1]}


def test_names_tell_objects_apart():
    """Numbers are no groups, and a group has its own number in the name."""
    first, second = track(keyframe(1), group=7, id=8), track(keyframe(2), group=7, id=9)
    assert found(shape(2, group=5), shape(0, left=20), tracks=(first, second)) == {
        "car": [0],
        "car (group 7) 1": [1],
        "car (group 7) 2": [2],
        "car (group 5)": [2],
    }


def test_the_parts_of_a_group_on_one_frame_are_one_object():
    [car] = find_objects({"shapes": [shape(0, group=4), shape(0, group=4, left=30)], "tracks": []}, LABELS, FRAMES)
    assert [each.points[0] for each in car.seeds[0].shapes] == [0.0, 30.0]


def test_the_keyframes_of_a_track_are_one_object():
    first = track(keyframe(1), keyframe(4), id=8)
    second = track(keyframe(1, points=[5.0, 5.0, 9.0, 9.0]), id=9)
    assert found(shape(0), tracks=(first, second)) == {"car 1": [0], "car 2": [1, 4], "car 3": [1]}


def test_where_a_track_is_outside_its_object_is_absent():
    drawn = track(keyframe(1), keyframe(3, outside=True), keyframe(6), keyframe(8, outside=True))
    [car] = find_objects({"shapes": [], "tracks": [drawn]}, LABELS, FRAMES)
    assert list(car.seeds) == [1, 6]
    assert car.absent == {3, 4, 5, 8, 9}
    assert car.interpolated(FRAMES) == [2, 7]
    assert car.to_find(FRAMES) == [0]


@pytest.mark.parametrize(
    ("keyframes", "deleted", "interpolated", "to_find"),
    [
        ([keyframe(5)], [], [6, 7, 8, 9], [0, 1, 2, 3, 4]),
        ([keyframe(5), keyframe(9, outside=True)], [], [6, 7, 8], [0, 1, 2, 3, 4]),
        ([keyframe(2, outside=True), keyframe(5), keyframe(7)], [], [6, 8, 9], [0, 1]),
        ([keyframe(3), keyframe(5)], [3, 7], [6, 8, 9], [0, 1, 2, 4]),
        ([keyframe(0), keyframe(9)], [], [1, 2, 3, 4, 5, 6, 7, 8], []),
    ],
)
def test_where_cvat_interpolates_a_track(keyframes: list, deleted: list, interpolated: list, to_find: list):
    frames = [frame for frame in FRAMES if frame not in deleted]
    [car] = find_objects({"shapes": [], "tracks": [track(*keyframes)]}, LABELS, frames)
    assert (car.interpolated(frames), car.to_find(frames)) == (interpolated, to_find)


def test_shapes_are_not_interpolated():
    [car] = find_objects({"shapes": [shape(2), shape(5)], "tracks": []}, LABELS, FRAMES)
    assert (car.interpolated(FRAMES), car.to_find(FRAMES)) == ([], [0, 1, 3, 4, 6, 7, 8, 9])


@pytest.mark.parametrize(
    "facts",
    [{"source": "auto"}, {"type": "points"}, {"type": "polyline"}, {"type": "skeleton", "points": []}, {"frame": 99}],
)
def test_what_is_no_seed(facts: dict):
    assert found(shape(0) | facts) == {}
    assert found(tracks=(track(keyframe(0) | facts, source=facts.get("source", "manual")),)) == {}


@pytest.mark.parametrize("source", ["manual", "semi-auto", "file"])
def test_what_people_are_responsible_for_is_a_seed(source: str):
    assert found(shape(0, source=source)) == {"car": [0]}


def test_deleted_frames_and_other_labels_have_no_seeds():
    assert found(shape(0), shape(3), frames=[0, 1, 2]) == {"car": [0]}
    assert found(shape(0), shape(3, BIKE), labels={2: BIKE}) == {"bike": [3]}
    assert found(tracks=(track(keyframe(0)),), frames=[]) == {}


def test_outlines_that_could_be_one_object_or_several():
    with pytest.raises(ValueError, match="label car .* frames 0, 7.* on 0") as refused:
        found(shape(0), shape(0, left=20), shape(7), shape(1, BIKE))
    assert one_sentence(str(refused.value).replace("; group", ", group"))
    assert "group" in str(refused.value) and "track" in str(refused.value)


def test_a_turned_rectangle_becomes_its_polygon():
    drawn = {"points": [0.0, 10.0, 40.0, 20.0], "rotation": 90.0}
    [car] = find_objects({"shapes": [shape(0, **drawn)], "tracks": []}, LABELS, FRAMES)
    [turned] = car.seeds[0].shapes
    assert car.type == "rectangle" and turned.type == "polygon"
    mask = shape_to_mask(turned, 50, 50)
    expected = np.zeros((50, 50), bool)
    expected[0:35, 15:25] = True  # 10 wide and 40 high around (20, 15), cut at the image's edge
    np.testing.assert_array_equal(mask, expected)


def test_a_turned_shape_turns_clockwise():
    [car] = find_objects(
        {"shapes": [shape(0, points=[0.0, 0.0, 20.0, 2.0], rotation=45.0)], "tracks": []}, LABELS, FRAMES
    )
    corners = np.reshape(car.seeds[0].shapes[0].points, (4, 2))
    left, right = corners[[0, 3]].mean(axis=0), corners[[1, 2]].mean(axis=0)
    assert left[1] < right[1]  # the right end goes down
    ellipse = shape(0, type="ellipse", points=[25.0, 25.0, 45.0, 20.0], rotation=45.0)
    [car] = find_objects({"shapes": [ellipse], "tracks": []}, LABELS, FRAMES)
    mask = shape_to_mask(car.seeds[0].shapes[0], 50, 50)
    assert mask[37, 37] and mask[13, 13] and not mask[13, 37] and not mask[37, 13]
    assert mask.sum() == pytest.approx(np.pi * 20 * 5, rel=0.02)


def test_a_digest_changes_with_the_outlines_only():
    def of(*shapes: dict) -> str:
        return seeds_digest(find_objects({"shapes": list(shapes), "tracks": []}, LABELS, FRAMES))

    before = of(shape(0), shape(4))
    assert of(shape(4, id=77), shape(0, id=78, attributes=[{"spec_id": 11, "value": "x"}], z_order=3)) == before
    assert of(shape(0), shape(4), shape(5, source="auto")) == before
    changed = [of(shape(0)), of(shape(0), shape(5)), of(shape(0), shape(4, left=1)), of(shape(0, BIKE), shape(4, BIKE))]
    assert len({before, *changed}) == 5


# Corrections


@pytest.mark.parametrize(
    ("outlined", "corrected", "expected"),
    [
        ((0, 5), (5,), [(0, 9)]),
        ((0, 5, 9), (5,), [(0, 9)]),
        ((0, 4, 6, 9), (6,), [(4, 9)]),
        ((0, 2, 4, 6, 9), (2, 6), [(0, 9)]),  # stretches that touch are one
        ((0, 1, 3, 6, 8, 9), (1, 8), [(0, 3), (6, 9)]),
        ((1, 3, 6), (1,), [(0, 3)]),
        ((3, 6, 8), (8,), [(6, 9)]),
        ((6,), (6,), [(0, 9)]),
    ],
)
def test_what_an_outline_changes_reaches_to_the_next_ones(outlined: tuple, corrected: tuple, expected: list):
    parts = stretches_around(corrected, FRAMES, [drawn_on(*outlined)])
    assert parts == [Stretch(FRAMES[start : stop + 1], [0], [0]) for start, stop in expected]


def test_who_is_outlined_in_a_stretch_is_tracked_there_too():
    objects = [drawn_on(0, 4, 6), drawn_on(4, label=BIKE), drawn_on(0, label=Label(3, "bus", "any", frozenset()))]
    parts = stretches_around((6,), FRAMES, objects)
    assert [(part.frames, part.slots, part.to_find) for part in parts] == [(range(4, 10), [0, 1], [0])]
    parts = stretches_around((4,), FRAMES, objects)
    assert [(part.frames, part.slots, part.to_find) for part in parts] == [
        (range(7), [0, 1, 2], [0]),
        (range(10), [0, 1, 2], [1]),
    ]


# Outlines over results


@pytest.mark.parametrize(
    ("outline", "group"),
    [
        ({}, 4),
        ({"points": [0.0, 0.0, 10.0, 6.0]}, 4),
        ({"points": [0.0, 0.0, 10.0, 4.0]}, 0),  # less than half of the area in common
        ({"points": [26.0, 0.0, 36.0, 10.0]}, 0),  # as much over one as over another
        ({"type": "ellipse", "points": [5.0, 5.0, 10.0, 0.0]}, 4),  # where a box is compared, boxes are
        ({"type": "polygon", "points": [0.0, 0.0, 10.0, 0.0, 10.0, 10.0, 0.0, 10.0]}, 4),
        ({"points": [0.0, 0.0, 10.0, 10.0], "rotation": 90.0}, 4),
        ({"type": "polygon", "points": [-9.0, -9.0, -5.0, -9.0, -5.0, -5.0]}, 0),
        ({"type": "polygon", "points": [0.0, 0.0, 1e6, 0.0, 1e6, 1e6]}, 0),
        ({"type": "points", "points": [5.0, 5.0]}, 0),
        ({"source": "auto"}, 0),
        ({"group": 9}, 9),
        ({"frame": 1}, 0),
        ({"label_id": BIKE.id}, 0),
    ],
)
def test_an_outline_has_the_group_of_the_result_under_it(tmp_path, outline: dict, group: int):
    results = [shape(0, source="auto", group=number, left=left) for number, left in ((4, 0), (5, 21), (6, 31))]
    drawn = shape(0) | {"id": 99} | outline
    found, groups = with_groups_of_results({"shapes": [*results, drawn], "tracks": []}, WorkFolder(tmp_path))
    assert [each["group"] for each in found["shapes"]] == [4, 5, 6, group]
    assert groups == ({99: group} if group == 4 else {})
    again, _ = with_groups_of_results(
        {"shapes": [drawn], "tracks": []}, WorkFolder(tmp_path)
    )  # without what was under it
    assert [each["group"] for each in again["shapes"]] == [group]


# Fusing


def mask(left: int, width: int = 10) -> np.ndarray:
    """CVAT's points of a box-shaped mask."""
    pixels = np.zeros((20, 60), bool)
    pixels[5:15, left : left + width] = True
    return np.array(encode_rle(pixels), np.int32)


def drawn_on(*frames: int, label: Label = CAR, absent: tuple = (), track: bool = False, **seed: object) -> JobObject:
    seeds = {
        frame: SeedShapes((Shape("mask", tuple(mask(0).tolist())),), **({"z_order": 0, "attributes": {}} | seed))
        for frame in frames
    }
    return JobObject(label.name, label, 0, "mask", seeds, frozenset(absent), track)


def sweep_of(lefts: dict[int, int | None], confidences: dict[int, float] | float) -> dict[int, list[SweepPrediction]]:
    """The answers of a sweep for one object: the left edges of its masks by frame."""
    sure = confidences if isinstance(confidences, dict) else dict.fromkeys(lefts, confidences)
    return {frame: [SweepPrediction(None if x is None else mask(x), sure[frame])] for frame, x in lefts.items()}


def sweeps(ahead: dict[int, int | None], back: dict[int, int | None]) -> tuple[dict, dict]:
    """Two sweeps that are as sure as each other, but for what tells them apart."""
    return sweep_of(ahead, 0.81), sweep_of(back, 0.8)


def test_sweeps_that_are_equally_sure_hand_over_where_they_agree_best():
    ahead = dict(zip(range(10), [0, 1, 2, 3, 9, 9, 9, 9, 0, 0], strict=True))
    back = dict(zip(range(10), [0, 9, 9, 4, 5, 6, 7, 8, 0, 0], strict=True))
    [result] = fuse(range(10), [drawn_on(0, 8)], *sweeps(ahead, back))
    # They agree best on frame 7 (IoU 9/11), and as well on 3; 3 is nearer to the middle of 1 to 7.
    lefts = {frame: int(answer.mask[-4]) for frame, answer in result.items()}
    assert lefts == {1: 1, 2: 2, 3: 4, 4: 5, 5: 6, 6: 7, 7: 8, 9: 0}
    # The confidence is lower where they disagree: on 1 they share 2 of 18 columns, on 3 they share 9 of 11.
    assert [result[frame].confidence for frame in (1, 3, 9)] == pytest.approx(
        [(0.81 + 2 / 18) / 2, (0.8 + 9 / 11) / 2, 0.81], abs=0.001
    )


def test_a_sweep_that_lost_the_object_does_not_count_beside_one_that_is_sure():
    """They agree best on frame 2, but behind it the backward sweep has been lost from frame 6 on."""
    ahead = dict.fromkeys(range(10), 0)
    back = dict(zip(range(10), [0, 0, 0, 1, 40, 40, 40, 2, 2, 0], strict=True))
    lost = dict(zip(range(10), [0.8, 0.8, 0.8, 0.5, 0.3, 0.2, 0.3, 0.8, 0.8, 1], strict=True))
    [result] = fuse(range(10), [drawn_on(0, 9)], sweep_of(ahead, 0.8), sweep_of(back, lost))
    assert [int(result[frame].mask[-4]) for frame in range(1, 9)] == [0, 0, 0, 0, 0, 0, 2, 2]


def test_to_be_seen_counts_more_than_to_be_gone():
    ahead, back = dict.fromkeys(range(14), 0), {0: 0, **dict.fromkeys(range(1, 12)), 12: 1, 13: 0}
    [result] = fuse(range(14), [drawn_on(0, 13)], sweep_of(ahead, 0.6), sweep_of(back, 0.9))
    assert [int(result[frame].mask[-4]) for frame in range(1, 13)] == [0] * 11 + [1]
    unsure = sweep_of(ahead, 0.1)  # much less than half as sure as the other is that it is gone
    [result] = fuse(range(14), [drawn_on(0, 13)], unsure, sweep_of(back, 0.9))
    assert all(result[frame].mask is None for frame in range(1, 12))


def test_beyond_the_seeds_there_is_one_sweep_only():
    ahead, back = sweeps({4: 0, 5: 1}, {4: 0, 3: 2, 2: 3})
    [result] = fuse([2, 3, 4, 5], [drawn_on(4)], ahead, back)
    assert {frame: int(answer.mask[-4]) for frame, answer in result.items()} == {2: 3, 3: 2, 5: 1}


def test_both_sweeps_agree_that_it_is_gone():
    ahead = {0: 0, 1: 1, 2: None, 3: None, 4: 30, 5: 0}
    back = {0: 0, 1: 30, 2: 30, 3: None, 4: 2, 5: 0}
    [result] = fuse(range(6), [drawn_on(0, 5)], *sweeps(ahead, back))
    assert result[3].mask is None
    assert [int(result[frame].mask[-4]) for frame in (1, 4)] == [1, 2]


def test_where_a_person_said_that_it_is_absent_nothing_counts():
    ahead, back = sweeps(dict.fromkeys(range(5), 0), {0: 0})
    [result] = fuse(range(5), [drawn_on(0, absent=(2, 3))], ahead, back)
    assert list(result) == [1, 4]


def test_where_cvat_interpolates_a_track_nothing_counts():
    ahead, back = sweeps(dict.fromkeys(range(2, 9), 0), dict.fromkeys(range(7), 1))
    [result] = fuse(range(9), [drawn_on(2, 6, track=True)], ahead, back)
    assert list(result) == [0, 1]


def test_each_object_has_its_own_seeds():
    first, second = drawn_on(0, 2), drawn_on(3)
    ahead, back = sweeps(dict.fromkeys(range(5), 0), dict.fromkeys(range(4), 1))
    ahead = {frame: answers * 2 for frame, answers in ahead.items()}
    back = {frame: answers * 2 for frame, answers in back.items()}
    one, other = fuse(range(5), [first, second], ahead, back)
    assert list(one) == [1, 3, 4] and list(other) == [0, 1, 2, 4]
    assert [int(other[frame].mask[-4]) for frame in other] == [1, 1, 1, 0]


def test_masks_of_different_sweeps_share_no_pixel():
    """The first object is the backward sweep's on frame 1, where the forward one has lost it; the other one is not."""
    ahead = {0: (0, 20), 1: (40, 20), 2: (40, 20), 3: (0, 20)}
    back = {0: (0, 20), 1: (15, 20), 2: (15, 20), 3: (0, 20)}

    def sweep(lefts: dict, confidences: tuple[float, float]) -> dict:
        return {
            frame: [SweepPrediction(mask(x), sure) for x, sure in zip(both, confidences, strict=True)]
            for frame, both in lefts.items()
        }

    objects = [drawn_on(0, 3), drawn_on(0)]
    for sure, left in ((0.9, {15: 5, 20: 10}), (0.2, {15: 10, 25: 5})):
        first, second = fuse(range(4), objects, sweep(ahead, (0.1, sure)), sweep(back, (0.8, 0.8)))
        pixels = [decode_rle(each[1].mask, 20, 60) for each in (first, second)]
        assert not (pixels[0] & pixels[1]).any()
        assert {int(np.nonzero(each)[1].min()): int(each[10].sum()) for each in pixels} == left, sure


def test_what_only_one_sweep_has_found_is_not_lost_to_what_covers_it():
    """Where the forward sweep has lost a small object, a larger one has its place; the backward sweep still has it."""
    small, large = mask(12, 4), mask(0, 30)
    phone = {0: SweepPrediction(small, 1.0), 1: SweepPrediction(None, 0.6), 2: SweepPrediction(None, 0.6)}
    ahead = {frame: [SweepPrediction(large, 0.9), phone[frame]] for frame in phone} | {3: [None, None]}
    back = {frame: [SweepPrediction(large, 0.1), SweepPrediction(small, 0.9)] for frame in range(4)}
    first, second = fuse(range(4), [drawn_on(0), drawn_on(0, 3)], ahead | {3: ahead[2]}, back)
    for frame in (1, 2):
        assert second[frame].mask.tolist() == small.tolist()
        pixels = decode_rle(first[frame].mask, 20, 60)
        assert pixels.sum() == 260 and not pixels[:, 12:16].any()


def test_what_is_left_of_a_mask_that_others_have_is_an_object_that_is_gone():
    same, twin = drawn_on(0), drawn_on(0, 3)
    ahead = {frame: [SweepPrediction(mask(0), 0.9), SweepPrediction(mask(30), 0.1)] for frame in range(4)}
    back = {frame: [SweepPrediction(mask(0), 0.1), SweepPrediction(mask(0), 0.8)] for frame in range(4)}
    first, second = fuse(range(4), [same, twin], ahead, back)
    assert first[1].mask.tolist() == mask(0).tolist()
    assert second[1].mask is None and second[1].confidence == pytest.approx(1 - 0.8 / 2)  # as the sweeps do not agree


def test_the_order_of_the_sweeps():
    frames, objects = [0, 1, 3, 4, 6], [drawn_on(1, 4), drawn_on(3)]
    assert forward_order(frames, objects) == [1, 3, 4, 6]
    assert backward_order(frames, objects) == [4, 3, 1, 0]
    tracks = [drawn_on(1, 4, track=True), drawn_on(3, track=True)]
    assert forward_order(frames, tracks) == [1]  # behind them there is nothing to find
    assert backward_order(frames, tracks) == [4, 3, 1, 0]
    assert forward_order(frames, [tracks[0], objects[1]]) == [1, 3, 4, 6]


def test_after_a_loss_each_object_starts_from_a_seed():
    objects = [drawn_on(1, 4), drawn_on(3), drawn_on(8)]
    assert last_seeds([], objects) == 0
    assert last_seeds([1, 2], objects) == 0
    assert last_seeds([1, 2, 3, 4, 5], objects) == 2  # position of frame 3; the other one has a seed after it


# The work folder


def reply(*lefts: int | None, states: object = "now") -> dict:
    shapes = [{"type": "mask", "points": mask(x).tolist()} if x is not None else None for x in lefts]
    return {"frames": [{"shapes": [each], "confidences": [0.5]} for each in shapes], "states": [states]}


def lefts(log: SweepLog) -> list[int | None]:
    return [None if answer.mask is None else int(answer.mask[-4]) for [answer] in log.answers]


def test_a_log_is_read_again(tmp_path):
    log = SweepLog(tmp_path / "log", [0, 1, 2, 3])
    log.append([0, 1], reply(0, None, states="earlier"))
    log.append([2], reply(5))
    again = SweepLog(tmp_path / "log", [0, 1, 2, 3])
    assert lefts(again) == lefts(log) == [0, None, 5]
    assert again.states == log.states == ["now"]


def test_what_is_not_begun_is_not_gone(tmp_path):
    log = SweepLog(tmp_path / "log", [0])
    log.append([0], {"frames": [{"shapes": [None], "confidences": [None]}], "states": [None]})
    assert log.answers == SweepLog(tmp_path / "log", [0]).answers == [[None]]


@pytest.mark.parametrize("kept", [1, 20, -1])
def test_an_unfinished_line_is_dropped(tmp_path, kept: int):
    log = SweepLog(tmp_path / "log", range(9))
    log.append([0, 1], reply(0, 1))
    whole = log.path.stat().st_size
    log.append([2, 3], reply(2, 3))
    with log.path.open("r+b") as file:  # the process was killed while it wrote
        file.truncate(whole + kept if kept > 0 else log.path.stat().st_size + kept)
    again = SweepLog(tmp_path / "log", range(9))
    assert lefts(again) == [0, 1]
    again.append([2], reply(7))
    assert lefts(SweepLog(tmp_path / "log", range(9))) == [0, 1, 7]


def test_dropped_answers_stay_dropped(tmp_path):
    log = SweepLog(tmp_path / "log", range(9))
    log.append([0, 1, 2, 3], reply(0, 1, 2, 3))
    log.drop_from(2)
    assert log.states is None
    assert lefts(SweepLog(tmp_path / "log", range(9))) == [0, 1]
    assert SweepLog(tmp_path / "log", range(9)).states is None
    log.append([2], reply(8))
    assert lefts(SweepLog(tmp_path / "log", range(9))) == lefts(log) == [0, 1, 8]


def test_what_was_found_stays_where_an_object_starts_anew_later(tmp_path):
    def both(one: int | None, other: int | None) -> dict:
        frame = {"shapes": [], "confidences": []}
        for left in (one, other):
            frame["shapes"].append(None if left is None else {"type": "mask", "points": mask(left).tolist()})
            frame["confidences"].append(None if left is None else 0.5)
        return {"frames": [frame], "states": ["now", "now"]}

    def lefts(log: SweepLog) -> list[list[int | None]]:
        return [[each and int(each.mask[-4]) for each in own] for own in log.answers]

    log = SweepLog(tmp_path / "log", range(9))
    for frame in range(3):
        log.append([frame], both(frame, frame + 4))
    log.drop_from(1)
    log.append([1], both(21, None))
    assert lefts(log) == lefts(SweepLog(tmp_path / "log", range(9))) == [[0, 4], [21, 5]]
    log.append([2], both(22, 26))
    assert lefts(log) == lefts(SweepLog(tmp_path / "log", range(9))) == [[0, 4], [21, 5], [22, 26]]


def test_frames_that_are_deleted_later_are_skipped(tmp_path):
    log = SweepLog(tmp_path / "log", [0, 1, 2, 3])
    log.append([0, 1, 2], reply(0, 1, 2))
    again = SweepLog(tmp_path / "log", [0, 2, 3])
    assert lefts(again) == [0, 2] and again.states == ["now"]


def test_after_a_frame_that_is_restored_nothing_counts(tmp_path):
    log = SweepLog(tmp_path / "log", [0, 2, 3])
    log.append([0, 2], reply(0, 2))
    again = SweepLog(tmp_path / "log", [0, 1, 2, 3])
    assert lefts(again) == [0] and again.states is None


def test_a_run_keeps_others_away(tmp_path):
    with RunFolder(tmp_path / "a" / "b").alone():
        with pytest.raises(OSError) as refused, RunFolder(tmp_path / "a" / "b").alone():
            pass
        assert one_sentence(str(refused.value))
        with RunFolder(tmp_path / "a" / "c").alone():
            pass
    with RunFolder(tmp_path / "a" / "b").alone():
        pass


def test_pictures_are_looked_up_without_reading_the_folder_for_each(tmp_path, monkeypatch):
    image = cv2.imencode(".png", np.zeros((4, 6, 3), np.uint8))[1].tobytes()
    Pictures(tmp_path).keep(1_000_000, image)
    pictures = Pictures(tmp_path)
    monkeypatch.setattr(Path, "glob", None)
    pictures.keep(2, image)
    pictures.keep(2, b"not looked at")
    assert pictures.missing([1, 2, 3, 1_000_000]) == [1, 3]
    assert [pictures.of(frame) and pictures.of(frame).name for frame in (1, 2)] == [None, "000002-6x4.jpg"]


def test_notes(tmp_path):
    folder = RunFolder(tmp_path / "run")
    assert folder.noted("uploaded") is None
    folder.note("uploaded", "mask")
    assert RunFolder(tmp_path / "run").noted("uploaded") == "mask"


# Uploads


def answers(frames: Mapping[int, int | None], confidence: float = 0.75) -> dict[int, SweepPrediction]:
    return {frame: SweepPrediction(None if x is None else mask(x), confidence) for frame, x in frames.items()}


def test_shapes_keep_what_the_nearest_seed_has():
    near, far = ({"z_order": z, "attributes": {11: value, 12: "b"}} for z, value in ((1, "near"), (2, "far")))
    drawn = JobObject(
        "car", CAR, 5, "mask", {0: SeedShapes((Shape("mask", ()),), **near), 9: SeedShapes((Shape("mask", ()),), **far)}
    )
    made = annotations_of([drawn], [answers({1: 3, 4: 4, 5: 5, 6: None})], None, range(10))
    assert made["tracks"] == []
    assert [(each["frame"], each["z_order"], each["attributes"][0]["value"]) for each in made["shapes"]] == [
        (1, 1, "near"),
        (4, 1, "near"),
        (5, 2, "far"),
    ]
    assert made["shapes"][0] == {
        "type": "mask",
        "frame": 1,
        "points": mask(3).tolist(),
        "label_id": 1,
        "group": 5,
        "source": "auto",
        "score": 0.75,
        "z_order": 1,
        "occluded": False,
        "rotation": 0.0,
        "attributes": [{"spec_id": 11, "value": "near"}, {"spec_id": 12, "value": "b"}],
    }


def test_a_track_ends_wherever_the_object_is_not_found():
    drawn = drawn_on(4, attributes={11: "pose", 12: "name"}, z_order=2)
    results = answers({1: 3, 2: 4, 3: None, 5: 5, 6: 6, 8: 7})
    made = annotations_of([drawn], [results], "track", [0, 1, 2, 3, 4, 5, 6, 8])  # 7 is deleted
    [track] = made["tracks"]
    assert made["shapes"] == []
    assert [(each["frame"], each["outside"]) for each in track["shapes"]] == [
        (1, False),
        (2, False),
        (3, True),
        (5, False),
        (6, False),
        (8, False),
    ]
    assert track["frame"] == 1 and track["source"] == "auto"
    assert track["attributes"] == [{"spec_id": 12, "value": "name"}]
    assert {each["type"] for each in track["shapes"]} == {"polygon"}
    assert all(each["attributes"] == [{"spec_id": 11, "value": "pose"}] for each in track["shapes"])
    assert track["shapes"][0]["z_order"] == 2
    assert shape_to_mask(Shape("polygon", tuple(track["shapes"][0]["points"])), 20, 60).sum() == 100


def test_a_track_of_nothing_is_not_made():
    assert annotations_of([drawn_on(4)], [answers({1: None})], "track", FRAMES)["tracks"] == []


@pytest.mark.parametrize(
    ("type", "form", "expected"),
    [
        ("mask", None, "mask"),
        ("rectangle", None, "rectangle"),
        ("rectangle", "mask", "mask"),
        ("mask", "polygon", "polygon"),
        ("polygon", "polygon", "polygon"),
        ("rectangle", "polygon", "rectangle"),
        ("ellipse", "polygon", "ellipse"),
        ("ellipse", "mask", "mask"),
        ("ellipse", "track", "ellipse"),
        ("mask", "track", "polygon"),
    ],
)
def test_what_results_are_made_into(type: str, form: str | None, expected: str):
    drawn = JobObject("car", CAR, 0, type, {})
    assert result_type(drawn, form) == expected
    made = annotations_of([drawn_on(0)], [answers({1: 3})], "polygon", FRAMES)
    assert {each["type"] for each in made["shapes"]} == {"polygon"}


def test_labels_that_take_one_type_only():
    boxes = Label(1, "car", "rectangle", frozenset())
    assert result_type(JobObject("car", boxes, 0, "rectangle", {}), None) == "rectangle"
    with pytest.raises(ValueError, match="car has rectangle shapes only") as refused:
        result_type(JobObject("car", boxes, 0, "rectangle", {}), "mask")
    assert result_type(JobObject("car", boxes, 0, "rectangle", {}), "polygon") == "rectangle"
    assert str(refused.value).endswith("--as.")


def test_earlier_results_are_automatic_and_of_our_types():
    ours, manual, points = shape(0, source="auto"), shape(1), shape(2, source="auto", type="points")
    other, edited = shape(3, BIKE, source="auto"), shape(4, source="semi-auto")
    tracks = [track(keyframe(0), source="auto"), track(keyframe(0)), track(keyframe(0, type="points"), source="auto")]
    there = {"shapes": [ours, manual, points, other, edited], "tracks": tracks, "tags": [{"id": 1, "source": "auto"}]}
    assert earlier_results(there, {CAR.id}) == {"shapes": [ours], "tracks": [tracks[0]]}


def test_what_is_there_is_counted_off_once():
    one, same, other = shape(0, id=1), shape(0, id=2, attributes=[{"spec_id": 1, "value": ""}]), shape(1)
    tracks = [track(keyframe(0), keyframe(1)), track(keyframe(0))]

    def left(these: list, those: list, kind: str) -> list:
        empty = {"shapes": [], "tracks": []}
        return without(empty | {kind: these}, empty | {kind: those})[kind]

    assert left([one, same, other], [one], "shapes") == [same, other]
    assert left([one], [one, same], "shapes") == []
    assert left([one], [one | {"points": [0.001, 0.0, 10.0, 10.0]}], "shapes") == []
    assert left([one], [one | {"group": 3}], "shapes") == [one]
    assert left([one], [one | {"points": [1.0, 0.0, 10.0, 10.0]}], "shapes") == [one]
    assert left(tracks, [tracks[1] | {"id": 9}], "tracks") == [tracks[0]]


def test_twins_are_the_same_once_more():
    def annotations(*shapes: dict) -> dict:
        return {"shapes": list(shapes), "tracks": []}

    made = shape(0, source="auto")
    twins = [made | {"id": number} for number in (7, 8, 9)]
    other = shape(0, left=3, source="auto")
    result = compared(annotations(made, shape(1)), annotations(*twins, other))
    assert (result.missing, result.twins, result.others) == (
        annotations(shape(1)),
        annotations(*twins[1:]),
        annotations(other),
    )
    filled_in = [{"spec_id": 11, "value": "Hana"}]
    there = annotations(made | {"attributes": filled_in})
    given = annotations(made | {"attributes": [{"spec_id": 11, "value": "?"}]})
    assert compared(given, there).others == there  # what differs in an attribute is no twin


def test_what_a_person_has_edited_is_no_twin_of_what_was_uploaded():
    class Server:
        deleted: list = []

        def annotations(self, job_id: int) -> dict:
            shapes = [shape(0, source="auto", id=1), shape(0, source="semi-auto", id=2), shape(0, source="auto", id=3)]
            return {"shapes": shapes, "tracks": [], "tags": []}

        def delete(self, job_id: int, annotations: dict) -> None:
            self.deleted.extend(each["id"] for each in annotations["shapes"])

    server = Server()
    Writer(server, 1, 0.0, print).delete_twins({"shapes": [shape(0, source="auto")], "tracks": []})
    assert server.deleted == [3]


@pytest.mark.parametrize("made", [1, 2])
def test_whose_attributes_are_kept(made: int):
    """Of one shape in a place; of two it is not clear, and of several values neither."""
    there = [shape(0, source="auto", attributes=[{"spec_id": 11, "value": value}]) for value in ("?", "Hana", "old")]
    shapes = [shape(0, attributes=[{"spec_id": 11, "value": "?"}])] * made
    kept = keep_attributes(shapes, there, {11: {"?", "old"}})
    assert [each["attributes"][0]["value"] for each in kept] == ["Hana" if made == 1 else "?"] * made
    assert keep_attributes(shapes, there, {11: {"?"}}) == shapes


def test_uploads_come_in_portions(monkeypatch):
    monkeypatch.setattr(uploads, "SHAPES_PER_REQUEST", 3)
    monkeypatch.setattr(uploads, "NUMBERS_PER_REQUEST", 100)
    long = track(*(keyframe(frame) for frame in range(30)))
    every = {"shapes": [shape(frame) for frame in range(7)], "tracks": [long, track(keyframe(0))]}
    portions = list(in_requests(every))
    assert [(len(each["shapes"]), len(each["tracks"])) for each in portions] == [(3, 0), (3, 0), (1, 0), (0, 1), (0, 1)]
    assert [each for portion in portions for each in portion["shapes"]] == every["shapes"]
    assert list(in_requests({"shapes": [], "tracks": []})) == []


def test_ranges():
    assert ranges([7, 1, 2, 3, 9, 10]) == "1-3, 7, 9-10"


def retrying(monkeypatch: pytest.MonkeyPatch, *replies: object, seconds: float = 60) -> tuple[object, list, list]:
    """What a call that replies so leads to, the pauses between its attempts, and what was told; in no real time."""
    pauses, told = [], []
    monkeypatch.setattr(time, "sleep", pauses.append)
    coming = iter(replies)

    def action() -> object:
        answer = next(coming)
        if isinstance(answer, Exception):
            raise answer
        return answer

    try:
        return retried(action, seconds, told.append), pauses, told
    except (ConnectionError, ValueError) as error:
        return error, pauses, told


def test_retrying(monkeypatch):
    result, pauses, told = retrying(monkeypatch, ConnectionError("Away."), BusyError("Busy."), "done")
    assert result == "done" and told == ["Away.", "Busy."]
    assert 0.5 <= pauses[0] <= 1 and 0.5 <= pauses[1] <= 2


def test_retrying_is_over_at_some_time(monkeypatch):
    gone = ConnectionError("Gone")
    assert retrying(monkeypatch, gone, "done", seconds=0) == (gone, [], [])
    wrong = ValueError("Wrong")
    assert retrying(monkeypatch, wrong, "done") == (wrong, [], [])


def test_patience_begins_with_the_first_failure(monkeypatch):
    """Not with the work before it."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    monkeypatch.setattr(time, "sleep", lambda pause: now.__setitem__(0, now[0] + pause))
    failures = iter([(400.0, True), (0.0, True), (0.0, False)])

    def action() -> str:
        seconds, fails = next(failures)
        now[0] += seconds
        if fails:
            raise BusyError("Busy.")
        return "done"

    assert retried(action, 60, lambda reason: None) == "done"


def test_pauses_grow_and_differ(monkeypatch):
    """Many that failed together come back at different times, and those that fail again and again more rarely."""
    pauses = [retrying(monkeypatch, *[BusyError("Busy.")] * 8, "done")[1] for _ in range(30)]
    assert len({each[0] for each in pauses}) == 30
    assert all(0.5 <= pause <= 10 for each in pauses for pause in each)
    assert np.mean([each[0] for each in pauses]) < 1 < np.mean([each[-1] for each in pauses])


def test_a_server_says_how_long_to_wait(monkeypatch):
    assert retrying(monkeypatch, BusyError("Busy.", 25.0), "done")[1] == [25.0]
    later = BusyError("Busy.", 90.0)
    assert retrying(monkeypatch, later, "done") == (later, [], [])  # it would be too late then
    date = email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=40))
    assert 35 < seconds_to_wait(date) <= 40
    assert seconds_to_wait("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert [seconds_to_wait(text) for text in (" 7 ", "-7", "soon", "", None)] == [7.0, None, None, None, None]


def sighting(position: int, score: float) -> Sighting:
    return Sighting(position, PackedMask(np.ones((2, 2), bool)), score)


def test_objects_are_outlined_together_where_they_are_surest_together():
    car, bike = [sighting(0, 0.9), sighting(5, 0.7)], [sighting(5, 0.6), sighting(9, 0.8)]
    assert place([car, bike]) == [car[1], bike[0]]
    assert place([car, [], bike[1:]]) == [car[0], None, bike[1]]
    assert place([]) == []


def test_items_are_taken_evenly():
    assert evenly(range(10), 3) == [0, 4, 9] and evenly(range(2), 3) == [0, 1] and evenly([], 3) == []
