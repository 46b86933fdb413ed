"""One job after the other, of which one that fails does not stop those behind it."""

import sys
from collections.abc import Callable, Sequence

from maskbank.jobs.run_folder import AtWorkError
from maskbank.jobs.wording import counted


def for_each_job(job_ids: Sequence[int], act: Callable[[int], str], done: str) -> None:
    """Prints what an action says of each job; where one of several fails, that is said at once, and in the end.

    Args:
        job_ids: of the jobs.
        act: raises ValueError, ConnectionError or AtWorkError with one sentence where it fails.
        done: what is done to them, as in "Not tracked: 2 jobs of 5".

    Raises what `act` raises where there is one job, ValueError after several of which some failed.
    """
    failed = 0
    for job_id in job_ids:
        try:
            print(act(job_id))
        except (ValueError, ConnectionError, AtWorkError) as error:
            if len(job_ids) == 1:
                raise
            failed += 1
            about = "" if str(error).startswith(f"Job {job_id}") else f"Job {job_id}: "
            print(f"{about}{error}", file=sys.stderr)
    if failed:
        raise ValueError(f"Not {done}: {counted(failed, 'job')} of {len(job_ids)}, for the reasons above.")
