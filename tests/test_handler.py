"""Both of CVAT's tracker protocols, through the real handler."""

import json
from typing import Any

import cv2
import nuclio_sdk
import numpy as np
import pytest
from support import (
    GOLDEN_KOI,
    HEIGHT,
    RED_KOI,
    TURTLE,
    WIDTH,
    Function,
    box_of,
    decoded,
    disjoint,
    jaccard,
    mask_shape,
    png,
    request,
    rgb,
    true_mask,
)

from maskbank.function.client import FunctionError, TrackingSession, http_call
from maskbank.function.local import local_function

COVER = mask_shape(np.ones((HEIGHT, WIDTH), bool))  # whoever has all pixels leaves none to the others


def outlined(type: str, object_id: int = TURTLE, index: int = 0) -> dict[str, Any]:
    """An animal of the sample clip in a frame, as an annotator might have outlined it."""
    mask = true_mask(index, object_id)
    left, top, right, bottom = box_of(mask)
    points = {
        "mask": mask_shape(mask)["points"],
        "rectangle": [left - 0.25, top, right, bottom + 0.5],
        "ellipse": [(left + right) / 2, (top + bottom) / 2, right, top],
        "polygon": [left, (top + bottom) / 2, (left + right) / 2, top, right, (top + bottom) / 2]
        + [(left + right) / 2, bottom],
    }
    return {"type": type, "points": points[type]}


def check_points(shape: dict[str, Any]) -> None:
    """That the points of an answer are what CVAT takes for its type."""
    points = shape["points"]
    assert all(type(number) in (int, float) for number in points)
    if shape["type"] == "mask":
        assert decoded(shape).any()
    elif shape["type"] == "polygon":
        assert len(points) % 2 == 0 and 6 <= len(points) <= 400
        for numbers, limit in ((points[::2], WIDTH), (points[1::2], HEIGHT)):
            assert all(0 <= number <= limit for number in numbers)
    elif shape["type"] == "rectangle":
        left, top, right, bottom = points
        assert 0 <= left < right <= WIDTH and 0 <= top < bottom <= HEIGHT
    else:
        x, y, right, top = points
        assert 0 < x < right and top < y < HEIGHT


# Starting and tracking.


@pytest.mark.parametrize("type", ["mask", "polygon", "rectangle", "ellipse"])
def test_an_object_is_answered_in_its_own_type(function: Function, frames: list[bytes], type: str) -> None:
    given = outlined(type)
    shapes, states = function.ask(frames[0], [given], [])
    assert shapes == [given]
    assert [(state["type"], state["visible"], state["revision"]) for state in states] == [(type, True, 1)]
    with function.seeing(0.9):
        for image in frames[1:3]:
            [shape], states = function.track(image, states)
            assert shape["type"] == states[0]["type"] == type and states[0]["visible"]
            check_points(shape)
    assert states[0]["revision"] == 3
    assert 0 <= states[0]["confidence"] <= 1


def test_a_mask_is_followed(function: Function, frames: list[bytes]) -> None:
    states = function.ask(frames[0], [outlined("mask")], [])[1]
    for index in range(1, 5):
        [shape], states = function.track(frames[index], states)
        assert jaccard(decoded(shape), true_mask(index, TURTLE)) > 0.3


def test_a_box_says_how_good_the_mask_in_it_may_be(function: Function, frames: list[bytes]) -> None:
    """On its frame, to whoever asks; nothing else has to be guessed."""
    given = [outlined("rectangle"), outlined("mask", RED_KOI)]
    _, states = function.ask(frames[0], given, [])
    assert 0.5 < states[0]["expected_j"] <= 1 and "expected_j" not in states[1]
    assert [state["confidence"] for state in states] == [1, 1]
    _, after = function.track(frames[1], states)
    assert not any("expected_j" in state for state in after)
    again = outlined("rectangle", RED_KOI, 2)
    _, corrected = function.ask(frames[2], [None, again], after)
    assert ["expected_j" in state for state in corrected] == [False, True]
    assert function.ask(frames[2], [None, again], after)[1] == corrected


def test_a_rectangle_is_the_box_of_the_object(function: Function, frames: list[bytes]) -> None:
    """The same outlines, once as a mask and once as a box of which the mask is found, give a mask and its box."""
    _, states = function.ask(frames[0], [outlined("rectangle")], [])
    found = function.remembered(states[0]).objects[0].rle
    _, twin = function.ask(frames[0], [{"type": "mask", "points": list(found)}], [])
    with function.seeing(0.9):
        [rectangle], states = function.track(frames[1], states)
        [mask], _ = function.track(frames[1], twin)
    assert rectangle["points"] == box_of(decoded(mask))
    left, top, right, bottom = states[0]["box"]  # whole pixels, inclusive
    assert [left, top, right + 1, bottom + 1] == rectangle["points"]


def test_replies_come_in_the_order_of_the_request(function: Function, frames: list[bytes], shapes: list[dict]) -> None:
    answered, states = function.ask(frames[0], shapes, [])
    assert answered == shapes
    assert [state["object"] for state in states] == [0, 1, 2]
    assert len({state["bank"] for state in states}) == 1
    shapes, next_states = function.track(frames[1], states)
    assert disjoint([decoded(shape) for shape in shapes])
    order = [2, 0, 1]
    assert function.track(frames[1], [states[i] for i in order]) == (
        [shapes[i] for i in order],
        [next_states[i] for i in order],
    )


def test_missing_lists_count_as_lists_of_null(function: Function, frames: list[bytes]) -> None:
    """CVAT sends `"states": []` with new shapes; the other lists may be missing or null as well."""
    body = request(frames[0], [outlined("mask")], [])
    for states in ([None], None, ...):
        body["states"] = states
        if states is ...:
            del body["states"]
        status, reply = function.send(body)
        assert status == 200 and reply["shapes"] == body["shapes"]
    for shapes in ([], None, [None]):
        status, tracked = function.send(request(frames[1], shapes, reply["states"]))
        assert status == 200 and len(tracked["shapes"]) == 1


def test_a_body_arrives_as_object_bytes_or_text(function: Function, frames: list[bytes]) -> None:
    _, states = function.ask(frames[0], [outlined("mask"), outlined("rectangle", GOLDEN_KOI)], [])
    body = request(frames[1], [None, None], states)
    text = json.dumps(body)
    replies = []
    for form in (body, text, text.encode(), bytearray(text.encode())):
        response = function.handler(function.context, nuclio_sdk.Event(body=form))
        assert (response.status_code, response.content_type) == (200, "application/json")
        replies.append(response.body)
    assert len(set(replies)) == 1
    assert function.post(text.encode(), "text/plain") == (200, replies[0])
    assert function.post(text.encode(), "application/json; charset=utf-8") == (200, replies[0])


# Several objects and banks in one request.


def test_new_tracked_and_corrected_objects_in_one_request(function: Function, frames: list[bytes]) -> None:
    _, old = function.ask(frames[0], [outlined("mask", RED_KOI), outlined("polygon", GOLDEN_KOI)], [])
    correction, new = outlined("polygon", GOLDEN_KOI, 1), outlined("mask", TURTLE, 1)
    shapes, states = function.ask(frames[1], [new, None, correction], [None, *old])
    assert [shapes[0], shapes[2]] == [new, correction]
    assert shapes[1] is None or shapes[1]["type"] == "mask"
    assert disjoint([decoded(shapes[0]), decoded(shapes[1])])
    assert states[1]["bank"] == states[2]["bank"] == old[0]["bank"] != states[0]["bank"]
    assert [state["object"] for state in states] == [0, 0, 1]
    assert [state["revision"] for state in states] == [1, 2, 2]
    # From there on all three are tracked together.
    with function.seeing(0.9):
        shapes, states = function.track(frames[2], states)
    assert [shape["type"] for shape in shapes] == ["mask", "mask", "polygon"]
    assert disjoint([decoded(shape) for shape in shapes[:2]])
    assert [state["revision"] for state in states] == [2, 3, 3]


def test_masks_of_several_banks_are_disjoint(function: Function, frames: list[bytes], shapes: list[dict]) -> None:
    """Twice the same object, and another one: each starts by itself, then they compete."""
    states = [function.ask(frames[0], [shape], [])[1][0] for shape in (shapes[2], shapes[2], shapes[1])]
    assert len({state["bank"] for state in states}) == 3
    with function.seeing(0.9):
        for image in frames[1:4]:
            shapes, states = function.track(image, states)
            masks = [decoded(shape) for shape in shapes]
            assert disjoint(masks) and sum(mask.sum() for mask in masks) > 100


def test_a_correction_joins_the_bank_for_ever(function: Function, frames: list[bytes]) -> None:
    _, start = function.ask(frames[0], [outlined("mask", RED_KOI), outlined("mask", TURTLE)], [])
    correction = outlined("mask", GOLDEN_KOI, 1)  # as far from the network's own answer as can be
    shapes, states = function.ask(frames[1], [None, correction], start)
    assert shapes[1] == correction and states[1]["confidence"] == 1
    assert disjoint([decoded(shape) for shape in shapes])
    bank = function.remembered(states[1]).memory.banks[0]
    assert bank.seeds.frame.unique().tolist() == [0, 1]
    later = bank.seeds.valid[:, bank.seeds.frame == 1]  # the other object has learnt nothing of that frame
    assert not later[0].any() and later[1].all()
    with function.seeing(0.9):
        corrected, states = function.track(frames[2], states)
        _, uncorrected = function.track(frames[1], start)
        uncorrected, _ = function.track(frames[2], uncorrected)
    assert corrected[1] != uncorrected[1]
    # Corrected in another type than its own: the answer has its own again.
    shapes, states = function.ask(frames[3], [None, outlined("ellipse", TURTLE, 3)], states)
    assert shapes[1]["type"] == states[1]["type"] == "mask"
    assert jaccard(decoded(shapes[1]), true_mask(3, TURTLE)) > 0.5


def test_an_object_joins_later(function: Function, frames: list[bytes]) -> None:
    _, states = function.ask(frames[0], [outlined("mask", TURTLE)], [])
    _, states = function.track(frames[1], states)
    joining = outlined("mask", GOLDEN_KOI, 2)
    shapes, states = function.ask(frames[2], [None, joining], [*states, None])
    assert shapes[1] == joining
    assert disjoint([decoded(shape) for shape in shapes])
    assert [state["revision"] for state in states] == [3, 1]
    for image in frames[3:5]:
        shapes, states = function.track(image, states)
        assert disjoint([decoded(shape) for shape in shapes])
    assert [state["revision"] for state in states] == [5, 3]


def test_some_of_a_banks_objects(function: Function, frames: list[bytes], shapes: list[dict]) -> None:
    """Asked for alone or with the others of its bank, an object is the same."""
    _, start = function.ask(frames[0], shapes, [])
    shapes, states = function.track(frames[1], start)
    some, some_states = function.track(frames[1], [start[2], start[0]])
    assert (some, some_states) == ([shapes[2], shapes[0]], [states[2], states[0]])
    shapes, _ = function.track(frames[2], states)
    assert function.track(frames[2], states[1:2])[0] == shapes[1:2]


def test_an_object_that_was_outlined_anew_competes_with_its_former_self_no_more(
    function: Function, frames: list[bytes], shapes: list[dict]
) -> None:
    """CVAT drops the state of an object that the annotator moved, and starts it again; the others go on."""
    _, first = function.ask(frames[0], shapes, [])
    _, anew = function.ask(frames[0], shapes[2:], [])
    alone, states = anew, [*first[:2], *anew]
    with function.seeing(0.9):
        for image in frames[1:5]:
            shapes, states = function.track(image, states)
            [expected], alone = function.track(image, alone)
            assert disjoint([decoded(shape) for shape in shapes])
            assert jaccard(decoded(shapes[2]), decoded(expected)) > 0.8


def test_two_revisions_of_a_bank_in_one_request(function: Function, frames: list[bytes]) -> None:
    """Two objects of a bank of which one was tracked further still share the pixels of a frame."""
    turtle = true_mask(0, TURTLE)
    left = turtle & (np.arange(WIDTH) < 560)  # about a half: its border with the other is anyone's guess
    _, start = function.ask(frames[0], [mask_shape(left), mask_shape(turtle & ~left)], [])
    _, [ahead] = function.track(frames[1], start[:1])
    with function.seeing(0.9):
        shapes, states = function.track(frames[2], [ahead, start[1]])
        assert disjoint([decoded(shape) for shape in shapes])
        assert [state["revision"] for state in states] == [3, 2]
        assert states[0]["bank"] != states[1]["bank"]  # revision 2 is another one already
        shapes, _ = function.track(frames[3], states)
        assert disjoint([decoded(shape) for shape in shapes])
        # One object twice, from two revisions: two answers, none of which is lost to the other.
        twice, _ = function.track(frames[2], [ahead, start[0]])
        assert jaccard(decoded(twice[0]), decoded(twice[1])) > 0.5


@pytest.mark.parametrize("first", ["large", "small"])
def test_overlapping_shapes_are_told_apart(function: Function, frames: list[bytes], first: str) -> None:
    """The smaller shape has the pixels that both claim; the answer is what was drawn."""
    small = np.zeros((HEIGHT, WIDTH), bool)
    small[100:150, 200:260] = True
    given = [COVER, mask_shape(small)] if first == "large" else [mask_shape(small), COVER]
    shapes, states = function.ask(frames[0], given, [])
    assert shapes == given
    answers = [record.rle for record in function.remembered(states[0]).objects]
    masks = [decoded({"type": "mask", "points": list(answer)}) for answer in answers]
    assert (masks[given.index(COVER)] == ~small).all() and disjoint(masks) and sum(masks).all()


# Objects that are not visible.


@pytest.mark.parametrize("type", ["mask", "polygon", "ellipse", "rectangle"])
def test_an_object_that_is_covered(function: Function, frames: list[bytes], type: str) -> None:
    _, states = function.ask(frames[0], [outlined(type)], [])
    with function.seeing(0.9):
        [shape], states = function.track(frames[1], states)
        [hidden, cover], [state, _] = function.ask(frames[2], [None, COVER], [*states, None])
    assert cover == COVER
    assert not state["visible"] and state["box"] == states[0]["box"]
    # CVAT's own tracker tab cannot do without a rectangle, so it gets the last known one.
    assert hidden == (shape if type == "rectangle" else None)


def test_an_object_that_leaves_and_comes_back(function: Function, frames: list[bytes]) -> None:
    _, states = function.ask(frames[0], [outlined("mask"), outlined("rectangle", GOLDEN_KOI)], [])
    for index in (1, 2, 3):
        with function.seeing(0.9):
            [_, box], states = function.track(frames[index], states)
    for index in (4, 5):  # neither is memorized: these frames do show the objects
        with function.seeing(0.1):
            shapes, states = function.track(frames[index], states)
        assert shapes == [None, box]
        assert [state["visible"] for state in states] == [False, False]
        assert all(abs(state["confidence"] - 0.9) < 0.01 for state in states)  # how surely it is gone
    with function.seeing(0.9):
        shapes, states = function.track(frames[6], states)
    assert [state["visible"] for state in states] == [True, True]
    assert jaccard(decoded(shapes[0]), true_mask(4, TURTLE)) > 0.3


# The legacy protocol.


@pytest.mark.parametrize("states", [[], [None, None]])
def test_legacy(function: Function, frames: list[bytes], states: list) -> None:
    given = [outlined("rectangle", TURTLE)["points"], outlined("rectangle", GOLDEN_KOI)["points"]]
    points, states = function.ask(frames[0], given, states)
    assert points == given
    with function.seeing(0.9):
        for image in frames[1:3]:
            points, states = function.ask(image, points, states)
            for four in points:
                assert isinstance(four, list) and len(four) == 4
                check_points({"type": "rectangle", "points": four})
    assert points != given
    # The points of the last frame are a courtesy: the state decides.
    moved = [[0, 0, 5, 5], [float(number + 50) for number in points[1]]]
    assert function.ask(frames[3], moved, states) == function.ask(frames[3], points, states)


def test_legacy_polygons(function: Function, frames: list[bytes]) -> None:
    given = outlined("polygon")["points"]
    [points], states = function.ask(frames[0], [given], [])
    assert points == given and states[0]["type"] == "polygon"
    with function.seeing(0.9):
        [points], states = function.ask(frames[1], [points], states)
    check_points({"type": "polygon", "points": points})


@pytest.mark.parametrize("type", ["rectangle", "polygon"])
def test_legacy_answers_are_never_null(function: Function, frames: list[bytes], type: str) -> None:
    [points], states = function.ask(frames[0], [outlined(type)["points"]], [])
    with function.seeing(0.1):
        [points], states = function.ask(frames[1], [points], states)
    assert not states[0]["visible"]
    left, top, right, bottom = states[0]["box"]
    assert (min(points[::2]), min(points[1::2])) == (left, top)
    assert (max(points[::2]), max(points[1::2])) == (right + 1, bottom + 1)


# The same request again, older states, branches.


def test_the_same_request_again(function: Function, frames: list[bytes], shapes: list[dict]) -> None:
    _, start = function.ask(frames[0], shapes[:2], [])
    first = function.track(frames[1], start)
    assert function.track(frames[1], start) == first
    correction = outlined("mask", GOLDEN_KOI, 2)
    mixed = frames[2], [None, correction, shapes[2]], [*first[1], None]
    once, again = function.ask(*mixed), function.ask(*mixed)
    assert once[0] == again[0] and once[1][:2] == again[1][:2]  # what is new in it starts anew
    later = function.track(frames[3], once[1][:2])
    # Frames later the old answers are still there, whatever the network would say today.
    with function.seeing(0.1):
        assert function.track(frames[1], start) == first
    assert function.ask(*mixed)[1][:2] == once[1][:2]
    assert function.track(frames[3], once[1][:2]) == later


def test_an_older_revision_branches_off(function: Function, frames: list[bytes], shapes: list[dict]) -> None:
    _, calm = function.ask(frames[0], shapes, [])
    _, start = function.ask(frames[0], shapes, [])
    expected = []
    for image in frames[1:4]:
        shapes, calm = function.track(image, calm)
        expected.append(shapes)

    one = function.track(frames[1], start)
    two = function.track(frames[2], one[1])
    # Undo: back on the first frame, and on from there with other images and with a correction.
    other = function.track(frames[5], start)
    corrected = function.ask(frames[2], [None, outlined("mask", TURTLE, 2), None], one[1])
    assert {state["revision"] for state in other[1]} == {2}
    assert len({states[0]["bank"] for _, states in (one, other, corrected)}) == 3
    further = function.track(frames[6], other[1])
    function.track(frames[3], corrected[1])
    # The newer future is as it was, and goes on as if nothing had happened.
    assert function.track(frames[2], one[1]) == two
    assert [one[0], two[0]] == expected[:2]
    assert function.track(frames[3], two[1])[0] == expected[2]
    # The branch too is there for ever.
    assert function.track(frames[5], start) == other
    assert function.track(frames[6], other[1]) == further


def test_images_of_a_bank_may_differ_in_size(function: Function, frames: list[bytes]) -> None:
    _, states = function.ask(frames[0], [outlined("mask"), outlined("rectangle", GOLDEN_KOI)], [])
    size = (90, 61)
    small = png(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))
    shapes, states = function.track(small, states)
    assert decoded(shapes[0], size).shape == size
    [shape, _], _ = function.track(frames[1], states)
    assert decoded(shape).shape == (HEIGHT, WIDTH)


def test_the_last_box_is_of_the_image_that_is_shown(function: Function, frames: list[bytes]) -> None:
    """CVAT's own tab shows it where the object is gone."""
    large = png(cv2.resize(rgb(0), (4 * WIDTH, 4 * HEIGHT)))
    left, top, right, bottom = box_of(true_mask(0, TURTLE))
    box = {"type": "rectangle", "points": [4.0 * side for side in (left, top, right, bottom)]}
    _, states = function.ask(large, [box], [])
    [last], states = function.track(png(np.zeros((HEIGHT, WIDTH, 3), np.uint8)), states)
    assert not states[0]["visible"]
    assert np.abs(np.array(last["points"]) - (left, top, right, bottom)).max() < 20


# Over HTTP.


def test_over_http(function: Function, frames: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    ids = (TURTLE, GOLDEN_KOI)
    _, states = function.ask(frames[0], [outlined("mask", object_id) for object_id in ids], [])
    monkeypatch.setenv("MASKBANK_SIZE", "128")
    with local_function() as url:
        call = http_call(url)
        session = TrackingSession(call)
        session.start(frames[0], [true_mask(0, object_id) for object_id in ids])
        for image in frames[1:3]:
            masks = session.track(image, (HEIGHT, WIDTH))
            shapes, states = function.track(image, states)
            assert all((mask == decoded(shape)).all() for mask, shape in zip(masks, shapes, strict=True))
        with pytest.raises(FunctionError, match=r"^400: The image is empty\.$"):
            call(request(b"", [None, None], session.states))
        with pytest.raises(FunctionError, match=r"^410: Object 1: .*start tracking again\.$"):
            call(request(frames[3], [None, None], states))  # of another worker
        legacy = outlined("rectangle")["points"]
        assert call(request(frames[0], [legacy], []))["shapes"] == [legacy]
