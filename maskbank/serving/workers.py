"""Worker processes: each has a handler of its own, answers one event at a time, and is replaced when it dies."""

import asyncio
import logging
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import asynccontextmanager, contextmanager
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


class Worker:
    """A process with a handler.

    When it dies, the event is given to its successor: the same request gets the same answer, so nothing is done twice.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._process, self._started = _new_process(environment)

    def wait_until_ready(self) -> dict[str, object]:
        """The description by its model handler. Raises StartError."""
        try:
            return self._started.result()
        except BrokenProcessPool:
            raise StartError("A worker process died while it started; there may be too little memory.") from None

    async def invoke(self, event: Event) -> Reply:
        """Raises StartError or BrokenProcessPool when the successor of a dead process dies as well."""
        try:
            return await self._ask(event)
        except (BrokenProcessPool, StartError) as error:
            log.warning("A worker process is replaced: %s", error)
            self._process.shutdown(wait=False)
            self._process, self._started = _new_process(self._environment)
            return await self._ask(event)

    def close(self) -> None:
        """Waits until it has answered, and ends it."""
        self._process.shutdown(cancel_futures=True)

    async def _ask(self, event: Event) -> Reply:
        await asyncio.wrap_future(self._started)
        return await asyncio.wrap_future(self._process.submit(_invoke_here, event))


class Workers:
    """All workers, of which the idle ones can be borrowed.

    Args:
        count: how many.
        wait_s: how long a borrower waits.
        environment: of their processes, with their settings.
    """

    def __init__(self, count: int, wait_s: float, environment: Mapping[str, str]):
        self.wait_s = wait_s
        self._all = [Worker(environment) for _ in range(count)]
        self._idle: asyncio.LifoQueue[Worker] = asyncio.LifoQueue()  # last in, first out: its cache knows the job
        for worker in self._all:
            self._idle.put_nowait(worker)

    @property
    def are_all_busy(self) -> bool:
        """Whether no worker is idle."""
        return self._idle.empty()

    def wait_until_ready(self) -> dict[str, object]:
        """The description by one of them. Raises StartError."""
        return [worker.wait_until_ready() for worker in self._all][0]

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


def _new_process(environment: Mapping[str, str]) -> tuple[ProcessPoolExecutor, Future[dict[str, object]]]:
    """A pool of one process, and the description that its model handler will give."""
    process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    with _stop_signals_held(), _inherited(environment):
        return process, process.submit(_start_here)


@contextmanager
def _stop_signals_held() -> Iterator[None]:
    """A process that is started meanwhile never gets SIGINT and SIGTERM, which a terminal and systemd send to all.

    Its parent is stopped by them, and ends it when it has finished its work.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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


def _start_here() -> dict[str, object]:
    global _function
    Thread(target=_end_with_parent, daemon=True).start()
    try:
        _function = start_worker(log_level=logging.INFO)
    except (ValueError, OSError) as error:
        raise StartError(str(error)) from None
    _, context = _function
    description: dict[str, object] = context.user_data.model.description
    return description


def _invoke_here(event: Event) -> Reply:
    handler, context = _function
    return Reply(*invoke(handler, context, *event))


def _end_with_parent() -> None:
    """A parent that is killed cannot end its workers."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
