"""One-shot visual search: where in a frame is the object of a reference image, and how likely is it there at all?

The idea is that of Siamese Mask R-CNN (Michaelis et al. 2018, arXiv 1811.11507), with what the tracker has: references
are the seeds of a bank, and each frame reads it by itself, as there is no frame before.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maskbank.bank.memory import BankRequest, Memory, Seed
from maskbank.files.images import resize_mask
from maskbank.networks.aggregation import aggregate
from maskbank.networks.lite_segmenter import LiteSegmenter
from maskbank.tracking.aggregation import object_map
from maskbank.tracking.search_area import whole_area
from maskbank.tracking.tracker import Frame, Tracker, View

# Both were chosen on 25 training sequences. The novelty score would rank better still where the object is in its own
# scene, and much worse where it is in another one, as it knows the scene rather than the object.
APPEARANCE_POWER = 8  # features are never negative, so even those of other things are alike: 0.8 is the mean of these
# Score: 91 % of the frames with the object had more, and 4 % of those of other sequences; 90 and 14 % with `lite-open`,
# which never saw them.
FOUND_FROM = 0.25


@dataclass(frozen=True, eq=False)
class Match:
    """What resembles the object most in a frame."""

    mask: np.ndarray  # (H, W) bool, perhaps empty
    score: float  # 0 to 1

    @property
    def found(self) -> bool:
        """Whether it is likely to be the object."""
        return self.score >= FOUND_FROM and bool(self.mask.any())


class Searcher:
    """Finds one object in frames that have nothing to do with each other.

    Args:
        tracker: with the model `lite`; others do not say how good their masks are.
        references: images (H, W, 3) uint8 RGB of the object, each with its mask (H, W) bool.

    Raises:
        ValueError: one sentence; there is no reference, a mask is empty or of another size, or it is another model.
    """

    @torch.inference_mode()
    def __init__(self, tracker: Tracker, references: Iterable[tuple[np.ndarray, np.ndarray]]):
        self._tracker, self._segmenter = tracker, _lite(tracker)
        memory = Memory()
        looks = []
        for image, mask in references:
            if mask.shape != image.shape[:2]:
                sizes = [f"{width} x {height}" for height, width in (mask.shape, image.shape[:2])]
                raise ValueError("The reference's mask is {} pixels, but its image is {}.".format(*sizes))
            if not mask.any():
                raise ValueError("The reference's mask shows no object.")
            frame = Frame(image)
            [(memory, _)] = tracker.track(frame, [BankRequest(memory, {0: Seed(mask)})])
            looks.append(appearance_of(tracker, tracker.view(frame), mask))
        if not looks:
            raise ValueError("There is no reference to search with.")
        self._memory = replace(memory, prev_mask=torch.zeros_like(memory.prev_mask))
        self._looks: Tensor = torch.stack(looks)  # (references, 192)

    @torch.inference_mode()
    def find(self, frame: Frame) -> Match:
        """The object in a frame, which is encoded once for all that search in it.

        The expected Jaccard index of its mask says how well it fits what was memorized, and its appearance whether it
        is the same thing.
        """
        view = self._tracker.view(frame)
        everywhere = [[whole_area(view.working)]]
        [found] = self._segmenter.segment(view.features, [BankRequest(self._memory)], everywhere, strict=True)
        look = self._segmenter.appearance(view.features, aggregate(found.logits[None])[0])  # (1, 192)
        alike = float(F.cosine_similarity(look, self._looks).amax())
        mask = object_map(frame.image.shape[:2], [found.logits[0]], [None], {}) == 0
        return Match(mask, float(found.quality[0]) * alike**APPEARANCE_POWER)


@torch.inference_mode()
def appearance_of(tracker: Tracker, view: View, mask: np.ndarray) -> Tensor:
    """What an object looks like, (192,) and never negative; see `LiteSegmenter.appearance`.

    mask: (H, W) bool, in the view. Raises ValueError where the model is not `lite`.
    """
    coverage = torch.from_numpy(resize_mask(mask, *view.working)).to(tracker.device)
    return _lite(tracker).appearance(view.features, coverage[None])[0]


def _lite(tracker: Tracker) -> LiteSegmenter:
    if not isinstance(tracker.segmenter, LiteSegmenter):
        raise ValueError("Only the model lite can compare what objects look like; use it for this command.")
    return tracker.segmenter
