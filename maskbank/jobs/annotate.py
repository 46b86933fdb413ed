"""`maskbank job`: the outlines in a CVAT job become annotations on all its frames."""

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

from tqdm import tqdm

from maskbank.jobs.cvat import Cvat, CvatJob
from maskbank.jobs.function import Propagate
from maskbank.jobs.objects import JobObject
from maskbank.jobs.outlined import write_outlined
from maskbank.jobs.plan import (
    AnnotateOptions,
    JobToTrack,
    Upload,
    load_job,
    plan_upload,
    refuse_outdated,
    refuse_unclear_results,
)
from maskbank.jobs.report import report, what_next
from maskbank.jobs.retrying import Waiting, retried
from maskbank.jobs.review import frames_without_picture, keep_picture, record_job
from maskbank.jobs.run_folder import RunFolder, SweepLog, SweepPrediction
from maskbank.jobs.stretches import Stretch, found_in, frames_of, stretches_around
from maskbank.jobs.sweeps import Answers, ObjectOf, backward_order, forward_order, sweep
from maskbank.jobs.uploads import earlier_results, in_requests, without
from maskbank.jobs.wording import counted, ranges
from maskbank.review.page import write_page

T = TypeVar("T")


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
        raise ValueError(f"Not tracked: {counted(len(failed), 'job')} of {len(jobs)}, for the reasons above.")


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
        refuse_unclear_results(outlined, parts)
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
            refuse_outdated(job, earlier_results(outlined.annotations, outlined.label_ids), options)
        sweeps = _track(cvat, outlined, parts, propagate, object_of, options, folder)
        if not options.dry_run:
            folder.note("uploaded", "")
            folder.note("uploading", form)

        plan = partial(plan_upload, cvat, outlined, parts, sweeps, options)
        found = retried(plan, options.retry_s, Waiting("CVAT").tell)
        next_steps = f"  {what_next(outlined, parts, found)}"
        if any(found.results):  # before anything is uploaded: CVAT may refuse it, and a person wants to see it still
            slots = found_in(parts)
            tracked, own = [objects[slot] for slot in slots], [found.results[slot] for slot in slots]
            answers = _by_object(parts, sweeps, slots)
            record_job(folder.path, cvat.host, job, frames_of(parts), tracked, own, answers)
            next_steps += f"\n  Look at {write_page(folder.path)}."
        folder.note("what next", next_steps)

        def upload() -> Upload:
            found = plan()  # for the job as it is now
            if not options.dry_run:
                refuse_outdated(job, found.outdated, options)
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
        for frame in frames_without_picture(folder.path, frames_of(parts)):
            image_of(frame)
    answers = [dict(zip(log.order, log.answers, strict=False)) for log in logs]
    return list(zip(answers[::2], answers[1::2], strict=True))


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
