"""`maskbank job --corrected`: what of earlier runs of a job still counts, and which frames an outline that is new or
changed since can change."""

import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maskbank.jobs.objects import JobObject
from maskbank.jobs.run_folder import RunFolder, SweepPrediction
from maskbank.jobs.sweeps import Answers, fuse, keep_apart
from maskbank.review.record import RECORD, Finding, RecordedFrame, decode_mask, read_record
from maskbank.shapes.rle import encode_rle

OUTLINES = "outlines"  # the note that says what a run was made from

Found = dict[int, SweepPrediction]  # by frame


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

    outlines: by frame what was outlined there, as one text.
    frames: what the run found, by frame; on frames with an outline the mask of that.
    place: of the object in the findings of these.
    """

    label_id: int
    group: int
    is_track: bool
    outlines: Mapping[int, str]
    frames: Mapping[int, RecordedFrame]
    place: int

    def finding(self, frame: int) -> Finding | None:
        """What is known of it on a frame; None: nothing."""
        return self.frames[frame].findings[self.place] if frame in self.frames else None

    def prediction(self, frame: int) -> SweepPrediction | None:
        """The same as a sweep would say it."""
        finding = self.finding(frame)
        if finding is None:
            return None
        decoded = None if finding.mask is None else decode_mask(finding.mask, self.frames[frame].size)
        mask = None if decoded is None else np.array(encode_rle(decoded), np.int32)
        return SweepPrediction(mask, 1.0 if finding.confidence is None else finding.confidence)


@dataclass(frozen=True)
class EarlierRuns:
    """What is kept of the runs of a job that were uploaded.

    folder: of the last one.
    objects: of the job, as they were in the last run in which an outline of theirs was the same as now; None for one
        that is new.
    """

    folder: RunFolder
    objects: list[KnownObject | None]


@dataclass(frozen=True)
class Results:
    """What is to be seen in a job.

    found: for each object what counts, by frame; none where a person said what is to be seen.
    changed: for each object, by frame the groups in which CVAT may have it so far, where that is this run's to
        replace; None: everywhere.
    """

    found: list[Found]
    changed: list[dict[int, set[int]]] | None


def note_outlines(folder: RunFolder, objects: Iterable[JobObject]) -> None:
    """Keeps what a run is made from, for those after it."""
    known = [[each.label.id, each.group, each.is_track, list(outlines_of(each).items())] for each in objects]
    folder.note(OUTLINES, json.dumps(known))


def outlines_of(drawn: JobObject) -> dict[int, str]:
    """By frame what is outlined of an object, as one text."""
    return {
        frame: json.dumps([[shape.type, shape.points] for shape in seed.shapes]) for frame, seed in drawn.seeds.items()
    }


def earlier_runs(of_job: Path, objects: Sequence[JobObject]) -> EarlierRuns | None:
    """What is kept in the folder of a job's runs; None if that is nothing."""
    notes = [path for path in of_job.glob("*/uploaded") if path.stat().st_size]
    folders = [note.parent for note in sorted(notes, key=lambda path: -path.stat().st_mtime_ns)]
    whole = [folder for folder in folders if (folder / OUTLINES).exists() and (folder / RECORD).exists()]
    found: list[KnownObject | None] = [None] * len(objects)
    for folder in whole:
        if None in found:
            missing = [slot for slot, each in enumerate(found) if each is None]
            for slot, each in zip(missing, same_objects([objects[i] for i in missing], _objects(folder)), strict=True):
                found[slot] = each
    return EarlierRuns(RunFolder(whole[0]), found) if whole else None


def _objects(folder: Path) -> list[KnownObject]:
    frames = {frame.number: frame for frame in read_record(folder)[1]}
    known = json.loads((folder / OUTLINES).read_text())
    return [
        KnownObject(label_id, group, is_track, dict(outlines), frames, place)
        for place, (label_id, group, is_track, outlines) in enumerate(known)
    ]


def same_objects(objects: Iterable[JobObject], known: Iterable[KnownObject]) -> list[KnownObject | None]:
    """What these objects were in a run: the one with which they share most outlines."""
    left, found = list(known), []
    for drawn in objects:
        outlines = outlines_of(drawn).items()
        alike = [each for each in left if (each.label_id, each.is_track) == (drawn.label.id, drawn.is_track)]
        best = max(alike, key=lambda each: len(outlines & each.outlines.items()), default=None)
        found.append(best if best and outlines & best.outlines.items() else None)
        left = [each for each in left if each is not found[-1]]
    return found


def stretches(
    frames: Sequence[int], objects: Sequence[JobObject], before: Sequence[KnownObject | None]
) -> list[Stretch]:
    """The parts of a job's frames to track again, with the objects that changed there.

    What an outline changes reaches to the object's outlines on both sides, or to the end of the job.

    Args:
        frames: of the job, in order.
        objects: of the job.
        before: what they were in earlier runs.
    """
    changed: dict[tuple[int, int], list[int]] = defaultdict(list)  # positions of the first and last frame: slots
    for slot, each in enumerate(zip(objects, before, strict=True)):
        for ends in _changed(frames, *each):
            changed[ends].append(slot)
    parts = []
    for (start, stop), slots in sorted(changed.items()):
        own = frames[start : stop + 1]
        outlined = [slot for slot, drawn in enumerate(objects) if any(frame in drawn.seeds for frame in own)]
        parts.append(Stretch(own, outlined, slots))
    return parts


def _changed(frames: Sequence[int], drawn: JobObject, before: KnownObject | None) -> list[tuple[int, int]]:
    """The positions of the first and last frame of each stretch in which an object changes."""
    now, outlines = outlines_of(drawn), before.outlines if before else {}
    to_find = set(drawn.to_find(frames))
    unknown = {frame for frame in to_find if before is None or before.finding(frame) is None}
    differs = [frame in unknown or now.get(frame) != outlines.get(frame) for frame in frames]
    seeded = [i for i, frame in enumerate(frames) if frame in now]
    found: list[tuple[int, int]] = []
    for start, stop in itertools.pairwise(sorted({0, *seeded, len(frames) - 1})):
        own = slice(start, stop + 1)
        if any(differs[own]) and (to_find.intersection(frames[own]) or not drawn.is_track):
            start = found.pop()[0] if found and found[-1][1] == start else start
            found.append((start, stop))
    return found


def results_of(
    frames: Sequence[int],
    objects: Sequence[JobObject],
    parts: Sequence[Stretch],
    sweeps: Sequence[tuple[Answers, Answers]],
    before: Sequence[KnownObject | None] | None,
) -> Results:
    """What is to be seen in a job once parts of it were tracked.

    Args:
        frames: of the job, in order.
        objects: of the job.
        parts: that were tracked.
        sweeps: of each part the answers of the forward and of the backward sweep.
        before: what the objects were in earlier runs, whose results stay elsewhere; None where the only part is the
            whole job.
    """
    found: list[Found] = [{} for _ in objects]
    for part, both in zip(parts, sweeps, strict=True):
        own = [frame for frame in part.frames if frame in frames]
        fused = fuse(own, [objects[slot] for slot in part.slots], *both)
        for slot, each in zip(part.slots, fused, strict=True):
            found[slot] |= each if slot in part.to_find else {}
    if before is None:
        return Results(found, None)
    changed: list[dict[int, set[int]]] = []
    for slot, (drawn, known) in enumerate(zip(objects, before, strict=True)):
        regrouped = known is not None and known.group != drawn.group
        replaced = {frame for part in parts if slot in part.to_find for frame in part.frames}
        groups = {drawn.group, known.group if known else drawn.group}
        changed.append(dict.fromkeys(frames if regrouped else replaced, groups))
        for frame in drawn.to_find(frames):
            if frame not in replaced and known and (kept := known.prediction(frame)):
                found[slot][frame] = kept
    for part, both in zip(parts, sweeps, strict=True):
        for frame in set(part.frames).intersection(frames):
            there = {slot: own[frame] for slot, own in enumerate(found) if frame in own}
            keep_apart(frame, found, _outlined(frame, objects, part, both))
            for slot, answer in there.items():
                if found[slot][frame] is not answer:
                    changed[slot].setdefault(frame, {objects[slot].group})
    return Results([dict(sorted(own.items())) for own in found], changed)


def _outlined(frame: int, objects: Sequence[JobObject], part: Stretch, sweeps: Iterable[Answers]) -> list[np.ndarray]:
    """CVAT's points of what is outlined on a frame of a part."""
    answers = next((own[frame] for own in sweeps if frame in own), ())
    return [
        answer.mask
        for slot, answer in zip(part.slots, answers, strict=False)
        if frame in objects[slot].seeds and answer is not None and answer.mask is not None
    ]


def shown(
    objects: Sequence[JobObject],
    parts: Sequence[Stretch],
    sweeps: Sequence[tuple[Answers, Answers]],
    before: Sequence[KnownObject | None] | None,
) -> list[Answers]:
    """Answers for all objects by frame, which hold the masks of frames with outlines: of this run, and of earlier ones
    where these outlines are the same."""
    places = range(len(objects))
    of_sweeps: list[Answers] = [
        {
            frame: [dict(zip(part.slots, own, strict=True)).get(slot) for slot in places]
            for frame, own in answers.items()
        }
        for part, both in zip(parts, sweeps, strict=True)
        for answers in both
    ]
    outlined: dict[int, list[SweepPrediction | None]] = {}
    for slot, known in enumerate(before or ()):
        for frame, outline in outlines_of(objects[slot]).items():
            if known and known.outlines.get(frame) == outline:
                outlined.setdefault(frame, [None for _ in places])[slot] = known.prediction(frame)
    return [*of_sweeps, outlined]
