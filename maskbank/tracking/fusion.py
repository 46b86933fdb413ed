"""What of a forward and of a backward sweep counts, frame by frame: one rule for jobs, clips and effort curves."""

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

import numpy as np

A = TypeVar("A")  # an answer: what a sweep found of an object on a frame


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
    both have an answer: the forward sweep hands over to the backward sweep on the frame where they agree best.

    Args:
        frames: all of them, in order.
        outlined: those with an outline of the object.
        to_find: those for which an answer is wanted.
        forward, backward: the object's answers in a sweep, by frame.
        agreement: of two answers on one frame; the more they agree the higher.
    """
    positions = sorted(frames.index(frame) for frame in outlined)
    found: dict[int, A] = {}
    for start, stop in itertools.pairwise([-1, *positions, len(frames)]):
        between = [frame for frame in frames[start + 1 : stop] if frame in to_find]
        if start == -1:
            ahead = 0
        elif stop == len(frames):
            ahead = len(between)
        else:
            ahead = _best([agreement(forward[frame], backward[frame]) for frame in between])
        found |= {frame: forward[frame] for frame in between[:ahead]}
        found |= {frame: backward[frame] for frame in between[ahead:]}
    return found


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """How much two masks (H, W) bool agree: intersection over union, and 1 where both say that the object is gone."""
    union = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / union if union else 1.0


def _best(agreements: Sequence[float]) -> int:
    """The position of the best agreement; of several such the one nearest to the middle."""
    middle = (len(agreements) - 1) / 2
    return max(range(len(agreements)), key=lambda i: (agreements[i], -abs(i - middle)), default=0)
