"""Nuclio's two entry points."""

import json
import os
import traceback
from collections.abc import Mapping
from typing import Any

from maskbank.errors import RequestError
from maskbank.function.health import Health
from maskbank.function.logs import log_to
from maskbank.function.model_handler import ModelHandler
from maskbank.service.timing import Timings


def init_context(context: Any, environment: Mapping[str, str] | None = None) -> None:
    """Runs once per worker; a wrong setting or weights file stops the worker here with a sentence that says so.

    environment: where the settings are; Nuclio gives none, and the worker's own counts.
    """
    log_to(context.logger)
    context.user_data.model = ModelHandler(os.environ if environment is None else environment)
    context.logger.info_with("MaskBank is ready", **context.user_data.model.description)


def handler(context: Any, event: Any) -> Any:
    """Replies to one request; whatever goes wrong becomes a status and one sentence."""
    model = context.user_data.model
    timings = Timings()
    try:
        if event.method == "GET":
            return _about(context, event.path, model.health)
        reply_to = model.service.propagate if event.path == "/propagate" else model.service.handle
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
    states = [state for state in reply["states"] if state]
    frames = len(reply["frames"]) if "frames" in reply else 1
    model.health.answered(frames, len(states), timings)
    context.logger.info_with(
        "Tracked",
        request=event.id,
        frames=frames,
        objects=len(states),
        banks=sorted({f"{state['bank'][:6]}…@{state['revision']}" for state in states}),
        milliseconds=timings.rounded(),
    )
    return context.Response(body=body, headers={}, content_type="application/json", status_code=200)


def _about(context: Any, path: str, health: Health) -> Any:
    if path.rstrip("/") in ("", "/healthz"):
        body, content_type, status = json.dumps(health.report()), "application/json", 200
    elif path == "/metrics":
        body, content_type, status = health.metrics(), "text/plain; version=1.0.0; charset=utf-8", 200
    else:
        body, content_type, status = "There is / (or /healthz) and /metrics to get.", "text/plain", 404
    return context.Response(body=body, headers={}, content_type=content_type, status_code=status)


def _refusal(context: Any, health: Health, status: int, sentence: str) -> Any:
    health.refused(status)
    return context.Response(body=sentence, headers={}, content_type="text/plain", status_code=status)
