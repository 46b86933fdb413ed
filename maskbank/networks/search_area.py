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
        return SearchArea(
            self.left - outer.left, self.top - outer.top, self.right - outer.left, self.bottom - outer.top
        )

    @property
    def cells(self) -> int:
        """How many it has."""
        return (self.right - self.left) * (self.bottom - self.top)
