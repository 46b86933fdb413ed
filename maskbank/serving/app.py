"""HTTP: the function's own paths, and the paths of Nuclio's dashboard that CVAT asks."""

from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from maskbank.function.health import answer_about, of_all_workers
from maskbank.function.spec import FunctionSpec
from maskbank.serving.bodies import Bodies, BodyError
from maskbank.serving.workers import Event, Reply, Workers


def build_app(function: FunctionSpec, workers: Workers, port: int, counted: Path) -> Starlette:
    """The ASGI application that answers for the function on `port`; its workers count in the folder `counted`."""
    endpoints = Endpoints(function, workers, port, counted)
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

    def __init__(self, function: FunctionSpec, workers: Workers, port: int, counted: Path):
        self._dashboard_entries = function.dashboard_entries(port)
        self._workers = workers
        self._bodies = Bodies(function.max_body_bytes)
        self._counted = counted

    async def functions(self, request: Request) -> Response:
        """All functions of this dashboard: the tracker, and the interactor that it also is."""
        return JSONResponse(self._dashboard_entries)

    async def function(self, request: Request) -> Response:
        """The function of a name, or 404."""
        entry = self._dashboard_entries.get(request.path_params["name"])
        return refusal_of_nuclio(404, "Function not found") if entry is None else JSONResponse(entry)

    async def invoke_by_name(self, request: Request) -> Response:
        """An invocation as CVAT sends it to the dashboard, with the function and its path in headers."""
        name = request.headers.get("x-nuclio-function-name")
        if not name:
            return refusal_of_nuclio(400, "Function name must be provided")
        if name not in self._dashboard_entries:
            namespace = request.headers.get("x-nuclio-function-namespace", "nuclio")
            return refusal_of_nuclio(404, f"Failed to invoke function: Function not found: {name} @ {namespace}")
        return await self._answer(request, "/" + request.headers.get("x-nuclio-path", "").lstrip("/"))

    async def invoke(self, request: Request) -> Response:
        """An invocation at the function's own address."""
        return await self._answer(request, request.url.path)

    async def _answer(self, request: Request, path: str) -> Response:
        if request.method != "POST":
            return response(self._report(path))
        try:
            async with self._bodies.read(request) as body:
                event = Event(body, request.headers.get("content-type", ""), path, "POST")
                return response(await self._ask_worker(request, event))
        except BodyError as error:
            return PlainTextResponse(str(error), error.status, {"Connection": "close"} if error.status == 408 else {})

    def _report(self, path: str) -> Reply:
        """What the workers have counted; they need not be asked, so the answer comes while all of them work."""
        status, content_type, text = answer_about(path, self._workers.description, of_all_workers(self._counted))
        return Reply(status, content_type, text.encode())

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


def refusal_of_nuclio(status: int, text: str) -> Response:
    """As its dashboard words it."""
    return JSONResponse({"error": text}, status)


async def gone(request: Request, error: Exception) -> Response:
    """For a client that has left: nobody reads it."""
    return Response(status_code=400)


async def failed(request: Request, error: Exception) -> Response:
    """For what no endpoint expected: 500 and one sentence."""
    return PlainTextResponse("The tracker failed; the server's log tells the administrator why.", 500)
