"""The function without Nuclio: its handler behind a local HTTP server that speaks Nuclio's invocation."""

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any
from uuid import uuid4

import nuclio_sdk
import nuclio_sdk.logger

from maskbank.errors import RequestError
from maskbank.function.handler import handler, init_context
from maskbank.service.json_body import parse_json


def start_worker(environment: Mapping[str, str] | None = None, log_level: int = logging.WARNING) -> tuple[Any, Any]:
    """The handler and a context for it, initialised as Nuclio's wrapper does for each worker.

    It asks for no token: who calls it is in this process, or has asked for one already.

    environment: where the settings are; None: this process's.
    """
    logger = nuclio_sdk.logger.Logger(log_level, "function")
    # nuclio-sdk logs whatever the level is; Nuclio filters later.
    logging.getLogger("function").filters = [lambda record: record.levelno >= log_level]
    logger.set_handler("default", sys.stderr, nuclio_sdk.logger.HumanReadableFormatter())
    context = nuclio_sdk.Context(logger=logger)
    environment = os.environ if environment is None else environment
    init_context(context, {name: value for name, value in environment.items() if name != "MASKBANK_TOKEN"})
    return handler, context


def invoke(
    handler: Any,
    context: Any,
    body: bytes | bytearray,
    content_type: str,
    path: str = "/",
    method: str = "POST",
    headers: Mapping[str, str] | None = None,
) -> tuple[int, str, bytes]:
    """One event through the handler, as Nuclio's wrapper does it: status, content type and body of the response.

    A JSON body that parses arrives as an object, any other as bytes.
    """
    parsed: object = body
    if content_type.split(";")[0].strip() == "application/json":
        with suppress(RequestError):  # then the service says why, as it does for all bytes that it gets
            parsed = parse_json(body)
    event = nuclio_sdk.Event(
        body=parsed, content_type=content_type, path=path, method=method, headers=headers, _id=str(uuid4())
    )
    output = nuclio_sdk.Response.from_entrypoint_output(json.dumps, handler(context, event))
    return output["status_code"], output["content_type"], output["body"].encode()


@contextmanager
def local_function(port: int = 0, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """Runs the function with one worker on this machine only; gives its URL. Port 0 takes a free one."""
    handle, context = start_worker(environment)

    class Invocation(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            content_type = self.headers.get("Content-Type", "")
            status, reply_type, reply = invoke(handle, context, body, content_type, self.path, self.command)
            self.send_response(status)
            self.send_header("Content-Type", reply_type)
            self.send_header("Content-Length", str(len(reply)))
            self.send_header("Connection", "close")  # there is one worker: no caller may keep it from others
            self.end_headers()
            self.wfile.write(reply)

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            """The function's own log is enough."""

    with HTTPServer(("127.0.0.1", port), Invocation) as server:  # one request at a time, like one worker
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
