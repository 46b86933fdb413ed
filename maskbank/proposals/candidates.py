"""Candidates: what the interactor finds in boxes around the regions of a frame that move by themselves."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from torch import Tensor

from maskbank.files.images import resize_mask
from maskbank.networks.outliner import Outliner
from maskbank.networks.prompts import Box
from maskbank.shapes.rle import mask_box
from maskbank.tracking.search import appearance_of
from maskbank.tracking.tracker import Frame, Tracker

LEVELS = (0.25, 0.4, 0.55, 0.7)  # of the highest value of a motion map, above which its regions lie
REGIONS = 3  # of each level; the two strongest are taken together as well, as a rider and a horse
CLOSING = 0.03  # of the map's short side: gaps of up to this size are part of a region
SMALLEST_REGION, SMALLEST_MASK = 0.002, 0.001  # of the image
LEAST_MOTION = 0.3  # of a map, somewhere; below it nothing moves
CELLS = 80  # to a side; boxes whose edges lie in the same cells are the same


@dataclass(frozen=True, eq=False)
class Candidate:
    """What may be an object.

    Attributes:
        frame: index of its frame.
        mask: (H, W) bool.
        salience: how much more it moves than the rest of the frame, times the root of its share of the frame: of two
            masks that move alike, the larger one is less likely to be chance, or a part of the other.
        look: (192,), see `appearance_of`.
    """

    frame: int
    mask: np.ndarray
    salience: float
    look: Tensor


def find_candidates(
    index: int, image: np.ndarray, motion: np.ndarray, tracker: Tracker, outliner: Outliner
) -> list[Candidate]:
    """The candidates of a frame.

    Args:
        index: the frame's.
        image: (H, W, 3) uint8 RGB.
        motion: (h, w), see `motion_map`.
        tracker: whose network says what they look like.
        outliner: finds them.
    """
    view = tracker.view(Frame(image))
    found = []
    for box in _boxes(motion, *image.shape[:2]):
        mask = outliner.object_at(box, image).mask
        if mask.mean() >= SMALLEST_MASK:
            look = appearance_of(tracker, view, mask)
            found.append(Candidate(index, mask, _salience(mask, motion), look))
    return found


def _salience(mask: np.ndarray, motion: np.ndarray) -> float:
    covered = resize_mask(mask, *motion.shape)
    share = float(covered.mean())
    inside = float((motion * covered).mean()) / share
    outside = float((motion * (1 - covered)).mean()) / max(1 - share, 1e-6)
    return max(inside - outside, 0.0) * math.sqrt(share)


def _boxes(motion: np.ndarray, height: int, width: int) -> list[Box]:
    """Around the regions of a motion map, in pixels of the image; each once."""
    scale = np.array([width / motion.shape[1], height / motion.shape[0]] * 2)
    boxes: dict[tuple[int, ...], Box] = {}
    for region in _regions(motion):
        corners = mask_box(region)
        assert corners is not None
        left, top, right, bottom = (np.array(corners) + (0, 0, 1, 1)) * scale
        cells = np.round(np.array([left / width, top / height, right / width, bottom / height]) * CELLS)
        boxes.setdefault(tuple(cells.astype(int).tolist()), (left, top, right, bottom))
    return list(boxes.values())


def _regions(motion: np.ndarray) -> Iterator[np.ndarray]:
    """(h, w) bool each."""
    if motion.max() < LEAST_MOTION:
        return
    side = max(3, round(min(motion.shape) * CLOSING)) | 1
    for level in LEVELS:
        high = (motion > level * motion.max()).astype(np.uint8)
        high = cv2.morphologyEx(high, cv2.MORPH_CLOSE, np.ones((side, side), np.uint8))
        high = cv2.morphologyEx(high, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        count, labels = cv2.connectedComponents(high)
        strength = np.bincount(labels.ravel(), motion.ravel(), count)
        strongest = sorted(range(1, count), key=lambda label: -strength[label])[:REGIONS]
        regions = [labels == label for label in strongest]
        yield from (region for region in regions if region.mean() >= SMALLEST_REGION)
        if len(regions) > 1:
            yield regions[0] | regions[1]
