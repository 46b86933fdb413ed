"""`maskbank job`: the outlines in a CVAT job become annotations on all its frames."""

import hashlib
import itertools
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from maskbank import __version__
from maskbank.jobs.cvat import Cvat, CvatJob
from maskbank.jobs.function import Propagate
from maskbank.jobs.objects import JobObject, find_objects, seeds_digest, without_group
from maskbank.jobs.outlined import write_outlined
from maskbank.jobs.retrying import RETRY_S, Waiting, retried
from maskbank.jobs.review import frames_without_picture, keep_picture, record_job
from maskbank.jobs.run_folder import RunFolder, SweepLog, SweepPrediction
from maskbank.jobs.stretches import Stretch, stretches_around
from maskbank.jobs.sweeps import Answers, ObjectOf, backward_order, forward_order, fuse, sweep
from maskbank.jobs.uploads import (
    Annotations,
    annotations_of,
    at_places,
    count,
    earlier_results,
    in_requests,
    result_type,
    without,
)
from maskbank.review.marks import UNSURE_BELOW
from maskbank.review.page import write_page
from maskbank.tracking.suggestions import next_step, sureness

T = TypeVar("T")

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


def annotate(
    cvat: Cvat, job_ids: Iterable[int], propagate: Propagate, object_of: ObjectOf, options: AnnotateOptions
) -> None:
    """Tracks what is outlined in jobs through all their frames, uploads it, and prints a report for each.

    object_of: what an outline means.

    All jobs are checked before the first is tracked; of several, one that cannot be tracked does not keep the others
    from it. A run that is stopped goes on from where it was when it is run again.

    Raises ValueError where somebody has to do something about it, ConnectionError where a server does not answer;
    with one sentence.
    """
    jobs = [load_job(cvat, job_id, options) for job_id in job_ids]
    several = len(jobs) > 1
    if not any(each.objects for each in jobs):
        raise ValueError(
            "There is nothing to track: outline each object on a frame, as a mask, a polygon, a box or an ellipse."
        )
    failed: list[int] = []
    for each in jobs:
        try:
            if several:  # those before it took their time, and people go on outlining
                each = load_job(cvat, each.job.id, options)
            print(annotate_job(cvat, each, propagate, object_of, options))
        except ConnectionError as error:
            reason = str(error).rstrip(".")
            raise ConnectionError(f"{reason}; what was done is kept, so run this again later.") from error
        except ValueError as error:
            if not several:
                raise
            failed.append(each.job.id)
            print(f"Job {each.job.id}: {error}", file=sys.stderr)
    if failed:
        raise ValueError(f"Not tracked: {_counted(len(failed), 'job')} of {len(jobs)}, for the reasons above.")


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


def annotate_job(
    cvat: Cvat, outlined: JobToTrack, propagate: Propagate, object_of: ObjectOf, options: AnnotateOptions
) -> str:
    """Tracks and uploads; returns the report."""
    job, objects = outlined.job, outlined.objects
    if not objects:
        return f"Job {job.id}: nothing is outlined in it."
    if not any(drawn.to_find(job.frames) for drawn in objects):
        return f"Job {job.id}: people have outlined its objects on all frames, or made tracks; nothing to do."
    try:
        parts = (
            stretches_around(options.around, job.frames, objects)
            if options.around
            else [Stretch.whole(job.frames, objects)]
        )
    except ValueError as error:
        raise ValueError(f"Job {job.id}: {error}") from error
    if options.around:
        _refuse_unclear_results(outlined, parts)
    folder = RunFolder(outlined.folder(cvat.host, options))
    form = options.form or "as drawn"
    with folder.alone():
        finished = _said_of_results(job, objects, form)
        if folder.noted("uploaded") == finished and not (options.replace or options.dry_run):
            return (
                f"Job {job.id}: these outlines were tracked and the results uploaded before; nothing to do. "
                f"(--replace uploads again what was deleted or changed since.)\n{folder.noted('what next') or ''}"
            ).rstrip()
        if folder.noted("uploading") != form and not options.around:
            _refuse_outdated(job, earlier_results(outlined.annotations, outlined.label_ids), options)
        sweeps = _track(cvat, outlined, parts, propagate, object_of, options, folder)
        if not options.dry_run:
            folder.note("uploaded", "")
            folder.note("uploading", form)

        plan = partial(plan_upload, cvat, outlined, parts, sweeps, options)
        found = retried(plan, options.retry_s, Waiting("CVAT").tell)
        next_steps = f"  {what_next(outlined, parts, found)}"
        if any(found.results):  # before anything is uploaded: CVAT may refuse it, and a person wants to see it still
            slots = _found_in(parts)
            tracked, own = [objects[slot] for slot in slots], [found.results[slot] for slot in slots]
            answers = _by_object(parts, sweeps, slots)
            record_job(folder.path, cvat.host, job, _frames_of(parts), tracked, own, answers)
            next_steps += f"\n  Look at {write_page(folder.path)}."
        folder.note("what next", next_steps)

        def upload() -> Upload:
            found = plan()  # for the job as it is now
            if not options.dry_run:
                _refuse_outdated(job, found.outdated, options)
                for portion in in_requests(found.outdated):
                    cvat.delete(job.id, portion)
                for portion in in_requests(found.missing):
                    cvat.create(job.id, portion)
            return found

        def delete_twins() -> None:
            surplus = plan().outdated
            twins = without(surplus, without(surplus, found.made))
            for portion in in_requests(twins):
                cvat.delete(job.id, portion)

        waiting = Waiting("CVAT")
        found = retried(upload, options.retry_s, waiting.tell)
        if waiting.told:  # a request without an answer may have been carried out after the next one was made
            retried(delete_twins, options.retry_s, waiting.tell)
        text = f"{report(outlined, parts, found, hard_boxes(folder), options)}\n{next_steps}"
        if not options.dry_run:
            folder.note("uploaded", finished)
    return text


def _said_of_results(job: CvatJob, objects: Sequence[JobObject], form: str) -> str:
    """What decides on the results beside the outlines."""
    looks = [
        [(frame, seed.z_order, sorted(seed.attributes.items())) for frame, seed in o.seeds.items()] for o in objects
    ]
    digest = hashlib.sha256(json.dumps(looks).encode()).hexdigest()
    return f"{form}, frames {ranges(job.frames)}, groups {[drawn.group for drawn in objects]}, looks {digest[:16]}"


def _track(
    cvat: Cvat,
    outlined: JobToTrack,
    parts: Sequence[Stretch],
    propagate: Propagate,
    object_of: ObjectOf,
    options: AnnotateOptions,
    folder: RunFolder,
) -> list[tuple[Answers, Answers]]:
    """The answers of the forward and of the backward sweep through each part."""
    job, objects = outlined.job, outlined.objects
    logs: list[SweepLog] = []
    of_log: list[list[JobObject]] = []
    for part in parts:
        own = [objects[slot] for slot in part.slots]
        name = f"-{part.frames[0]}-{part.frames[-1]}" if options.around else ""
        logs.append(folder.log(f"forward{name}", forward_order(part.frames, own)))
        logs.append(folder.log(f"backward{name}", backward_order(part.frames, own)))
        of_log += own, own

    total = sum(len(log.order) for log in logs)
    with tqdm(total=total, desc=f"job {job.id}", unit="frame", initial=_answered(logs)) as bar:

        def image_of(frame: int) -> bytes:
            image = patiently(partial(cvat.image, job.id, frame), "CVAT")
            keep_picture(folder.path, frame, image)
            return image

        def ask(body: dict[str, Any]) -> dict[str, Any]:
            return patiently(partial(propagate, body), "the tracker")

        def patiently(action: Callable[[], T], whom: str) -> T:
            answer = retried(action, options.retry_s, Waiting(whom, bar).tell)
            bar.set_postfix_str("", refresh=False)
            return answer

        def tell_of_box(drawn: JobObject, frame: int) -> None:
            hard = hard_boxes(folder)
            box = (objects.index(drawn), frame)
            if box not in hard:  # both sweeps begin with the same boxes
                folder.note("hard boxes", json.dumps([*hard, box]))
                text = f"Frame {frame}: {drawn.name} is hard to make out in its box; a mask or polygon there says more."
                tqdm.write(text, file=sys.stderr)

        if options.tune and _answered(logs) < total:
            write_outlined(folder.path / "tuning" / "data", objects, image_of, object_of)
            propagate = options.tune(folder.path / "tuning" / "data", folder.path / "tuning" / "run")
        for log, own in zip(logs, of_log, strict=True):
            if len(log.order) > 1:  # one frame has a seed, and nothing to find
                for _ in sweep(log, own, image_of, ask, object_of, tell_of_box):
                    bar.update(_answered(logs) - bar.n)
        bar.update(total - bar.n)
        for frame in frames_without_picture(folder.path, _frames_of(parts)):
            image_of(frame)
    answers = [dict(zip(log.order, log.answers, strict=False)) for log in logs]
    return list(zip(answers[::2], answers[1::2], strict=True))


def _frames_of(parts: Iterable[Stretch]) -> list[int]:
    return sorted({frame for part in parts for frame in part.frames})


def _found_in(parts: Iterable[Stretch]) -> list[int]:
    """The slots of the objects whose results are taken."""
    return sorted({slot for part in parts for slot in part.to_find})


def _by_object(
    parts: Sequence[Stretch], sweeps: Sequence[tuple[Answers, Answers]], slots: Sequence[int]
) -> list[dict[int, list[SweepPrediction | None]]]:
    """The answers of all sweeps for the objects with these slots; None where one was not tracked."""
    return [
        {frame: [dict(zip(part.slots, own, strict=True)).get(slot) for slot in slots] for frame, own in answers.items()}
        for part, both in zip(parts, sweeps, strict=True)
        for answers in both
    ]


def hard_boxes(folder: RunFolder) -> list[tuple[int, int]]:
    """The slots of objects, and the frames with a box each, in which it is hard to tell what is meant."""
    return [(slot, frame) for slot, frame in json.loads(folder.noted("hard boxes") or "[]")]


def _answered(logs: Iterable[SweepLog]) -> int:
    return sum(len(log.answers) for log in logs)


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


def _refuse_unclear_results(outlined: JobToTrack, parts: Sequence[Stretch]) -> None:
    """Raises ValueError where it is unclear which automatic annotations a correction is to replace, or where it cannot
    replace them."""
    job, corrected = outlined.job.id, [outlined.objects[slot] for slot in _found_in(parts)]
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
    frames = set(_frames_of(parts))
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


def _refuse_outdated(job: CvatJob, outdated: Annotations, options: AnnotateOptions) -> None:
    if count(outdated) and not (options.replaces or options.dry_run):
        raise ValueError(
            f"Job {job.id} already has {count(outdated)} automatic annotations of these labels, of an earlier run or "
            "another program; give --replace to delete them first, or --around with the frames that you corrected."
        )


def report(
    outlined: JobToTrack,
    parts: Sequence[Stretch],
    upload: Upload,
    hard: Iterable[tuple[int, int]],
    options: AnnotateOptions,
) -> str:
    """What was done, and what an annotator should look at; `hard`: see `hard_boxes`."""
    tracked = _found_in(parts)
    made, there = count(upload.made), count(upload.made) - count(upload.missing)
    frames = len({frame for found in upload.results for frame in found})
    kind = "track" if options.form == "track" else "shape"
    done = "would be uploaded" if options.dry_run else "uploaded"
    lines = [
        f"Job {outlined.job.id}: {_counted(len(tracked), 'object')} tracked on {_counted(frames, 'frame')}, "
        f"{_counted(made, kind)} made, {count(upload.missing)} {done}" + (f", {there} there already." if there else ".")
    ]
    if count(upload.outdated):
        first = "would be deleted" if options.replaces else "would have to be deleted first (--replace)"
        done = first if options.dry_run else "deleted"
        lines.append(f"  {_counted(count(upload.outdated), 'automatic annotation')} of earlier runs {done}.")
    for slot in tracked:
        drawn, found = outlined.objects[slot], upload.results[slot]
        unsure = [frame for frame, answer in found.items() if answer.confidence < UNSURE_BELOW]
        gone = [frame for frame, answer in found.items() if answer.mask is None]
        by_track = drawn.interpolated(outlined.job.frames)
        each_kind = (("unsure", unsure), ("gone", gone), ("left to a person's track", by_track))
        remarks = [f"{what} on {ranges(which)}" for what, which in each_kind if which]
        lines.append(f"  {drawn.name}: {'; '.join(remarks) or 'sure on all frames'}")
    if boxes := ", ".join(f"{outlined.objects[slot].name} on {frame}" for slot, frame in sorted(hard)):
        lines.append(f"  Hard to make out in its box: {boxes}; a mask or polygon there says more.")
    for drawn in without_group(outlined.objects):
        lines.append(
            f"  {drawn.name}, outlined on {ranges(list(drawn.seeds))}, has no group: if it is one of those that have, "
            "put it into that group, and run this again with --replace."
        )
    if options.form == "track" and made:
        lines.append("  The tracks are off on the frames that people outlined, whose shapes stay as they are.")
    return "\n".join(lines)


def what_next(outlined: JobToTrack, parts: Sequence[Stretch], upload: Upload) -> str:
    """Which frame to outline next, and which objects on it, as the page of the run says it: among those tracked."""
    frames = _frames_of(parts)
    found = {slot: upload.results[slot] for slot in _found_in(parts)}
    confidence = {
        slot: [sureness(own[frame].confidence, own[frame].visible) if frame in own else None for frame in frames]
        for slot, own in found.items()
    }
    return next_step({slot: outlined.objects[slot].name for slot in confidence}, confidence, frames)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def ranges(frames: Sequence[int]) -> str:
    """Frame numbers in few words: 3-5, 9."""
    runs = itertools.groupby(enumerate(sorted(frames)), key=lambda numbered: numbered[1] - numbered[0])
    ends = [[frame for _, frame in run] for _, run in runs]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in ends)
