"""Nuclio's two entry points."""

import json
import os
import time
import traceback
from typing import Any

from maskbank.errors import RequestError
from model_handler import ModelHandler


def init_context(context: Any) -> None:
    """Runs once per worker; a wrong setting or weights file stops the worker here with a sentence that says so."""
    context.user_data.model = ModelHandler(os.environ)
    context.logger.info_with("MaskBank is ready", **context.user_data.model.description)


def handler(context: Any, event: Any) -> Any:
    """Answers one tracker request of CVAT; whatever goes wrong becomes a status and one sentence."""
    started = time.perf_counter()
    try:
        reply = context.user_data.model.service.handle(event.body)
        body = json.dumps(reply)
    except RequestError as error:
        context.logger.info_with("Request refused", request=event.id, status=error.status, reason=str(error))
        return _response(context, error.status, str(error), "text/plain")
    except Exception:
        context.logger.error_with("Request failed", request=event.id, traceback=traceback.format_exc())
        sentence = "The tracker failed on this frame; its log tells the administrator why."
        return _response(context, 500, sentence, "text/plain")
    milliseconds = round((time.perf_counter() - started) * 1000)
    context.logger.info_with("Tracked", request=event.id, objects=len(reply["states"]), milliseconds=milliseconds)
    return _response(context, 200, body, "application/json")


def _response(context: Any, status: int, body: str, content_type: str) -> Any:
    return context.Response(body=body, headers={}, content_type=content_type, status_code=status)
