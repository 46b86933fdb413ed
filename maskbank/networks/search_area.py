"""The part of an image in which a network looks for an object."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class SearchArea:
    """A rectangle of whole cells of a network's coarsest features.

    Attributes:
        left, top, right, bottom: in cells; right and bottom are the first cells outside.
    """

    left: int
    top: int
    right: int
    bottom: int

    def cut(self, tensor: Tensor, cell: int) -> Tensor:
        """Its part of a map that has `cell` x `cell` places per cell: (..., H, W) → (..., h, w), a view."""
        return tensor[..., self.top * cell : self.bottom * cell, self.left * cell : self.right * cell]

    def within(self, outer: "SearchArea") -> "SearchArea":
        """The same area in the cells of a larger one."""
        return self.shifted(-outer.left, -outer.top)

    def shifted(self, right: int, down: int) -> "SearchArea":
        """As large an area so many cells farther to the right, and below."""
        return SearchArea(self.left + right, self.top + down, self.right + right, self.bottom + down)

    def widened(self, step: int, whole: "SearchArea") -> "SearchArea":
        """A larger one around it whose sides are multiples of a step, as far as the whole has room for that."""
        left, right = _widened(self.left, self.right, step, whole.right)
        top, bottom = _widened(self.top, self.bottom, step, whole.bottom)
        return SearchArea(left, top, right, bottom)

    @property
    def cells(self) -> int:
        """How many it has."""
        return (self.right - self.left) * (self.bottom - self.top)


def _widened(first: int, last: int, step: int, cells: int) -> tuple[int, int]:
    side = min(-(-(last - first) // step) * step, cells)
    first = max(min(first - (side - (last - first)) // 2, cells - side), 0)
    return first, first + side
