"""Reading a feature bank: every place of a frame takes the values of the entries that its query resembles.

The one read-out of all networks. They differ in how a key resembles a query (`Similarity`) and in what counts as use of
an entry (`CountUsage`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from maskbank.bank.feature_bank import FeatureBank

# Queries that read a bank at once on a CPU: their similarities, up to some 10 MB, are worked on while in its cache.
# All queries of a frame at once take two to three times as long, and several times the memory.
QUERIES_AT_ONCE = 256
# Some of the entries, and some of the queries, are multiplied in whole multiples of these: in bfloat16, a CPU builds a
# program of its own for each shape of a product, which takes ten times as long as the product, and keeps it.
ENTRIES_STEP, QUERIES_STEP = 64, 32
NO_WEIGHT = 1e-30  # of all outlined frames together, for a query
READ_ELEMENTS = 1 << 24  # similarities (entries × queries) held at once anywhere: 64 MiB in float32

Similarity = Callable[[Tensor, Tensor], Tensor]
"""Keys (1, Ck, N), queries (1, Ck, M) → (1, M, N), whose softmax over the entries gives the weights of the read-out."""
CountUsage = Callable[[Tensor], Tensor]
"""Weights (M, N) of the queries of a frame → what the usage counters of the entries grow by, (N,)."""


@dataclass(frozen=True, eq=False)
class Readout:
    """What a bank with N entries and K objects answers to the M queries of a frame.

    Attributes:
        values: (K, Cv, M); zeros where they were not wanted.
        best_similarity: (K, M), to the entry that resembles the query most, among those that the object may read.
        usage: (N,), in the order of the bank's parts; objects that share their keys count by their share.
        seed_labels: (K, M), 0 to 1: how much of the query's place object k would cover, if only the outlined frames
            were read; None where their coverage is not known.
    """

    values: Tensor
    best_similarity: Tensor
    usage: Tensor
    seed_labels: Tensor | None


def read(
    bank: FeatureBank,
    query: Tensor,
    similarity: Similarity,
    count_usage: CountUsage,
    precision: torch.dtype = torch.float32,
    wanted: Tensor | None = None,
) -> Readout:
    """Reads a bank (Liang et al. 2020, section 3.2); objects that may read the same entries share one softmax.

    Args:
        bank: with at least one entry.
        query: (1, Ck, M) query keys of a frame.
        similarity, count_usage: see their types.
        precision: of values and weights as they are multiplied, not of what the weights come from.
        wanted: (K, M) bool, whether a query is to have the values of object k; None: all are.

    Raises:
        ValueError: there is an object that may read no entry.
    """
    parts = bank.parts
    valid = _joined([part.valid for part in parts]) if parts else None
    if valid is None or not valid.any(1).all():
        raise ValueError("The bank has no entry to read.")
    keys = _joined([part.keys for part in parts])[None]
    values = _joined([part.values for part in parts]).to(precision)
    patterns, pattern_of = valid.unique(dim=0, return_inverse=True)
    groups = []  # of objects that may read the same: which ones, what they read unless it is everything, their values
    for number, readable in enumerate(patterns):
        readers = (pattern_of == number).nonzero()[:, 0]
        own = values if len(readers) == len(valid) else values[readers]
        some = None if readable.all() else readable.nonzero()[:, 0]
        groups.append((readers, some, own if some is None else _padded(own[..., some], -len(some) % ENTRIES_STEP)))

    queries = query.shape[2]
    readout = query.new_zeros(*values.shape[:2], queries, dtype=precision)
    best = query.new_empty(len(valid), queries)
    usage = query.new_zeros(keys.shape[2])
    coverage = bank.seeds.coverage if bank.seeds is not None else None
    seed_labels = None if coverage is None else query.new_empty(len(valid), queries)
    limit = QUERIES_AT_ONCE if query.device.type == "cpu" else queries
    at_once = max(min(limit, READ_ELEMENTS // keys.shape[2]), 1)
    for start in range(0, queries, at_once):
        here = slice(start, start + at_once)
        scores = similarity(keys, query[..., here])[0]
        for readers, some, own in groups:
            read_scores = scores if some is None else scores.index_select(1, some)
            weights = read_scores.softmax(1)
            used = count_usage(weights) * (len(readers) / len(valid))
            usage += used if some is None else usage.new_zeros(usage.shape).index_copy(0, some, used)
            if coverage is not None and seed_labels is not None:
                covered = coverage[readers]  # of the entries of outlined frames, the first part of a bank
                covered = covered if some is None else covered[:, some[some < coverage.shape[1]]]
                of_seeds = weights[:, : covered.shape[1]]
                seed_labels[readers, here] = covered @ of_seeds.T / (of_seeds.sum(1) + NO_WEIGHT)
            best[readers, here] = read_scores.amax(1)
            readout[readers, :, here] = _weighted(
                own, weights.to(precision), None if wanted is None else wanted[readers, here]
            )
    return Readout(readout, best, usage, seed_labels)


def _weighted(values: Tensor, weights: Tensor, wanted: Tensor | None) -> Tensor:
    """The sums of values (K, Cv, N) with weights (M, N or less, as values may be padded): (K, Cv, M); see `read`."""
    weights = _padded(weights, values.shape[2] - weights.shape[1])
    if wanted is None or wanted.all():
        sums: Tensor = (values.flatten(0, 1) @ weights.T).unflatten(0, values.shape[:2])
        return sums
    sums = weights.new_zeros(*values.shape[:2], len(weights))
    for k, queries in enumerate(wanted):
        if queries.any():
            read = _filled_up(queries, QUERIES_STEP)
            sums[k][:, queries] = (values[k] @ weights[read].T)[:, queries[read]]
    return sums


def _padded(tensor: Tensor, more: int) -> Tensor:
    """With so many zeros more in the last dimension."""
    return F.pad(tensor, (0, more)) if more else tensor


def _filled_up(chosen: Tensor, step: int) -> Tensor:
    """(N,) bool, as many true as a multiple of a step, or all: the first of the others are chosen as well."""
    missing = -chosen.sum() % step
    return chosen | (~chosen & ((~chosen).cumsum(0) <= missing))


def _joined(tensors: list[Tensor]) -> Tensor:
    """All of them along their last dimension; a single one, which may be large, is not copied."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, -1)
