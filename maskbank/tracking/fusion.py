"""What of a forward and of a backward sweep counts, frame by frame: one rule for jobs, clips and effort curves.

All of it was chosen on the 25 training sequences of DAVIS-2016 with `lite-open`, which never saw them, at working size
240, with 2, 3 and 5 outlines. Between outlines J is 0.8 higher (standard error 0.3) than where the sweeps agree best
regardless of confidence, and 0.7 higher than with the nearer outline's sweep; the best frame to hand over, which nobody
knows, would add another 0.7. That the sweeps disagree says where a mask is wrong as well as the network does: with the
mean of both as confidence its rank correlation with J is 0.74 instead of 0.65 (since 0.7, when the tracker's own got
better, 0.73 instead of 0.72, on the frames between outlines).
"""

import copy
import itertools
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Protocol, Self, TypeVar

import numpy as np

from maskbank.networks.overlaps import NESTED
from maskbank.shapes.packed_mask import PackedMask

GONE = 0.5  # what the confidence that an object is gone counts for, beside that in a mask: to miss it costs all of it
WORN = 0.1  # what an answer is expected to lose in J on the way from one outline to the next
AGREEMENT = 2.0  # frames' worth of J for which sweeps that agree are handed over: without a jump


class Answer(Protocol):
    """What a sweep found of an object on a frame."""

    @property
    def confidence(self) -> float:
        """0 to 1: the expected J of its mask, or how surely it is gone."""

    @property
    def visible(self) -> bool:
        """Whether it has a mask."""

    def with_confidence(self, confidence: float) -> Self:
        """The same, but for that."""


A = TypeVar("A", bound=Answer)
K = TypeVar("K", bound=Hashable)


class MaskAnswer(PackedMask):
    """An answer with its mask.

    Args:
        mask: (H, W) bool.
        confidence: as in `Prediction`.
    """

    def __init__(self, mask: np.ndarray, confidence: float):
        super().__init__(mask)
        self.confidence = confidence
        self.visible = bool(mask.any())

    def with_confidence(self, confidence: float) -> "MaskAnswer":
        """The same, but for that."""
        other = copy.copy(self)
        other.confidence = confidence
        return other


def fuse(
    frames: Sequence[int],
    outlined: Collection[int],
    to_find: Collection[int],
    forward: Mapping[int, A],
    backward: Mapping[int, A],
    agreement: Callable[[A, A], float],
) -> dict[int, A]:
    """The answers of an object that count, by frame.

    Before its first outline that is the backward sweep, after its last one the forward sweep. Between two outlines
    both have an answer: on one frame the forward sweep hands over to the backward sweep, where the answers that count
    then are surest together, and the two agree. The confidence there is the mean of the answer's own and of how much
    the sweeps agree on the frame.

    Args:
        frames: all of them, in order.
        outlined: those with an outline of the object.
        to_find: those for which an answer is wanted.
        forward, backward: the object's answers in a sweep, by frame.
        agreement: of two answers on one frame, 0 to 1.
    """
    positions = sorted(frames.index(frame) for frame in outlined)
    found: dict[int, A] = {}
    for start, stop in itertools.pairwise([-1, *positions, len(frames)]):
        between = [frame for frame in frames[start + 1 : stop] if frame in to_find]
        if start == -1:
            found |= {frame: backward[frame] for frame in between}
        elif stop == len(frames):
            found |= {frame: forward[frame] for frame in between}
        else:
            sweeps = [forward[frame] for frame in between], [backward[frame] for frame in between]
            found |= zip(between, _joined(*sweeps, agreement), strict=True)
    return found


def _joined(forward: Sequence[A], backward: Sequence[A], agreement: Callable[[A, A], float]) -> list[A]:
    """The answers that count between two outlines."""
    agreements = [agreement(*each) for each in zip(forward, backward, strict=True)]
    ahead = _handover(forward, backward, agreements)
    answers = [*forward[:ahead], *backward[ahead:]]
    return [
        answer.with_confidence(round((answer.confidence + agreed) / 2, 3))
        for answer, agreed in zip(answers, agreements, strict=True)
    ]


def _handover(forward: Sequence[Answer], backward: Sequence[Answer], agreements: Sequence[float]) -> int:
    """How many frames between two outlines the forward sweep has; of several the one nearest to the middle."""
    length = len(forward)
    way = [(i + 0.5) / length for i in range(length)]
    ahead = [0.0, *itertools.accumulate(_expected(*each) for each in zip(forward, way, strict=True))]
    back = [0.0, *itertools.accumulate(_expected(*each) for each in zip(backward[::-1], way, strict=True))]

    def worth(count: int) -> tuple[float, float]:
        total = ahead[count] + back[length - count] + AGREEMENT * agreements[count]
        return round(total, 6), -abs(count - (length - 1) / 2)

    return max(range(length), key=worth, default=0)


def _expected(answer: Answer, way: float) -> float:
    """The J to expect of an answer; `way`: share of the way from its outline to the next."""
    return answer.confidence * (1 if answer.visible else GONE) - WORN * way


def mask_agreement(one: MaskAnswer, other: MaskAnswer) -> float:
    """See `overlap`."""
    return overlap(one.mask, other.mask)


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """How much two masks (H, W) bool agree: intersection over union, and 1 where both say that the object is gone."""
    union = np.count_nonzero(one | other)
    return float(np.count_nonzero(one & other) / union) if union else 1.0


def apart(masks: Mapping[K, np.ndarray], confidence: Mapping[K, float]) -> dict[K, np.ndarray]:
    """Masks (H, W) bool on one frame, some of each sweep, which may overlap → the same without a shared pixel.

    The surer one keeps what two claim, unless the other one lies within it (`NESTED`) and is at most half as large: a
    sweep that has lost a phone gives its place to whoever holds it.
    """
    names = sorted(masks, key=lambda name: -confidence[name])
    size = {name: np.count_nonzero(masks[name]) for name in names}
    owner = np.full(next(iter(masks.values())).shape, -1, np.int16)
    for number, name in enumerate(names):
        mask = masks[name]
        own = mask & (owner == -1)
        claimed = np.count_nonzero(own) < size[name]  # mostly nothing is
        for other_number, other in enumerate(names[:number] if claimed else ()):
            shared = mask & (owner == other_number)
            if 2 * size[name] <= size[other] and np.count_nonzero(shared) > NESTED * size[name]:
                own |= shared
        owner[own] = number
    return {name: owner == number for number, name in enumerate(names)}
