"""A clip tracked forward and backward from some of its frames; after one more outline only what that can change."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from maskbank.tracking.clip_objects import ClipObjects, track_objects
from maskbank.tracking.fusion import MaskAnswer
from maskbank.tracking.tracker import Frame, Tracker

Answers = dict[int, MaskAnswer]  # of a frame: by object id, for the objects that were outlined so far


@dataclass
class _Sweep:
    outlined: frozenset[int] = frozenset()
    answers: dict[int, Answers] = field(default_factory=dict)
    objects: dict[int, ClipObjects] = field(default_factory=dict)  # as they are known after a frame


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
        objects, same = ClipObjects(), order[0] == next(iter(last.answers), None)
        for frame in order:
            same = same and frame not in differing
            if same:
                objects, answers = last.objects[frame], last.answers[frame]
            else:
                outlines = self._outlines[frame] if frame in outlined else None
                objects, found = track_objects(self._tracker, self._encoded(frame), objects, outlines)
                answers = {i: MaskAnswer(each.mask, each.confidence) for i, each in found.items()}
            sweep.objects[frame], sweep.answers[frame] = objects, answers
        return sweep
