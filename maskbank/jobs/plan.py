"""What is asked for of jobs, and what CVAT then lacks and has too much of."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskbank import __version__
from maskbank.jobs.cvat import Cvat, CvatJob
from maskbank.jobs.function import Propagate
from maskbank.jobs.objects import JobObject, find_objects, seeds_digest, without_group
from maskbank.jobs.retrying import RETRY_S
from maskbank.jobs.run_folder import SweepPrediction
from maskbank.jobs.stretches import Stretch, found_in, frames_of
from maskbank.jobs.sweeps import Answers, fuse
from maskbank.jobs.uploads import (
    Annotations,
    annotations_of,
    at_places,
    count,
    earlier_results,
    result_type,
    without,
)
from maskbank.jobs.wording import ranges

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
    annotations: Mapping[str, Any]  # all
    objects: list[JobObject]
    label_ids: set[int]  # of the results

    def folder(self, host: str, options: AnnotateOptions) -> Path:
        """The folder of its run; another one for other outlines, other corrections, another tracker or version."""
        key = [host, self.job.id, seeds_digest(self.objects), options.tracker, __version__, *sorted(options.around)]
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()
        server = re.sub(r"[^\w.-]+", "_", host.partition("://")[2])
        return options.work / server / f"job-{self.job.id}" / digest[:16]


@dataclass(frozen=True)
class Upload:
    """The results of a job, and what CVAT lacks and has too much of them."""

    results: list[dict[int, SweepPrediction]]  # by object and frame
    made: Annotations
    missing: Annotations  # what of it is not in CVAT yet
    outdated: Annotations  # results of earlier runs that are there


def load_job(cvat: Cvat, job_id: int, options: AnnotateOptions) -> JobToTrack:
    """Raises ValueError for labels that are not there, outlines that cannot be told apart, and results that CVAT would
    not take."""
    job = cvat.job(job_id)
    labels = job.labels_named(options.labels)
    annotations = cvat.annotations(job_id)
    try:
        objects = find_objects(annotations, labels, job.frames)
        for drawn in objects:
            result_type(drawn, options.form)
    except ValueError as error:
        raise ValueError(f"Job {job_id}: {error}") from error
    return JobToTrack(job, annotations, objects, set(labels) if options.labels else {o.label.id for o in objects})


def plan_upload(
    cvat: Cvat,
    outlined: JobToTrack,
    parts: Sequence[Stretch],
    sweeps: Sequence[tuple[Answers, Answers]],
    options: AnnotateOptions,
) -> Upload:
    """What to upload into the job as it is at this moment.

    parts, sweeps: what was tracked of it, and the answers of both sweeps through each part.

    Raises ValueError when other objects are outlined in it than those that were tracked.
    """
    now = load_job(cvat, outlined.job.id, options)
    if seeds_digest(now.objects) != seeds_digest(outlined.objects):
        raise ValueError(
            f"The outlines in job {now.job.id} were changed while they were tracked, so nothing was uploaded; "
            "run this again to track the new ones."
        )
    kept = set(now.job.frames) & set(outlined.job.frames)
    results: list[dict[int, SweepPrediction]] = [{} for _ in now.objects]
    places: set[tuple[int, int, int]] = set()  # of the results, in CVAT: label, group and frame
    for part, both in zip(parts, sweeps, strict=True):
        own = [frame for frame in part.frames if frame in kept]
        for slot, found in zip(part.slots, fuse(own, [now.objects[i] for i in part.slots], *both), strict=True):
            if slot in part.to_find:
                drawn = now.objects[slot]
                results[slot] |= found
                places |= {(drawn.label.id, drawn.group, frame) for frame in own}
    made = annotations_of(now.objects, results, options.form, sorted(kept))
    there = earlier_results(now.annotations, now.label_ids)
    if options.around:
        there = {"shapes": at_places(there["shapes"], places), "tracks": []}
    return Upload(results, made, missing=without(made, there), outdated=without(there, made))


def refuse_unclear_results(outlined: JobToTrack, parts: Sequence[Stretch]) -> None:
    """Raises ValueError where it is unclear which automatic annotations a correction is to replace, or where it cannot
    replace them."""
    job, corrected = outlined.job.id, [outlined.objects[slot] for slot in found_in(parts)]
    labels = {drawn.label.id: drawn.label.name for drawn in corrected}
    for drawn in without_group(outlined.objects):
        if drawn in corrected:
            raise ValueError(
                f"Job {job}: {drawn.name}, outlined on {ranges(list(drawn.seeds))}, has no group, but other objects of "
                "its label have: put it into the group of its object, or into one of its own."
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
    places = Counter((shape["label_id"], shape["group"] or 0, shape["frame"]) for shape in shapes)
    for (label, group, frame), times in places.items():
        if times > 1 and (label, group) in to_replace:
            raise ValueError(
                f"In job {job} frame {frame} has {times} automatic shapes of the label {labels[label]} with the same "
                "group, or without one, so not all of them are of an earlier run, and it is unclear which of them this "
                "is to replace."
            )


def refuse_outdated(job: CvatJob, outdated: Annotations, options: AnnotateOptions) -> None:
    """Raises ValueError where results of earlier runs are there and may not be deleted."""
    if count(outdated) and not (options.replaces or options.dry_run):
        raise ValueError(
            f"Job {job.id} already has {count(outdated)} automatic annotations of these labels, of an earlier run or "
            "another program; give --replace to delete them first, or --around with the frames that you corrected."
        )
