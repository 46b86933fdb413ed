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

    def overlaps(self, other: "Window") -> bool:
        """Whether both have a pixel in common."""
        across = self.left < other.left + other.width and other.left < self.left + self.width
        return across and self.top < other.top + other.height and other.top < self.top + self.height
