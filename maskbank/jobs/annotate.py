"""`maskbank job`: the outlines in a CVAT job become annotations on all its frames."""

import hashlib
import json
from collections.abc import Sequence

from maskbank.jobs.cvat import Cvat, CvatJob
from maskbank.jobs.function import Propagate
from maskbank.jobs.objects import AUTO, JobObject
from maskbank.jobs.plan import (
    AnnotateOptions,
    JobToTrack,
    Results,
    beside,
    load_job,
    note_given,
    read_job,
    refuse_crowded,
    refuse_outdated,
    refuse_unclear_results,
    results_of,
    what_to_track,
    with_what_people_filled_in,
)
from maskbank.jobs.report import report, what_next
from maskbank.jobs.retrying import Waiting
from maskbank.jobs.review import record_job
from maskbank.jobs.run_folder import RunFolder, job_folder
from maskbank.jobs.several import for_each_job
from maskbank.jobs.stretches import Stretch, found_in, frames_of, stretches_around
from maskbank.jobs.sweeps import Answers, ObjectOf
from maskbank.jobs.tracking import JobTracking, by_object, hard_boxes
from maskbank.jobs.uploads import Annotations, Compared, count, earlier_results
from maskbank.jobs.wording import counted, ranges
from maskbank.jobs.writing import Writer
from maskbank.review.page import write_page


def annotate(
    cvat: Cvat, job_ids: Sequence[int], propagate: Propagate, object_of: ObjectOf, options: AnnotateOptions
) -> None:
    """Tracks what is outlined in jobs through all their frames, uploads it, and prints a report for each.

    object_of: what an outline means.

    The outlines of all jobs are checked before the first is tracked; of several, one that cannot be read or tracked
    does not keep the others from it. A run that is stopped goes on from where it was when it is run again.

    Raises ValueError where somebody has to do something about it, ConnectionError where a server does not answer,
    AtWorkError where another process is at work on the job; with one sentence.
    """
    several = len(job_ids) > 1
    checked: list[JobToTrack] = []
    for job_id in job_ids:
        try:  # of several, those that cannot be read are waited for when their turn comes
            read = read_job(cvat, job_id, 0.0 if several else options.retry_s)
        except (ValueError, ConnectionError):
            if not several:
                raise
        else:
            checked.append(what_to_track(*read, cvat.host, options))
    if len(checked) == len(job_ids) and not any(each.objects for each in checked):
        _refuse_nothing(checked, options)

    def track(job_id: int) -> str:
        # The jobs before it took their time, and people go on outlining.
        outlined = load_job(cvat, job_id, options) if several else checked[0]
        try:
            return annotate_job(cvat, outlined, propagate, object_of, options)
        except ConnectionError as error:
            reason = str(error).rstrip(".")
            raise ConnectionError(f"{reason}; what was done is kept, so run this again later.") from error

    for_each_job(job_ids, track, "tracked")


def _refuse_nothing(jobs: Sequence[JobToTrack], options: AnnotateOptions) -> None:
    """Raises ValueError for jobs in which nothing is outlined, unless results are to be deleted."""
    left = sum(count(each.leftovers) + count(_earlier(each)) for each in jobs)
    if left and options.replace:
        return
    also = (
        f", but {counted(left, 'automatic annotation')} of earlier runs are left (--replace deletes them)"
        if left
        else ""
    )
    raise ValueError(
        f"There is nothing to track{also}: outline each object on a frame, as a mask, a polygon, a box or an ellipse."
    )


def annotate_job(
    cvat: Cvat, outlined: JobToTrack, propagate: Propagate, object_of: ObjectOf, options: AnnotateOptions
) -> str:
    """Tracks and uploads; returns the report."""
    job, objects = outlined.job, outlined.objects
    kept = job_folder(options.work, cvat.host, job.id)
    with kept.alone():
        if not any(drawn.to_find(job.frames) for drawn in objects):
            return _nothing_to_find(cvat, outlined, options)
        parts = _parts(job, objects, options)
        folder = RunFolder(outlined.folder(kept, options))
        form = options.form or "as drawn"
        begun = folder.noted("uploading") == form
        if options.around:
            refuse_unclear_results(outlined, parts, begun)
        finished = _said_of_results(job, objects, form)
        # Outlines may be what they were before another run, whose results are there now.
        is_last = kept.noted("last upload") == folder.path.name
        repeated = is_last and folder.noted("uploaded") == finished and not (options.replace or options.dry_run)
        if repeated and not folder.noted("unanswered"):
            return _nothing_to_do(job, folder)
        if not begun and not options.around:
            refuse_outdated(job, _earlier(outlined), options)
        sweeps = JobTracking(cvat, job, objects, parts, propagate, object_of, options, folder).run()
        now, results = _results_now(cvat, outlined, parts, sweeps, options)
        if repeated:
            results = with_what_people_filled_in(results, now, kept, options)
            Writer(cvat, job.id, options.retry_s, Waiting("CVAT").tell).delete_twins(results.made)
            folder.note("unanswered", "")
            return _nothing_to_do(job, folder)
        next_steps = _shown(cvat, outlined, parts, sweeps, results, folder)
        now, results = _results_now(cvat, outlined, parts, sweeps, options)  # the page took time
        results = with_what_people_filled_in(results, now, kept, options)
        differences = beside(now, results, options)
        refuse_outdated(job, differences.others, options)
        if options.around:
            refuse_crowded(job.id, differences.others["shapes"], {each.label.id: each.label.name for each in objects})
        said = [report(now, parts, results, differences, hard_boxes(folder), options), next_steps]
        if not options.dry_run:
            folder.note("uploaded", "")
            folder.note("uploading", form)
            note_given(kept, results)
            if changed := _upload(cvat, job, results, differences, folder, options):
                said.append(
                    f"  On {ranges(changed)} a person changed automatic annotations meanwhile; these stay as well."
                )
            kept.note("last upload", folder.path.name)
            folder.note("uploaded", finished)
    return "\n".join(said)


def _results_now(
    cvat: Cvat,
    outlined: JobToTrack,
    parts: Sequence[Stretch],
    sweeps: Sequence[tuple[Answers, Answers]],
    options: AnnotateOptions,
) -> tuple[JobToTrack, Results]:
    """The job as it is now, and the results for it: people may have worked in it since it was read."""
    now = load_job(cvat, outlined.job.id, options)
    while True:
        results = results_of(now, outlined, parts, sweeps, options)
        now = load_job(cvat, outlined.job.id, options)  # what comes between this and an upload takes no time
        if results.fit(now):
            return now, results


def _shown(
    cvat: Cvat,
    outlined: JobToTrack,
    parts: Sequence[Stretch],
    sweeps: Sequence[tuple[Answers, Answers]],
    results: Results,
    folder: RunFolder,
) -> str:
    """What to do next, and the page of the run, before anything is uploaded: CVAT may refuse it, and a person wants to
    see it still."""
    next_steps = f"  {what_next(outlined, parts, results)}"
    if any(results.found):
        slots = found_in(parts)
        tracked, own = [outlined.objects[slot] for slot in slots], [results.found[slot] for slot in slots]
        answers = by_object(parts, sweeps, slots)
        record_job(folder.path, cvat.host, outlined.job, frames_of(parts), tracked, own, answers)
        next_steps += f"\n  Look at {write_page(folder.path)}."
    folder.note("what next", next_steps)
    return next_steps


def _parts(job: CvatJob, objects: Sequence[JobObject], options: AnnotateOptions) -> list[Stretch]:
    """What of a job is tracked."""
    if not options.around:
        return [Stretch.whole(job.frames, objects)]
    try:
        return stretches_around(options.around, job.frames, objects)
    except ValueError as error:
        raise ValueError(f"Job {job.id}: {error}") from error


def _upload(
    cvat: Cvat, job: CvatJob, results: Results, differences: Compared, folder: RunFolder, options: AnnotateOptions
) -> list[int]:
    """Brings the results into CVAT; what they replace is deleted when all of them are there. Returns the frames of what
    a person has changed before it could be deleted."""
    writer = Writer(cvat, job.id, options.retry_s, Waiting("CVAT").tell)
    unsure = bool(folder.noted("unanswered"))  # what an earlier run asked for may have come later
    folder.note("unanswered", "yes")
    try:
        writer.create(differences.missing)
        old, changed = differences.others, []
        if count(old):
            ids = _automatic_ids(writer.there())
            changed = [each["frame"] for kind, own in old.items() for each in own if (kind, each["id"]) not in ids]
            writer.delete({kind: [each for each in own if (kind, each["id"]) in ids] for kind, own in old.items()})
        writer.delete(differences.twins)
        if unsure or writer.unanswered:
            writer.delete_twins(results.made)
    except (ValueError, ConnectionError) as error:
        raise _stopped(error, writer, differences) from error
    if not writer.unanswered:
        folder.note("unanswered", "")
    return sorted(set(changed))


def _stopped(error: Exception, writer: Writer, differences: Compared) -> Exception:
    """The same error, saying what is in the job."""
    reason = str(error).rstrip(".")
    if not (writer.created or writer.deleted or writer.unanswered):
        return type(error)(f"{reason}; nothing in the job was changed.")
    new, old = count(differences.missing), count(differences.others)
    done = f"{writer.created} of {counted(new, 'new annotation')} uploaded"
    if old:
        done += f", and {min(writer.deleted, old)} of {old} of earlier runs deleted"
    if isinstance(error, ConnectionError):
        return ConnectionError(f"{reason}; before that, {done}.")
    return ValueError(f"{reason}; before that, {done}; the same command finishes it.")


def _automatic_ids(annotations: Annotations) -> set[tuple[str, int]]:
    return {(kind, each["id"]) for kind in ("shapes", "tracks") for each in annotations[kind] if each["source"] == AUTO}


def _earlier(outlined: JobToTrack) -> Annotations:
    """What earlier runs can have left of the labels that are asked for."""
    return earlier_results(outlined.annotations, outlined.label_ids)


def _nothing_to_do(job: CvatJob, folder: RunFolder) -> str:
    return (
        f"Job {job.id}: these outlines were tracked and the results uploaded before; nothing to do. "
        f"(--replace uploads again what was deleted or changed since.)\n{folder.noted('what next') or ''}"
    ).rstrip()


def _nothing_to_find(cvat: Cvat, outlined: JobToTrack, options: AnnotateOptions) -> str:
    """The report on a job without anything to track, once results of earlier runs are deleted if they are to be."""
    reason = (
        f"Job {outlined.job.id}: people have outlined its objects on all frames, or made tracks; nothing to do."
        if outlined.objects
        else f"Job {outlined.job.id}: nothing is outlined in it."
    )
    old = _earlier(outlined)
    left = count(old) + count(outlined.leftovers)
    if not left:
        return reason
    said = f"{reason}\n  {counted(left, 'automatic annotation')} of earlier runs "
    if options.around or not options.replace:
        return f"{said}left; --replace deletes them."
    if not options.dry_run:
        Writer(cvat, outlined.job.id, options.retry_s, Waiting("CVAT").tell).delete(old)
    return f"{said}{'would be deleted' if options.dry_run else 'deleted'}."


def _said_of_results(job: CvatJob, objects: Sequence[JobObject], form: str) -> str:
    """What decides on the results beside the outlines."""
    looks = [
        [
            [(frame, seed.look, sorted(seed.attributes.items())) for frame, seed in drawn.seeds.items()],
            sorted(drawn.absent),
        ]
        for drawn in objects
    ]
    digest = hashlib.sha256(json.dumps(looks).encode()).hexdigest()
    return f"{form}, frames {ranges(job.frames)}, groups {[drawn.group for drawn in objects]}, looks {digest[:16]}"
