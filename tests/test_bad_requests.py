"""Bad input: every bad request gets a 4xx and one sentence, and does no harm."""

import base64
import copy
import json
import struct
import zlib
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from support import TURTLE, Function, equal_tensors, mask_shape, one_sentence, png, request, tensors_of, true_mask

AGAIN = "start tracking again."
BOX = {"type": "rectangle", "points": [10, 10, 30, 30]}
SIZE = (48, 64)  # height, width of the small images


def square(left: int, top: int, side: int) -> dict[str, Any]:
    mask = np.zeros(SIZE, bool)
    mask[top : top + side, left : left + side] = True
    return mask_shape(mask)


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it is so large, and has no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = b"IDAT" + zlib.compress(b"")
    chunks = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, pixels, b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def encoded(image: bytes) -> str:
    return base64.b64encode(image).decode()


@pytest.fixture(scope="module")
def small(start: Callable[..., Function]) -> Function:
    return start(MASKBANK_SIZE=64, MASKBANK_MAX_OBJECTS=4, MASKBANK_MAX_PIXELS=1_000_000)


@pytest.fixture(scope="module")
def good(small: Function) -> dict[str, Any]:
    """A good request to track two objects. Cases change a copy of it."""
    _, states = small.ask(png(noise(0)), [square(5, 5, 20), square(30, 20, 20)], [])
    return request(png(noise(1)), [None, None], states)


def refused(function: Function, body: object) -> tuple[int, str]:
    """Status and sentence of a bad request; `body` is bytes or what can be JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    store = function.service.store
    store.load("", 0, "")  # what has expired goes now
    before = len(store), store.bytes
    status, sentence = function.post(raw)
    assert 400 <= status < 500
    assert one_sentence(sentence), sentence
    assert (len(store), store.bytes) == before  # nothing has changed
    return status, sentence


def check_no_harm(function: Function, body: dict[str, Any]) -> None:
    """A good request gets the same answer as from a worker that never saw a bad one: from a fresh twin bank."""
    states = body["states"]
    revision = function.remembered(states[0])
    _, twin = function.ask(png(noise(0)), [square(5, 5, 20), square(30, 20, 20)], [])
    untouched = function.remembered(twin[0])
    assert equal_tensors(tensors_of(revision.memory), tensors_of(untouched.memory))
    expected, _ = function.track(base64.b64decode(body["image"]), twin)
    assert function.track(base64.b64decode(body["image"]), states)[0] == expected


# Bodies.


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "The request is not JSON."),
        (b"hello", "The request is not JSON."),
        (b"\xff\xfe{}", "The request is not JSON."),
        (b'{"image": ', "The request is not JSON."),
        (b"[" * 40_000, "The request is not JSON."),
        (b'{"image": ' + b"[" * 40_000, "The request is not JSON."),
        (b'{"shapes": [' + b"1" * 5000 + b"]}", "The request is not JSON."),
        (b"[]", "The request must be a JSON object with an image, shapes and states."),
        (b"null", "The request must be a JSON object with an image, shapes and states."),
        (b"17", "The request must be a JSON object with an image, shapes and states."),
        (b'"{}"', "The request "),  # text is taken for JSON, whoever unpacked it
        (b"NaN", "The request must be a JSON object with an image, shapes and states."),
        (b"{}", "The request names no object: it needs a shape or a state for each."),
    ],
)
@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
def test_bodies(small: Function, body: bytes, sentence: str, content_type: str) -> None:
    status, reply = small.post(body, content_type)
    assert status == 400 and reply.startswith(sentence) and one_sentence(reply)


# Images.

PICTURE = png(noise(1))


@pytest.mark.parametrize(
    ("image", "status", "sentence"),
    [
        (..., 400, "The request has no image."),
        (None, 400, "The request has no image."),
        ("", 400, "The image is empty."),
        (17, 400, "The image must be a string in base64."),
        (["a"], 400, "The image must be a string in base64."),
        ("ü", 400, "The image is not valid base64."),
        ("abc", 400, "The image is not valid base64."),
        (encoded(PICTURE)[:-2], 400, "The image is not valid base64."),
        ("data:image/png;base64,", 400, "The image is empty."),
        (encoded(b"hello"), 400, "The image is damaged or not in an allowed format"),
        (encoded(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), 400, "The image is damaged or not in an allowed"),
        (encoded(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), 400, "The image is damaged or not in an"),
        (encoded(PICTURE[: len(PICTURE) // 2]), 400, "The image is damaged or truncated"),
        (encoded(PICTURE[:40]), 400, "The image is damaged"),
        (encoded(png_header(8, 8)), 400, "The image is damaged or truncated"),
        (encoded(png_header(0, 8)), 400, "The image "),
        (encoded(b"GIF89a" + bytes(7) + b";"), 400, "The image "),
        (encoded(png_header(1001, 1000)), 413, "The image has 1001 x 1000 pixels, but at most 1000000 pixels are"),
        (encoded(png_header(2**31 - 1, 2**31 - 1)), 413, "The image has more pixels than can be decoded safely."),
    ],
)
def test_images(small: Function, good: dict[str, Any], image: object, status: int, sentence: str) -> None:
    for bad in (copy.deepcopy(good), request(b"", [BOX], [])):
        bad["image"] = image
        if image is ...:
            del bad["image"]
        got = refused(small, bad)
        assert got[0] == status and got[1].startswith(sentence), got
    check_no_harm(small, good)


def test_an_image_file_that_is_too_large(small: Function, good: dict[str, Any]) -> None:
    bad = good | {"image": "A" * (90 << 20)}
    assert refused(small, bad) == (413, "The image file is larger than the 67108864 bytes that are allowed.")


# Shapes.


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ("rectangle", "Object 2: a shape must be an object with a type and points, or a list of numbers."),
        (5, "Object 2: a shape must be an object"),
        ({}, "Object 2: the shape's type must be one of mask, polygon, rectangle, ellipse."),
        ({"type": "points", "points": [1, 2]}, "Object 2: the shape's type must be one of"),
        ({"type": ["mask"], "points": [1, 2]}, "Object 2: the shape's type must be one of"),
        ({"type": "mask"}, "Object 2: the points of a mask must be a list of numbers."),
        ({"type": "polygon", "points": "1,2,3"}, "Object 2: the points of a polygon must be a list of numbers."),
        ({"type": "polygon", "points": [1, 2, 3, 4, 5, "6"]}, "Object 2: the points of a polygon must be numbers."),
        ({"type": "polygon", "points": [1, 2, 3, 4, 5, True]}, "Object 2: the points of a polygon must be numbers."),
        ({"type": "polygon", "points": [1, 2, 3, 4, 5, None]}, "Object 2: the points of a polygon must be numbers."),
        ({"type": "polygon", "points": [[1, 2], [3, 4], [5, 6]]}, "Object 2: the points of a polygon must be numbers."),
        ({"type": "polygon", "points": [1, 1, 9, 9]}, "Object 2: a polygon needs at least 3 points"),
        ({"type": "polygon", "points": [1, 1, 9, 9, 1, 9, 5]}, "Object 2: a polygon needs at least 3 points"),
        ({"type": "polygon", "points": [1.0] * 6}, "Object 2: the polygon covers no pixel of the image"),
        ({"type": "rectangle", "points": [1, 1, 9]}, "Object 2: a rectangle needs 4 numbers"),
        ({"type": "rectangle", "points": []}, "Object 2: a rectangle needs 4 numbers"),
        ({"type": "rectangle", "points": [1, 1, float("nan"), 9]}, "Object 2: the points of a rectangle must be betw"),
        ({"type": "rectangle", "points": [1, 1, float("inf"), 9]}, "Object 2: the points of a rectangle must be betw"),
        ({"type": "rectangle", "points": [-1e300, 1, 9, 9]}, "Object 2: the points of a rectangle must be between"),
        ({"type": "rectangle", "points": [1, 1, 10**400, 9]}, "Object 2: the points of a rectangle must be between"),
        ({"type": "rectangle", "points": [10, 10, 10, 20]}, "Object 2: the rectangle is empty"),
        ({"type": "rectangle", "points": [20, 20, 10, 10]}, "Object 2: the rectangle is empty"),
        ({"type": "rectangle", "points": [100, 10, 120, 20]}, "Object 2: the rectangle covers no pixel of the image"),
        ({"type": "rectangle", "points": [-9, -9, -1, -1]}, "Object 2: the rectangle covers no pixel of the image"),
        ({"type": "ellipse", "points": [1, 1, 9]}, "Object 2: an ellipse needs 4 numbers"),
        ({"type": "ellipse", "points": [9, 9, 3, 5]}, "Object 2: an ellipse needs its right point right of its centre"),
        ({"type": "ellipse", "points": [500, 500, 510, 490]}, "Object 2: the ellipse covers no pixel of the image"),
        ({"type": "mask", "points": [1, 2, 3, 4]}, "Object 2: a mask needs run lengths and the 4 numbers of its box."),
        ({"type": "mask", "points": [0, 3, 1, 1, 2, 2]}, "Object 2: the mask's run lengths add up to 3 pixels, but"),
        ({"type": "mask", "points": [0, 5, 1, 1, 2, 2]}, "Object 2: the mask's run lengths add up to 5 pixels, but"),
        ({"type": "mask", "points": [0, 999999999, 1, 1, 2, 2]}, "Object 2: the mask's run lengths add up to 9999"),
        ({"type": "mask", "points": [-1, 5, 1, 1, 2, 2]}, "Object 2: the run lengths of a mask must not be negative."),
        ({"type": "mask", "points": [0.5, 3.5, 1, 1, 2, 2]}, "Object 2: the run lengths and the box of a mask must"),
        ({"type": "mask", "points": [0, 4, 2, 2, 1, 1]}, "Object 2: the mask's box (2, 2) to (1, 1) does not lie"),
        ({"type": "mask", "points": [0, 4, 63, 1, 64, 2]}, "Object 2: the mask's box (63, 1) to (64, 2) does not lie"),
        ({"type": "mask", "points": [0, 4, -1, 1, 0, 2]}, "Object 2: the mask's box (-1, 1) to (0, 2) does not lie"),
        ({"type": "mask", "points": [4, 1, 1, 2, 2]}, "Object 2: the mask covers no pixel of the image of 64 x 48"),
        ([1, 2, 3], "Object 2: a shape given as a plain list must have 4 numbers"),
        ([], "Object 2: a shape given as a plain list must have 4 numbers"),
        ([1, 1, 9, "9"], "Object 2: the points of a rectangle must be numbers."),
        (None, "Object 2: it has neither a shape nor a state."),
    ],
)
def test_shapes(small: Function, good: dict[str, Any], shape: object, sentence: str) -> None:
    new = good | {"shapes": [None, shape], "states": [good["states"][0], None]}
    got = refused(small, new)
    assert got[0] == 400 and got[1].startswith(sentence), got
    if shape is not None and not isinstance(shape, list):  # a correction
        assert refused(small, good | {"shapes": [None, shape]}) == got


@pytest.mark.parametrize("type", ["mask", "polygon", "rectangle"])
def test_a_shape_with_too_many_numbers(small: Function, good: dict[str, Any], type: str) -> None:
    status, sentence = refused(small, good | {"shapes": [None, {"type": type, "points": [0] * 2_000_002}]})
    assert status == 413 and sentence.startswith(f"Object 2: a {type} may have at most")


def test_lists_that_are_none(small: Function, good: dict[str, Any]) -> None:
    for key in ("shapes", "states"):
        for value in ({}, "[]", 3, True):
            assert refused(small, good | {key: value}) == (400, f"The {key} of a request must be a list.")


def test_one_object_corrected_twice(small: Function, good: dict[str, Any]) -> None:
    bad = good | {"shapes": [square(1, 1, 9), square(20, 1, 9)], "states": good["states"][:1] * 2}
    assert refused(small, bad) == (400, "The request corrects one object twice; send one shape for it.")


def test_an_object_under_another(small: Function, good: dict[str, Any]) -> None:
    for again in (square(1, 1, 15), square(2, 1, 15)):
        status, sentence = refused(small, good | {"shapes": [square(1, 1, 15), again], "states": []})
        assert status == 400 and sentence.startswith("Object 2: it lies wholly under other objects")


def test_shapes_did_no_harm(small: Function, good: dict[str, Any]) -> None:
    check_no_harm(small, good)


# States.


def test_states_of_wrong_length(small: Function, good: dict[str, Any]) -> None:
    sentence = "The request has 2 shapes but 1 states; each object needs one of each."
    assert refused(small, good | {"states": good["states"][:1]}) == (400, sentence)
    assert refused(small, good | {"shapes": [None]})[0] == 400
    assert refused(small, good | {"shapes": [], "states": []})[0] == 400
    check_no_harm(small, good)


@pytest.mark.parametrize(
    ("change", "status", "sentence"),
    [
        ("state", 400, "Object 2: the state is not one that this tracker made; start"),
        (["state"], 400, "Object 2: the state is not one that this tracker made; start"),
        (0, 400, "Object 2: the state is not one that this tracker made; start"),
        ({"v": 1}, 410, "Object 2: the state was made by another version of the tracker; start"),
        ({"v": None}, 410, "Object 2: the state was made by another version of the tracker; start"),
        ({"v": [1]}, 410, "Object 2: the state was made by another version of the tracker; start"),
        ({"bank": "A" * 22}, 410, "Object 2: the tracker no longer remembers it: it restarted"),
        ({"revision": 99}, 410, "Object 2: the tracker no longer remembers it: it restarted"),
        ({"revision": 0}, 410, "Object 2: the tracker no longer remembers it: it restarted"),
        ({"bank": "../../etc/passwd"}, 400, "Object 2: the state is damaged; start"),
        ({"bank": "ä" * 22}, 400, "Object 2: the state is damaged; start"),
        ({"bank": "A" * 22 + "\n"}, 400, "Object 2: the state is damaged; start"),
        ({"bank": None}, 400, "Object 2: the state is damaged; start"),
        ({"object": 2}, 400, "Object 2: the state is damaged; start"),
        ({"object": -1}, 400, "Object 2: the state is damaged; start"),
        ({"object": 1.0}, 400, "Object 2: the state is damaged; start"),
        ({"object": True}, 400, "Object 2: the state is damaged; start"),
        ({"object": 2**60}, 400, "Object 2: the state is damaged; start"),
        ({"digest": "0" * 64}, 410, "Object 2: the tracker no longer remembers it: it restarted"),
        ({"digest": None}, 400, "Object 2: the state is damaged; start"),
        ({"digest": "F" * 64}, 400, "Object 2: the state is damaged; start"),
        ({"revision": "1"}, 400, "Object 2: the state is damaged; start"),
        ({"revision": float("nan")}, 400, "Object 2: the state is damaged; start"),
        ({"type": "cuboid"}, 400, "Object 2: the state is damaged; start"),
    ],
)
def test_states(small: Function, good: dict[str, Any], change: object, status: int, sentence: str) -> None:
    first, second = good["states"]
    bad = second | change if isinstance(change, dict) else change
    got = refused(small, good | {"states": [first, bad]})
    assert got[0] == status and got[1].startswith(sentence) and got[1].endswith(AGAIN), got
    check_no_harm(small, good)


def test_an_expired_bank(start: Callable[..., Function]) -> None:
    function = start(MASKBANK_SIZE=64, MASKBANK_TTL_HOURS=2)
    now = 0.0
    function.service.store.clock = lambda: now
    _, old = function.ask(png(noise(0)), [square(5, 5, 20)], [])
    _, fresh = function.ask(png(noise(0)), [square(5, 5, 20)], [])
    now = 1.9 * 3600
    _, fresh = function.track(png(noise(1)), fresh)
    now = 3.8 * 3600  # the first has not been used for so long
    status, sentence = refused(function, request(png(noise(1)), [None, None], [*fresh, *old]))
    assert status == 410
    assert sentence.startswith("Object 2: the tracker no longer remembers it") and sentence.endswith(AGAIN)
    assert len(function.service.store) == 1
    function.track(png(noise(2)), fresh)
    _, again = function.ask(png(noise(1)), [square(5, 5, 20)], [])
    function.track(png(noise(2)), again)


def test_more_objects_than_the_limit(small: Function, good: dict[str, Any]) -> None:
    five = [square(12 * i, 5, 10) for i in range(5)]
    expected = (413, "The request has 5 objects, but at most 4 can be tracked at once.")
    assert refused(small, good | {"shapes": five, "states": []}) == expected
    assert refused(small, good | {"shapes": [], "states": good["states"][:1] * 5}) == expected
    assert small.ask(PICTURE, five[:4], [])[0] == five[:4]
    check_no_harm(small, good)


def test_corrections_without_end(start: Callable[..., Function]) -> None:
    """Outlined frames are kept for ever, so there is an end to them; the tracking itself goes on."""
    function = start(MASKBANK_SIZE=64, MASKBANK_BUDGET=1000)  # 64 entries for each frame of 256 x 64 pixels
    images = [np.random.default_rng(seed).integers(0, 256, (64, 256, 3), np.uint8) for seed in range(20)]
    mask = np.zeros((64, 256), bool)
    mask[20:40, 20:50] = True
    _, states = function.ask(png(images[0]), [mask_shape(mask)], [])
    for image in images[1 : 1000 // 64]:
        _, states = function.ask(png(image), [mask_shape(mask)], states)
    status, sentence = refused(function, request(png(images[-1]), [mask_shape(mask)], states))
    assert status == 400 and sentence.startswith("These objects already have as many outlines")
    assert function.track(png(images[-1]), states)[1][0]["revision"] == 1000 // 64 + 1


# Anything else.

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 100),
    st.sampled_from([0, -1, 2**31, 2**63, 10**30, 1e308, -1e308, 0.5, float("nan"), float("inf"), float("-inf")]),
    st.text(max_size=8),
    st.sampled_from(["mask", "polygon", "rectangle", "ellipse", "image", "A" * 22, "1"]),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


def places(value: object, path: tuple = ()) -> list[tuple]:
    """The paths to everything inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in items for place in places(inner, (*path, key)))]


def mutate(draw: st.DrawFn, body: Any) -> Any:
    """The body with one thing in it changed, removed or doubled."""
    path = draw(st.sampled_from(places(body)))
    if not path:
        return body if draw(st.integers(0, 9)) else draw(VALUES)
    inside = body
    for key in path[:-1]:
        inside = inside[key]
    key, value = path[-1], inside[path[-1]]
    action = draw(st.sampled_from(["replace", "replace", "remove", "double", "cut"]))
    if action == "remove":
        del inside[key]
    elif action == "double" and isinstance(inside, list):
        inside.insert(key, copy.deepcopy(value))
    elif action == "cut" and isinstance(value, str | list) and value:
        start, stop = sorted(draw(st.lists(st.integers(0, len(value)), min_size=2, max_size=2)))
        inside[key] = value[:start] + value[stop:]
    else:
        inside[key] = draw(VALUES)
    return body


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_mutated_requests(small: Function, good: dict[str, Any], data: st.DataObject) -> None:
    """Whatever is wrong with a request: an answer or a sentence, never a failure."""
    seeds = data.draw(st.sampled_from(["track", "new", "legacy", "correct"]))
    polygon = {"type": "polygon", "points": [3, 3, 20, 4, 8, 15]}
    body = good | {"image": encoded(png(noise(data.draw(st.integers(2, 9)))))}
    if seeds == "new":
        body |= {"shapes": [square(2, 2, 9), polygon, BOX, {"type": "ellipse", "points": [40, 30, 50, 20]}]}
        body |= {"states": []}
    elif seeds == "legacy":
        body |= {"shapes": [[2, 2, 20, 20], [30, 10, 50, 40, 30, 40]]}
        body |= data.draw(st.sampled_from([{"states": []}, {}]))
    elif seeds == "correct":
        body |= {"shapes": [None, polygon]}
    body = copy.deepcopy(body)
    for _ in range(data.draw(st.integers(1, 3))):
        body = mutate(data.draw, body)
    raw = json.dumps(body).encode()
    if data.draw(st.integers(0, 9)) == 0:
        raw = raw[: data.draw(st.integers(0, len(raw)))]
    status, reply = small.post(raw)
    assert status < 500
    if status == 200:
        reply = json.loads(reply, parse_constant=pytest.fail)
        assert len(reply["shapes"]) == len(reply["states"])
        assert all(len(json.dumps(state)) <= 300 for state in reply["states"])
    else:
        assert one_sentence(reply), reply


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=64) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_random_bodies(small: Function, body: bytes) -> None:
    refused(small, body)


def test_nothing_of_it_did_harm(small: Function, good: dict[str, Any], function: Function, frames: list[bytes]) -> None:
    check_no_harm(small, good)
    # And the other way round: a request that is refused between two good ones changes nothing for a larger job.
    given = [mask_shape(true_mask(0, TURTLE))]
    calm, states = (function.ask(frames[0], given, [])[1] for _ in range(2))
    for image in frames[1:3]:
        refused(function, request(image, [BOX | {"points": [5, 5, 1, 1]}], states))
        refused(function, request(image[:-500], [None], states))
        shapes, states = function.track(image, states)
        expected, calm = function.track(image, calm)
        assert shapes == expected
