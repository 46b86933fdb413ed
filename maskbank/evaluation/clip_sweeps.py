"""A clip tracked forward and backward from some of its frames; after one more outline only what that can change."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from maskbank.bank.memory import BankRequest, Memory, Seed
from maskbank.shapes.packed_mask import PackedMask
from maskbank.tracking.tracker import Frame, Tracker


class Answer(PackedMask):
    """What a sweep found of an object on a frame.

    Args:
        mask: (H, W) bool.
        confidence: 0 to 1, as in `Prediction`.
    """

    def __init__(self, mask: np.ndarray, confidence: float):
        super().__init__(mask)
        self.confidence = confidence


Answers = dict[int, Answer]  # of a frame: by object id, for the objects that were outlined so far


@dataclass
class _Sweep:
    outlined: frozenset[int] = frozenset()
    answers: dict[int, Answers] = field(default_factory=dict)
    memories: dict[int, Memory] = field(default_factory=dict)  # after a frame


class ClipSweeps:
    """Sweeps over the frames of a clip, of which any may be outlined.

    A sweep knows the outlines that it has passed. So the next one in that direction, with other outlines, begins at the
    first frame where they differ.

    Args:
        tracker: for instance from `maskbank.tracking.loading.load_tracker`.
        encoded: a frame's number to the frame.
        length: how many frames there are.
        outlines: by frame an id map (H, W) uint8 that shows at least one object.
    """

    def __init__(
        self,
        tracker: Tracker,
        encoded: Callable[[int], Frame],
        length: int,
        outlines: Mapping[int, np.ndarray],
    ):
        self._tracker, self._encoded, self._length, self._outlines = tracker, encoded, length, outlines
        self._forward, self._backward = _Sweep(), _Sweep()

    def forward(self, outlined: Collection[int]) -> dict[int, Answers]:
        """The answers by frame, from the first outlined frame to the end."""
        self._forward = self._track(range(min(outlined), self._length), frozenset(outlined), self._forward)
        return self._forward.answers

    def backward(self, outlined: Collection[int]) -> dict[int, Answers]:
        """The answers by frame, from the last outlined frame to the start."""
        self._backward = self._track(range(max(outlined), -1, -1), frozenset(outlined), self._backward)
        return self._backward.answers

    def _track(self, order: range, outlined: frozenset[int], last: _Sweep) -> _Sweep:
        sweep = _Sweep(outlined)
        differing = outlined ^ last.outlined
        before, known, same = Memory(), Answers(), order[0] == next(iter(last.answers), None)
        for frame in order:
            same = same and frame not in differing
            if same:
                before, known = last.memories[frame], last.answers[frame]
            else:
                before, known = self._next(frame, before, list(known), frame in outlined)
            sweep.memories[frame], sweep.answers[frame] = before, known
        return sweep

    def _next(self, frame: int, memory: Memory, objects: list[int], outlined: bool) -> tuple[Memory, Answers]:
        """objects: the ids of those in the memory, in its order."""
        seeds = {}
        if outlined:
            ids = self._outlines[frame]
            shown = [int(i) for i in np.unique(ids) if i]
            objects += [i for i in shown if i not in objects]
            seeds = {objects.index(i): Seed(ids == i) for i in shown}
        [(memory, found)] = self._tracker.track(self._encoded(frame), [BankRequest(memory, seeds)])
        return memory, {i: Answer(each.mask, each.confidence) for i, each in zip(objects, found, strict=True)}
