"""A request, checked field by field before any pixel is decoded: CVAT's for a frame, or one for several frames."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from maskbank.errors import START_AGAIN, ExpiredError, RequestError, TooLargeError
from maskbank.files.images import decode_base64
from maskbank.service.json_body import parse_json
from maskbank.shapes.shape import SHAPE_TYPES, Shape, parse_shape
from maskbank.store.backend import BANK_ID

STATE_VERSION = 2
DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
MAX_IMAGE_BYTES = 64 << 20  # of the encoded image
MAX_FRAMES = (
    40  # of a request; fewer than `HISTORY` revisions are kept, so that a retry finds the states it starts from
)

Parsed = TypeVar("Parsed")

_MAX_COUNT = 2**53  # beyond it JSON numbers are not exact


@dataclass(frozen=True)
class State:
    """What the function told CVAT about an object, and CVAT sends back: which state of which bank it is."""

    bank_id: str
    object: int
    revision: int
    digest: str  # of the request that made the revision: stores may give its number away twice
    shared: bool = True  # whether other workers know it

    @property
    def place(self) -> tuple[str, int, str]:
        """What names the revision."""
        return self.bank_id, self.revision, self.digest


@dataclass(frozen=True)
class Entry:
    """One object of a request: a new one (shape), one to track (state), or one to correct (both)."""

    number: int  # of the object in the request, from 1
    shape: Shape | None
    state: State | None
    legacy: bool  # shapes are plain number lists, in the request and in the reply


@dataclass(frozen=True)
class FrameRequest:
    """Objects to start, track and correct on one frame."""

    image: bytes  # encoded
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class PropagateRequest:
    """Several frames of a video, in the order in which they are to be tracked, and objects in slots."""

    images: tuple[bytes, ...]  # encoded
    shapes: tuple[tuple[Shape | None, ...], ...]  # by frame and slot: the outlined objects
    states: tuple[State | None, ...]  # by slot, before the first frame


def parse_frame_request(body: object, max_objects: int) -> FrameRequest:
    """The request in an event's body, see `parse_object`.

    Raises RequestError (TooLargeError) with one sentence for the annotator.
    """
    body = parse_object(body, "The request must be a JSON object with an image, shapes and states.")
    shapes, states = parse_list(body, "shapes"), parse_list(body, "states")
    if not shapes and not states:
        raise RequestError("The request names no object: it needs a shape or a state for each.")
    shapes = shapes or [None] * len(states)
    states = states or [None] * len(shapes)
    if len(shapes) != len(states):
        raise RequestError(
            f"The request has {len(shapes)} shapes but {len(states)} states; each object needs one of each."
        )
    _check_count(len(shapes), max_objects)
    entries = tuple(
        _parse_entry(number, shape, state) for number, (shape, state) in enumerate(zip(shapes, states, strict=True), 1)
    )
    corrected = [entry.state for entry in entries if entry.shape and entry.state]
    if len({(state.bank_id, state.object) for state in corrected}) < len(corrected):
        raise RequestError("The request corrects one object twice; send one shape for it.")
    return FrameRequest(parse_image(body), entries)


def parse_propagate_request(body: object, max_objects: int) -> PropagateRequest:
    """The request for several frames in an event's body, as in `parse_frame_request`; see `Service.propagate`.

    Raises RequestError (TooLargeError) with one sentence for the caller.
    """
    body = parse_object(body, "The request must be a JSON object with frames and states.")
    frames, states = parse_list(body, "frames"), parse_list(body, "states")
    if not frames:
        raise RequestError("The request has no frame.")
    if len(frames) > MAX_FRAMES:
        raise TooLargeError(f"The request has {len(frames)} frames, but at most {MAX_FRAMES} can be sent at once.")
    images, shapes = [], []
    for number, frame in enumerate(frames, 1):
        try:
            if not isinstance(frame, dict):
                raise RequestError("It must be a JSON object with an image and shapes.")
            images.append(parse_image(frame))
            shapes.append(_parse_slots(parse_list(frame, "shapes"), parse_shape))
        except RequestError as error:
            raise in_frame(number, error) from None
    slots = len(states) or max(map(len, shapes))
    _check_count(slots, max_objects)
    if any(len(own) not in (0, slots) for own in shapes):
        raise RequestError(f"Each list of shapes and states must have a place for each of the {slots} objects.")
    parsed = _parse_slots(states or [None] * slots, parse_state)
    known = [(state.bank_id, state.object) for state in parsed if state]
    if len(set(known)) < len(known):
        raise RequestError("The request tracks one object twice; send one state for it.")
    if not known and not any(shape for own in shapes for shape in own):
        raise RequestError("The request names no object: it needs a shape or a state for each.")
    return PropagateRequest(tuple(images), tuple(own or (None,) * slots for own in shapes), parsed)


def parse_object(body: object, expected: str) -> dict[str, Any]:
    """An event's body, which is a dict, or JSON as text or bytes. Raises RequestError, with `expected` for no dict."""
    if isinstance(body, bytes | bytearray | str):
        body = parse_json(body)
    if not isinstance(body, dict):
        raise RequestError(expected)
    return body


def parse_list(body: dict[str, Any], name: str) -> list[Any]:
    """What is missing counts as empty."""
    items = body.get(name)
    items = [] if items is None else items
    if not isinstance(items, list):
        raise RequestError(f"The {name} of a request must be a list.")
    return items


def parse_image(body: dict[str, Any]) -> bytes:
    """The encoded image of a request or a frame. Raises RequestError (TooLargeError) with one sentence."""
    if body.get("image") is None:
        raise RequestError("The request has no image.")
    return decode_base64(body["image"], MAX_IMAGE_BYTES)


def _check_count(objects: int, max_objects: int) -> None:
    if objects > max_objects:
        raise TooLargeError(f"The request has {objects} objects, but at most {max_objects} can be tracked at once.")


def _parse_slots(values: list[Any], parse: Callable[[object], Parsed]) -> tuple[Parsed | None, ...]:
    parsed = []
    for number, value in enumerate(values, 1):
        try:
            parsed.append(None if value is None else parse(value))
        except RequestError as error:
            raise in_object(number, error) from None
    return tuple(parsed)


def _parse_entry(number: int, shape: object, state: object) -> Entry:
    try:
        legacy = isinstance(shape, list)
        parsed_state = None if state is None else parse_state(state)
        # The legacy protocol sends the last frame's points along when it asks to track.
        outlined = shape is not None and not (legacy and parsed_state)
        parsed_shape = parse_shape(shape) if outlined else None
        if parsed_shape is None and parsed_state is None:
            raise RequestError("it has neither a shape nor a state.")
        return Entry(number, parsed_shape, parsed_state, legacy)
    except RequestError as error:
        raise in_object(number, error) from None


def in_object(number: int, error: RequestError) -> RequestError:
    """The same error, saying which object of the request it is about."""
    return _placed(f"Object {number}", error)


def in_frame(number: int, error: RequestError) -> RequestError:
    """The same error, saying which frame of the request it is about."""
    return _placed(f"Frame {number}", error)


def _placed(place: str, error: RequestError) -> RequestError:
    text = str(error)
    return type(error)(f"{place}: {text[:1].lower()}{text[1:]}")


def parse_state(state: object) -> State:
    """Raises RequestError with one sentence when the function did not make it."""
    if not isinstance(state, dict):
        raise RequestError(f"The state is not one that this tracker made; {START_AGAIN}.")
    if state.get("v") != STATE_VERSION:
        raise ExpiredError(f"The state was made by another version of the tracker; {START_AGAIN}.")
    bank_id, object_number, revision = state.get("bank"), state.get("object", -1), state.get("revision", -1)
    counts, digest = (object_number, revision), state.get("digest")
    if (
        not isinstance(bank_id, str)
        or not BANK_ID.fullmatch(bank_id)
        or not isinstance(digest, str)
        or not DIGEST.fullmatch(digest)
        or not all(type(n) is int and 0 <= n < _MAX_COUNT for n in counts)
        or state.get("type", SHAPE_TYPES[0]) not in SHAPE_TYPES
    ):
        raise RequestError(f"The state is damaged; {START_AGAIN}.")
    return State(bank_id, object_number, revision, digest, state.get("shared") is not False)
