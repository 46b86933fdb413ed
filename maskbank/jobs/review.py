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


class Pictures:
    """Small pictures of a job's frames, in the folder of its run.

    Args:
        folder: of the run; read once, for every frame of a long job is looked up several times.
    """

    def __init__(self, folder: Path):
        self._folder = folder / PICTURES
        self._paths = {int(path.name.partition("-")[0]): path for path in self._folder.glob("[0-9]*-*.jpg")}

    def keep(self, frame: int, image: bytes) -> None:
        """Keeps a picture of a frame, unless there is one. Raises ValueError for an image that cannot be used."""
        if frame in self._paths:
            return
        try:
            pixels = decode_image(image, MAX_PIXELS)
        except RequestError as error:
            raise ValueError(f"Frame {frame}: {error}") from error
        height, width = pixels.shape[:2]
        self._folder.mkdir(exist_ok=True)
        # The masks are of the frame's own size, so its name says that.
        path = self._folder / f"{frame:06d}-{width}x{height}.jpg"
        with atomic_write(path) as draft:
            draft.write_bytes(small_jpeg(pixels))
        self._paths[frame] = path

    def missing(self, frames: Iterable[int]) -> list[int]:
        """Those that no sweep fetched, or that were fetched before pictures were kept."""
        return [frame for frame in frames if frame not in self._paths]

    def of(self, frame: int) -> Path | None:
        """The picture of a frame, None where there is none."""
        return self._paths.get(frame)


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
    pictures = Pictures(folder)
    with RunRecord(folder, facts) as record:
        for frame in frames:
            picture = pictures.of(frame)
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
