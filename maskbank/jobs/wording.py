"""Numbers in sentences for people."""

import itertools
from collections.abc import Sequence


def counted(number: int, what: str) -> str:
    """As many of a thing: 1 object, 2 objects."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def ranges(frames: Sequence[int]) -> str:
    """Frame numbers in few words: 3-5, 9."""
    runs = itertools.groupby(enumerate(sorted(frames)), key=lambda numbered: numbered[1] - numbered[0])
    ends = [[frame for _, frame in run] for _, run in runs]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in ends)
