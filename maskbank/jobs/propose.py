"""`maskbank job --propose`: the moving objects of a CVAT job become outlines for an annotator to correct."""

from collections.abc import Sequence

from maskbank.jobs.cvat import Cvat, CvatJob
from maskbank.jobs.drafts import NEXT_STEP, draft, images_of, job_without_outlines, upload_drafts
from maskbank.jobs.objects import Label
from maskbank.networks.outliner import Outliner
from maskbank.proposals.propose import NoMotionError, frames_to_look_at, frames_to_read, propose
from maskbank.shapes.shape import SHAPE_TYPES
from maskbank.tracking.tracker import Tracker


def propose_in_job(
    cvat: Cvat, job_id: int, tracker: Tracker, outliner: Outliner, labels: Sequence[str], dry_run: bool
) -> str:
    """Uploads proposals for a job in which nothing is outlined yet; returns the report.

    labels: the name of the one that they get; may be empty where the job has a single one.

    Raises ValueError where there are outlines, or it is not clear which label is meant; and as `Cvat` does.
    """
    job = job_without_outlines(cvat, job_id)
    label = _label(job, labels)
    looked_at = frames_to_look_at(len(job.frames))
    images = images_of(cvat, job, frames_to_read(looked_at, len(job.frames)))
    try:
        found = propose(images, looked_at, tracker, outliner)
    except NoMotionError as error:
        return f"Job {job_id}: nothing is proposed. {error}"
    if found is None:
        return f"Job {job_id}: nothing is proposed, as nothing moves against its background."
    frame = job.frames[found.frame]
    if not dry_run:
        kind = "mask" if label.type == "any" else label.type
        numbers = range(1, found.count + 1)
        # In groups, or an outline on another frame would belong to any of them.
        groups = numbers if found.count > 1 else [0]
        shapes = [draft(found.ids == i, kind, label, frame, group) for i, group in zip(numbers, groups, strict=True)]
        upload_drafts(cvat, job, shapes)
    done = "would be uploaded" if dry_run else "uploaded"
    return (
        f"Job {job_id}: {found.count} proposed as {label.name} on frame {frame}, {done}. {found.how_sure}\n{NEXT_STEP}"
    )


def _label(job: CvatJob, names: Sequence[str]) -> Label:
    possible = [label for label in job.labels if label.name in names or not names]
    if len(possible) != 1 or len(names) > 1:
        known = ", ".join(label.name for label in job.labels) or "none"
        raise ValueError(f"Say with --labels which label of job {job.id} the proposals get, one of: {known}.")
    if possible[0].type not in ("any", *SHAPE_TYPES):
        raise ValueError(
            f"In CVAT the label {possible[0].name} has {possible[0].type} shapes only; choose another one."
        )
    return possible[0]
