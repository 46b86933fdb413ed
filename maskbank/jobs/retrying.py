"""Asking again where a server is busy, or back in a moment."""

from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_before_delay, wait_random_exponential

T = TypeVar("T")

# 503 is the function's own, Nuclio answers 408 for a worker that it stopped, the others come from what stands before a
# server.
RETRYABLE = (408, 429, 502, 503, 504)
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0


class BusyError(ConnectionError):
    """A server answered that the same request may succeed later; not before `retry_after_s` seconds, if it said so."""

    def __init__(self, sentence: str, retry_after_s: float | None = None):
        super().__init__(sentence)
        self.retry_after_s = retry_after_s


def retried(action: Callable[[], T], seconds: float, waiting: Callable[[str], None]) -> T:
    """The result of an action, tried again on ConnectionError for so many seconds; then the error goes on.

    The pauses become longer and are drawn by chance: those who failed together must not come back together.
    `waiting` is told the reason before each pause.
    """
    by_chance = wait_random_exponential(multiplier=2 * FIRST_PAUSE_S, max=LONGEST_PAUSE_S, min=FIRST_PAUSE_S)

    def pause(state: RetryCallState) -> float:
        error = state.outcome and state.outcome.exception()
        asked_for = error.retry_after_s if isinstance(error, BusyError) else None
        return max(by_chance(state), asked_for or 0.0)

    def tell(state: RetryCallState) -> None:
        waiting(str(state.outcome and state.outcome.exception()))

    retrying = Retrying(
        retry=retry_if_exception_type(ConnectionError),
        stop=stop_before_delay(seconds),
        wait=pause,
        before_sleep=tell,
        reraise=True,
    )
    return retrying(action)
