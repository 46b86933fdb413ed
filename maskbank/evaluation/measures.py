"""The measures of DAVIS: region similarity J and boundary accuracy F.

Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016,
section 4. Here 255 (void) is background, and a mean over sequences is one of their means over objects; the DAVIS 2017
benchmark (Pont-Tuset et al. 2017) leaves void pixels out, and takes the mean over all objects of all sequences.
Written from the definitions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, hypot

import cv2
import numpy as np

RECALL_ABOVE = 0.5
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
    """Mean J and F of every object over a sequence, as {object id: Score}; see `j_and_f_of_frames`."""
    return averaged(j_and_f_of_frames(masks, truths, object_ids, skip_last), mean)


def averaged(
    scores: Mapping[int, Sequence[Score]], over_frames: Callable[[Sequence[float]], float]
) -> dict[int, Score]:
    """One score for each object from those of its frames, by `mean`, `recall` or `decay`."""
    return {
        object_id: Score(over_frames([each.j for each in own]), over_frames([each.f for each in own]))
        for object_id, own in scores.items()
    }


def mean(values: Sequence[float]) -> float:
    """DAVIS's headline number."""
    return float(np.mean(values))


def recall(values: Sequence[float]) -> float:
    """DAVIS's recall: the share of frames with a value above 0.5."""
    return float(np.mean(np.asarray(values) > RECALL_ABOVE))


def decay(values: Sequence[float]) -> float:
    """DAVIS's decay: what is lost from the first quarter of the frames to the last; negative for a gain.

    As in DAVIS's own code, a frame on the border of two quarters counts in both.
    """
    edges = np.round(np.linspace(1, len(values), 5) + 1e-10).astype(int) - 1
    first, last = values[edges[0] : edges[1] + 1], values[edges[3] : edges[4] + 1]
    return float(np.mean(first) - np.mean(last))


def j_and_f_of_frames(
    masks: Sequence[np.ndarray],
    truths: Sequence[np.ndarray | None],
    object_ids: Sequence[int],
    skip_last: bool = True,
) -> dict[int, list[Score]]:
    """J and F of every object on each scored frame of a sequence, by object id.

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
        scores[object_id] = [Score(jaccard(mask, truth), boundary_f(mask, truth)) for mask, truth in pairs]
    return scores


def calibration_error(confidences: Sequence[float], values: Sequence[float], bins: int = 10) -> float:
    """How far confidences lie from what they predict, 0..1: the expected calibration error (Guo et al., ICML 2017).

    Both are 0..1. Of each of `bins` equal ranges of confidence the distance of the mean confidence from the mean value,
    weighted by how many fall into it.
    """
    confidence, value = np.asarray(confidences), np.asarray(values)
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(float((confidence - value)[which == each].sum())) for each in range(bins)]
    return sum(gaps) / len(confidence)


def worst_found(confidences: Sequence[float], values: Sequence[float], share: float = 0.2) -> float:
    """Of the lowest values, this share of all, how many are among as many with the lowest confidence, 0..1.

    To look at what the tracker is least sure of finds so much of what is worst.
    """
    count = max(round(share * len(values)), 1)
    worst, unsure = (set(np.argsort(each, kind="stable")[:count].tolist()) for each in (values, confidences))
    return len(worst & unsure) / count


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
