"""Writing into a CVAT job, so that all is there once, though a request may stay without an answer."""

import time
from collections.abc import Callable
from functools import partial

from maskbank.jobs.cvat import Cvat
from maskbank.jobs.retrying import retried
from maskbank.jobs.uploads import Annotations, compared, count, in_requests, without

# The pauses before each look for what a request without an answer was to make: a gateway gives up on requests that CVAT
# carries out all the same, later.
LOOKS_S = (1.0, 2.0, 4.0, 8.0, 15.0)


class Writer:
    """Adds annotations to a job and deletes them, in portions; waits for a server that does not answer.

    Args:
        cvat: the server.
        job_id: of the job.
        retry_s, waiting: see `retried`.

    Attributes:
        created: how many annotations were added so far.
        deleted: how many were deleted so far.
        unanswered: whether a request that adds something stayed without an answer; it may be carried out yet.

    All methods raise as `Cvat` does.
    """

    def __init__(self, cvat: Cvat, job_id: int, retry_s: float, waiting: Callable[[str], None]):
        self._cvat, self._job_id = cvat, job_id
        self._retry_s, self._waiting = retry_s, waiting
        self.created = self.deleted = 0
        self.unanswered = False

    def create(self, annotations: Annotations) -> None:
        """Adds annotations that are not there yet."""
        for portion in in_requests(annotations):
            self._create(portion)
            self.created += count(portion)

    def delete(self, annotations: Annotations) -> None:
        """Deletes annotations, given as CVAT gave them; those that are gone already do not matter."""
        for portion in in_requests(annotations):
            retried(partial(self._cvat.delete, self._job_id, portion), self._retry_s, self._waiting)
            self.deleted += count(portion)

    def there(self) -> Annotations:
        """What the job has at this moment."""
        return retried(partial(self._cvat.annotations, self._job_id), self._retry_s, self._waiting)

    def delete_twins(self, made: Annotations) -> None:
        """Deletes what the job has twice of these annotations."""
        self.delete(compared(made, _of_same_source(self.there(), made)).twins)

    def _create(self, portion: Annotations) -> None:
        asked = False

        def attempt() -> None:
            nonlocal asked
            left = self._missing(portion) if asked else portion
            if not count(left):
                return
            asked = True
            try:
                self._cvat.create(self._job_id, left)
            except ConnectionError:
                self.unanswered = True
                raise

        retried(attempt, self._retry_s, self._waiting)

    def _missing(self, portion: Annotations) -> Annotations:
        """What does not appear of a portion that was asked for."""
        left = portion
        for pause in LOOKS_S:
            time.sleep(pause)
            left = without(portion, _of_same_source(self._cvat.annotations(self._job_id), portion))
            if not count(left):
                break
        return left


def _of_same_source(there: Annotations, made: Annotations) -> Annotations:
    """Those that came about as these did: what a person has edited is not what was uploaded."""
    sources = {each["source"] for own in made.values() for each in own}
    return {kind: [each for each in there[kind] if each["source"] in sources] for kind in ("shapes", "tracks")}
