"""Whose the pixels are where outlines overlap: one rule for the function, jobs and evaluation."""

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from math import log
from typing import Generic, TypeVar

import numpy as np

from maskbank.bank.memory import Seed
from maskbank.deadline import Deadline
from maskbank.networks.outliner import FoundObject, LogitsIn
from maskbank.shapes.packed_mask import PackedMask
from maskbank.shapes.rle import mask_box
from maskbank.shapes.window import Window

# Of its own pixels; an object that shares more with larger ones is in front of them, as a bag or a shirt on a person.
NESTED = 0.85
# Of what a person drew. What was found in a box within it and is larger may be the same object again.
IN_FRONT_OF_DRAWN = 0.8
# Added to the logits of the smaller of two objects for each time that the other is e times as large: without it small
# ones would be lost.
SIZE_BONUS = 2.0
MOSTLY_KEPT = 0.5  # of its pixels; what keeps less of what was found in its box is hardly what was meant
# Of what a person drew; less is the rim of something that was outlined twice, and would be tracked as such.
HARDLY_KEPT = 0.1

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True, eq=False)
class _Claim(Generic[Name]):
    """An object whose pixels others may claim, too."""

    name: Name
    pixels: int
    window: Window  # around them
    packed: PackedMask  # of the window
    expected_j: float | None
    logits_in: LogitsIn

    @property
    def drawn(self) -> bool:
        """Whether a person drew it."""
        return self.expected_j is None

    def may_be_the_same_as(self, larger: "_Claim[Name]") -> bool:
        """Whether a person may have drawn, as the larger one, what was found in a box."""
        return larger.drawn and not self.drawn and self.pixels > IN_FRONT_OF_DRAWN * larger.pixels

    def is_surer_than(self, larger: "_Claim[Name]", window: Window) -> np.ndarray | np.bool_:
        """Of which pixels of a window it is surer: (h, w) bool, or one for all."""
        bonus = SIZE_BONUS * log(larger.pixels / self.pixels)
        return np.greater_equal(self.logits_in(window) + bonus, larger.logits_in(window))


def disjoint(
    found: Iterable[tuple[Name, FoundObject]], deadline: Deadline | None = None
) -> Iterator[tuple[Name, Seed]]:
    """Named objects of one image → their seeds, which share no pixel; some may be empty. In any order.

    Of two that a person drew, the smaller one has the pixels, of equals the first: it is more likely in front, and
    would be lost otherwise. What was drawn keeps its pixels from what was found in a box, but for smaller things within
    what was drawn. What was found in boxes is divided by how sure the network was of each, unless one lies within
    others. On 66 objects, on which the constants were chosen, that gave 1.5 ± 0.4 J more than to give the smaller one
    all. Of what keeps less than half in its box, no more than that share is expected to be right; what was drawn and
    keeps next to nothing is empty.

    Raises LateError when the deadline passes.
    """
    claims: list[_Claim[Name]] = []
    size = (0, 0)
    for name, each in found:
        box = mask_box(each.mask)
        if box is None:
            yield name, Seed(each.mask, each.expected_j)
            continue
        left, top, right, bottom = box
        window = Window(left, top, right + 1 - left, bottom + 1 - top)
        mask, size = window.cut(each.mask), each.mask.shape
        pixels = int(np.count_nonzero(mask))
        claims.append(_Claim(name, pixels, window, PackedMask(mask), each.expected_j, each.logits_in))
    claims.sort(key=lambda claim: claim.pixels)
    owner = np.zeros(size, np.min_scalar_type(len(claims)))  # of each pixel the number of the claim, from 1; 0: nobody
    drawn = np.zeros(size, bool)  # by a person, whosever it is now
    for number in range(len(claims), 0, -1):  # the largest first, so that others take from it
        if deadline:
            deadline.check()
        claim = claims[number - 1]
        mask, owner_here = claim.packed.mask, claim.window.cut(owner)
        within_any = np.count_nonzero(owner_here[mask]) > NESTED * claim.pixels
        within_drawn = np.count_nonzero(claim.window.cut(drawn)[mask]) > NESTED * claim.pixels
        for other_number in range(number + 1, len(claims) + 1):
            other = claims[other_number - 1]
            if not claim.window.overlaps(other.window):
                continue
            contested = mask & (owner_here == other_number)
            box = mask_box(contested)
            is_in_front = within_drawn if other.drawn and not claim.drawn else within_any
            if box is not None and (claim.may_be_the_same_as(other) or not is_in_front):
                left, top, right, bottom = box
                part = Window(left, top, right + 1 - left, bottom + 1 - top)
                here = Window(left + claim.window.left, top + claim.window.top, part.width, part.height)
                part.cut(contested)[:] &= claim.is_surer_than(other, here)
            owner_here[contested] = number
        owner_here[mask & (owner_here == 0)] = number
        claim.window.cut(drawn)[mask] |= claim.drawn
    for number, claim in enumerate(claims, 1):
        mask, expected_j = owner == number, claim.expected_j
        kept = np.count_nonzero(mask) / claim.pixels
        if claim.drawn and kept < HARDLY_KEPT:
            mask[:] = False
        yield claim.name, Seed(mask, expected_j if expected_j is None or kept >= MOSTLY_KEPT else min(expected_j, kept))
