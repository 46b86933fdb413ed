"""Whose the pixels are where outlines overlap: one rule for the function, jobs and evaluation."""

from collections.abc import Hashable, Iterable, Iterator
from typing import TypeVar

import numpy as np

from maskbank.shapes.packed_mask import PackedMask

Name = TypeVar("Name", bound=Hashable)


def disjoint(masks: Iterable[tuple[Name, np.ndarray]]) -> Iterator[tuple[Name, np.ndarray]]:
    """Named masks (H, W) bool of one image without what they share, the smallest first; some may be left empty.

    The smaller one has the pixels, of equals the first: it is more likely in front, and would be lost otherwise.
    """
    packed, areas = {}, {}
    for name, mask in masks:
        packed[name], areas[name] = PackedMask(mask), np.count_nonzero(mask)
    taken: np.ndarray | bool = False
    for name in sorted(packed, key=lambda each: areas[each]):
        own = packed[name].mask & ~np.asarray(taken)
        taken = taken | own
        yield name, own
