"""What is asked for of jobs, and what CVAT then lacks and has too much of."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from maskbank import __version__
from maskbank.jobs.cvat import Cvat, CvatJob
from maskbank.jobs.drawn_over import with_groups_of_results
from maskbank.jobs.function import Propagate
from maskbank.jobs.objects import JobObject, find_objects, seeds_digest, without_group
from maskbank.jobs.retrying import RETRY_S, Waiting, retried
from maskbank.jobs.run_folder import SweepPrediction, WorkFolder, job_folder
from maskbank.jobs.stretches import Stretch, found_in, frames_of
from maskbank.jobs.sweeps import Answers, fuse
from maskbank.jobs.uploads import (
    Annotations,
    Compared,
    annotations_of,
    at_places,
    compared,
    count,
    earlier_results,
    keep_attributes,
    result_type,
)
from maskbank.jobs.wording import ranges

# Notes in a job's folder:
LABELS = "labels with results"  # of which labels its runs have uploaded results
VALUES = "values of attributes"  # which of them results got from outlines
Tune = Callable[[Path, Path], Propagate]
"""Trains the network on the data in a folder, in another folder, and returns the function with what it has learnt; goes
on where it was stopped."""


@dataclass(frozen=True)
class AnnotateOptions:
    """How jobs are annotated.

    form: what the results are made into, one of `uploads.FORMS`; None: each object's as it was drawn.
    labels: the names of the labels to track; empty: all.
    dry_run: upload nothing.
    replace: delete the results of earlier runs.
    around: frames with corrections; only what these can change is tracked, and replaced. Empty: everything.
    work: the folder where what was tracked is kept.
    tracker: names the function and its settings; what another one tracked is not gone on with.
    tune: what makes of the outlined frames of a job a function of its own; None: all jobs have the given one.
    retry_s: for so long a server that does not answer is waited for.
    """

    form: str | None
    labels: Sequence[str]
    dry_run: bool
    replace: bool
    work: Path
    tracker: str
    tune: Tune | None = None
    around: Sequence[int] = ()
    retry_s: float = RETRY_S

    @property
    def replaces(self) -> bool:
        """Whether results of earlier runs may be deleted."""
        return self.replace or bool(self.around)


@dataclass(frozen=True)
class JobToTrack:
    """A job, and what of it is asked for."""

    job: CvatJob
    annotations: Annotations  # all
    objects: list[JobObject]
    label_ids: set[int]  # of the results
    former_label_ids: set[int]  # earlier runs left results of these, of which nothing is outlined any more
    drawn_over: Mapping[tuple[str, int], int]  # by label and frame: groups of results, of the outlines over them

    def folder(self, kept: WorkFolder, options: AnnotateOptions) -> Path:
        """The folder of its run, in that of the job; another one for other outlines, other corrections, another tracker
        or version."""
        key = [kept.path.name, seeds_digest(self.objects), options.tracker, __version__, *sorted(options.around)]
        return kept.path / hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]

    @property
    def leftovers(self) -> Annotations:
        """Results of earlier runs of labels of which nothing is outlined any more, and which are not asked for."""
        return earlier_results(self.annotations, self.former_label_ids - self.label_ids)


@dataclass(frozen=True)
class Results:
    """What was found of a job, and what CVAT is to have of it."""

    frames: tuple[int, ...]  # of the job
    objects: list[JobObject]
    found: list[dict[int, SweepPrediction]]  # by object and frame
    made: Annotations
    places: set[tuple[int, int, int]]  # in CVAT: label, group and frame

    def fit(self, now: JobToTrack) -> bool:
        """Whether they are those of the job as it is at another moment."""
        return (self.frames, self.objects) == (now.job.frames, now.objects)


def read_job(cvat: Cvat, job_id: int, retry_s: float) -> tuple[CvatJob, Annotations]:
    """A job and its annotations, as they are at this moment; a server that does not answer is waited for, for so many
    seconds. Raises as `Cvat` does."""
    waiting = Waiting("CVAT")
    job = retried(partial(cvat.job, job_id), retry_s, waiting.tell)
    return job, retried(partial(cvat.annotations, job_id), retry_s, waiting.tell)


def what_to_track(job: CvatJob, annotations: Annotations, host: str, options: AnnotateOptions) -> JobToTrack:
    """Raises ValueError for labels that are not there, outlines that cannot be told apart, and results that CVAT would
    not take."""
    labels = job.labels_named(options.labels)
    kept = job_folder(options.work, host, job.id)
    annotations, groups = with_groups_of_results(annotations, kept)
    drawn_over = {
        (labels[shape["label_id"]].name, shape["frame"]): groups[shape["id"]]
        for shape in annotations["shapes"]
        if shape["id"] in groups and shape["label_id"] in labels
    }
    try:
        objects = find_objects(annotations, labels, job.frames)
        for drawn in objects:
            result_type(drawn, options.form)
    except ValueError as error:
        raise ValueError(f"Job {job.id}: {error}") from error
    outlined = {drawn.label.id for drawn in objects}
    if options.labels:
        return JobToTrack(job, annotations, objects, set(labels), set(), drawn_over)
    former = set(json.loads(kept.noted(LABELS) or "[]")) - outlined
    asked_for = outlined | former if options.replace else outlined
    return JobToTrack(job, annotations, objects, asked_for, former, drawn_over)


def load_job(cvat: Cvat, job_id: int, options: AnnotateOptions) -> JobToTrack:
    """What there is to track of a job at this moment; see `read_job` and `what_to_track`."""
    return what_to_track(*read_job(cvat, job_id, options.retry_s), cvat.host, options)


def results_of(
    now: JobToTrack,
    tracked: JobToTrack,
    parts: Sequence[Stretch],
    sweeps: Sequence[tuple[Answers, Answers]],
    options: AnnotateOptions,
) -> Results:
    """What CVAT is to have; for many frames it takes minutes to make.

    Args:
        now: the job at this moment.
        tracked: the job as it was tracked.
        parts, sweeps: what was tracked of it, and the answers of both sweeps through each part.
        options: how it is annotated.

    Raises ValueError when other objects are outlined in the job than those that were tracked.
    """
    if seeds_digest(now.objects) != seeds_digest(tracked.objects):
        raise ValueError(
            f"The outlines in job {now.job.id} were changed while they were tracked, so nothing was uploaded; "
            "run this again to track the new ones."
        )
    kept = set(now.job.frames) & set(tracked.job.frames)
    results: list[dict[int, SweepPrediction]] = [{} for _ in now.objects]
    places: set[tuple[int, int, int]] = set()
    for part, both in zip(parts, sweeps, strict=True):
        own = [frame for frame in part.frames if frame in kept]
        for slot, found in zip(part.slots, fuse(own, [now.objects[i] for i in part.slots], *both), strict=True):
            if slot in part.to_find:
                drawn = now.objects[slot]
                results[slot] |= found
                places |= {(drawn.label.id, drawn.group, frame) for frame in own}
    made = annotations_of(now.objects, results, options.form, sorted(kept))
    return Results(now.job.frames, now.objects, results, made, places)


def beside(now: JobToTrack, results: Results, options: AnnotateOptions) -> Compared:
    """The results beside those that the job has at this moment."""
    return compared(results.made, _there(now, results, options))


def with_what_people_filled_in(
    results: Results, now: JobToTrack, kept: WorkFolder, options: AnnotateOptions
) -> Results:
    """The results with attributes that a person gave automatic shapes in the same places: values that no outline has
    or had, and that are not CVAT's default.

    kept: the folder of the job, with what outlines had at earlier runs.
    """
    given = _given(kept, results)
    for drawn in results.objects:
        for id, value in drawn.label.defaults.items():
            given[id].add(value)
    there = _there(now, results, options)["shapes"]
    shapes = keep_attributes(results.made["shapes"], there, given)
    return replace(results, made={"shapes": shapes, "tracks": results.made["tracks"]})


def note_given(kept: WorkFolder, results: Results) -> None:
    """Notes in a job's folder of which labels it gets results, and which values of attributes they have by outlines."""
    labels = {each["label_id"] for own in results.made.values() for each in own}
    kept.note(LABELS, json.dumps(sorted(labels | set(json.loads(kept.noted(LABELS) or "[]")))))
    kept.note(VALUES, json.dumps({id: sorted(values) for id, values in _given(kept, results).items()}))


def _given(kept: WorkFolder, results: Results) -> dict[int, set[str]]:
    """The values of attributes that outlines have, now or at an earlier run, by the attribute's id."""
    values: dict[int, set[str]] = defaultdict(set)
    for id, known in json.loads(kept.noted(VALUES) or "{}").items():
        values[int(id)] |= set(known)
    for seed in (seed for drawn in results.objects for seed in drawn.seeds.values()):
        for id, value in seed.attributes.items():
            values[id].add(value)
    return values


def _there(now: JobToTrack, results: Results, options: AnnotateOptions) -> Annotations:
    """What the job has in the place of results."""
    there = earlier_results(now.annotations, now.label_ids)
    return {"shapes": at_places(there["shapes"], results.places), "tracks": []} if options.around else there


def refuse_unclear_results(outlined: JobToTrack, parts: Sequence[Stretch], begun: bool) -> None:
    """Raises ValueError where it is unclear which automatic annotations a correction is to replace, or where it cannot
    replace them.

    begun: whether the same was run before and began to write; what it made may be beside what it is to replace.
    """
    job, corrected = outlined.job.id, [outlined.objects[slot] for slot in found_in(parts)]
    labels = {drawn.label.id: drawn.label.name for drawn in corrected}
    for drawn in without_group(outlined.objects):
        if drawn in corrected:
            raise ValueError(
                f"Job {job}: {drawn.name}, outlined on {ranges(list(drawn.seeds))}, has no group, but other objects of "
                "its label have: give it a group of its own, or edit its object's automatic shape there instead, which "
                "keeps the group."
            )

    def groups(those: Iterable[Any]) -> set[tuple[int, int]]:
        return {(each["label_id"], each["group"] or 0) for each in those}

    known, to_replace = ({(drawn.label.id, drawn.group) for drawn in those} for those in (outlined.objects, corrected))
    frames = set(frames_of(parts))
    there = earlier_results(outlined.annotations, labels.keys())
    shapes = [shape for shape in there["shapes"] if shape["frame"] in frames]
    if groups(there["tracks"]) & to_replace:
        raise ValueError(
            f"In job {job} results of these objects are tracks, of which no part is replaced; run this with --replace "
            "and without --around."
        )
    for label, _ in groups([*shapes, *there["tracks"]]) - known:
        raise ValueError(
            f"In job {job} automatic annotations of the label {labels[label]} have another group than its outlined "
            "objects, or none, so it is unclear which of them this is to replace; run it with --replace and without "
            "--around."
        )
    if not begun:
        refuse_crowded(job, [shape for shape in shapes if (shape["label_id"], shape["group"]) in to_replace], labels)


def refuse_crowded(job_id: int, shapes: Iterable[Mapping[str, Any]], labels: Mapping[int, str]) -> None:
    """Raises ValueError where several automatic shapes, which a correction is to replace, are in one place.

    labels: names by id.
    """
    places = Counter((shape["label_id"], shape["group"], shape["frame"]) for shape in shapes)
    for (label, _, frame), times in places.items():
        if times > 1:
            raise ValueError(
                f"In job {job_id} frame {frame} has {times} automatic shapes of the label {labels[label]} with the "
                "same group, or without one, so not all of them are of an earlier run, and it is unclear which of them "
                "this is to replace."
            )


def refuse_outdated(job: CvatJob, outdated: Annotations, options: AnnotateOptions) -> None:
    """Raises ValueError where results of earlier runs are there and may not be deleted."""
    if count(outdated) and not (options.replaces or options.dry_run):
        raise ValueError(
            f"Job {job.id} already has {count(outdated)} automatic annotations of these labels, of an earlier run or "
            "another program; give --replace to delete them first, or --around with the frames that you corrected."
        )
