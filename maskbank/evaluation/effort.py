"""Effort curves: J and F over all frames of a clip after 1, 2, 3, … outlined frames, by how these are chosen.

The user studies of interactive segmentation count clicks or minutes (EVA-VOS, Delatolas et al., WACV 2024); here the
outlines are the true masks, and the cost is the number of frames that a person outlines.
"""

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from maskbank.evaluation.measures import Score, boundary_f, jaccard
from maskbank.evaluation.sequences import AnnotatedSequence, mean_score, read_sequences
from maskbank.files.frames import read_image
from maskbank.tracking.clip_objects import track_clip_objects
from maskbank.tracking.fusion import MaskAnswer, fuse, mask_agreement
from maskbank.tracking.suggestions import suggest, sureness
from maskbank.tracking.tracker import Frame, Tracker

COUNTS = (1, 2, 3, 4, 5, 8)  # of outlined frames
ENCODED_FRAMES = 100  # that are kept; at the usual size a gigabyte

Outlined = tuple[int, ...]  # frames, in order
Answers = dict[int, MaskAnswer]  # on a frame, by object id


@dataclass(frozen=True)
class Outcome:
    """What is known of a clip once some of its frames are outlined and the others tracked.

    scores: by frame the mean over the objects, of all annotated frames; an outlined one is perfect.
    confidence: by object and frame, as `suggest` counts it; None where it was outlined or not yet known of.
    """

    scores: dict[int, Score]
    confidence: dict[int, list[float | None]]

    @property
    def mean(self) -> Score:
        """The mean over the frames."""
        return mean_score(self.scores.values())


class EffortClip:
    """A sequence, any of whose annotated frames may be outlined; with the outcomes.

    Attributes:
        candidates: frames that can be outlined.
    """

    def __init__(self, tracker: Tracker, sequence: AnnotatedSequence):
        self.sequence = sequence
        self.truths = {i: truth for i, truth in enumerate(sequence.truths) if truth is not None}
        shown = {
            i: np.where(np.isin(truth, sequence.objects), truth, 0).astype(np.uint8) for i, truth in self.truths.items()
        }
        outlines = {i: ids for i, ids in shown.items() if ids.any()}
        self.candidates = sorted(outlines)
        self._tracker, self._outlines = tracker, outlines
        self._frame = lru_cache(ENCODED_FRAMES)(lambda frame: Frame(self.image(frame)))
        self._outcomes: dict[Outlined, Outcome] = {}

    def image(self, frame: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB."""
        return read_image(self.sequence.images[frame])

    def outcome(self, outlined: Outlined) -> Outcome:
        """Tracks as `maskbank job` does: in both directions, joined by the same rule."""
        if outlined not in self._outcomes:
            forward = self._sweep(range(outlined[0], len(self.sequence.images)), outlined)
            backward = self._sweep(range(outlined[-1], -1, -1), outlined)
            own = {i: self._answers_of(i, outlined, forward, backward) for i in self.sequence.objects}
            scores = {
                frame: mean_score(self._score(i, frame, outlined, own[i].get(frame)) for i in own)
                for frame in self.truths
            }
            confidence = {
                i: [
                    sureness(answers[t].confidence, answers[t].visible) if t in answers else None
                    for t in range(len(self.sequence.images))
                ]
                for i, answers in own.items()
            }
            self._outcomes[outlined] = Outcome(scores, confidence)
        return self._outcomes[outlined]

    def _sweep(self, order: range, outlined: Outlined) -> dict[int, Answers]:
        """The answers by frame."""
        frames = ((frame, self._frame(frame)) for frame in order)
        outlines = {frame: self._outlines[frame] for frame in outlined}
        found = track_clip_objects(self._tracker, frames, outlines, outlined, self._frame)
        return {
            frame: {i: MaskAnswer(each.mask, each.confidence) for i, each in predictions.items()}
            for frame, (_, predictions) in zip(order, found, strict=True)
        }

    def _answers_of(
        self, object_id: int, outlined: Outlined, forward: Mapping[int, Answers], backward: Mapping[int, Answers]
    ) -> dict[int, MaskAnswer]:
        frames = range(len(self.sequence.images))
        seeded = [frame for frame in outlined if (self._outlines[frame] == object_id).any()]
        if not seeded:
            return {}
        ahead, back = (
            {frame: answers[object_id] for frame, answers in sweep.items() if object_id in answers}
            for sweep in (forward, backward)
        )
        return fuse(frames, seeded, set(frames) - set(outlined), ahead, back, mask_agreement)

    def _score(self, object_id: int, frame: int, outlined: Outlined, answer: MaskAnswer | None) -> Score:
        if frame in outlined:
            return Score(1.0, 1.0)
        truth = self.truths[frame] == object_id
        mask = answer.mask if answer else np.zeros(truth.shape, bool)
        return Score(jaccard(mask, truth), boundary_f(mask, truth))


@dataclass(frozen=True)
class EffortCurve:
    """What a policy reaches on a sequence: by number of outlined frames the score, and which frames they were.

    A policy that ends earlier keeps what it has; so its last frames may be fewer than the number says.
    """

    sequence: str
    policy: str
    scores: dict[int, Score]
    outlined: dict[int, Outlined]


Policy = Callable[[EffortClip], Iterator[Outlined]]  # the frames to outline, one more each time


def first_only(clip: EffortClip) -> Iterator[Outlined]:
    """The first frame, and no other."""
    yield (clip.candidates[0],)


def uniform(clip: EffortClip) -> Iterator[Outlined]:
    """The middles of n equal parts: no frame is far from an outline."""
    length = len(clip.candidates)
    for n in range(1, length + 1):
        yield tuple(clip.candidates[(2 * i + 1) * length // (2 * n)] for i in range(n))


def at_random(clip: EffortClip) -> Iterator[Outlined]:
    """The same at every run."""
    order = random.Random(clip.sequence.name).sample(clip.candidates, len(clip.candidates))
    for n in range(1, len(order) + 1):
        yield tuple(sorted(order[:n]))


def suggested(clip: EffortClip) -> Iterator[Outlined]:
    """The first frame that shows most objects, then always the one that is suggested, until none is."""
    outlined = _first_with_most(clip)
    while True:
        yield outlined
        ranking = [each.position for each in suggest(clip.outcome(outlined).confidence, 1, clip.candidates)]
        if not ranking:
            return
        outlined = tuple(sorted((*outlined, ranking[0])))


def oracle(clip: EffortClip) -> Iterator[Outlined]:
    """The same frame, then always the one with the lowest true J&F."""
    outlined = _first_with_most(clip)
    while True:
        yield outlined
        scores = clip.outcome(outlined).scores
        others = [frame for frame in clip.candidates if frame not in outlined]
        if not others:
            return
        outlined = tuple(sorted((*outlined, min(others, key=lambda frame: scores[frame].j_and_f))))


def _first_with_most(clip: EffortClip) -> Outlined:
    """Nobody would begin where some objects are hidden. Of the frames that show most, no rule that was tried finds a
    better one than the first (docs/experiments.md)."""
    return (max(clip.candidates, key=lambda frame: len(np.intersect1d(clip.truths[frame], clip.sequence.objects))),)


POLICIES: dict[str, Policy] = {
    "first only": first_only,
    "uniform": uniform,
    "random": at_random,
    "suggest": suggested,
    "oracle": oracle,
}


def effort_curves(tracker: Tracker, data: Path) -> Iterator[list[EffortCurve]]:
    """For every sequence below `data` the curves of all policies."""
    for sequence in tqdm(read_sequences(data), unit="sequence", desc="effort"):
        clip = EffortClip(tracker, sequence)
        yield [curve(clip, name, policy) for name, policy in POLICIES.items()]


def curve(clip: EffortClip, name: str, policy: Policy) -> EffortCurve:
    """The curve of a policy for a clip; up to as many frames as can be outlined."""
    chosen: list[Outlined] = []
    for outlined in policy(clip):
        chosen.append(outlined)
        if len(chosen) == max(COUNTS):
            break
    by_count = {count: chosen[min(count, len(chosen)) - 1] for count in COUNTS}
    scores = {count: clip.outcome(outlined).mean for count, outlined in by_count.items()}
    return EffortCurve(clip.sequence.name, name, scores, by_count)


def effort_report(curves: Sequence[EffortCurve]) -> str:
    """A Markdown table: J&F in percent by policy and number of outlined frames, the mean over the sequences."""
    sequences = {each.sequence for each in curves}
    lines = [
        f"J&F over all frames after so many outlined frames; sequences: {len(sequences)}.",
        "",
        "| policy | " + " | ".join(map(str, COUNTS)) + " | frames outlined at the end |",
        "| --- |" + " --- |" * (len(COUNTS) + 1),
    ]
    for name, own in _by_policy(curves).items():
        means = [f"{100 * _mean_at(own, count):.1f}" for count in COUNTS]
        used = float(np.mean([len(each.outlined[max(COUNTS)]) for each in own]))
        lines.append(f"| {name} | " + " | ".join(means) + f" | {used:.1f} |")
    return "\n".join(lines)


def write_curves(curves: Sequence[EffortCurve], json_file: Path, picture: Path) -> None:
    """Writes all numbers as JSON, and the mean curves as a PNG."""
    from matplotlib.figure import Figure

    rows: list[dict[str, Any]] = [
        {
            "sequence": each.sequence,
            "policy": each.policy,
            "curve": [
                {"outlined": each.outlined[count], "of": count, "j": score.j, "f": score.f, "j_and_f": score.j_and_f}
                for count, score in each.scores.items()
            ],
        }
        for each in curves
    ]
    json_file.write_text(json.dumps(rows, indent=1) + "\n")
    figure = Figure(figsize=(7, 5))
    axes = figure.subplots()
    for name, own in _by_policy(curves).items():
        axes.plot(COUNTS, [100 * _mean_at(own, count) for count in COUNTS], marker="o", label=name)
    axes.set_xticks(COUNTS)
    axes.set_xlabel("outlined frames")
    axes.set_ylabel("J&F in percent, all frames")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(picture, dpi=100)


def _by_policy(curves: Sequence[EffortCurve]) -> dict[str, list[EffortCurve]]:
    return {name: own for name in POLICIES if (own := [each for each in curves if each.policy == name])}


def _mean_at(curves: Sequence[EffortCurve], count: int) -> float:
    return float(np.mean([each.scores[count].j_and_f for each in curves]))
