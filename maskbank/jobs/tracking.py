"""Tracking of a job: both sweeps through each part, with a progress line, and patience for CVAT and the tracker."""

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from tqdm import tqdm

from maskbank.jobs.cvat import Cvat, CvatJob
from maskbank.jobs.function import Propagate
from maskbank.jobs.objects import JobObject
from maskbank.jobs.outlined import write_outlined
from maskbank.jobs.plan import AnnotateOptions
from maskbank.jobs.retrying import Waiting, retried
from maskbank.jobs.review import Pictures
from maskbank.jobs.run_folder import RunFolder, SweepLog, SweepPrediction
from maskbank.jobs.stretches import Stretch, frames_of
from maskbank.jobs.sweeps import (
    BYTES_PER_REQUEST,
    Answers,
    ObjectOf,
    backward_order,
    check_outlines,
    forward_order,
    sweep,
)

T = TypeVar("T")


class JobTracking:
    """One job on its way through both sweeps; what has answers already, from an earlier run, is not asked for again.

    Args:
        cvat: where the images come from.
        job, objects, parts: what is tracked, and through which frames.
        propagate: the tracker.
        object_of: what an outline means.
        folder: of the run: logs of the sweeps, pictures, boxes that are hard to make out.
    """

    _bar: "tqdm[Any]"  # while it runs

    def __init__(
        self,
        cvat: Cvat,
        job: CvatJob,
        objects: Sequence[JobObject],
        parts: Sequence[Stretch],
        propagate: Propagate,
        object_of: ObjectOf,
        options: AnnotateOptions,
        folder: RunFolder,
    ):
        self._cvat, self._job, self._objects, self._parts = cvat, job, objects, parts
        self._propagate, self._object_of = propagate, object_of
        self._options, self._folder = options, folder
        self._pictures = Pictures(folder.path)
        self._fetched: dict[int, bytes] = {}  # to check outlines; the first sweep asks for them once more
        self._of_part = [[objects[slot] for slot in part.slots] for part in parts]
        self._logs = [self._logs_of(part, own) for part, own in zip(parts, self._of_part, strict=True)]
        self._total = sum(len(log.order) for both in self._logs for log in both)

    def _logs_of(self, part: Stretch, own: Sequence[JobObject]) -> tuple[SweepLog, SweepLog]:
        name = f"-{part.frames[0]}-{part.frames[-1]}" if self._options.around else ""
        return (
            self._folder.log(f"forward{name}", forward_order(part.frames, own)),
            self._folder.log(f"backward{name}", backward_order(part.frames, own)),
        )

    def run(self) -> list[tuple[Answers, Answers]]:
        """The answers of the forward and of the backward sweep through each part.

        Raises ValueError where somebody has to do something about it, ConnectionError where a server does not answer;
        with one sentence.
        """
        with tqdm(total=self._total, desc=f"job {self._job.id}", unit="frame", initial=self._answered()) as self._bar:
            if not self._answered():
                for part, own in zip(self._parts, self._of_part, strict=True):
                    check_outlines(part.frames, own, self._image_to_check, self._object_of, self._tell_of_box)
            if self._options.tune and self._answered() < self._total:
                tuning = self._folder.path / "tuning"
                write_outlined(tuning / "data", self._objects, self._image, self._object_of)
                self._propagate = self._options.tune(tuning / "data", tuning / "run")
            for both, own in zip(self._logs, self._of_part, strict=True):
                for log in both:
                    self._sweep(log, own)
            self._bar.update(self._total - self._bar.n)
            for frame in self._pictures.missing(frames_of(self._parts)):
                self._image(frame)
        return [(_answers(forward), _answers(backward)) for forward, backward in self._logs]

    def _sweep(self, log: SweepLog, own: Sequence[JobObject]) -> None:
        if len(log.order) == 1:  # it has a seed, and nothing to find
            return
        for _ in sweep(log, own, self._image, self._ask, self._object_of, self._tell_of_box):
            self._bar.update(self._answered() - self._bar.n)

    def _answered(self) -> int:
        return sum(len(log.answers) for both in self._logs for log in both)

    def _image(self, frame: int) -> bytes:
        if frame in self._fetched:
            return self._fetched.pop(frame)
        image = self._patiently(partial(self._cvat.image, self._job.id, frame), "CVAT")
        self._pictures.keep(frame, image)
        return image

    def _image_to_check(self, frame: int) -> bytes:
        image = self._image(frame)
        if sum(map(len, self._fetched.values())) + len(image) <= BYTES_PER_REQUEST:
            self._fetched[frame] = image
        return image

    def _ask(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._patiently(partial(self._propagate, body), "the tracker")

    def _patiently(self, action: Callable[[], T], whom: str) -> T:
        answer = retried(action, self._options.retry_s, Waiting(whom, self._bar).tell)
        self._bar.set_postfix_str("", refresh=False)
        return answer

    def _tell_of_box(self, drawn: JobObject, frame: int) -> None:
        hard = hard_boxes(self._folder)
        box = (self._objects.index(drawn), frame)
        if box not in hard:  # both sweeps begin with the same boxes
            self._folder.note("hard boxes", json.dumps([*hard, box]))
            text = f"Frame {frame}: {drawn.name} is hard to make out in its box; a mask or polygon there says more."
            tqdm.write(text, file=sys.stderr)


def _answers(log: SweepLog) -> Answers:
    return dict(zip(log.order, log.answers, strict=False))


def by_object(
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
