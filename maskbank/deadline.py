"""When a request must be answered, and how much of that time online adaptation may take."""

from __future__ import annotations

import time
from dataclasses import dataclass

from maskbank.errors import LateError

EVENT_TIMEOUT_S = 30.0  # of function.yaml: then Nuclio kills the worker
ANSWER_WITHIN_S = 25.0  # the rest is for a slow client and for writing the answer down
REPLY_WITHIN_S = 20.0  # several frames: with what is done by then
TRACKING_S = 5.0  # of `ANSWER_WITHIN_S`: what decoding, tracking and storing a frame may need beside online adaptation
MAX_ADAPT_S = ANSWER_WITHIN_S - TRACKING_S


@dataclass(frozen=True)
class Deadline:
    """A moment that is handed down with a request.

    Attributes:
        ends: as `time.monotonic` counts.
    """

    ends: float

    @classmethod
    def within(cls, seconds: float) -> Deadline:
        """So many seconds from now."""
        return cls(time.monotonic() + seconds)

    @property
    def left_s(self) -> float:
        """Seconds that are left; negative when it has passed."""
        return self.ends - time.monotonic()

    def sooner(self, seconds: float) -> Deadline:
        """The earlier of this deadline and the one that ends so many seconds from now."""
        return Deadline(min(self.ends, time.monotonic() + seconds))

    def earlier(self, seconds: float) -> Deadline:
        """So many seconds before this deadline."""
        return Deadline(self.ends - seconds)

    def check(self) -> None:
        """Raises LateError when it has passed: nobody waits for the answer any more."""
        if self.left_s < 0:
            raise LateError
