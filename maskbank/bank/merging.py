"""Entries that resemble each other: Liang, Li, Jafari, Chen, NeurIPS 2020 (arXiv 2010.07958), section 3.2."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from maskbank.bank.entries import Entries

UPDATE_RATE = 0.1  # share of the new direction in a merge (the authors' default for DAVIS)
MERGE_THRESHOLD = 0.95  # cosine similarity of keys above which entries merge (the authors' default)

MATCH_ELEMENTS = 1 << 24  # similarities (old × new entries) held at once while merging: 64 MiB in float32


def unmatched(older: Entries, new: Entries, threshold: float) -> Entries:
    """The new entries that resemble no older one: the others would add little to it but their number.

    Args:
        threshold: cosine similarity of keys above which entries resemble each other, among those that the same objects
            may read.
    """
    return new.select(nearest(older, new)[0] <= threshold) if len(older) else new


def merge(older: Entries, new: Entries, rate: float, threshold: float) -> tuple[Entries, Entries]:
    """Merge each new entry into the older one it resembles most, if enough (the paper's section 3.2).

    The cosine similarity of keys decides, among entries that the same objects may read; keys and values then
    follow the same match. A merge turns the older vector by `rate` towards the mean direction of those that
    merge with it. As in the authors' implementation, it gets a little shorter where the directions differ.

    Args:
        older: entries to merge into; their frame and usage stay.
        new: entries of another frame; they are not merged with each other.
        rate: share of the new direction, 0 to 1.
        threshold: cosine similarity above which entries merge.

    Returns:
        The older entries after merging, and the new entries that found no match.
    """
    if not len(older):
        return older, new
    similarity, partner = nearest(older, new)
    merged = similarity > threshold
    # The positions of older entries that change, and for each merging entry which one of these it is.
    hit, slot = partner[merged].unique(return_inverse=True)

    def turned(old: Tensor, towards: Tensor) -> Tensor:
        """Vectors lie along the last dimension but one."""
        before = old[..., hit]
        units = F.normalize(towards[..., merged], dim=-2)
        mean = torch.zeros_like(before).index_add_(-1, slot, units) / slot.bincount(minlength=len(hit))
        direction = (1 - rate) * F.normalize(before, dim=-2) + rate * mean
        return old.index_copy(-1, hit, direction * before.norm(dim=-2, keepdim=True))

    older = replace(older, keys=turned(older.keys, new.keys), values=turned(older.values, new.values))
    return older, new.select(~merged)


def nearest(older: Entries, new: Entries) -> tuple[Tensor, Tensor]:
    """For each of M new entries the cosine similarity and position of the most similar older one, both (M,).

    Only entries that the same objects may read are compared; where there is none, the similarity is -inf.
    """
    old_keys, new_keys = F.normalize(older.keys, dim=0), F.normalize(new.keys, dim=0)
    similarity = torch.full_like(new_keys[0], -torch.inf)
    position = torch.zeros_like(new.frame)
    # The entries of one frame mostly have the same readers, so this is mostly a single turn.
    all_readers, kind = new.valid.unique(dim=1, return_inverse=True)
    for number, readers in enumerate(all_readers.unbind(1)):
        candidates = (older.valid == readers.unsqueeze(1)).all(dim=0).nonzero().squeeze(1)
        if not len(candidates):
            continue
        keys = old_keys[:, candidates]
        for some in (kind == number).nonzero().squeeze(1).split(max(1, MATCH_ELEMENTS // len(candidates))):
            # New by old, not old by new: finding the maxima of rows is five times faster than of columns.
            best = (new_keys[:, some].T @ keys).max(dim=1)
            similarity[some], position[some] = best.values, candidates[best.indices]
    return similarity, position
