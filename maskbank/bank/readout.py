"""Reading a feature bank: every place of a frame takes the values of the entries that its query resembles.

The one read-out of all networks. They differ in how a key resembles a query (`Similarity`) and in what counts as use of
an entry (`CountUsage`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maskbank.bank.feature_bank import FeatureBank

# Queries that read a bank at once on a CPU: their similarities, up to some 10 MB, are worked on while in its cache.
# All queries of a frame at once take two to three times as long, and several times the memory.
QUERIES_AT_ONCE = 256
# Entries to which all these queries together give a smaller weight are left out. Most are, as queries that lie side by
# side read the same few; it changes values by some 0.04 %, far less than the steps in which a bank keeps them.
NEGLIGIBLE = 1e-4
# Entries and queries are multiplied in whole multiples of these: in bfloat16, a CPU builds a program of its own for
# each shape of a product, which takes ten times as long as the product, and keeps it.
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
    values = [part.values for part in parts]
    patterns, pattern_of = valid.unique(dim=0, return_inverse=True)
    groups = []  # of objects that may read the same: which ones, what is hidden from them if anything, their values
    for number, readable in enumerate(patterns):
        readers = (pattern_of == number).nonzero()[:, 0]
        own = values if len(readers) == len(valid) else [part[readers] for part in values]
        groups.append((readers, None if readable.all() else ~readable, own))

    queries = query.shape[2]
    readout = query.new_zeros(*values[0].shape[:2], queries, dtype=precision)
    best = query.new_empty(len(valid), queries)
    usage = query.new_zeros(keys.shape[2])
    coverage = bank.seeds.coverage if bank.seeds is not None else None
    seed_labels = None if coverage is None else query.new_empty(len(valid), queries)
    limit = QUERIES_AT_ONCE if query.device.type == "cpu" else queries
    at_once = max(min(limit, READ_ELEMENTS // keys.shape[2]), 1)
    for start in range(0, queries, at_once):
        here = slice(start, start + at_once)
        scores = similarity(keys, query[..., here])
        for readers, hidden, own in groups:
            masked = scores if hidden is None else scores.masked_fill(hidden, -torch.inf)
            weights = masked[0].softmax(1)
            usage += count_usage(weights) * (len(readers) / len(valid))
            if coverage is not None and seed_labels is not None:
                of_seeds = weights[:, : coverage.shape[1]]  # the first part of a bank
                seed_labels[readers, here] = coverage[readers] @ of_seeds.T / (of_seeds.sum(1) + NO_WEIGHT)
            best[readers, here] = masked.amax(2)
            readout[readers, :, here] = _weighted(
                own, weights, precision, None if wanted is None else wanted[readers, here]
            )
    return Readout(readout, best, usage, seed_labels)


def _weighted(parts: Sequence[Tensor], weights: Tensor, precision: torch.dtype, wanted: Tensor | None) -> Tensor:
    """The sums of values, which come in parts (K, Cv, some of N), with weights (M, N): (K, Cv, M); see `read`."""
    counting = _filled_up(weights.sum(0) >= NEGLIGIBLE, ENTRIES_STEP)
    weights = weights[:, counting].to(precision)
    places = [those.nonzero()[:, 0] for those in counting.split([part.shape[-1] for part in parts])]
    if wanted is None:
        values = _joined([part[..., those] for part, those in zip(parts, places, strict=True)]).to(precision)
        sums: Tensor = (values.flatten(0, 1) @ weights.T).unflatten(0, values.shape[:2])
        return sums
    sums = weights.new_zeros(*parts[0].shape[:2], len(weights))
    for k, queries in enumerate(wanted):
        if not queries.any():
            continue
        own = _joined([part[k][:, those] for part, those in zip(parts, places, strict=True)]).to(precision)
        if queries.all():
            torch.mm(own, weights.T, out=sums[k])
        else:
            read = _filled_up(queries, QUERIES_STEP)
            sums[k][:, queries] = (own @ weights[read].T)[:, queries[read]]
    return sums


def _filled_up(chosen: Tensor, step: int) -> Tensor:
    """(N,) bool, as many true as a multiple of a step, or all: the first of the others are chosen as well."""
    missing = -chosen.sum() % step
    return chosen | (~chosen & ((~chosen).cumsum(0) <= missing))


def _joined(tensors: list[Tensor]) -> Tensor:
    """All of them along their last dimension; a single one, which may be large, is not copied."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, -1)
