"""One annotated image, at the size that training and tuning use."""

from dataclasses import dataclass

import cv2
import numpy as np

MAX_SHORT_SIDE = 400  # pixels; training never needs more


@dataclass(frozen=True)
class Sample:
    """One image with its objects, kept small: training never needs more than `MAX_SHORT_SIDE` pixels."""

    image: np.ndarray  # (H, W, 3) uint8, RGB
    ids: np.ndarray  # (H, W) uint8

    def objects(self, smallest: float = 0.002, largest: float = 0.8) -> list[int]:
        """The object ids that cover a share of the image between the two."""
        return [i for i, share in shares(self.ids).items() if smallest <= share <= largest]


def shares(ids: np.ndarray) -> dict[int, float]:
    """The share of an id map (H, W) uint8 that each of its objects covers."""
    counts = np.bincount(ids.ravel())  # np.unique sorts the pixels, which takes ten times as long
    return {i: count / ids.size for i, count in enumerate(counts.tolist()) if i and count}


def shrunk(sample: Sample) -> Sample:
    """The sample at the size that training uses, if it is larger."""
    scale = MAX_SHORT_SIDE / min(sample.ids.shape)
    if scale >= 1:
        return sample
    size = (round(sample.ids.shape[1] * scale), round(sample.ids.shape[0] * scale))
    image = cv2.resize(sample.image, size, interpolation=cv2.INTER_AREA)
    return Sample(image, cv2.resize(sample.ids, size, interpolation=cv2.INTER_NEAREST))
