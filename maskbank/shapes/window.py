"""A part of an image."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from torch import Tensor

Image = TypeVar("Image", np.ndarray, Tensor)


@dataclass(frozen=True)
class Window:
    """A rectangle of whole pixels inside an image."""

    left: int
    top: int
    width: int
    height: int

    def cut(self, image: Image) -> Image:
        """Its pixels of an image (H, W, ...); a view."""
        return image[self.top : self.top + self.height, self.left : self.left + self.width]

    def intersection(self, other: "Window") -> "Window | None":
        """What both have in common; None where that is nothing."""
        left, top = max(self.left, other.left), max(self.top, other.top)
        width = min(self.left + self.width, other.left + other.width) - left
        height = min(self.top + self.height, other.top + other.height) - top
        return Window(left, top, width, height) if width > 0 and height > 0 else None

    def overlaps(self, other: "Window") -> bool:
        """Whether both have a pixel in common."""
        return self.intersection(other) is not None
