"""A part of an image."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Window:
    """A rectangle of whole pixels inside an image."""

    left: int
    top: int
    width: int
    height: int

    def cut(self, image: np.ndarray) -> np.ndarray:
        """Its pixels of an image (H, W, ...); a view."""
        return image[self.top : self.top + self.height, self.left : self.left + self.width]
