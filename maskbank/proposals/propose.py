"""No-seed proposals: which objects of a clip a person may want to have tracked, and the frame to outline them on.

The idea is co-attention's (Lu et al., CVPR 2019, arXiv 2001.06810): what matters in a clip is salient, moves by itself
and comes up again in other frames. Here each of a few frames has candidates, cut out where something moves by itself,
and they vote for those in other frames that look like them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from maskbank.networks.outliner import Outliner
from maskbank.proposals.candidates import Candidate, find_candidates
from maskbank.proposals.motion import motion_map, small_grey
from maskbank.tracking.tracker import Tracker

LOOKED_AT = 6  # frames with candidates
MARGIN = 0.08  # of the clip at either end, where objects are often half in the picture
OFFSETS = (-4, -2, -1, 1, 2, 4)  # of the frames that motion is measured to
PART = 0.2  # of a mask; parts of this size that do not touch the others are objects of their own
LIKENESS_POWER = 12  # of the cosine of what candidates look like; see `APPEARANCE_POWER` in `maskbank.tracking.search`
SURE_FROM = 0.59  # recurrence; see docs/annotators.md
RIGHT_WHEN_SURE = "3 of 4"  # held-out sequences; see docs/annotators.md


class NoMotionError(ValueError):
    """It cannot be told what moves in a clip."""


@dataclass(frozen=True, eq=False)
class Proposals:
    """Objects of a clip, to be edited by a person.

    Attributes:
        frame: index of the frame to outline them on.
        image: that frame, (H, W, 3) uint8 RGB.
        ids: (H, W) uint8, the objects from 1 on, the largest first.
        recurrence: 0 to 1: how much they look like what moves most in the other frames that were looked at.
    """

    frame: int
    image: np.ndarray
    ids: np.ndarray
    recurrence: float

    @property
    def count(self) -> int:
        """How many objects there are."""
        return int(self.ids.max())

    @property
    def how_sure(self) -> str:
        """A sentence for people."""
        if self.recurrence >= SURE_FROM:
            likeness = f"what moves most in the other frames looks like this ({self.recurrence:.2f})"
            return f"Rather sure, which is right in {RIGHT_WHEN_SURE} clips: {likeness}."
        return f"Unsure: what moves most in the other frames looks different ({self.recurrence:.2f})."


def frames_to_look_at(length: int) -> list[int]:
    """The indices of the frames of a clip that candidates are searched in."""
    last = length - 1
    return sorted(set(np.linspace(MARGIN * last, (1 - MARGIN) * last, LOOKED_AT).round().astype(int).tolist()))


def frames_to_read(looked_at: Iterable[int], length: int) -> list[int]:
    """The indices of all frames that `propose` needs to look at some, in order."""
    return sorted({i + offset for i in looked_at for offset in (0, *OFFSETS) if 0 <= i + offset < length})


def propose(
    frames: Iterable[tuple[int, np.ndarray]], looked_at: Sequence[int], tracker: Tracker, outliner: Outliner
) -> Proposals | None:
    """The most salient moving objects of a clip; None where nothing moves by itself.

    Args:
        frames: indices and images (H, W, 3) uint8 RGB, those of `frames_to_read` at least.
        looked_at: from `frames_to_look_at`.
        tracker: with the model `lite`.
        outliner: cuts the objects out.

    Raises:
        NoMotionError: the frames differ in size, or there is a single one.
        ValueError: it is another model; one sentence.
    """
    greys, images = {}, {}
    for index, image in frames:
        greys[index] = small_grey(image)
        if index in looked_at:
            images[index] = image
    if len(greys) < 2:
        raise NoMotionError("A single frame shows no motion, so nothing can be proposed.")
    if len({grey.shape for grey in greys.values()}) > 1:
        raise NoMotionError("The frames differ in size, so it cannot be told what moves.")
    candidates = []
    for index, image in images.items():
        others = [greys[index + offset] for offset in OFFSETS if index + offset in greys]
        candidates += find_candidates(index, image, motion_map(greys[index], others), tracker, outliner)
    if not any(each.salience for each in candidates):
        return None
    value, recurrence = _votes(candidates)
    best = int(value.argmax())
    chosen = candidates[best]
    return Proposals(chosen.frame, images[chosen.frame], _apart(chosen.mask), float(recurrence[best]))


def _apart(mask: np.ndarray) -> np.ndarray:
    """The objects of a mask that do not touch each other: (H, W) uint8, the largest is 1 and has what is too small."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    areas = stats[1:, cv2.CC_STAT_AREA]
    ids = mask.astype(np.uint8)
    parts = [part for part in np.argsort(-areas, kind="stable") if areas[part] >= PART * mask.sum()]
    for object_id, part in enumerate(parts[1:], start=2):
        ids[labels == part + 1] = object_id
    return ids


def _votes(candidates: Sequence[Candidate]) -> tuple[np.ndarray, np.ndarray]:
    """The value of each candidate: its salience, times the mean over the other frames of that of what it looks like.

    Returns the values, and the recurrences: how much each looks like the most salient candidates of other frames. Both
    are (n,). In a clip of a single frame with candidates, the value is the salience, and the recurrence is 0.
    """
    looks = F.normalize(torch.stack([each.look for each in candidates]), dim=1)
    alike = (looks @ looks.T).clamp(0, 1).pow(LIKENESS_POWER).cpu().numpy()
    salience = np.array([each.salience for each in candidates])
    frame = np.array([each.frame for each in candidates])
    value, recurrence = salience.copy(), np.zeros(len(candidates))
    for i in range(len(candidates)):
        others = [np.flatnonzero(frame == other) for other in np.unique(frame) if other != frame[i]]
        if others:
            value[i] *= np.mean([(alike[i, each] * salience[each]).max() for each in others])
            recurrence[i] = np.mean([alike[i, each[salience[each].argmax()]] for each in others])
    return value, recurrence
