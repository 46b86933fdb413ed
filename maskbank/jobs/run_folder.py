"""What was tracked so far, kept in a folder: an interrupted run goes on from there."""

import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maskbank.files.atomic import atomic_write


class SweepPrediction(NamedTuple):
    """What a sweep found of an object on a frame."""

    mask: np.ndarray | None  # CVAT's points of a mask, whole numbers; None: the object is gone
    confidence: float  # 0 to 1: expected Jaccard index, or how surely it is gone

    @property
    def visible(self) -> bool:
        """Whether it has a mask."""
        return self.mask is not None

    def with_confidence(self, confidence: float) -> "SweepPrediction":
        """The same, but for that."""
        return self._replace(confidence=confidence)


_Answers = list[SweepPrediction | None]  # on a frame, of all objects


class SweepLog:
    """The answers of one sweep, in the order of its frames, and the states to go on with.

    Every answered request is a line of JSON, on the disk before anything else is done. A last line that a killed
    process left unfinished is dropped. Answers for frames that were deleted meanwhile are skipped; after a frame that
    is new to the sweep none counts. Where a frame is tracked again, what was found of objects that have yet to start
    anew stays.

    Args:
        path: the file; made with the first answer.
        order: the frames of the sweep.

    Attributes:
        answers: for each frame answered so far those of all objects; None for what was not outlined yet.
        states: the function's; None at the start, and where they are lost.
    """

    def __init__(self, path: Path, order: Sequence[int]):
        self.path = path
        self.order = order
        self.answers: list[_Answers] = []
        self.states: list[Any] | None = None
        self._before: dict[int, _Answers] = {}  # what was found of frames that are tracked again
        if path.exists():
            self._read()

    def append(self, frames: Sequence[int], reply: Mapping[str, Any]) -> None:
        """Keeps a reply of the function for these frames, which follow those answered so far."""
        self._write({"frames": list(frames), "answers": reply["frames"], "states": reply["states"]})
        self.answers += map(self._joined, frames, map(_answers, reply["frames"]))
        self.states = reply["states"]

    def drop_from(self, position: int) -> None:
        """Lets the frames from a position of the order on be tracked again, and forgets the states."""
        if position < len(self.answers):
            self._write({"again_from": self.order[position]})
            self._before |= zip(self.order[position:], self.answers[position:], strict=False)
            del self.answers[position:]
        self.states = None

    def _joined(self, frame: int, answers: _Answers) -> _Answers:
        """Answers, with those from before where an object has none yet."""
        before = self._before.get(frame, answers)
        return [old if new is None else new for new, old in zip(answers, before, strict=True)]

    def _write(self, record: Mapping[str, Any]) -> None:
        with self.path.open("ab") as file:
            file.write(json.dumps(record).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> None:
        with self.path.open("r+b") as file:
            kept: dict[int, _Answers] = {}  # by frame, in the order of the sweep
            whole = 0
            for line in file:
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                record = json.loads(line)
                if "again_from" in record:
                    frames = list(kept)
                    for frame in frames[frames.index(record["again_from"]) :]:
                        self._before[frame] = kept.pop(frame)
                    self.states = None
                else:
                    for frame, answers in zip(record["frames"], map(_answers, record["answers"]), strict=True):
                        kept[frame] = self._joined(frame, answers)
                    self.states = record["states"]
            file.truncate(whole)
        known = [frame for frame in kept if frame in set(self.order)]
        same = next((i for i, (a, b) in enumerate(zip(known, self.order, strict=False)) if a != b), len(known))
        if same < len(known):
            self.states = None
        self.answers = [kept[frame] for frame in known[:same]]


def _answers(frame: Mapping[str, Any]) -> _Answers:
    return [
        None if confidence is None else SweepPrediction(shape and np.array(shape["points"], np.int32), confidence)
        for shape, confidence in zip(frame["shapes"], frame["confidences"], strict=True)
    ]


class AtWorkError(OSError):
    """Another process is at work on the same job."""


class WorkFolder:
    """A folder of what was done, with notes: of a job, or of one run of it.

    Args:
        path: the folder; made, for its owner only, where there is none.
    """

    def __init__(self, path: Path):
        self.path = path
        path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def note(self, what: str, text: str) -> None:
        """Keeps a text under a name."""
        with atomic_write(self.path / what) as draft:
            draft.write_text(text)

    def noted(self, what: str) -> str | None:
        """The text under a name, None where there is none."""
        path = self.path / what
        return path.read_text() if path.exists() else None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps other processes of this machine away: two of them would upload everything twice.

        Raises AtWorkError with one sentence when another one is at work.
        """
        with (self.path / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AtWorkError("Another process is at work on this job.") from None
            yield


class RunFolder(WorkFolder):
    """The folder of one run: of a job, of what was outlined in it, and of how it is tracked."""

    def log(self, direction: str, order: Sequence[int]) -> SweepLog:
        """The log of the forward or the backward sweep, whose frames come in this order."""
        return SweepLog(self.path / f"{direction}.jsonl", order)


def job_folder(work: Path, host: str, job_id: int) -> WorkFolder:
    """The folder of a job, with those of its runs in it, below the one where all work is kept."""
    server = re.sub(r"[^\w.-]+", "_", host.partition("://")[2])
    return WorkFolder(work / server / f"job-{job_id}")
