"""Nuclio's two entry points."""

import json
import os
import traceback
from collections.abc import Mapping
from typing import Any

from maskbank.errors import RequestError, UnauthorizedError
from maskbank.function.health import Health
from maskbank.function.logs import log_to
from maskbank.function.model_handler import ModelHandler
from maskbank.function.siblings import count_workers
from maskbank.function.threads import limit_threads
from maskbank.function.token import TOKEN_HEADER, has_token
from maskbank.service.heap import keep_freed_memory
from maskbank.service.timing import Timings


def init_context(context: Any, environment: Mapping[str, str] | None = None) -> None:
    """Runs once per worker; a wrong setting or weights file stops the worker here with a sentence that says so.

    environment: where the settings are; Nuclio gives none, and the worker's own counts.
    """
    log_to(context.logger)
    environment = os.environ if environment is None else environment
    keep_freed_memory(environment)
    threads = limit_threads(count_workers(), environment)
    context.user_data.model = ModelHandler(environment)
    context.logger.info_with("MaskBank is ready", threads=threads, **context.user_data.model.description)


def handler(context: Any, event: Any) -> Any:
    """Replies to one request; whatever goes wrong becomes a status and one sentence."""
    model = context.user_data.model
    timings = Timings()
    try:
        if event.method == "GET":
            status, content_type, body = model.health.answer(event.path)
            return context.Response(body=body, headers={}, content_type=content_type, status_code=status)
        if not has_token(event.headers, model.token):
            raise UnauthorizedError(f"The tracker wants its token in the header {TOKEN_HEADER}.")
        path = event.path.partition("?")[0].strip("/")
        reply_to = model.service.propagate if path == "propagate" else model.service.handle
        reply = reply_to(event.body, timings)
        with timings.stage("encode"):
            body = json.dumps(reply, allow_nan=False)
    except RequestError as error:
        context.logger.info_with("Request refused", request=event.id, status=error.status, reason=str(error))
        return _refusal(context, model.health, error.status, str(error))
    except Exception:
        context.logger.error_with("Request failed", request=event.id, traceback=traceback.format_exc())
        sentence = "The tracker failed on this frame; its log tells the administrator why."
        return _refusal(context, model.health, 500, sentence)
    _note(context, event, reply, timings)
    return context.Response(body=body, headers={}, content_type="application/json", status_code=200)


def _note(context: Any, event: Any, reply: dict[str, Any], timings: Timings) -> None:
    """Counts and logs what was answered."""
    health = context.user_data.model.health
    if "mask" in reply:
        health.answered(1, 1, timings)
        context.logger.info_with("Outlined", request=event.id, milliseconds=timings.rounded())
        return
    states = [state for state in reply["states"] if state]
    frames = len(reply["frames"]) if "frames" in reply else 1
    health.answered(frames, len(states), timings)
    context.logger.info_with(
        "Tracked",
        request=event.id,
        frames=frames,
        objects=len(states),
        banks=sorted({f"{state['bank'][:6]}…@{state['revision']}" for state in states}),
        milliseconds=timings.rounded(),
    )


def _refusal(context: Any, health: Health, status: int, sentence: str) -> Any:
    health.refused(status)
    return context.Response(body=sentence, headers={}, content_type="text/plain", status_code=status)
