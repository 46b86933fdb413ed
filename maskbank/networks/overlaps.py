"""Whose the pixels are where outlines overlap: one rule for the function, jobs and evaluation."""

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from math import log
from typing import Generic, TypeVar

import numpy as np

from maskbank.networks.outliner import FoundObject, LogitsIn
from maskbank.shapes.packed_mask import PackedMask
from maskbank.shapes.rle import mask_box
from maskbank.shapes.window import Window

# Of its own pixels; an object that shares more with another one is in front of it, as a bag or a shirt on a person.
NESTED = 0.85
# Of what a person drew; no more of that is given to what was found in a box within it, which may be the same once more.
IN_FRONT_OF_DRAWN = 0.5
# What a smaller object gets for each time that another is e times as large: it would be lost otherwise.
SMALLER_GETS = 2.0

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True, eq=False)
class _Claim(Generic[Name]):
    """An object whose pixels others may claim, too."""

    name: Name
    packed: PackedMask
    area: int  # pixels
    window: Window  # around them
    drawn: bool  # by a person
    logits_in: LogitsIn

    def is_in_front_of(self, larger: "_Claim[Name]", shared: int) -> bool:
        """Whether it lies within a larger object, with which it shares so many pixels."""
        most = IN_FRONT_OF_DRAWN if larger.drawn and not self.drawn else 1
        return shared > NESTED * self.area and self.area <= most * larger.area


def disjoint(found: Iterable[tuple[Name, FoundObject]]) -> Iterator[tuple[Name, np.ndarray]]:
    """The masks (H, W) bool of named objects of one image without what they share, in any order; some may be empty.

    Of two that a person drew, the smaller one has the pixels, of equals the first: it is more likely in front, and
    would be lost otherwise. What was drawn keeps its pixels from what was found in a box, but for things within it.
    What was found in boxes is divided by how sure the network was of either, where none lies within the other: on 66
    objects that were kept back from the interactor's training, 1.5 ± 0.4 J more than where the smaller one has all.
    """
    claims: list[_Claim[Name]] = []
    for name, each in found:
        box = mask_box(each.mask)
        if box is None:
            yield name, each.mask
            continue
        left, top, right, bottom = box
        window = Window(left, top, right + 1 - left, bottom + 1 - top)
        area, drawn = int(np.count_nonzero(each.mask)), each.expected_j is None
        claims.append(_Claim(name, PackedMask(each.mask), area, window, drawn, each.logits_in))
    claims.sort(key=lambda claim: claim.area)
    owner = np.zeros(0)  # of each pixel the number of the claim, from 1; 0: nobody
    for number in range(len(claims), 0, -1):  # the largest first, so that others take from it
        claim = claims[number - 1]
        mask = claim.packed.mask
        if not owner.size:
            owner = np.zeros(mask.shape, np.min_scalar_type(len(claims)))
        for other_number in range(number + 1, len(claims) + 1):
            other = claims[other_number - 1]
            common = claim.window.intersection(other.window)
            if common is None:
                continue
            contested = common.cut(mask) & (common.cut(owner) == other_number)
            shared = int(np.count_nonzero(contested))
            if shared and not claim.is_in_front_of(other, shared):
                favour = SMALLER_GETS * log(other.area / claim.area)
                contested &= claim.logits_in(common) + favour >= other.logits_in(common)
            common.cut(owner)[contested] = number
        owner[mask & (owner == 0)] = number
    for number, claim in enumerate(claims, 1):
        yield claim.name, owner == number
