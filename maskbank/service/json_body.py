"""A request's body from JSON, counted before it is parsed: nested lists take two hundred times their own size."""

import json

from maskbank.errors import RequestError, TooLargeError

MAX_CONTAINERS = 50_000  # lists and objects; 40 frames with 50 outlines each have 4200
MAX_VALUES = 4_000_000  # 50 masks of a 4K image, drawn by hand, have some 500 000


def parse_json(body: bytes | bytearray | str) -> object:
    """What a JSON text says.

    Raises:
        RequestError: it is not JSON.
        TooLargeError: more lists, objects and values than any sensible request has.
    """
    text = body.encode(errors="replace") if isinstance(body, str) else body
    if text.count(b"[") + text.count(b"{") > MAX_CONTAINERS:
        raise TooLargeError(f"The request has more than the {MAX_CONTAINERS} lists and objects that are allowed.")
    if text.count(b",") > MAX_VALUES:
        raise TooLargeError(f"The request has more than the {MAX_VALUES} values that are allowed.")
    try:
        parsed: object = json.loads(body)
    except (ValueError, RecursionError):
        raise RequestError("The request is not JSON.") from None
    return parsed
