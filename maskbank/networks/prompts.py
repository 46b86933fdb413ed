"""What the interactor's network is shown: a crop around the object, and its prompts drawn into that crop."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from maskbank.networks.interactor import CROP_SIZE, PROMPTS

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels, the edges and not the last pixels
Points = Sequence[tuple[float, float]]  # x, y in pixels

CONTEXT = 1.4  # of the box's width and height: what the network sees
NARROWEST = 0.5  # of the other side; a crop of a thinner box is less stretched
OUTSIDE = 127  # grey, for what lies beyond the image
CLICK_RADIUS = 5  # pixels of the crop
NOTHING = -9.0  # the logit where a crop shows nothing


@dataclass(frozen=True)
class CropWindow:
    """A part of an image in whole pixels, which may reach beyond it, and the square of `side` pixels, S, in which the
    network sees it."""

    left: int
    top: int
    width: int
    height: int
    side: int = CROP_SIZE

    def crop(self, image: np.ndarray, outside: int) -> np.ndarray:
        """The part of an image (H, W) or (H, W, 3), resized to the network's square; `outside` fills what is not there.

        Returns (S, S) or (S, S, 3).
        """
        rows, columns, border = self._inside(*image.shape[:2])
        part = cv2.copyMakeBorder(image[rows, columns], *border, cv2.BORDER_CONSTANT, value=(outside,) * 3)
        shrinks = self.width * self.height > self.side**2
        return cv2.resize(part, (self.side, self.side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)

    def paste(self, logits: np.ndarray, height: int, width: int) -> np.ndarray:
        """Logits (S/2, S/2) float32 of the crop → (height, width) in the image; beyond the crop there is nothing."""
        rows, columns, (above, below, before, after) = self._inside(height, width)
        part = cv2.resize(logits, (self.width, self.height), interpolation=cv2.INTER_LINEAR)
        pasted = np.full((height, width), NOTHING, np.float32)
        pasted[rows, columns] = part[above : self.height - below, before : self.width - after]
        return pasted

    def shifted(self, x: int, y: int) -> "CropWindow":
        """The same part of an image that begins x pixels farther to the left, and y above."""
        return replace(self, left=self.left + x, top=self.top + y)

    def to_crop(self, points: np.ndarray) -> np.ndarray:
        """Points (n, 2), x and y in the image → where they are in the crop."""
        scale = np.array([self.side / self.width, self.side / self.height])
        places: np.ndarray = (points - (self.left, self.top)) * scale
        return places

    def _inside(self, height: int, width: int) -> tuple[slice, slice, tuple[int, int, int, int]]:
        """The rows and columns that lie in an image, and how much does not: above, below, to the left, to the right."""
        right, bottom = self.left + self.width, self.top + self.height
        rows = slice(min(max(self.top, 0), height), min(max(bottom, 0), height))
        columns = slice(min(max(self.left, 0), width), min(max(right, 0), width))
        border = (rows.start - self.top, bottom - rows.stop, columns.start - self.left, right - columns.stop)
        return rows, columns, border


def window_around(box: Box, context: float = CONTEXT, side: int = CROP_SIZE) -> CropWindow:
    """The window that shows a box and what is around it: `context` times as wide and high, not too narrow."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    window_width = max(round(context * max(width, NARROWEST * height)), 2)
    window_height = max(round(context * max(height, NARROWEST * width)), 2)
    return CropWindow(
        left=round((left + right - window_width) / 2),
        top=round((top + bottom - window_height) / 2),
        width=window_width,
        height=window_height,
        side=side,
    )


@dataclass(frozen=True)
class Prompts:
    """What a person says of an object in an image.

    Attributes:
        box: around it.
        positive, negative: clicks on it, and beside it.
        mask: (H, W) uint8, 0 or 1: what was found before.
    """

    box: Box | None = None
    positive: Points = ()
    negative: Points = ()
    mask: np.ndarray | None = None

    def draw(self, window: CropWindow) -> np.ndarray:
        """The network's input: (4, S, S) uint8, from 0 to 255."""
        side = window.side
        channels = np.zeros((PROMPTS, side, side), np.uint8)
        if self.box is not None:
            corners = window.to_crop(np.array(self.box).reshape(2, 2)).round().astype(int)
            left, top, right, bottom = corners.clip(0, side).ravel().tolist()
            channels[0, top : max(bottom, top + 1), left : max(right, left + 1)] = 255
        for channel, clicks in zip(channels[1:3], (self.positive, self.negative), strict=True):
            for x, y in window.to_crop(np.array(clicks, np.float64).reshape(-1, 2)).round().astype(int).tolist():
                cv2.circle(channel, (x, y), CLICK_RADIUS, 255, -1)
        if self.mask is not None:
            channels[3] = window.crop(self.mask * np.uint8(255), 0)
        return channels
