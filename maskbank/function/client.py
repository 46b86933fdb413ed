"""CVAT's side of the tracker protocol: what its server sends to the function, frame by frame."""

import base64
import json
import time
from collections.abc import Callable, Sequence
from email.utils import parsedate_to_datetime
from typing import Any
from urllib import error, request

import numpy as np

from maskbank.function.token import TOKEN_HEADER
from maskbank.shapes.rle import decode_rle, encode_rle
from maskbank.shapes.shape import Shape

DESCRIPTION_WITHIN_S = 30.0

Call = Callable[[dict[str, Any]], dict[str, Any]]  # a request's body → the reply; raises FunctionError


class FunctionError(RuntimeError):
    """The function refused a request or failed; the text is the status and what the annotator would see.

    retry_after_s: the seconds after which the function asks to be asked again, if it said so.
    """

    def __init__(self, status: int, sentence: str, retry_after_s: float | None = None):
        super().__init__(f"{status}: {sentence}")
        self.status, self.sentence, self.retry_after_s = status, sentence, retry_after_s


def http_call(url: str, timeout: float = 120.0, token: str | None = None) -> Call:
    """A call to a function at `url`, with its token if it has one; CVAT waits 120 s."""
    headers = {"Content-Type": "application/json"} | ({TOKEN_HEADER: token} if token else {})
    return lambda body: _answer(request.Request(url, json.dumps(body).encode(), headers), timeout)


def http_description(url: str) -> dict[str, Any]:
    """What a function at `url` says of itself; raises as a call does."""
    return _answer(request.Request(url), DESCRIPTION_WITHIN_S)


def _answer(message: request.Request, timeout: float) -> dict[str, Any]:
    try:
        with request.urlopen(message, timeout=timeout) as response:
            reply: dict[str, Any] = json.load(response)
        return reply
    except error.HTTPError as refused:
        sentence = refused.read().decode(errors="replace")
        raise FunctionError(refused.code, sentence, seconds_to_wait(refused.headers["Retry-After"])) from None


def seconds_to_wait(retry_after: str | None) -> float | None:
    """What a header Retry-After asks for, which is a number of seconds or a date; None if it is neither."""
    try:
        if retry_after is None:
            return None
        if retry_after.strip().isdecimal():
            return float(retry_after)
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None


class TrackingSession:
    """Tracks mask objects as CVAT does: it keeps the states and knows nothing else of the function."""

    def __init__(self, call: Call):
        self.call = call
        self.states: list[dict[str, Any]] = []

    def start(self, image: bytes, masks: Sequence[np.ndarray]) -> None:
        """Outlines objects, (H, W) bool each, on an encoded image."""
        shapes = [{"type": "mask", "points": encode_rle(mask)} for mask in masks]
        self.states = self.call(self._body(image, shapes, []))["states"]

    def track(self, image: bytes, size: tuple[int, int]) -> list[np.ndarray]:
        """The masks, (H, W) bool each, on the next image, whose height and width are `size`; empty: not visible."""
        reply = self.call(self._body(image, [None] * len(self.states), self.states))
        self.states = reply["states"]
        return [
            decode_rle(Shape(**shape).points, *size) if shape else np.zeros(size, bool) for shape in reply["shapes"]
        ]

    @staticmethod
    def _body(image: bytes, shapes: list[Any], states: list[Any]) -> dict[str, Any]:
        return {"image": base64.b64encode(image).decode(), "shapes": shapes, "states": states}
