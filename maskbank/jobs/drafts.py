"""Outlines that are made for a person to correct, in a CVAT job in which nothing is outlined yet."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from maskbank.errors import RequestError
from maskbank.files.images import decode_image
from maskbank.jobs.cvat import Cvat, CvatJob
from maskbank.jobs.objects import Label, find_objects
from maskbank.jobs.plan import read_job
from maskbank.jobs.retrying import RETRY_S, Waiting, retried
from maskbank.jobs.sweeps import MAX_PIXELS
from maskbank.jobs.uploads import Annotations
from maskbank.jobs.writing import Writer
from maskbank.shapes.conversion import mask_to_shape

DRAFT = "semi-auto"  # their source in CVAT; what is automatic would be no seed for the run that comes after
NEXT_STEP = "  Correct them there, delete what is not wanted, then run maskbank job to track them."


class AlreadyOutlined(ValueError):
    """A job has outlines; drafts beside them would be outlines of other objects."""


def job_without_outlines(cvat: Cvat, job_id: int) -> CvatJob:
    """The job; AlreadyOutlined where something is outlined in it, and as `Cvat` raises."""
    job, annotations = read_job(cvat, job_id, RETRY_S)
    _refuse_outlined(job, annotations)
    return job


def upload_drafts(cvat: Cvat, job: CvatJob, shapes: Sequence[dict[str, Any]]) -> None:
    """Adds drafts to a job; their groups become those above all that the job has.

    Raises AlreadyOutlined where something was outlined in the job meanwhile, and as `Cvat` does.
    """
    writer = Writer(cvat, job.id, RETRY_S, Waiting("CVAT").tell)
    there = writer.there()
    _refuse_outlined(job, there)
    highest = max((each["group"] for those in there.values() for each in those), default=0)
    grouped = [shape | {"group": shape["group"] and highest + shape["group"]} for shape in shapes]
    drafts: Annotations = {"shapes": grouped, "tracks": []}
    writer.create(drafts)
    if writer.unanswered:
        writer.delete_twins(drafts)


def _refuse_outlined(job: CvatJob, annotations: Annotations) -> None:
    try:
        outlined = bool(find_objects(annotations, job.labels_named(()), job.frames))
    except ValueError:  # it cannot be told which outlines are one object, but there are some
        outlined = True
    if outlined:
        raise AlreadyOutlined(
            f"Job {job.id}: objects are outlined in it already; --propose and --from-job are for jobs without any."
        )


def images_of(cvat: Cvat, job: CvatJob, positions: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """The images, (H, W, 3) uint8 RGB, at these positions among a job's frames, each with its position.

    Waits for a server that does not answer. Raises ValueError with one sentence for an image that cannot be used, and
    as `Cvat` does.
    """
    waiting = Waiting("CVAT")
    for position in positions:
        frame = job.frames[position]
        encoded = retried(partial(cvat.image, job.id, frame), RETRY_S, waiting.tell)
        try:
            yield position, decode_image(encoded, MAX_PIXELS)
        except RequestError as error:
            raise ValueError(f"Frame {frame} of job {job.id}: {error}") from error


def draft(
    mask: np.ndarray, kind: str, label: Label, frame: int, group: int = 0, attributes: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """A shape of this type as CVAT takes it, of a mask, (H, W) bool, that is not empty."""
    shape = mask_to_shape(mask, kind)
    assert shape is not None
    return {
        "type": kind,
        "frame": frame,
        "label_id": label.id,
        "group": group,
        "source": DRAFT,
        "points": list(shape.points),
        "z_order": 0,
        "occluded": False,
        "rotation": 0.0,
        "attributes": list(attributes),
    }
