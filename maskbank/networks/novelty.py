"""Novelty: how far a frame, and what was found in it, lie from everything that is remembered.

The softmax of a read-out cannot tell: its weights sum to 1 even where nothing in the bank is alike. The distance to the
nearest key can (out-of-distribution detection by nearest neighbours, Sun et al., ICML 2022, arXiv 2204.06507). It is
high after a cut to another scene, when a decoder still finds something.
"""

import math

import torch.nn.functional as F
from torch import Tensor

from maskbank.networks.aggregation import aggregate

NO_THRESHOLD = 1e4  # of a network that was not calibrated: nothing is novel to it
FRAME_WEIGHT = 1e-2  # of a frame's mean novelty, in places of the mask
THRESHOLD_WIDTH = 1.0  # to either side of the threshold: where `familiar` turns from 1 to 0


def key_novelty(best_similarity: Tensor, query: Tensor) -> Tensor:
    """The squared distance from each query key to the nearest remembered one, over the root of C; 0 for the same key.

    best_similarity: (n, M), of `similarity`; query: (1, C, M). Returns (n, M).
    """
    return query.pow(2).sum(1) / math.sqrt(query.shape[1]) - best_similarity


def found_places(coarse: Tensor) -> Tensor:
    """How much of the place of each key the objects cover: logits (B, n, 4h, 4w) → (B, n, h, w)."""
    return F.avg_pool2d(aggregate(coarse), 4)


def object_novelty(novelty: Tensor, found: Tensor) -> Tensor:
    """The novelty score of each object: twice the mean `key_novelty` of the frame plus that inside its mask.

    The less is found, the more does the frame stand for it: all of it where the mask is empty.
    novelty: (B, n, h·w); found: (B, n, h, w), see `found_places`. Returns (B, n).
    """
    found, everywhere = found.flatten(2), novelty.mean(2)
    inside = ((novelty * found).sum(2) + FRAME_WEIGHT * everywhere) / (found.sum(2) + FRAME_WEIGHT)
    return 2 * everywhere + inside


def familiar(score: Tensor, threshold: Tensor) -> Tensor:
    """Whether what was found can be the objects at all: 1 below the threshold of `object_novelty`, 0 above it."""
    return ((threshold - score) / THRESHOLD_WIDTH).sigmoid()
