"""Who is answered: requests for this server by name, from no foreign web page, and with the token if there is one.

A page on the internet can make a browser inside the network send requests: to this server's address, but then it names
itself as their origin; or to a name of its own that it has let point here (DNS rebinding), but then that name is the
host. An address in numbers cannot be made to point elsewhere.
"""

import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from maskbank.function.token import TOKEN_HEADER, has_token

OWN_NAMES = ("localhost", "host.docker.internal")  # the latter is Docker's, for the machine that a container is on


class Door:
    """Passes on to an application what may come in.

    Args:
        app: the ASGI application.
        names: hosts that this server answers for, beside addresses in numbers, its own name and `OWN_NAMES`.
        token: what requests must have that are more than a look; None: nothing.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str], token: str | None):
        self._app = app
        self._names = {name.lower() for name in (*OWN_NAMES, socket.gethostname(), *names)}
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        refusal = self._refusal(Request(scope)) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        host, origin = request.headers.get("host"), request.headers.get("origin")
        if host is not None and not self._is_ours(f"//{host}"):
            return PlainTextResponse("The server does not answer for this host; --allow-host adds a name.", 403)
        if origin is not None and not self._is_ours(origin):
            return PlainTextResponse("The server does not answer to the pages of other servers.", 403)
        if request.method != "GET" and not has_token(request.headers, self._token):
            return PlainTextResponse(f"The tracker wants its token in the header {TOKEN_HEADER}.", 401)
        return None

    def _is_ours(self, url: str) -> bool:
        try:
            name = urlsplit(url).hostname or ""
        except ValueError:
            return False
        return name in self._names or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
