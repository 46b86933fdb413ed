"""The record of a job's run, of which its page is made: `maskbank review` then needs no server."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from maskbank.errors import RequestError
from maskbank.files.atomic import atomic_write
from maskbank.files.images import decode_image
from maskbank.jobs.cvat import CvatJob
from maskbank.jobs.objects import JobObject
from maskbank.jobs.run_folder import SweepPrediction
from maskbank.jobs.sweeps import MAX_PIXELS, Answers
from maskbank.review.pictures import small_jpeg
from maskbank.review.record import Finding, RunFacts, RunRecord, encode_mask
from maskbank.shapes.rle import decode_rle

PICTURES = "pictures"


def keep_picture(folder: Path, frame: int, image: bytes) -> None:
    """Keeps a small picture of a job's frame in the folder of its run, unless there is one."""
    if _picture(folder, frame) is not None:
        return
    try:
        pixels = decode_image(image, MAX_PIXELS)
    except RequestError as error:
        raise ValueError(f"Frame {frame}: {error}") from error
    height, width = pixels.shape[:2]
    (folder / PICTURES).mkdir(exist_ok=True)
    # The masks are of the frame's own size, so its name says that.
    with atomic_write(folder / PICTURES / f"{frame:06d}-{width}x{height}.jpg") as draft:
        draft.write_bytes(small_jpeg(pixels))


def frames_without_picture(folder: Path, frames: Iterable[int]) -> list[int]:
    """Those that no sweep fetched, or that were fetched before pictures were kept."""
    return [frame for frame in frames if _picture(folder, frame) is None]


def record_job(
    folder: Path,
    host: str,
    job: CvatJob,
    frames: Iterable[int],
    objects: Sequence[JobObject],
    results: Sequence[Mapping[int, SweepPrediction]],
    sweeps: Sequence[Answers],
) -> None:
    """Writes the record into the folder of a job's run, of the frames that have a picture there.

    Args:
        folder: of the run.
        host: CVAT's address.
        job: that was tracked.
        frames: of the job, those that were tracked.
        objects: of the job.
        results: for each object by frame, without the frames where a person outlined it.
        sweeps: their answers, which hold the masks of those frames.
    """
    facts = RunFacts(
        title=f"Job {job.id} at {urlsplit(host).netloc}",
        frames=PICTURES,
        objects={number: drawn.name for number, drawn in enumerate(objects, start=1)},
        job_url=f"{host.rstrip('/')}/tasks/{job.task}/jobs/{job.id}",
    )
    with RunRecord(folder, facts) as record:
        for frame in frames:
            picture = _picture(folder, frame)
            if picture is None:
                continue
            width, height = map(int, picture.stem.partition("-")[2].split("x"))
            findings = []
            for slot, (drawn, found) in enumerate(zip(objects, results, strict=True)):
                answers = [answers[frame][slot] for answers in sweeps if frame in answers]
                findings.append(_finding(drawn, found, frame, answers, (height, width)))
            record.add(frame, picture.name, (height, width), findings)


def _finding(
    drawn: JobObject,
    found: Mapping[int, SweepPrediction],
    frame: int,
    answers: Sequence[SweepPrediction | None],
    size: tuple[int, int],
) -> Finding | None:
    if frame in drawn.absent:
        return Finding(None, None, False)
    if frame in drawn.seeds:  # a sweep answers with the outline itself
        outline = next((answer.mask for answer in answers if answer), None)
        return Finding(_encoded(outline, size), None, True)
    if frame in found:
        return Finding(_encoded(found[frame].mask, size), found[frame].confidence, False)
    return None


def _encoded(points: np.ndarray | None, size: tuple[int, int]) -> str | None:
    """From CVAT's run lengths to COCO's."""
    return None if points is None else encode_mask(decode_rle(points, *size))


def _picture(folder: Path, frame: int) -> Path | None:
    return next((folder / PICTURES).glob(f"{frame:06d}-*.jpg"), None)
