"""The measures of DAVIS: region similarity J and boundary accuracy F.

Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016,
section 4; the averaging over frames and objects is that of the DAVIS 2017 benchmark (Pont-Tuset et al. 2017).
Written from the definitions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, hypot

import cv2
import numpy as np

BOUNDARY_TOLERANCE = 0.008  # of the image diagonal: 8 pixels at 854 × 480


@dataclass(frozen=True)
class Score:
    """Mean J and F of one object over the scored frames, each 0..1."""

    j: float
    f: float

    @property
    def j_and_f(self) -> float:
        """The mean of both, DAVIS's headline number."""
        return (self.j + self.f) / 2


def jaccard(mask: np.ndarray, truth: np.ndarray) -> float:
    """Region similarity J: intersection over union, 0..1; 1 when both masks are empty.

    mask, truth: (H, W), non-zero is the object. Raises ValueError when the sizes differ.
    """
    mask, truth = _same_size(mask, truth)
    union = np.count_nonzero(mask | truth)
    return np.count_nonzero(mask & truth) / union if union else 1.0


def boundary_f(mask: np.ndarray, truth: np.ndarray, tolerance: float = BOUNDARY_TOLERANCE) -> float:
    """Boundary accuracy F, 0..1: the harmonic mean of contour precision and contour recall.

    A contour pixel is right when the other contour passes within `tolerance` × the image diagonal (rounded
    up to whole pixels). Two masks without a contour agree (F = 1); one contour against none scores 0. The
    image's edge is no contour, so a mask that fills the image has none.

    mask, truth: (H, W), non-zero is the object. Raises ValueError when the sizes differ.
    """
    mask, truth = _same_size(mask, truth)
    found, expected = contour(mask), contour(truth)
    found_count, expected_count = np.count_nonzero(found), np.count_nonzero(expected)
    if found_count == 0 or expected_count == 0:
        return 1.0 if found_count == expected_count else 0.0
    # beyond both contours there is nothing to match: work inside their common box, which is often small
    x, y, width, height = cv2.boundingRect(found | expected)
    found, expected = (c[y : y + height, x : x + width] for c in (found, expected))
    disk = _disk(ceil(tolerance * hypot(*mask.shape)))
    precision = np.count_nonzero(found & cv2.dilate(expected, disk)) / found_count
    recall = np.count_nonzero(expected & cv2.dilate(found, disk)) / expected_count
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def contour(mask: np.ndarray) -> np.ndarray:
    """One-pixel contour of a (H, W) mask, (H, W) uint8 of 0 and 1.

    A pixel lies on the contour when its right, lower or lower-right neighbour differs from it: DAVIS's rule,
    which draws one line between two regions where "any neighbour differs" would draw two.
    """
    mask = np.ascontiguousarray(mask, dtype=bool)
    edge = np.zeros(mask.shape, bool)
    edge[:, :-1] |= mask[:, :-1] ^ mask[:, 1:]
    edge[:-1] |= mask[:-1] ^ mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return edge.view(np.uint8)


def mean_j_and_f(
    masks: Sequence[np.ndarray],
    truths: Sequence[np.ndarray | None],
    object_ids: Sequence[int],
    skip_last: bool = True,
) -> dict[int, Score]:
    """Mean J and F of every object over a sequence, as {object id: Score}.

    masks, truths: one (H, W) id map per frame; a truth of None is a frame without annotation, not scored.
    object_ids: the objects to score, as they were seeded. The first annotated frame is never scored: it was
    given to the tracker. DAVIS leaves out the last one as well (`skip_last`); keep it where annotations are
    few.

    Raises ValueError when the numbers of frames differ, sizes differ, or no frame is left to score.
    """
    if len(masks) != len(truths):
        raise ValueError(f"there are {len(masks)} masks but {len(truths)} true masks.")
    annotated = [(mask, truth) for mask, truth in zip(masks, truths, strict=True) if truth is not None]
    scored = annotated[1 : -1 if skip_last else None]
    if not scored:
        raise ValueError(f"{len(annotated)} annotated frames leave none to score.")
    scores = {}
    for object_id in object_ids:
        pairs = [(mask == object_id, truth == object_id) for mask, truth in scored]
        scores[object_id] = Score(
            j=float(np.mean([jaccard(mask, truth) for mask, truth in pairs])),
            f=float(np.mean([boundary_f(mask, truth) for mask, truth in pairs])),
        )
    return scores


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's rank correlation of two lists of numbers, -1..1; nan where one of them is constant."""

    def ranks(values: Sequence[float]) -> np.ndarray:
        """Equal values share the mean of their ranks."""
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        return (counts.cumsum() - (counts - 1) / 2)[inverse]

    with np.errstate(invalid="ignore"):
        return float(np.corrcoef(ranks(one), ranks(other))[0, 1])


def _same_size(mask: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as (H, W) bool arrays; ValueError when they are not of one size."""
    mask, truth = np.asarray(mask), np.asarray(truth)
    if mask.ndim != 2 or mask.shape != truth.shape:
        raise ValueError(f"a mask of shape {mask.shape} cannot be compared with one of {truth.shape}.")
    return mask.astype(bool), truth.astype(bool)


@lru_cache(maxsize=8)
def _disk(radius: int) -> np.ndarray:
    """(2r + 1, 2r + 1) uint8: 1 within `radius` pixels of the middle."""
    offset = np.arange(-radius, radius + 1)
    return (offset[:, None] ** 2 + offset**2 <= radius**2).astype(np.uint8)
