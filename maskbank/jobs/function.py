"""The function's `POST /propagate`, deployed or in this process, behind one call."""

import json
from collections.abc import Callable, Mapping
from functools import cache
from http.client import HTTPException
from typing import Any

from maskbank.function.client import FunctionError, http_call, http_description
from maskbank.function.local import invoke, start_worker
from maskbank.jobs.retrying import RETRYABLE, BusyError

Propagate = Callable[[dict[str, Any]], dict[str, Any]]
"""A request's body to the reply. Raises StateExpired; ConnectionError where the same request may succeed later; and
ValueError with the function's sentence where it will not, BadRequest where that is because of the request itself."""


class StateExpired(Exception):
    """The function does not know a state that it gave out."""


class BadRequest(ValueError):
    """The function says that what it was asked for cannot be."""


def deployed(url: str, token: str | None = None) -> Propagate:
    """The function at `http://host:port`, with the token that it asks for (`MASKBANK_TOKEN`), if any.

    Raises ValueError with one sentence for what is no such address.
    """
    call = http_call(f"{_address(url)}/propagate", token=token)
    return lambda body: _checked(_answer(url, lambda: call(body)), url)


def identity_of(url: str) -> str:
    """Names what the function at an address tracks with: other weights there make something else of the same outlines.

    Raises what `deployed`, or a call of what it returns, raises.
    """
    said = _answer(url, lambda: http_description(_address(url)))
    if not isinstance(said, dict) or "weights" not in said:
        raise ValueError(f"What answers at {url} is no MaskBank function.")
    return " ".join(str(said.get(name)) for name in ("model", "weights", "short_side"))


def _address(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"A function's address begins with http:// or https://, but {url} does not.")
    return url.rstrip("/")


def _answer(url: str, ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return ask()
    except FunctionError as error:
        raise _refusal(error.status, f"The function at {url}", error.sentence, error.retry_after_s) from error
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ConnectionError(f"The function at {url} cannot be reached ({reason}).") from error
    except ValueError as error:
        raise ValueError(f"What answers at {url} is no MaskBank function: its answer is no JSON.") from error


def in_this_process(environment: Mapping[str, str] | None = None) -> Propagate:
    """The function with settings from `environment` (None: this process's); the first request loads its network."""
    worker = cache(lambda: start_worker(environment))

    def propagate(body: dict[str, Any]) -> dict[str, Any]:
        handler, context = worker()
        status, _, reply = invoke(handler, context, json.dumps(body).encode(), "application/json", "/propagate")
        if status != 200:
            raise _refusal(status, "The tracker", reply.decode())
        parsed: dict[str, Any] = json.loads(reply)
        return parsed

    return propagate


def _refusal(status: int, who: str, sentence: str, retry_after_s: float | None = None) -> Exception:
    if status == 410:
        return StateExpired(sentence)
    said = sentence.strip()[:300]
    text = f"{who} answers {status}: {said}" if said and not said.startswith("<") else f"{who} answers {status}."
    if status in RETRYABLE:
        return BusyError(text, retry_after_s)
    return BadRequest(text) if status == 400 else ValueError(text)


def _checked(reply: object, url: str) -> dict[str, Any]:
    names = ("frames", "states")
    if not isinstance(reply, dict) or not all(isinstance(reply.get(name), list) and reply[name] for name in names):
        raise ValueError(f"What answers at {url} is no MaskBank function that knows /propagate.")
    return reply
