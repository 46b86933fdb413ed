"""Which frames of a run a person should look at: the least sure ones, and evenly spaced ones."""

from collections.abc import Sequence

import numpy as np

from maskbank.review.record import Finding, RecordedFrame, RunFacts
from maskbank.tracking.suggestions import Suggestion, next_step, suggest, sureness

UNSURE_BELOW = 0.5  # confidence; an annotator should look at the frame


def lowest_confidence(frame: RecordedFrame) -> float | None:
    """Of the objects that the tracker had to find on a frame; None where a person outlined all, or nobody knows."""
    said = [each.confidence for each in frame.findings if each and not each.seed and each.confidence is not None]
    return min(said, default=None)


def least_sure(frames: Sequence[RecordedFrame], count: int) -> list[int]:
    """The positions of the frames with the lowest confidence, lowest first, and none close to another.

    Neighbours of a bad frame are bad as well and have nothing new to show.
    """
    apart = max(1, len(frames) // (2 * count))
    known = [(lowest, i) for i, frame in enumerate(frames) if (lowest := lowest_confidence(frame)) is not None]
    chosen: list[int] = []
    for _, i in sorted(known):
        if len(chosen) < count and all(abs(i - other) >= apart for other in chosen):
            chosen.append(i)
    return chosen


def what_to_outline_next(facts: RunFacts, frames: Sequence[RecordedFrame]) -> str:
    """The frame that is most worth an outline, and the objects there, in a sentence."""
    slots = dict(enumerate(facts.objects.values()))
    return next_step(slots, _confidences(frames, len(slots)), [frame.number for frame in frames])


def worth_an_outline(frames: Sequence[RecordedFrame], objects: int, count: int) -> list[Suggestion[int]]:
    """The frames most worth an outline, and which of the objects there, by their slots; the best one first."""
    return suggest(_confidences(frames, objects), count)


def _confidences(frames: Sequence[RecordedFrame], objects: int) -> dict[int, list[float | None]]:
    return {slot: [_confidence(frame.findings[slot]) for frame in frames] for slot in range(objects)}


def _confidence(finding: Finding | None) -> float | None:
    """None where a person outlined the object, or nobody knows."""
    return None if finding is None or finding.seed else sureness(finding.confidence, finding.mask is not None)


def evenly_spaced(length: int, count: int) -> list[int]:
    """Positions from the first to the last, each once."""
    return sorted(set(np.linspace(0, length - 1, count).round().astype(int).tolist()))
