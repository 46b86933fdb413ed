"""Trying again where a server may be back in a moment."""

import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0


def patiently(action: Callable[[], Result], seconds: float, waiting: Callable[[str], None]) -> Result:
    """The result of an action, tried again on ConnectionError for so many seconds; then the error goes on.

    `waiting` is told the reason before each pause.
    """
    give_up = time.monotonic() + seconds
    pause = FIRST_PAUSE_S
    while True:
        try:
            return action()
        except ConnectionError as error:
            if time.monotonic() + pause > give_up:
                raise
            waiting(str(error))
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)
