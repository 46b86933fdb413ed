"""Which frames of a run to outline next, and which objects on them: where the tracker is expected to be most wrong.

The confidence says that, which between outlines knows how far the two sweeps disagree (`fusion.py`), and next to an
outline a second one tells the network little. How far a frame is from the outlined ones in the network's features adds
next to nothing.

The plugin for CVAT's user interface has the same rule (`suggestions.ts`).
"""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

K = TypeVar("K", bound=Hashable)  # what names an object

ERROR_WHEN_SURE = 0.04  # 1 - J of masks with confidence 1, as measured
REACH = 0.1  # of the frames: how far from an outline a second one is worth all that it can be
SURELY_GONE = 0.75  # confidence from which an object that is gone is believed to be: there is nothing to outline
TOLD = 5  # objects in a sentence
WORTH = 0.1  # expected 1 - J, next to an outline less; what is below it is not worth a person's time


@dataclass(frozen=True)
class Suggestion(Generic[K]):
    """A frame to outline.

    position: of the frame in the run.
    objects: that are worth an outline there, the worst one first.
    error: the sum of what an outline of each is worth: 1 - J as it is expected, next to an outline less.
    """

    position: int
    objects: tuple[K, ...]
    error: float


def sureness(confidence: float | None, visible: bool) -> float | None:
    """The confidence as `suggest` counts it: nobody can outline an object that is gone, so there it soon is 1."""
    return 1.0 if confidence is not None and not visible and confidence >= SURELY_GONE else confidence


def suggest(
    confidence: Mapping[K, Sequence[float | None]], count: int, candidates: Collection[int] | None = None
) -> list[Suggestion[K]]:
    """The frames to outline, the best one first; none where no outline is expected to gain much.

    Each one is chosen as if those before it were outlined already.

    Args:
        confidence: of each object by position of the frame, see `sureness`; None where a person said what is to be
            seen, or where the object was not looked for.
        count: how many frames at most.
        candidates: positions of the frames that may be outlined; None: all.
    """
    if not confidence:
        return []
    known = {name: np.array(own, float) for name, own in confidence.items()}
    error = {name: np.nan_to_num(1 - own + ERROR_WHEN_SURE) for name, own in known.items()}
    share = {name: _distance(len(own), np.flatnonzero(np.isnan(own))) for name, own in known.items()}
    positions = range(len(next(iter(known.values())))) if candidates is None else sorted(candidates)
    suggestions: list[Suggestion[K]] = []
    while positions and len(suggestions) < count:
        worth = {name: np.where(error[name] * share[name] >= WORTH, error[name] * share[name], 0) for name in known}
        total = np.sum(list(worth.values()), axis=0)
        best = max(positions, key=lambda position: float(total[position]))
        if not total[best]:
            break
        objects = sorted((name for name in known if worth[name][best]), key=lambda name: -float(worth[name][best]))
        suggestions.append(Suggestion(best, tuple(objects), float(total[best])))
        for name in objects:
            share[name] = np.minimum(share[name], _distance(len(share[name]), [best]))
    return suggestions


def next_step(names: Mapping[K, str], confidence: Mapping[K, Sequence[float | None]], numbers: Sequence[int]) -> str:
    """The best suggestion of a run as a sentence.

    Args:
        names: of the objects.
        confidence: see `suggest`.
        numbers: of the frames, as people count them.
    """
    best = next(iter(suggest(confidence, 1)), None)
    if best is None:
        return "No frame is worth another outline: it is not expected to mend much anywhere."
    return f"Outline next: frame {numbers[best.position]}, {_enumerated([names[each] for each in best.objects])}."


def _enumerated(names: Sequence[str]) -> str:
    """The first names, and how many others there are: a crowd would fill the screen."""
    others = len(names) - TOLD
    told = ", ".join(names[:TOLD])
    return told if others <= 0 else f"{told} and {others} other{'s' if others > 1 else ''}"


def _distance(length: int, outlined: Sequence[int] | np.ndarray) -> np.ndarray:
    """0 on the outlined frames, 1 as far from them as `REACH` and beyond, (length,)."""
    share = np.ones(length)
    for frame in outlined:
        share = np.minimum(share, np.abs(np.arange(length) - frame) / (REACH * length))
    return share
