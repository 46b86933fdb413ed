"""Annotated sequences, and how good answers to them are."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskbank.evaluation.measures import Score, averaged, decay, j_and_f_of_frames, jaccard, mean, recall
from maskbank.files.frames import IMAGE_ENDINGS
from maskbank.files.masks import read_id_mask

MASK_ENDING = ".png"
FRAME_ENDINGS = IMAGE_ENDINGS - {MASK_ENDING}


@dataclass(frozen=True)
class AnnotatedSequence:
    """An annotated sequence: frames from the first annotated one on."""

    name: str
    images: list[Path]
    truths: list[np.ndarray | None]  # (H, W) uint8 ids; None: not annotated

    @property
    def objects(self) -> list[int]:
        """The ids of the objects in the first frame."""
        return [int(i) for i in np.unique(self.seed) if i]

    @property
    def seed(self) -> np.ndarray:
        """The ids in the first frame, (H, W) uint8."""
        assert self.truths[0] is not None
        return self.truths[0]


def read_sequences(data: Path) -> list[AnnotatedSequence]:
    """All sequences below `data`: folders of .jpg, .webp or other frames with .png masks beside at least two of them.

    A sequence begins with its first mask that shows an object.

    Raises ValueError with one sentence when there is none, or a mask has another size than those before it.
    """
    sequences = []
    frames = [path for path in data.rglob("*") if path.suffix.lower() in FRAME_ENDINGS]
    for folder in sorted({path.parent for path in frames}):
        images = sorted(path for path in frames if path.parent == folder)
        masks = [image.with_suffix(MASK_ENDING) for image in images]
        truths = [read_id_mask(mask) if mask.exists() else None for mask in masks]
        first = next((i for i, truth in enumerate(truths) if truth is not None and truth.any()), len(truths))
        if sum(truth is not None for truth in truths[first:]) >= 2:
            _check_sizes(masks[first:], truths[first:])
            sequences.append(AnnotatedSequence(str(folder.relative_to(data)), images[first:], truths[first:]))
    if not sequences:
        raise ValueError(
            f"{data} holds no folder of .jpg or .webp frames with .png masks beside two or more of them, the first of "
            "which shows an object."
        )
    return sequences


def _check_sizes(masks: list[Path], truths: list[np.ndarray | None]) -> None:
    """Raises ValueError where masks of a sequence, the first of which is there, differ in size."""
    first = truths[0]
    assert first is not None
    for path, truth in zip(masks, truths, strict=True):
        if truth is not None and truth.shape != first.shape:
            got, expected = (f"{width} x {height}" for height, width in (truth.shape, first.shape))
            raise ValueError(f"{path} is {got} pixels, but {masks[0].name} in the same folder is {expected}.")


@dataclass(frozen=True)
class ConfidenceSample:
    """The confidence in one object in an annotated frame, and how good its mask was."""

    confidence: float
    visible: bool
    j: float
    present: bool


@dataclass(frozen=True)
class SequenceScore:
    """How good one way to track one sequence is."""

    sequence: str
    way: str
    frames: dict[int, list[Score]]  # of each object those of the scored frames
    seconds_per_frame: float
    samples: tuple[ConfidenceSample, ...] = ()  # of the function's ways, over all objects

    @property
    def scores(self) -> dict[int, Score]:
        """The means over the frames by object."""
        return averaged(self.frames, mean)

    @property
    def mean(self) -> Score:
        """The mean over the objects."""
        return mean_score(self.scores.values())

    @property
    def recall(self) -> Score:
        """DAVIS's recall, the mean over the objects."""
        return mean_score(averaged(self.frames, recall).values())

    @property
    def decay(self) -> Score:
        """DAVIS's decay, the mean over the objects."""
        return mean_score(averaged(self.frames, decay).values())


def mean_score(scores: Iterable[Score]) -> Score:
    """The mean of several scores."""
    every = list(scores)
    return Score(float(np.mean([each.j for each in every])), float(np.mean([each.f for each in every])))


def score(
    sequence: AnnotatedSequence,
    way: str,
    objects: list[int],
    answers: Iterator[tuple[np.ndarray, list[dict[str, Any]]]],
) -> SequenceScore:
    """The scores of one way to track a sequence; takes the time that it needs for its answers.

    answers: for each frame the id map and, from the function, a state for each object.
    """
    started = time.perf_counter()
    found = list(answers)
    seconds = (time.perf_counter() - started) / len(found)
    skip_last = len(found) > 2 and all(truth is not None for truth in sequence.truths)
    scores = j_and_f_of_frames([ids for ids, _ in found], sequence.truths, objects, skip_last)
    samples = tuple(
        ConfidenceSample(state["confidence"], state["visible"], jaccard(ids == i, truth == i), bool((truth == i).any()))
        for (ids, states), truth in list(zip(found, sequence.truths, strict=True))[1:]
        if truth is not None
        for i, state in zip(objects, states, strict=bool(states))
    )
    return SequenceScore(sequence.name, way, scores, seconds, samples)
