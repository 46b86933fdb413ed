"""Which frames of a job a correction can change, and with which objects: `maskbank job --around`."""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from maskbank.jobs.objects import JobObject


@dataclass(frozen=True)
class Stretch:
    """Frames of a job, and the objects that are tracked through them.

    frames: in order.
    slots: of the objects that are tracked.
    to_find: of those whose results are taken; the others are outlined there, and compete for pixels.
    """

    frames: Sequence[int]
    slots: Sequence[int]
    to_find: Sequence[int]

    @classmethod
    def whole(cls, frames: Sequence[int], objects: Sequence[JobObject]) -> "Stretch":
        """A job's frames, through which all its objects are tracked."""
        slots = range(len(objects))
        return cls(frames, slots, slots)


def stretches_around(corrected: Sequence[int], frames: Sequence[int], objects: Sequence[JobObject]) -> list[Stretch]:
    """What outlines on corrected frames can change: each reaches to the object's outlines on both sides, or to the ends
    of the job.

    Args:
        corrected: the frames.
        frames: of the job, in order.
        objects: of the job.

    Raises ValueError with one sentence where nothing is outlined on one of these frames, and where it is unclear which
    results are those of an object that is.
    """
    for frame in corrected:
        if not any(frame in drawn.seeds for drawn in objects):
            raise ValueError(f"Nothing is outlined on frame {frame}; --around takes frames on which something is.")
    found: dict[tuple[int, int], list[int]] = defaultdict(list)  # positions of the first and last frame: slots
    for slot, drawn in enumerate(objects):
        stretches = _stretches(set(corrected), frames, drawn)
        alike = [each for each in objects if (each.label.id, each.group) == (drawn.label.id, drawn.group)]
        if stretches and len(alike) > 1:
            raise ValueError(
                f"The job has several objects {drawn.label.name} with the same group, or without one, so it is unclear "
                "which results are whose: give each a group of its own, or run this without --around."
            )
        for ends in stretches:
            found[ends].append(slot)
    parts = []
    for (start, stop), slots in sorted(found.items()):
        own = frames[start : stop + 1]
        outlined = [slot for slot, drawn in enumerate(objects) if any(frame in drawn.seeds for frame in own)]
        parts.append(Stretch(own, outlined, slots))
    return parts


def frames_of(parts: Iterable[Stretch]) -> list[int]:
    """The frames of all stretches, in order."""
    return sorted({frame for part in parts for frame in part.frames})


def found_in(parts: Iterable[Stretch]) -> list[int]:
    """The slots of the objects whose results are taken."""
    return sorted({slot for part in parts for slot in part.to_find})


def _stretches(corrected: set[int], frames: Sequence[int], drawn: JobObject) -> list[tuple[int, int]]:
    """The positions of the first and last frame of each stretch; those that touch are one."""
    seeded = [i for i, frame in enumerate(frames) if frame in drawn.seeds]
    here = {i for i in seeded if frames[i] in corrected}
    found: list[tuple[int, int]] = []
    for start, stop in itertools.pairwise(sorted({0, *seeded, len(frames) - 1})):
        if here & {start, stop}:
            start = found.pop()[0] if found and found[-1][1] == start else start
            found.append((start, stop))
    return found
