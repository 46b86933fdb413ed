"""Seed recall and precision: how well masks agree with what the outlined frames alone would call the objects.

A decoder is sure of a mask that lacks a part, as it never took that part for the object, and of one that has slipped to
a neighbour. The outlines may know better: each place of a frame takes the labels of those outlined places that its key
resembles (label propagation, as in Jabri et al., NeurIPS 2020, arXiv 2006.14613). Frames in between have no say, so
what went wrong on the way does not count.
"""

import torch
from torch import Tensor

HALF_TRUSTED = 8  # places in a mask, of 16 x 16 pixels each, with which its recall counts for half of what it can
REACH = 0.5  # of the longer side of a mask's box: how far around it labels count; farther off are look-alikes


def expected_jaccard(quality: Tensor, found: Tensor, seed_labels: Tensor) -> Tensor:
    """The Jaccard index to expect of masks, (n,): the mean of what the network expects and of the seed recall,
    multiplied by the root of the seed precision.

    The smaller a mask, the less the recall counts.

    quality: (n,); found, seed_labels: see `seed_recall`.
    """
    places = found.sum((1, 2))
    share = places / (places + HALF_TRUSTED) / 2
    mean = (1 - share) * quality + share * seed_recall(found, seed_labels)
    return mean * seed_precision(found, seed_labels).sqrt()


def seed_recall(found: Tensor, seed_labels: Tensor) -> Tensor:
    """The share of each object's labels that lies in its mask, of those around it, (n,); 0 where there is no mask.

    found: (n, h, w), how much of each place the objects cover; seed_labels: (n, h, w), see `Readout`.
    """
    near = _around(found > found.amax((1, 2), keepdim=True) / 2)  # a small mask covers no place even half
    labels = seed_labels * near
    return torch.minimum(labels, found).sum((1, 2)) / (labels.sum((1, 2)) + 1e-2)


def seed_precision(found: Tensor, seed_labels: Tensor) -> Tensor:
    """How much of what each mask has of the objects' labels is its own: its own label over the highest of all, (n,); 1
    where there is a single object, or no mask.

    found, seed_labels: see `seed_recall`.
    """
    own, highest = ((found * labels).sum((1, 2)) for labels in (seed_labels, seed_labels.amax(0)))
    return (own + 1e-2) / (highest + 1e-2)


def _around(masks: Tensor) -> Tensor:
    """The boxes of masks, wider by `REACH`: (n, h, w) bool, all False for an empty one."""
    inside = []
    for axis in (1, 2):  # rows, then columns
        hit = masks.any(3 - axis)
        place = torch.arange(hit.shape[1], device=masks.device)
        first = torch.where(hit, place, hit.shape[1]).amin(1)
        last = torch.where(hit, place, -1).amax(1)
        inside.append((place, first, last))
    reach = REACH * torch.stack([last - first + 1 for _, first, last in inside]).amax(0) + 1
    rows, columns = (
        (place >= (first - reach)[:, None]) & (place <= (last + reach)[:, None]) for place, first, last in inside
    )
    return rows[:, :, None] & columns[:, None, :]
