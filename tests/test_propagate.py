"""Several frames in one request: `POST /propagate` through the real handler."""

import base64
import json
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support import (
    GOLDEN_KOI,
    RED_KOI,
    TURTLE,
    Function,
    box_of,
    decoded,
    disjoint,
    jaccard,
    jpeg,
    mask_shape,
    one_sentence,
    request,
    true_mask,
)

from maskbank.deadline import ANSWER_WITHIN_S, EVENT_TIMEOUT_S, REPLY_WITHIN_S
from maskbank.errors import RequestError
from maskbank.networks.models import BUNDLED_WEIGHTS
from maskbank.service import service
from maskbank.service.decoding import DecodedAhead
from maskbank.service.requests import MAX_FRAMES
from maskbank.shapes.shape import SHAPE_TYPES

BOX = {"type": "rectangle", "points": [200.0, 100.0, 300.0, 200.0]}


def outlined(index: int, *object_ids: int | None) -> list[dict | None]:
    return [None if i is None else mask_shape(true_mask(index, i)) for i in object_ids]


def frame(index: int, shapes: list | None = None) -> dict[str, Any]:
    sent = {"image": base64.b64encode(jpeg(index)).decode()}
    return sent if shapes is None else sent | {"shapes": shapes}


def reply_to(function: Function, frames: list[dict], states: list | None = None) -> dict[str, Any]:
    body = {"frames": frames} if states is None else {"frames": frames, "states": states}
    status, reply = function.send(body, "/propagate")
    assert status == 200, reply
    assert set(reply) == {"frames", "suggestion", "states"}
    assert all(len(json.dumps(state)) <= 300 for state in reply["states"])
    return reply


def propagate(function: Function, frames: list[dict], states: list | None = None) -> tuple[list[dict], list]:
    reply = reply_to(function, frames, states)
    return reply["frames"], reply["states"]


@pytest.mark.parametrize("path", ["/propagate/", "//propagate", "/propagate?from=here"])
def test_other_ways_to_write_the_address(function: Function, shapes: list[dict], path: str) -> None:
    status, reply = function.send({"frames": [frame(0, shapes), frame(1)]}, path)
    assert status == 200 and len(reply["frames"]) == 2


def test_it_gives_what_frame_by_frame_gives(function: Function, shapes: list[dict]) -> None:
    expected, states = [shapes], function.ask(jpeg(0), shapes, [])[1]
    confidences = [[state["confidence"] for state in states]]
    for index in range(1, 5):
        answered, states = function.track(jpeg(index), states)
        expected.append(answered)
        confidences.append([state["confidence"] for state in states])
    found, _ = propagate(function, [frame(0, shapes), *map(frame, range(1, 5))])
    assert [each["shapes"] for each in found] == expected
    assert [each["confidences"] for each in found] == confidences


def test_in_pieces_and_again_it_gives_the_same(function: Function, shapes: list[dict]) -> None:
    first, states = propagate(function, [frame(0, shapes), frame(1)])
    then = [frame(2), frame(3)]
    second, after = propagate(function, then, states)
    assert propagate(function, then, states) == (second, after)
    whole, _ = propagate(function, [frame(0, shapes), *map(frame, range(1, 4))])
    assert whole == first + second


def test_objects_join_later_and_are_corrected(function: Function) -> None:
    found, states = propagate(
        function,
        [
            frame(0, outlined(0, RED_KOI, None)),
            frame(1),
            frame(2, outlined(2, None, TURTLE)),
            frame(3),
            frame(4, outlined(4, RED_KOI, None)),
            frame(5),
        ],
    )
    assert [each["confidences"][1] for each in found[:2]] == [None, None]
    assert [each["shapes"][1] for each in found[:2]] == [None, None]
    assert found[2]["shapes"][1] == outlined(2, TURTLE)[0]
    assert found[4]["shapes"][0] == outlined(4, RED_KOI)[0]
    assert [state["revision"] for state in states] == [6, 4]
    red, turtle = found[5]["shapes"]
    assert jaccard(decoded(red), true_mask(5, RED_KOI)) > 0.6
    assert jaccard(decoded(turtle), true_mask(5, TURTLE)) > 0.6


def test_backwards(function: Function) -> None:
    found, _ = propagate(function, [frame(6, outlined(6, GOLDEN_KOI)), *map(frame, (5, 4, 3))])
    assert jaccard(decoded(found[-1]["shapes"][0]), true_mask(3, GOLDEN_KOI)) > 0.6


def test_nothing_is_answered_for_what_is_not_visible(function: Function) -> None:
    """A box, too: only CVAT's own tab cannot do without one."""
    states = propagate(function, [frame(0, [BOX])])[1]
    with function.seeing(0.1):
        [found], states = propagate(function, [frame(1)], states)
    assert found["shapes"] == [None]
    assert found["confidences"][0] == pytest.approx(0.9, abs=0.01)
    assert states[0]["visible"] is False


def test_frames_before_any_object_are_empty(function: Function) -> None:
    found, states = propagate(function, [frame(0), frame(1, [BOX])])
    assert found[0] == {"shapes": [None], "confidences": [None]}
    assert found[1] == {"shapes": [BOX], "confidences": [1.0]}
    assert states[0]["revision"] == 1


def test_the_frame_to_outline_next_is_away_from_the_outlines(function: Function) -> None:
    """The tracker is as unsure on all of twelve frames, and an outline reaches 1.2 of them."""
    with function.seeing(0.45):
        reply = reply_to(function, [frame(0, [BOX]), *map(frame, range(1, 12))])
        assert reply["suggestion"] == {"frame": 2, "objects": [0]}
        backwards = reply_to(function, [*map(frame, range(11)), frame(11, [BOX])])
    assert reply["frames"][1]["confidences"] == reply["frames"][2]["confidences"]
    assert backwards["suggestion"] is None  # nothing was looked for before the outline


def test_the_suggestion_names_the_objects_and_knows_of_one_request(function: Function) -> None:
    other = BOX | {"points": [10.0, 10.0, 60.0, 60.0]}
    with function.seeing(0.45):
        first = reply_to(function, [frame(0), frame(1, [BOX, None]), frame(2, [None, other]), frame(3)])
        assert first["suggestion"]["frame"] == 3 and sorted(first["suggestion"]["objects"]) == [0, 1]
        states = first["states"]
        again = reply_to(function, [frame(4), frame(5, [BOX, None])], states)
        assert again["suggestion"]["frame"] == 0 and sorted(again["suggestion"]["objects"]) == [0, 1]
        outlined_on = reply_to(function, [frame(4, [BOX, None])], states)
        assert outlined_on["suggestion"] == {"frame": 0, "objects": [1]}


def test_no_frame_is_suggested_where_the_tracker_is_sure(function: Function) -> None:
    with function.seeing(0.001):
        assert reply_to(function, [frame(0, [BOX]), frame(1), frame(2)])["suggestion"] is None


def test_the_suggestion_is_of_the_frames_that_were_done(function: Function, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "REPLY_WITHIN_S", 0.0)
    with function.seeing(0.45):
        first = reply_to(function, [frame(0, [BOX]), frame(1)])
        assert len(first["frames"]) == 1 and first["suggestion"] is None
        assert reply_to(function, [frame(1)], first["states"])["suggestion"] == {"frame": 0, "objects": [0]}


def test_it_stops_when_the_time_is_over(function: Function, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [frame(0, [BOX]), frame(1), frame(2)]
    expected, _ = propagate(function, frames)
    monkeypatch.setattr(service, "REPLY_WITHIN_S", 0.0)
    found, states = [], None
    while len(found) < len(frames):
        answered, states = propagate(function, frames[len(found) :], states)
        assert len(answered) == 1
        found += answered
    assert [each["shapes"][0]["type"] for each in found] == ["rectangle"] * 3
    assert found[1:] == expected[1:]


def test_it_is_counted_frame_by_frame(start: Any) -> None:
    function = start(MASKBANK_SIZE=64)
    propagate(function, [frame(0, [BOX, BOX | {"points": [10, 10, 60, 60]}]), frame(1), frame(2)])
    assert json.loads(function.get("/"))["frames"] == 3
    metrics = function.get("/metrics")
    assert "maskbank_frames_total 3.0" in metrics and "maskbank_objects_total 6.0" in metrics
    assert 'maskbank_requests_total{status="200"} 1.0' in metrics


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ([], 400, "The request must be a JSON object with frames and states."),
        ({}, 400, "The request has no frame."),
        ({"frames": 3}, 400, "The frames of a request must be a list."),
        ({"frames": [3]}, 400, "Frame 1: it must be a JSON object with an image and shapes."),
        ({"frames": [frame(0, [BOX]), {}]}, 400, "Frame 2: the request has no image."),
        ({"frames": [frame(0, [BOX]), frame(1, 7)]}, 400, "Frame 2: the shapes of a request must be a list."),
        ({"frames": [frame(0)]}, 400, "The request names no object: it needs a shape or a state for each."),
        ({"frames": [frame(0, [None])]}, 400, "The request names no object: it needs a shape or a state for each."),
        (
            {"frames": [frame(0, [BOX]), frame(1, [BOX, BOX])]},
            400,
            "Each list of shapes and states must have a place for each of the 2 objects.",
        ),
        (
            {"frames": [frame(0, [BOX, {"type": "star"}])]},
            400,
            f"Frame 1: object 2: the shape's type must be one of {', '.join(SHAPE_TYPES)}.",
        ),
        (
            {"frames": [frame(0)], "states": [{"v": 99}]},
            410,
            "Object 1: the state was made by another version of the tracker; start tracking again.",
        ),
        (
            {"frames": [{"image": "AAAA", "shapes": [BOX]}]},
            400,
            "Frame 1: the image is damaged or not in an allowed format (JPEG, PNG, WEBP, BMP, TIFF, GIF).",
        ),
        (
            {"frames": [frame(0, [BOX])] * (MAX_FRAMES + 1)},
            413,
            f"The request has {MAX_FRAMES + 1} frames, but at most {MAX_FRAMES} can be sent at once.",
        ),
    ],
)
def test_what_cannot_be_answered_is_told(function: Function, body: object, status: int, sentence: str) -> None:
    answer = function.send(body, "/propagate")
    assert answer == (status, sentence)
    assert one_sentence(sentence)


def test_an_error_names_the_slot_and_leaves_the_states_good(function: Function) -> None:
    """The first slot is not begun, so the object in the second is alone in the frame."""
    outside = {"type": "rectangle", "points": [5000.0, 5000.0, 5010.0, 5010.0]}
    states = [None, *propagate(function, [frame(0, [BOX])])[1]]
    status, sentence = function.send({"frames": [frame(1), frame(2, [None, outside])], "states": states}, "/propagate")
    assert status == 400 and sentence.startswith("Frame 2: object 2: ") and one_sentence(sentence)
    found, _ = propagate(function, [frame(1)], states)
    assert found[0]["shapes"][0] is None and found[0]["confidences"][1] is not None


def test_one_object_in_two_slots_is_refused(function: Function) -> None:
    [state] = propagate(function, [frame(0, [BOX])])[1]
    assert function.send({"frames": [frame(1)], "states": [state, state]}, "/propagate") == (
        400,
        "The request tracks one object twice; send one state for it.",
    )


def test_a_state_that_is_forgotten_is_told(function: Function) -> None:
    [state] = propagate(function, [frame(0, [BOX])])[1]
    status, sentence = function.send({"frames": [frame(1)], "states": [None, state | {"bank": "A" * 22}]}, "/propagate")
    assert status == 410 and sentence.startswith("Frame 1: object 2: ") and one_sentence(sentence)


def test_a_state_of_other_weights_is_told(start: Callable[..., Function], tmp_path: Path) -> None:
    with_weights = partial(start, MASKBANK_SIZE=96, MASKBANK_STORE=f"file://{tmp_path}")
    one, other = (with_weights(MASKBANK_WEIGHTS=path) for path in BUNDLED_WEIGHTS.values())
    [state] = propagate(one, [frame(0, [BOX])])[1]
    status, sentence = other.send({"frames": [frame(1)], "states": [state]}, "/propagate")
    assert status == 410 and sentence.startswith("Frame 1: these objects were tracked with another model")
    assert one_sentence(sentence)


# ---------------------------------------------------------------- deadlines


def test_the_function_s_own_time_limit_is_the_one_that_deadlines_count_with() -> None:
    for configuration in ("function.yaml", "function-gpu.yaml"):
        content = yaml.safe_load((Path(__file__).parents[1] / configuration).read_text())
        assert content["spec"]["eventTimeout"] == f"{EVENT_TIMEOUT_S:.0f}s"
    assert REPLY_WITHIN_S < ANSWER_WITHIN_S < EVENT_TIMEOUT_S


def test_a_request_that_is_late_changes_nothing(function: Function, monkeypatch: pytest.MonkeyPatch) -> None:
    _, states = function.ask(jpeg(0), [mask_shape(true_mask(0, TURTLE))], [])
    before = function.remembered(states[0])
    with monkeypatch.context() as late:
        late.setattr("maskbank.service.service.ANSWER_WITHIN_S", -1.0)
        status, sentence = function.send(request(jpeg(1), [], states))
        assert status == 503 and one_sentence(sentence)
        status, sentence = function.send({"frames": [frame(1)], "states": states}, "/propagate")
        assert status == 503 and one_sentence(sentence)
    assert function.remembered(states[0]) is before
    assert function.track(jpeg(1), states)[1][0]["revision"] == 2


def test_frames_that_would_come_too_late_are_left_for_the_next_request(
    function: Function, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame is not begun when as much time as the slowest one took is no longer left."""
    _, states = function.ask(jpeg(0), [mask_shape(true_mask(0, TURTLE))], [])
    track = function.service.tracker.track

    def slow(*what: Any) -> Any:
        time.sleep(0.6)
        return track(*what)

    monkeypatch.setattr(function.service.tracker, "track", slow)
    monkeypatch.setattr("maskbank.service.service.REPLY_WITHIN_S", 1.0)
    frames, states = propagate(function, [frame(index) for index in range(1, 6)], states)
    assert len(frames) == 1 and states[0]["revision"] == 2


# Frames that are the one before once more, and images ahead of time.


def test_a_still_frame_is_the_one_before_once_more(function: Function, monkeypatch: pytest.MonkeyPatch) -> None:
    tracked = []
    track = function.service.tracker.track
    monkeypatch.setattr(function.service.tracker, "track", lambda *given: tracked.append(1) or track(*given))
    start = outlined(0, RED_KOI, TURTLE)
    frames = [frame(0, start), *map(frame, (0, 1, 1, 1, 2))]
    found, states = propagate(function, frames)
    assert len(tracked) == 3
    assert found[1] == found[0]  # as it was outlined
    assert found[3] == found[4] == found[2] != found[0]
    assert found[5]["shapes"] != found[4]["shapes"]
    assert function.remembered(states[0]).memory.frames == 6
    without, _ = propagate(function, [frame(0, start), *map(frame, (1, 2))])
    assert jaccard(decoded(found[5]["shapes"][1]), decoded(without[2]["shapes"][1])) > 0.95
    # How good the mask in a box may be is said on the box's frame only.
    _, states = function.ask(jpeg(0), [{"type": "rectangle", "points": box_of(true_mask(0, TURTLE))}], [])
    assert "expected_j" in states[0] and "expected_j" not in function.track(jpeg(0), states)[1][0]
    tracked.clear()
    # The same one by one, and what is outlined anew counts, whatever the image.
    _, states = function.ask(jpeg(1), start, [])
    shapes, states = function.track(jpeg(1), states)
    assert shapes == start and len(tracked) == 1
    _, states = function.ask(jpeg(1), [mask_shape(true_mask(1, RED_KOI)), None], states)
    assert len(tracked) == 2 and function.remembered(states[0]).memory.banks[0].seeds is not None


def test_objects_of_two_requests_share_the_pixels_of_a_still(function: Function) -> None:
    """The second one is outlined, by itself, on what the first one has been found on."""
    _, [first] = function.ask(jpeg(0), [mask_shape(true_mask(0, TURTLE))], [])
    [shape], [first] = function.track(jpeg(1), [first])
    half = decoded(shape).copy()
    half[:, : int(np.nonzero(half)[1].mean())] = False
    _, [second] = function.ask(jpeg(1), [mask_shape(half)], [])
    shapes, states = function.track(jpeg(1), [first, second])
    assert disjoint([decoded(each) for each in shapes if each])
    again, _ = function.track(jpeg(1), states)
    assert again == shapes


def test_the_next_image_is_decoded_meanwhile() -> None:
    started: list[bytes] = []
    second_has_begun = threading.Event()

    def decode(encoded: bytes) -> np.ndarray:
        started.append(encoded)
        if encoded == b"1":
            second_has_begun.set()
        if encoded == b"2":
            raise RequestError("This is no image.")
        return np.full((1, 1, 3), int(encoded), np.uint8)

    with DecodedAhead([b"0", b"1", b"2", b"3"], decode) as images:
        assert images.image(0)[0, 0, 0] == 0
        assert second_has_begun.wait(10)
        assert images.image(1)[0, 0, 0] == 1
        with pytest.raises(RequestError):
            images.image(2)
        assert images.image(3)[0, 0, 0] == 3
    assert started == [b"0", b"1", b"2", b"3"]
    with DecodedAhead([b"0", b"2"], decode) as images:
        images.image(0)  # nobody asks for the other: its fault is nobody's
