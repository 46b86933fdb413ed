"""The feature bank: what a tracker remembers of past frames, and the policies that keep it small.

A bank holds entries; an entry is one key (what a place of a frame looks like) and one value per object that
shares the key (what the network wants to know of the object there). Everything is immutable: operations
return new banks that share unchanged tensors with the old one, so older revisions stay valid and snapshots
are cheap.

Merging and eviction follow Liang, Li, Jafari, Chen, NeurIPS 2020 (arXiv 2010.07958), section 3.2. Notation:
N entries, K objects, Ck and Cv channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

PAPER_TOTAL = 300_000  # entries of all classes together (the authors' default)
PAPER_TWO_CLASS_SHARE = 0.8  # of a class's budget, where there are only two classes (the authors' default)
UPDATE_RATE = 0.1  # share of the new direction in a merge (the authors' default for DAVIS)
MERGE_THRESHOLD = 0.95  # cosine similarity of keys above which entries merge (the authors' default)

# Ours. A 480p frame has 1620 entries, so there is room for 18 seed frames.
DEFAULT_BUDGET = 30_000  # entries
DEFAULT_RECENT_FRAMES = 3  # memorized frames
DEFAULT_OLDER = 3_000  # entries; what is read at every frame costs time at every frame

MATCH_ELEMENTS = 1 << 24  # similarities (old × new entries) held at once while merging: 64 MiB in float32


class BankFullError(ValueError):
    """The permanent entries of a bank leave no room for one more seed frame."""


@dataclass(frozen=True, eq=False)
class Entries:
    """Entries of a bank, side by side in plain tensors.

    Attributes:
        keys: (Ck, N) float.
        values: (K, Cv, N) float; K objects share the keys.
        valid: (K, N) bool; whether object k may read the entry. False e.g. where the object joined later.
        frame: (N,) int64; the index of the frame an entry comes from.
        use: (N,) float32; grows whenever a query reads the entry.

    Raises:
        ValueError: the tensors do not fit together.
    """

    keys: Tensor
    values: Tensor
    valid: Tensor
    frame: Tensor
    use: Tensor

    def __post_init__(self) -> None:
        n = self.keys.shape[-1] if self.keys.ndim == 2 else -1
        fits = self.values.ndim == 3 and self.values.shape[2] == n
        fits = fits and self.valid.shape == (self.values.shape[0], n)
        if not fits or self.frame.shape != (n,) or self.use.shape != (n,):
            shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in self.tensors())
            raise ValueError(f"The tensors of bank entries do not fit together: {shapes}.")
        if (self.valid.dtype, self.frame.dtype, self.use.dtype) != (torch.bool, torch.int64, torch.float32):
            dtypes = f"{self.valid.dtype}, {self.frame.dtype}, {self.use.dtype}"
            raise ValueError(f"Valid, frame and use must be bool, int64 and float32, not {dtypes}.")

    @classmethod
    def of_frame(cls, keys: Tensor, values: Tensor, frame: int, valid: Tensor | None = None) -> Entries:
        """Fresh entries of one frame, from what a network memorized.

        Args:
            keys: (Ck, N).
            values: (K, Cv, N).
            frame: index of the frame.
            valid: (K,) bool, which objects may read this frame; by default all.
        """
        objects, n = values.shape[0], keys.shape[1]
        if valid is None:
            valid = torch.ones(objects, dtype=torch.bool)
        return cls(
            keys=keys,
            values=values,
            valid=valid.to(keys.device).unsqueeze(1).repeat(1, n),
            frame=torch.full((n,), frame, dtype=torch.int64, device=keys.device),
            use=torch.zeros(n, device=keys.device),
        )

    def __len__(self) -> int:
        return self.keys.shape[1]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The names and tensors, in the order of the attributes."""
        return ((field.name, getattr(self, field.name)) for field in fields(self))

    def in_half_precision(self) -> Entries:
        """Keys and values as a store keeps them, so that a bank that was stored goes on exactly as one that was not.

        They are rounded to half precision, and contiguous: sums depend on the layout in their last bits.
        """
        keys, values = (t.half().to(t.dtype).contiguous() for t in (self.keys, self.values))
        return replace(self, keys=keys, values=values)

    def select(self, index: Tensor) -> Entries:
        """The entries at an index, (n,) int64 positions or (N,) bool."""
        return Entries(**{name: tensor[..., index] for name, tensor in self.tensors()})

    def concat(self, other: Entries) -> Entries:
        """These entries, then the other's.

        Raises:
            ValueError: the two differ in channels or in the number of objects.
        """
        if self.keys.shape[0] != other.keys.shape[0] or self.values.shape[:2] != other.values.shape[:2]:
            ours = f"keys {tuple(self.keys.shape)}, values {tuple(self.values.shape)}"
            theirs = f"keys {tuple(other.keys.shape)}, values {tuple(other.values.shape)}"
            raise ValueError(f"Entries of different kinds cannot be joined: {ours} with {theirs}.")
        joined = {name: torch.cat([tensor, getattr(other, name)], -1) for name, tensor in self.tensors()}
        return Entries(**joined)

    def add_objects(self, count: int) -> Entries:
        """The same entries with `count` more objects, which may read none of them."""
        return replace(
            self,
            values=torch.cat([self.values, self.values.new_zeros(count, *self.values.shape[1:])]),
            valid=torch.cat([self.valid, self.valid.new_zeros(count, len(self))]),
        )


@dataclass(frozen=True, eq=False)
class FeatureBank:
    """What is remembered of one object, or of several that share their keys.

    Attributes:
        seeds: entries of frames that a person outlined.
        older: entries of other frames, merged and thinned.
        recent: entries of the last memorized frames, whole; one item per frame, oldest first.
    """

    seeds: Entries | None = None
    older: Entries | None = None
    recent: tuple[Entries, ...] = ()

    @property
    def parts(self) -> tuple[Entries, ...]:
        """All entries, in the order in which use is counted: seeds, older, recent."""
        return tuple(part for part in (self.seeds, self.older, *self.recent) if part is not None)

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def count_use(self, increments: Tensor) -> FeatureBank:
        """A bank whose use counters have grown by `increments`, (N,) in the order of the parts.

        Raises:
            ValueError: not one increment per entry.
        """
        if increments.shape != (len(self),):
            got = tuple(increments.shape)
            raise ValueError(f"A bank of {len(self)} entries cannot count increments of shape {got}.")
        growths = increments.split([len(part) for part in self.parts])
        grown = iter(replace(part, use=part.use + growth) for part, growth in zip(self.parts, growths, strict=True))
        return FeatureBank(
            seeds=next(grown) if self.seeds is not None else None,
            older=next(grown) if self.older is not None else None,
            recent=tuple(grown),
        )

    def add_objects(self, count: int) -> FeatureBank:
        """A bank with `count` more objects, which may read none of the entries it has so far."""
        return FeatureBank(
            seeds=self.seeds.add_objects(count) if self.seeds is not None else None,
            older=self.older.add_objects(count) if self.older is not None else None,
            recent=tuple(entries.add_objects(count) for entries in self.recent),
        )

    def named_parts(self) -> dict[str, Entries]:
        """The parts under names such as `seeds` and `recent.0`, in their order."""
        named = {"seeds": self.seeds, "older": self.older}
        named |= {f"recent.{position}": entries for position, entries in enumerate(self.recent)}
        return {name: entries for name, entries in named.items() if entries is not None}

    @classmethod
    def of_parts(cls, named: Mapping[str, Entries]) -> FeatureBank:
        """The bank that `named_parts` took apart."""
        recent = sum(name.startswith("recent.") for name in named)
        return cls(named.get("seeds"), named.get("older"), tuple(named[f"recent.{i}"] for i in range(recent)))


def paper_budget(total: int, classes: int) -> int:
    """The authors' budget of one class, in entries; `total` is shared by all classes, background included."""
    budget = total // classes
    return int(PAPER_TWO_CLASS_SHARE * budget) if classes == 2 else budget


@dataclass(frozen=True)
class PaperPolicy:
    """The authors' policy: every frame is merged into one pool at once; what is little used goes.

    Everything lives in the bank's `older` part. As in the authors' implementation the budget can be exceeded
    in two cases: by the first frame, and where a single frame has more new entries than the budget.

    Attributes:
        budget_per_class: entries of one bank, see `paper_budget`.
        update_rate: share of the new direction in a merge.
        merge_threshold: cosine similarity of keys above which entries merge.
    """

    budget_per_class: int
    update_rate: float = UPDATE_RATE
    merge_threshold: float = MERGE_THRESHOLD

    def __post_init__(self) -> None:
        check_merging(self.budget_per_class, self.update_rate, self.merge_threshold)

    def seed(self, bank: FeatureBank, entries: Entries) -> FeatureBank:
        """A bank that has learnt an outlined frame; after the first it is a frame like any other."""
        return self.memorize(bank, entries)

    def memorize(self, bank: FeatureBank, entries: Entries) -> FeatureBank:
        """A bank that has learnt one frame: `entries` of that frame only, at least one."""
        if bank.older is None:
            return replace(bank, older=entries)
        # Not renormalised: merged vectors get a little shorter every time, as in the authors' implementation.
        older, fresh = merge(bank.older, entries, self.update_rate, self.merge_threshold, renormalise=False)
        now = int(entries.frame[0])
        while len(older) and len(older) + len(fresh) > self.budget_per_class:
            scores = use_per_age(older, now)
            older = older.select(scores > int(scores.min()) + 1)
        return replace(bank, older=older.concat(fresh))


@dataclass(frozen=True)
class AdaptivePolicy:
    """The default policy: seeds for ever, recent frames whole, older ones merged and thinned, a hard budget.

    Keys and values are kept as half-precision numbers. `len(bank) <= budget` holds after every call. Keeping recent
    frames whole avoids what XMem (arXiv 2207.07115) found to be AFB-URR's weakness: features compressed as soon as
    they are made lose detail.

    Attributes:
        budget: entries of one bank.
        recent_frames: memorized frames that are kept whole; fewer where the budget does not hold them.
        older: entries that are kept of all other frames together; fewer where the budget does not hold them.
        merge_threshold: cosine similarity of keys above which entries merge.
        update_rate: share of the new direction in a merge.
    """

    budget: int = DEFAULT_BUDGET
    recent_frames: int = DEFAULT_RECENT_FRAMES
    older: int = DEFAULT_OLDER
    merge_threshold: float = MERGE_THRESHOLD
    update_rate: float = UPDATE_RATE

    def __post_init__(self) -> None:
        check_merging(self.budget, self.update_rate, self.merge_threshold)
        if self.recent_frames < 0 or self.older < 0:
            raise ValueError(
                f"Recent frames and older entries must be 0 or more, not {self.recent_frames}, {self.older}."
            )

    def seed(self, bank: FeatureBank, entries: Entries) -> FeatureBank:
        """A bank that has learnt an outlined frame for ever: `entries` of that frame only, at least one.

        Raises:
            BankFullError: the outlined frames together would exceed the budget.
        """
        outlined = 0 if bank.seeds is None else len(bank.seeds)
        if outlined + len(entries) > self.budget:
            raise BankFullError(
                f"The feature bank has a budget of {self.budget} entries, of which outlined frames hold "
                f"{outlined} for ever: one more outlined frame of {len(entries)} does not fit."
            )
        entries = entries.in_half_precision()
        seeds = entries if bank.seeds is None else bank.seeds.concat(entries)
        return self._fitted(replace(bank, seeds=seeds), int(entries.frame[0]))

    def memorize(self, bank: FeatureBank, entries: Entries) -> FeatureBank:
        """A bank that has learnt one frame: `entries` of that frame only, at least one."""
        return self._fitted(replace(bank, recent=(*bank.recent, entries.in_half_precision())), int(entries.frame[0]))

    def _fitted(self, bank: FeatureBank, now: int) -> FeatureBank:
        """The bank within its limits: recent frames become older entries, and the least used of these go."""
        room = self.budget - (0 if bank.seeds is None else len(bank.seeds))
        older, recent = bank.older, bank.recent
        while len(recent) > self.recent_frames or sum(len(frame) for frame in recent) > room:
            leaving, *staying = recent
            older, recent = self._compressed(older, leaving), tuple(staying)
        limit = min(self.older, room - sum(len(frame) for frame in recent))
        if older is not None and len(older) > limit:
            worst_first = use_per_age(older, now).argsort(stable=True)  # of equals, the oldest goes first
            older = older.select(worst_first[len(older) - limit :].sort().values)
        return replace(bank, older=older, recent=recent)

    def _compressed(self, older: Entries | None, leaving: Entries) -> Entries:
        """The older entries with a frame that leaves the recent ones."""
        if older is None:
            return leaving
        # Renormalised: else entries that are merged at every frame would fade away in a video of thousands.
        older, fresh = merge(older, leaving, self.update_rate, self.merge_threshold, renormalise=True)
        return older.in_half_precision().concat(fresh)


def check_merging(budget: int, update_rate: float, merge_threshold: float) -> None:
    """Refuse settings without meaning with a `ValueError`."""
    if budget < 1:
        raise ValueError(f"The budget of a bank must be at least 1 entry, not {budget}.")
    if not 0 <= update_rate <= 1:
        raise ValueError(f"The update rate must be between 0 and 1, not {update_rate}.")
    if not -1 <= merge_threshold <= 1:
        raise ValueError(f"The merge threshold must be a cosine, between -1 and 1, not {merge_threshold}.")


def use_per_age(entries: Entries, now: int) -> Tensor:
    """How much entries were used per frame of distance from frame `now`, (N,); tracking may go backwards."""
    return entries.use / (entries.frame - now).abs().clamp(min=1)


def merge(older: Entries, new: Entries, rate: float, threshold: float, renormalise: bool) -> tuple[Entries, Entries]:
    """Merge each new entry into the older one it resembles most, if enough (the paper's section 3.2).

    The cosine similarity of keys decides, among entries that the same objects may read; keys and values then
    follow the same match. A merge turns the older vector by `rate` towards the mean direction of those that
    merge with it.

    Args:
        older: entries to merge into; their frame and use stay.
        new: entries of another frame; they are not merged with each other.
        rate: share of the new direction, 0 to 1.
        threshold: cosine similarity above which entries merge.
        renormalise: keep the older vector's length. Otherwise it shrinks as the directions differ.

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
        if renormalise:
            direction = F.normalize(direction, dim=-2)
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
