"""HTTP: the function's own paths, and the paths of Nuclio's dashboard that CVAT asks."""

import asyncio
import time

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from maskbank.function.spec import FunctionSpec
from maskbank.serving.workers import Event, Reply, Workers

BODY_WITHIN_S = 60.0  # a request has to arrive
REPORT_GOOD_FOR_S = 60.0  # longer than any request takes: workers that hang are noticed


def build_app(function: FunctionSpec, workers: Workers, port: int) -> Starlette:
    """The ASGI application that answers for the function on `port`."""
    endpoints = Endpoints(function, workers, port)
    return Starlette(
        routes=[
            Route("/api/functions", endpoints.functions),
            Route("/api/functions/{name}", endpoints.function),
            Route("/api/function_invocations", endpoints.invoke_by_name, methods=["GET", "POST"]),
            Route("/{path:path}", endpoints.invoke, methods=["GET", "POST"]),
        ],
        exception_handlers={ClientDisconnect: gone, Exception: failed},
    )


class Endpoints:
    """See `build_app`."""

    def __init__(self, function: FunctionSpec, workers: Workers, port: int):
        self._function = function
        self._dashboard_entry = function.dashboard_entry(port)
        self._workers = workers
        self._reports: dict[str, tuple[float, Reply]] = {}  # by path: when, and what a worker said of itself

    async def functions(self, request: Request) -> Response:
        """All functions of this dashboard: one."""
        return JSONResponse({self._function.name: self._dashboard_entry})

    async def function(self, request: Request) -> Response:
        """The function of a name, or 404."""
        if request.path_params["name"] != self._function.name:
            return refusal_of_nuclio(404, "Function not found")
        return JSONResponse(self._dashboard_entry)

    async def invoke_by_name(self, request: Request) -> Response:
        """An invocation as CVAT sends it to the dashboard, with the function and its path in headers."""
        name = request.headers.get("x-nuclio-function-name")
        if not name:
            return refusal_of_nuclio(400, "Function name must be provided")
        if name != self._function.name:
            namespace = request.headers.get("x-nuclio-function-namespace", "nuclio")
            return refusal_of_nuclio(404, f"Failed to invoke function: Function not found: {name} @ {namespace}")
        return await self._answer(request, "/" + request.headers.get("x-nuclio-path", "").lstrip("/"))

    async def invoke(self, request: Request) -> Response:
        """An invocation at the function's own address."""
        return await self._answer(request, request.url.path)

    async def _answer(self, request: Request, path: str) -> Response:
        if request.method != "POST":
            return await self._report(request, path)
        limit = self._function.max_body_bytes
        try:
            async with asyncio.timeout(BODY_WITHIN_S):
                body = await read_body(request, limit)
        except TimeoutError:
            text = f"The request did not arrive within {BODY_WITHIN_S:g} s."
            return PlainTextResponse(text, 408, {"Connection": "close"})
        if body is None:
            return PlainTextResponse(f"The request is larger than the {limit} bytes that are allowed.", 413)
        event = Event(body, request.headers.get("content-type", ""), path, "POST")
        return response(await self._ask_worker(request, event))

    async def _report(self, request: Request, path: str) -> Response:
        """What a worker says of itself; while all of them work, what one said a moment ago."""
        path = path.rstrip("/") or "/"
        said_at, reply = self._reports.get(path, (-float("inf"), None))
        if reply is None or not self._workers.are_all_busy or time.monotonic() - said_at > REPORT_GOOD_FOR_S:
            reply = await self._ask_worker(request, Event(b"", "", path, "GET"))
            if reply.status == 200:
                self._reports[path] = time.monotonic(), reply
        return response(reply)

    async def _ask_worker(self, request: Request, event: Event) -> Reply:
        """The answer of an idle worker, to who is still there to read it."""
        try:
            async with self._workers.borrow() as worker:
                if await request.is_disconnected():
                    raise ClientDisconnect
                return await worker.invoke(event)
        except TimeoutError:
            return Reply(503, "text/plain", b"The tracker has too much to do; try again.")


def response(reply: Reply) -> Response:
    """A worker's reply as HTTP."""
    return Response(reply.body, reply.status, media_type=reply.content_type)


async def read_body(request: Request, limit: int) -> bytearray | None:
    """The body, or None if it is larger than `limit` bytes.

    Then the rest of it is thrown away as it comes: a client that is still sending would not read an answer.
    """
    body, size = bytearray(), 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= limit:
            body += chunk
        else:
            body.clear()
    return body if size <= limit else None


def refusal_of_nuclio(status: int, text: str) -> Response:
    """As its dashboard words it."""
    return JSONResponse({"error": text}, status)


async def gone(request: Request, error: Exception) -> Response:
    """For a client that has left: nobody reads it."""
    return Response(status_code=400)


async def failed(request: Request, error: Exception) -> Response:
    """For what no endpoint expected: 500 and one sentence."""
    return PlainTextResponse("The tracker failed; the server's log tells the administrator why.", 500)
