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

    @property
    def cells(self) -> int:
        """How many it has."""
        return (self.right - self.left) * (self.bottom - self.top)
