"""A CVAT tracker request, checked field by field before any pixel is decoded."""

import json
import re
from dataclasses import dataclass

from maskbank.errors import RequestError, TooLargeError
from maskbank.images import decode_base64
from maskbank.shapes import SHAPE_TYPES, Shape, parse_shape

STATE_VERSION = 1
MAX_IMAGE_BYTES = 64 << 20  # of the encoded image
START_AGAIN = "start tracking again"

_BANK_ID = re.compile(r"[\w-]{22}", re.ASCII)
_MAX_COUNT = 2**53  # beyond it JSON numbers are not exact


@dataclass(frozen=True)
class State:
    """What the function told CVAT about an object, and CVAT sends back: which state of which bank it is."""

    bank: str
    object: int
    revision: int
    shared: bool = True  # whether other workers know it


@dataclass(frozen=True)
class Entry:
    """One object of a request: a new one (shape), one to track (state), or one to correct (both)."""

    shape: Shape | None
    state: State | None
    legacy: bool  # shapes are plain number lists, in the request and in the reply


@dataclass(frozen=True)
class TrackRequest:
    image: bytes  # encoded
    entries: tuple[Entry, ...]


def parse_request(body: object, max_objects: int) -> TrackRequest:
    """The request in an event's body, which is a dict, or JSON as text or bytes.

    Raises RequestError (TooLargeError) with one sentence for the annotator.
    """
    if isinstance(body, bytes | bytearray | str):
        try:
            body = json.loads(body)
        except (ValueError, RecursionError):
            raise RequestError("The request is not JSON.") from None
    if not isinstance(body, dict):
        raise RequestError("The request must be a JSON object with an image, shapes and states.")
    shapes, states = body.get("shapes"), body.get("states")
    shapes = [] if shapes is None else shapes
    states = [] if states is None else states
    if not isinstance(shapes, list) or not isinstance(states, list):
        raise RequestError("The shapes and the states of a request must be lists.")
    if not shapes and not states:
        raise RequestError("The request names no object: it needs a shape or a state for each.")
    shapes = shapes or [None] * len(states)
    states = states or [None] * len(shapes)
    if len(shapes) != len(states):
        raise RequestError(
            f"The request has {len(shapes)} shapes but {len(states)} states; each object needs one of each."
        )
    if len(shapes) > max_objects:
        raise TooLargeError(f"The request has {len(shapes)} objects, but at most {max_objects} can be tracked at once.")
    entries = tuple(
        _parse_entry(number, shape, state) for number, (shape, state) in enumerate(zip(shapes, states, strict=True), 1)
    )
    corrected = [entry.state for entry in entries if entry.shape and entry.state]
    if len({(state.bank, state.object) for state in corrected}) < len(corrected):
        raise RequestError("The request corrects one object twice; send one shape for it.")
    if body.get("image") is None:
        raise RequestError("The request has no image.")
    return TrackRequest(decode_base64(body["image"], MAX_IMAGE_BYTES), entries)


def _parse_entry(number: int, shape: object, state: object) -> Entry:
    try:
        legacy = isinstance(shape, list)
        parsed_state = None if state is None else _parse_state(state)
        # The legacy protocol sends the last frame's points along when it asks to track.
        wanted = shape is not None and not (legacy and parsed_state)
        parsed_shape = parse_shape(shape) if wanted else None
        if parsed_shape is None and parsed_state is None:
            raise RequestError("it has neither a shape nor a state.")
        return Entry(parsed_shape, parsed_state, legacy)
    except RequestError as error:
        raise in_object(number, error) from None


def in_object(number: int, error: RequestError) -> RequestError:
    """The same error, saying which object of the request it is about."""
    text = str(error)
    return type(error)(f"Object {number}: {text[:1].lower()}{text[1:]}")


def _parse_state(state: object) -> State:
    if not isinstance(state, dict):
        raise RequestError(f"The state is not one that this tracker made; {START_AGAIN}.")
    if state.get("v") != STATE_VERSION:
        raise RequestError(f"The state was made by another version of the tracker; {START_AGAIN}.")
    bank, object_number, revision = state.get("bank"), state.get("object"), state.get("revision")
    counts = (object_number, revision)
    if (
        not isinstance(bank, str)
        or not _BANK_ID.fullmatch(bank)
        or not all(type(n) is int and 0 <= n < _MAX_COUNT for n in counts)
        or state.get("type", SHAPE_TYPES[0]) not in SHAPE_TYPES
    ):
        raise RequestError(f"The state is damaged; {START_AGAIN}.")
    return State(bank, object_number, revision, state.get("shared") is not False)
