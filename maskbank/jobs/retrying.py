"""Asking again where a server is busy, or back in a moment."""

import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential
from tqdm import tqdm

T = TypeVar("T")

RETRY_S = 300.0  # for so long a server that does not answer is waited for

# 503 is the function's own, Nuclio answers 408 for a worker that it stopped, the others come from what stands before a
# server.
RETRYABLE = (408, 429, 502, 503, 504)
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0


class BusyError(ConnectionError):
    """A server answered that the same request may succeed later; not before `retry_after_s` seconds, if it said so."""

    def __init__(self, sentence: str, retry_after_s: float | None = None):
        super().__init__(sentence)
        self.retry_after_s = retry_after_s


class Waiting:
    """What a person sees while a server is waited for: every reason once, and for whom, in the progress line if any.

    Attributes:
        told: the reason that was given last; empty where there was no need to wait.
    """

    def __init__(self, whom: str, bar: "tqdm[Any] | None" = None):
        self._text, self._bar = f"Waiting for {whom}…", bar
        self.told = ""

    def tell(self, reason: str) -> None:
        """Says why; see `retried`."""
        if reason != self.told:
            tqdm.write(f"{reason} {self._text}", file=sys.stderr)
            self.told = reason
        if self._bar is not None:
            self._bar.set_postfix_str(self._text)


def retried(action: Callable[[], T], seconds: float, waiting: Callable[[str], None]) -> T:
    """The result of an action, tried again on ConnectionError for so many seconds after it first failed; then the error
    goes on.

    The pauses become longer and are drawn by chance: those who failed together must not come back together.
    `waiting` is told the reason before each pause.
    """
    by_chance = wait_random_exponential(multiplier=2 * FIRST_PAUSE_S, max=LONGEST_PAUSE_S, min=FIRST_PAUSE_S)
    failures: list[float] = []  # when it failed

    def pause(state: RetryCallState) -> float:
        error = state.outcome and state.outcome.exception()
        asked_for = error.retry_after_s if isinstance(error, BusyError) else None
        return max(by_chance(state), asked_for or 0.0)

    def too_late(state: RetryCallState) -> bool:
        failures.append(time.monotonic())
        return failures[-1] - failures[0] + state.upcoming_sleep >= seconds

    def tell(state: RetryCallState) -> None:
        waiting(str(state.outcome and state.outcome.exception()))

    retrying = Retrying(
        retry=retry_if_exception_type(ConnectionError), stop=too_late, wait=pause, before_sleep=tell, reraise=True
    )
    return retrying(action)
