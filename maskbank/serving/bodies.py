"""The bodies of requests, as they arrive: in time, and no more bytes of all of them than the server has room for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request

WITHIN_S = 60.0  # a body has to arrive
ROOM_FOR = 4  # bodies of the largest size at the same time


class BodyError(Exception):
    """A body that is not taken; `status` is of HTTP, the text is one sentence."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


class Bodies:
    """All bodies that are held in memory.

    Args:
        limit: the most bytes of one.
    """

    def __init__(self, limit: int):
        self._limit = limit
        self._held = 0  # bytes, of all

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytearray]:
        """A request's body, which counts as held inside of the context. Raises BodyError."""
        body = bytearray()
        try:
            try:
                async with asyncio.timeout(WITHIN_S):
                    await self._fill(body, request)
            except TimeoutError:
                raise BodyError(408, f"The request did not arrive within {WITHIN_S:g} s.") from None
            yield body
        finally:
            self._let_go(body)

    async def _fill(self, body: bytearray, request: Request) -> None:
        """What is too much is thrown away as it comes: a client that is still sending would not read an answer."""
        refusal = self._refusal_of_length(request)
        async for chunk in request.stream():
            if refusal is None:
                body += chunk
                self._held += len(chunk)
                refusal = self._refusal_of(body)
            if refusal is not None:
                self._let_go(body)
        if refusal is not None:
            raise refusal

    def _let_go(self, body: bytearray) -> None:
        self._held -= len(body)
        body.clear()

    def _refusal_of_length(self, request: Request) -> BodyError | None:
        """Before anything is read."""
        length = request.headers.get("content-length", "")
        return self._too_large() if length.isdecimal() and int(length) > self._limit else None

    def _refusal_of(self, body: bytearray) -> BodyError | None:
        if len(body) > self._limit:
            return self._too_large()
        if self._held > ROOM_FOR * self._limit:
            return BodyError(503, "The tracker is being sent too much at once; try again.")
        return None

    def _too_large(self) -> BodyError:
        return BodyError(413, f"The request is larger than the {self._limit} bytes that are allowed.")
