"""`maskbank job --from-job`: what is outlined in one CVAT job is found in another, as outlines to correct."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from maskbank.jobs.cvat import Cvat, CvatJob
from maskbank.jobs.drafts import NEXT_STEP, draft, images_of, job_without_outlines, upload_drafts
from maskbank.jobs.objects import JobObject, Label, find_objects
from maskbank.jobs.plan import read_job
from maskbank.jobs.retrying import RETRY_S
from maskbank.jobs.sweeps import ObjectOf, outlined_object
from maskbank.shapes.packed_mask import PackedMask
from maskbank.shapes.shape import SHAPE_TYPES
from maskbank.tracking.search import Searcher
from maskbank.tracking.tracker import Frame, Tracker

LOOKED_AT = 24  # frames of a job, evenly spaced
REFERENCES = 4  # outlined frames of an object, evenly spaced
OWN_SHARE = 0.5  # of a mask that no surer object claims; what has less is that object

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Sighting:
    """An object as it is found in a frame."""

    position: int  # of the frame among those of the job
    mask: PackedMask
    score: float


@dataclass(frozen=True, eq=False)
class Wanted:
    """An object of another job."""

    drawn: JobObject
    searcher: Searcher


def objects_of_job(
    cvat: Cvat, job_id: int, tracker: Tracker, object_of: ObjectOf, labels: Sequence[str]
) -> list[Wanted]:
    """What is outlined in a job, to be searched for in others.

    Args:
        tracker: with the model `lite`.
        object_of: what an outline means.
        labels: names of those that count; empty: all.

    Raises ValueError with one sentence where nothing is outlined; and as `Cvat` and `Searcher` do.
    """
    job, annotations = read_job(cvat, job_id, RETRY_S)
    wanted = job.labels_named(labels)
    try:
        objects = find_objects(annotations, wanted, job.frames)
    except ValueError as error:
        raise ValueError(f"Job {job_id}: {error}") from error
    if not objects:
        raise ValueError(f"There is nothing to search for: nothing is outlined in job {job_id}.")
    shown_on = [evenly(list(drawn.seeds), REFERENCES) for drawn in objects]
    references: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in objects]
    positions = [position for position, frame in enumerate(job.frames) if any(frame in own for own in shown_on)]
    for position, image in images_of(cvat, job, positions):
        frame = job.frames[position]
        for drawn, own, known in zip(objects, shown_on, references, strict=True):
            if frame in own:
                known.append((image, outlined_object(drawn, frame, image, object_of).mask))
    return [Wanted(drawn, Searcher(tracker, known)) for drawn, known in zip(objects, references, strict=True)]


def start_from(wanted: Sequence[Wanted], cvat: Cvat, job_id: int, dry_run: bool) -> str:
    """Uploads what is found of the objects in a job in which nothing is outlined yet; returns the report.

    Raises ValueError where something is outlined, or the job has none of the labels; and as `Cvat` does.
    """
    job = job_without_outlines(cvat, job_id)
    labels = {label.name: label for label in job.labels if label.type in ("any", *SHAPE_TYPES)}
    known = [each for each in wanted if each.drawn.label.name in labels]
    if not known:
        missing = ", ".join(sorted({each.drawn.label.name for each in wanted}))
        raise ValueError(f"Job {job_id} has no label {missing} for shapes; it has {', '.join(labels) or 'none'}.")
    shapes, lines = [], []
    for number, (each, found) in enumerate(zip(known, place(_sightings(cvat, job, known)), strict=True), 1):
        if not found:
            lines.append(f"  {each.drawn.name}: not found")
            continue
        label, frame = labels[each.drawn.label.name], job.frames[found.position]
        kind = each.drawn.type if label.type == "any" else label.type
        # In groups, or the next run would take objects of a label that are on different frames for a single one.
        several = sum(other.drawn.label == each.drawn.label for other in known) > 1
        group = number if several else 0
        shapes.append(draft(found.mask.mask, kind, label, frame, group, _attributes(each.drawn, label)))
        lines.append(f"  {each.drawn.name}: on frame {frame}, score {found.score:.2f}")
    lines += [f"  {each.drawn.name}: the job has no such label" for each in wanted if each not in known]
    if shapes and not dry_run:
        upload_drafts(cvat, job, shapes)
    done = "would be uploaded" if dry_run else "uploaded"
    head = f"Job {job_id}: {len(shapes)} of {len(wanted)} objects found, {done}."
    return "\n".join([head, *lines, *([NEXT_STEP] if shapes else [])])


def _sightings(cvat: Cvat, job: CvatJob, wanted: Sequence[Wanted]) -> list[list[Sighting]]:
    """Where each object is found in the frames that are looked at."""
    sightings: list[list[Sighting]] = [[] for _ in wanted]
    for position, image in images_of(cvat, job, evenly(range(len(job.frames)), LOOKED_AT)):
        frame = Frame(image)  # encoded once for all
        matches = [each.searcher.find(frame) for each in wanted]
        claimed = np.zeros(image.shape[:2], bool)
        for own, match in sorted(zip(sightings, matches, strict=True), key=lambda each: -each[1].score):
            mask = match.mask & ~claimed
            if match.found and mask.sum() >= OWN_SHARE * match.mask.sum():
                claimed |= mask
                own.append(Sighting(position, PackedMask(mask), match.score))
    return sightings


def place(sightings: Sequence[Sequence[Sighting]]) -> list[Sighting | None]:
    """Which sighting of each object to outline, if there is one: on as few frames as possible, the surest ones first.

    The frame with the highest sum of scores takes all objects that are found on it; then those that are left choose.
    """
    placed: list[Sighting | None] = [None] * len(sightings)
    while left := [i for i, own in enumerate(sightings) if own and not placed[i]]:
        total: dict[int, float] = {}
        for each in (sighting for i in left for sighting in sightings[i]):
            total[each.position] = total.get(each.position, 0) + each.score
        best = max(total, key=lambda position: total[position])
        for i in left:
            placed[i] = next((each for each in sightings[i] if each.position == best), None)
    return placed


def evenly(items: Sequence[T], count: int) -> list[T]:
    """So many of the items, evenly spaced; all where there are no more."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int))]


def _attributes(drawn: JobObject, label: Label) -> list[dict[str, Any]]:
    """Those of the first outline, where it has the same label and not only one with the same name."""
    if label.id != drawn.label.id:
        return []
    first = next(iter(drawn.seeds.values()))
    return [{"spec_id": id, "value": value} for id, value in sorted(first.attributes.items())]
