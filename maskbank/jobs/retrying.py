"""Trying again where a server may be back in a moment."""

from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_before_delay, wait_exponential

T = TypeVar("T")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0


def retried(action: Callable[[], T], seconds: float, waiting: Callable[[str], None]) -> T:
    """The result of an action, tried again on ConnectionError for so many seconds; then the error goes on.

    `waiting` is told the reason before each pause.
    """

    def tell(state: RetryCallState) -> None:
        waiting(str(state.outcome and state.outcome.exception()))

    retrying = Retrying(
        retry=retry_if_exception_type(ConnectionError),
        stop=stop_before_delay(seconds),
        wait=wait_exponential(multiplier=FIRST_PAUSE_S, max=LONGEST_PAUSE_S),
        before_sleep=tell,
        reraise=True,
    )
    return retrying(action)
