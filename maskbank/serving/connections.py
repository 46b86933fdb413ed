"""Connections that do not wait for ever for a request."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

REQUEST_WITHIN_S = 10.0  # the head of one has to arrive: from the connection on, or from the last answer on


class ImpatientProtocol(H11Protocol):
    """Uvicorn's protocol, which by itself closes an idle connection only behind an answer, and none that trickles."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for the first request."""
        super().connection_made(transport)
        self._wait_for_request(last=None)

    def on_response_complete(self) -> None:
        """Begins to wait for the next request."""
        last = self.cycle
        super().on_response_complete()  # and begins the next one, if it has arrived with the last
        self._wait_for_request(last)

    def _wait_for_request(self, last: RequestResponseCycle | None) -> None:
        def close_unless_begun() -> None:
            if self.cycle is last:
                self.transport.close()

        self.loop.call_later(REQUEST_WITHIN_S, close_unless_begun)
