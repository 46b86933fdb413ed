"""`maskbank job --propose`: the moving objects of a CVAT job become outlines for an annotator to correct."""

from collections.abc import Iterator, Sequence

import numpy as np

from maskbank.errors import RequestError
from maskbank.files.images import decode_image
from maskbank.jobs.cvat import Cvat, CvatJob
from maskbank.jobs.objects import Label, find_objects
from maskbank.jobs.sweeps import MAX_PIXELS
from maskbank.networks.outliner import Outliner
from maskbank.proposals.propose import Proposals, frames_to_look_at, frames_to_read, propose
from maskbank.shapes.conversion import mask_to_shape
from maskbank.shapes.shape import SHAPE_TYPES
from maskbank.tracking.tracker import Tracker

PROPOSED = "semi-auto"  # their source in CVAT; what is automatic would be no seed for the run that comes after


def propose_in_job(
    cvat: Cvat, job_id: int, tracker: Tracker, outliner: Outliner, labels: Sequence[str], dry_run: bool
) -> str:
    """Uploads proposals for a job in which nothing is outlined yet; returns the report.

    labels: the name of the one that they get; may be empty where the job has a single one.

    Raises ValueError where there are outlines, or it is not clear which label is meant; and as `Cvat` and `propose` do.
    """
    job = cvat.job(job_id)
    label = _label(job, labels)
    if find_objects(cvat.annotations(job_id), {each.id: each for each in job.labels}, job.frames):
        raise ValueError(f"Objects are outlined in job {job_id} already; proposals are for jobs without any outline.")
    looked_at = frames_to_look_at(len(job.frames))
    found = propose(_images(cvat, job, frames_to_read(looked_at, len(job.frames))), looked_at, tracker, outliner)
    if found is None:
        return f"Job {job_id}: nothing is proposed, as nothing moves against its background."
    frame = job.frames[found.frame]
    if not dry_run:
        cvat.create(job_id, {"shapes": _shapes(found, frame, label), "tracks": []})
    done = "would be uploaded" if dry_run else "uploaded"
    return (
        f"Job {job_id}: {found.count} proposed as {label.name} on frame {frame}, {done}. {found.how_sure}\n"
        "  Correct them there, delete what is not wanted, then run maskbank job to track them."
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


def _images(cvat: Cvat, job: CvatJob, positions: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    for position in positions:
        frame = job.frames[position]
        try:
            yield position, decode_image(cvat.image(job.id, frame), MAX_PIXELS)
        except RequestError as error:
            raise ValueError(f"Frame {frame}: {error}") from error


def _shapes(found: Proposals, frame: int, label: Label) -> list[dict[str, object]]:
    kind = "mask" if label.type == "any" else label.type
    shapes = []
    for object_id in range(1, found.count + 1):
        shape = mask_to_shape(found.ids == object_id, kind)
        assert shape is not None  # of a mask that is not empty
        shapes.append(
            {
                "type": kind,
                "frame": frame,
                "label_id": label.id,
                "group": 0,
                "source": PROPOSED,
                "points": list(shape.points),
                "z_order": 0,
                "occluded": False,
                "rotation": 0.0,
                "attributes": [],
            }
        )
    return shapes
