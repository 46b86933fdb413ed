"""All that is remembered of the objects of one job, and what a request asks of it on a frame."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from maskbank.bank.feature_bank import FeatureBank
from maskbank.shapes.packed_mask import PackedMask
from maskbank.shapes.rle import mask_box
from maskbank.shapes.window import Window


@dataclass(frozen=True, eq=False)
class TunedDecoder:
    """What a network's decoder became when it was tuned to a job: weights that stand in for its own, by name."""

    weights: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Memory:
    """All that is remembered of n objects that are tracked together; an empty one is a job that has yet to be seeded.

    Attributes:
        banks: as many as the network needs: one for all objects, or one per class.
        prev_mask: (n, ...), where the objects were in the frame before, from `Segmenter.prev_mask`.
        window: the part of the frame before that prev_mask is of; None: the whole.
        size: height and width of the frame before; None: not known, as in what a store of 0.7 kept.
        outlined: by the index of a frame whose seeds the banks hold what tells its image from others (`pixel_digest`).
        finest: the largest scale of a window, in pixels of the network per pixel of the image, at which seeds are
            known; 0: they are known from the whole frame only.
        frames: how many were tracked so far; the index of the next one.
        last_memorized: index of the last frame that was memorized.
        tuned_decoder: None where the network's own decoder serves.
    """

    banks: tuple[FeatureBank, ...] = ()
    prev_mask: Tensor = field(default_factory=lambda: torch.zeros(0))
    frames: int = 0
    last_memorized: int = 0
    tuned_decoder: TunedDecoder | None = None
    window: Window | None = None
    finest: float = 0.0
    size: tuple[int, int] | None = None
    outlined: Mapping[int, str] = field(default_factory=dict)

    @property
    def objects(self) -> int:
        """How many objects there are, n."""
        return len(self.prev_mask)

    def of_objects(self, numbers: Sequence[int]) -> "Memory":
        """What is remembered of some of the objects, in the order of their numbers; all share one bank."""
        [bank] = self.banks
        return replace(self, banks=(bank.of_objects(numbers),), prev_mask=self.prev_mask[list(numbers)])


class Seed(PackedMask):
    """The outline of an object on a frame: ground truth there, for ever.

    Args:
        mask: (H, W) bool.
        expected_j: the Jaccard index to expect of a mask that was searched for in a box; None: it is what was outlined.

    Attributes:
        box: see `mask_box`.
    """

    def __init__(self, mask: np.ndarray, expected_j: float | None = None):
        super().__init__(mask)
        self.expected_j = expected_j
        self.box = mask_box(mask)


@dataclass(frozen=True, eq=False)
class BankRequest:
    """What is asked of one memory on one frame.

    Attributes:
        memory: what is known so far.
        seeds: the outlines on this frame, by object number; they do not overlap. A number from `memory.objects` on is
            a new object; numbers have no gaps.
        requested: the numbers of the objects that are asked for, seeds among them; None: all. The others are tracked as
            well, but compete for pixels within their own memory only: nobody may want them any more, because the object
            was outlined anew and is now one of another memory, from which they would take its pixels.
    """

    memory: Memory
    seeds: Mapping[int, Seed] = field(default_factory=dict)
    requested: frozenset[int] | None = None

    def of_objects(self, numbers: Sequence[int]) -> "BankRequest":
        """What is asked of some of the objects that are known, as they get a memory of their own."""
        seeds = {numbers.index(number): seed for number, seed in self.seeds.items() if number in numbers}
        return BankRequest(self.memory.of_objects(numbers), seeds)

    @property
    def objects(self) -> int:
        """How many objects there are with the new ones."""
        return self.memory.objects + sum(number >= self.memory.objects for number in self.seeds)

    @property
    def competitors(self) -> frozenset[int]:
        """The numbers of the objects that compete with those of other memories."""
        return frozenset(range(self.objects)) if self.requested is None else self.requested

    @property
    def has_unrequested(self) -> bool:
        """Whether the memory has objects that are not requested."""
        return not self.competitors.issuperset(range(self.memory.objects))
