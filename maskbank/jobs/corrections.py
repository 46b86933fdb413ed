"""`maskbank job --corrected`: what of the last run of a job still counts, and which frames an outline that is new or
changed since can change."""

import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maskbank.jobs.objects import JobObject
from maskbank.jobs.run_folder import RunFolder, SweepPrediction
from maskbank.jobs.sweeps import Answers, fuse, keep_apart
from maskbank.review.record import RECORD, Finding, decode_mask, read_record
from maskbank.shapes.rle import encode_rle

OUTLINES = "outlines"  # the note that says what a run was made from

Found = dict[int, SweepPrediction]  # by frame
Outlines = dict[int, str]  # of an object: by frame what is outlined there, as one text


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


@dataclass(frozen=True)
class KnownObject:
    """An object of an earlier run.

    found: what the run found by frame; on frames with an outline the mask of that.
    """

    label_id: int
    group: int
    is_track: bool
    outlines: Outlines
    found: Found


@dataclass(frozen=True)
class LastRun:
    """The run of a job that was uploaded last.

    folder: its.
    objects: of the job at that time.
    """

    folder: Path
    objects: list[KnownObject]

    def before(self, objects: Sequence[JobObject]) -> list[KnownObject | None]:
        """What these objects were in the run; None for one that it did not have.

        An object is known by an outline that is the same, else by its group, else by a label that has one object.
        """
        left = list(self.objects)
        found: list[KnownObject | None] = []
        for drawn in objects:
            alike = [each for each in left if (each.label_id, each.is_track) == (drawn.label.id, drawn.is_track)]
            outlines = outlines_of(drawn).items()
            same = [each for each in alike if outlines & each.outlines.items()]
            of_group = [each for each in alike if drawn.group and each.group == drawn.group]
            only = alike if len(alike) == 1 == sum(each.label == drawn.label for each in objects) else []
            same.sort(key=lambda each: len(outlines & each.outlines.items()), reverse=True)
            before = next(iter([*same, *of_group, *only]), None)
            left = [each for each in left if each is not before]
            found.append(before)
        return found


def outlines_of(drawn: JobObject) -> Outlines:
    """What is outlined of an object."""
    return {
        frame: json.dumps([[shape.type, shape.points] for shape in seed.shapes]) for frame, seed in drawn.seeds.items()
    }


def note_outlines(folder: RunFolder, objects: Iterable[JobObject]) -> None:
    """Keeps what a run is made from, for the one after it."""
    known = [[each.label.id, each.group, each.is_track, list(outlines_of(each).items())] for each in objects]
    folder.note(OUTLINES, json.dumps(known))


def last_run(of_job: Path) -> LastRun | None:
    """The run of a job that was uploaded last, by the folder of all its runs; None where none is to be had any more."""
    if not of_job.is_dir():
        return None
    uploaded = [path for path in of_job.glob("*/uploaded") if path.stat().st_size]
    whole = [path for path in uploaded if all((path.parent / each).exists() for each in (OUTLINES, RECORD))]
    if not whole:
        return None
    folder = max(whole, key=lambda path: path.stat().st_mtime_ns).parent
    known = json.loads((folder / OUTLINES).read_text())
    objects = [KnownObject(label, group, is_track, dict(own), {}) for label, group, is_track, own in known]
    for frame in read_record(folder)[1]:
        for each, finding in zip(objects, frame.findings, strict=True):
            if finding is not None:
                each.found[frame.number] = _prediction(finding, frame.size)
    return LastRun(folder, objects)


def _prediction(finding: Finding, size: tuple[int, int]) -> SweepPrediction:
    mask = None if finding.mask is None else np.array(encode_rle(decode_mask(finding.mask, size)), np.int32)
    return SweepPrediction(mask, 1.0 if finding.confidence is None else finding.confidence)


def stretches(frames: Sequence[int], objects: Sequence[JobObject], last: LastRun) -> list[Stretch]:
    """The parts of a job's frames to track again since the last run, with the objects that changed there.

    What an outline changes reaches to the object's outlines on both sides, or to the end of the job.
    """
    changed: dict[tuple[int, int], list[int]] = defaultdict(list)  # positions of the first and last frame: slots
    for slot, (drawn, before) in enumerate(zip(objects, last.before(objects), strict=True)):
        for ends in _changed(frames, drawn, before):
            changed[ends].append(slot)
    parts = []
    for (start, stop), slots in sorted(changed.items()):
        own = frames[start : stop + 1]
        outlined = {slot for slot, drawn in enumerate(objects) if any(frame in drawn.seeds for frame in own)}
        parts.append(Stretch(own, sorted(outlined.union(slots)), slots))
    return parts


def _changed(frames: Sequence[int], drawn: JobObject, before: KnownObject | None) -> list[tuple[int, int]]:
    """The positions of the first and last frame of each stretch in which an object changes."""
    outlines, known = ({}, {}) if before is None else (before.outlines, before.found)
    now, to_find = outlines_of(drawn), set(drawn.to_find(frames))
    differs = [now.get(frame) != outlines.get(frame) or frame in to_find - known.keys() for frame in frames]
    seeded = [i for i, frame in enumerate(frames) if frame in now]
    found: list[tuple[int, int]] = []
    for start, stop in itertools.pairwise(sorted({0, *seeded, len(frames) - 1})):
        if any(differs[start : stop + 1]) and to_find.intersection(frames[start : stop + 1]):
            start = found.pop()[0] if found and found[-1][1] == start else start
            found.append((start, stop))
    return found


def results_of(
    frames: Sequence[int],
    objects: Sequence[JobObject],
    parts: Sequence[Stretch],
    sweeps: Sequence[tuple[Answers, Answers]],
    last: LastRun | None,
) -> list[Found]:
    """For each object what counts, by frame; none where a person said what is to be seen.

    Args:
        frames: of the job, in order.
        objects: of the job.
        parts: that were tracked.
        sweeps: of each part the answers of the forward and of the backward sweep.
        last: the run whose results stay elsewhere; None where the only part is the whole job.
    """
    known = last.before(objects) if last else [None] * len(objects)
    results: list[Found] = [
        {frame: before.found[frame] for frame in drawn.to_find(frames) if frame in before.found} if before else {}
        for drawn, before in zip(objects, known, strict=True)
    ]
    for part, (forward, backward) in zip(parts, sweeps, strict=True):
        own = [frame for frame in part.frames if frame in frames]
        for slot, found in zip(part.slots, fuse(own, [objects[i] for i in part.slots], forward, backward), strict=True):
            if slot in part.to_find:
                kept = {frame: each for frame, each in results[slot].items() if frame not in own}
                results[slot] = dict(sorted((kept | found).items()))
    if last:
        for frame in {frame for part in parts for frame in part.frames}.intersection(frames):
            keep_apart(frame, results)
    return results


def shown(
    objects: Sequence[JobObject],
    parts: Sequence[Stretch],
    sweeps: Sequence[tuple[Answers, Answers]],
    last: LastRun | None,
) -> list[dict[int, list[SweepPrediction | None]]]:
    """Answers for all objects by frame, of this run and the last one, which hold the masks of frames with outlines."""
    places = range(len(objects))
    of_sweeps = [
        {
            frame: [dict(zip(part.slots, own, strict=True)).get(slot) for slot in places]
            for frame, own in answers.items()
        }
        for part, both in zip(parts, sweeps, strict=True)
        for answers in both
    ]
    if last is None:
        return of_sweeps
    known = last.before(objects)
    kept = [each.found if each else {} for each in known]
    return [*of_sweeps, {frame: [own.get(frame) for own in kept] for frame in set().union(*kept)}]
