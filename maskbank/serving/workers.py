"""Worker processes: each has its own handler, answers one event at a time, and is replaced when it dies or hangs."""

import asyncio
import logging
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import asynccontextmanager, contextmanager, suppress
from threading import Thread
from typing import Any, NamedTuple

from maskbank.function.local import invoke, start_worker

log = logging.getLogger(__name__)


class StartError(ValueError):
    """A worker cannot start; the text is one sentence for the administrator."""


class Event(NamedTuple):
    """A request to the function."""

    body: bytes | bytearray
    content_type: str
    path: str
    method: str


class Reply(NamedTuple):
    """The function's answer; status: of HTTP."""

    status: int
    content_type: str
    body: bytes


class Started(NamedTuple):
    """A process whose handler is ready."""

    pid: int
    description: dict[str, object]  # by its model handler


class Worker:
    """A process with a handler.

    When it dies, the event is given to its successor: the same request gets the same answer, so nothing is done twice.
    When it works on an event for longer than `deadline_s`, it is killed and replaced, as Nuclio does.
    """

    def __init__(self, deadline_s: float, environment: Mapping[str, str]) -> None:
        self._deadline_s, self._environment = deadline_s, environment
        self._process, self._started = _new_process(environment)

    def wait_until_ready(self) -> Started:
        """Raises StartError."""
        try:
            return self._started.result()
        except BrokenProcessPool:
            raise StartError("A worker process died while it started; there may be too little memory.") from None

    async def invoke(self, event: Event) -> Reply:
        """Raises StartError or BrokenProcessPool when the successor of a dead process dies as well."""
        try:
            return await self._ask(event)
        except (BrokenProcessPool, StartError) as error:
            self._replace(str(error))
            return await self._ask(event)

    def close(self) -> None:
        """Waits until it has answered, and ends it."""
        self._process.shutdown(cancel_futures=True)

    async def _ask(self, event: Event) -> Reply:
        started = await asyncio.wrap_future(self._started)
        try:
            async with asyncio.timeout(self._deadline_s):
                return await asyncio.wrap_future(self._process.submit(_invoke_here, event))
        except TimeoutError:
            with suppress(ProcessLookupError):  # it died at the last moment
                os.kill(started.pid, signal.SIGKILL)
            self._replace(f"it did not answer within {self._deadline_s:g} s.")
            return Reply(408, "text/plain", b"The tracker did not answer in time; try again.")

    def _replace(self, why: str) -> None:
        log.warning("A worker process is replaced: %s", why)
        self._process.shutdown(wait=False)
        self._process, self._started = _new_process(self._environment)


class Workers:
    """All workers, of which the idle ones can be borrowed.

    Args:
        count: how many.
        wait_s: how long a borrower waits.
        deadline_s: how long one may work on an event.
        environment: of their processes, with their settings.
    """

    def __init__(self, count: int, wait_s: float, deadline_s: float, environment: Mapping[str, str]):
        self.wait_s = wait_s
        self.description: dict[str, object] = {}  # by their model handlers, once they are ready
        self._all = [Worker(deadline_s, environment) for _ in range(count)]
        self._idle: asyncio.LifoQueue[Worker] = asyncio.LifoQueue()  # last in, first out: its cache knows the job
        for worker in self._all:
            self._idle.put_nowait(worker)

    def wait_until_ready(self) -> None:
        """Raises StartError."""
        self.description = [worker.wait_until_ready().description for worker in self._all][0]

    @asynccontextmanager
    async def borrow(self) -> AsyncIterator[Worker]:
        """An idle worker, for who has waited longest. Raises TimeoutError after `wait_s` seconds."""
        async with asyncio.timeout(self.wait_s):
            worker = await self._idle.get()
        try:
            yield worker
        finally:
            self._idle.put_nowait(worker)

    def close(self) -> None:
        """Ends all, each when it has answered."""
        for worker in self._all:
            worker.close()


def _new_process(environment: Mapping[str, str]) -> tuple[ProcessPoolExecutor, Future[Started]]:
    """A pool of one process, and when it is ready."""
    process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    with _stop_signals_held(), _inherited(environment):
        return process, process.submit(_start_here)


@contextmanager
def _stop_signals_held() -> Iterator[None]:
    """A process that is started meanwhile never gets SIGINT and SIGTERM, which a terminal and systemd send to all.

    Its parent is stopped by them, once it has started it whole, and ends it when it has finished its work.
    """
    stops = {signal.SIGINT, signal.SIGTERM}
    arrived: list[int] = []  # by way of a thread of a library, which does not hold them
    handlers = {number: signal.signal(number, lambda number, _: arrived.append(number)) for number in stops}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if arrived:
            signal.raise_signal(arrived[0])


@contextmanager
def _inherited(environment: Mapping[str, str]) -> Iterator[None]:
    """A process that is started meanwhile has this environment: multiprocessing has no other way to give it one."""
    before = dict(os.environ)
    try:
        os.environ.update(environment)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


# ---- in the worker's process ----

_function: tuple[Any, Any]  # its handler and context


def _start_here() -> Started:
    global _function
    Thread(target=_end_with_parent, daemon=True).start()
    try:
        _function = start_worker(log_level=logging.INFO)
    except (ValueError, OSError) as error:
        raise StartError(str(error)) from None
    _, context = _function
    return Started(os.getpid(), context.user_data.model.description)


def _invoke_here(event: Event) -> Reply:
    handler, context = _function
    return Reply(*invoke(handler, context, *event))


def _end_with_parent() -> None:
    """A parent that is killed cannot end its workers."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
