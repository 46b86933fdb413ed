"""How a bank learns a frame and stays small: the default policy, and the paper's.

Both return new banks; see Liang, Li, Jafari, Chen, NeurIPS 2020 (arXiv 2010.07958), section 3.2.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from maskbank.bank.entries import Entries
from maskbank.bank.feature_bank import BankFullError, FeatureBank
from maskbank.bank.merging import MERGE_THRESHOLD, UPDATE_RATE, merge, unmatched

PAPER_TOTAL = 300_000  # entries of all classes together (the authors' default)
PAPER_TWO_CLASS_SHARE = 0.8  # of a class's budget, where there are only two classes (the authors' default)

# Ours. A 480p frame has 1620 entries, so there is room for 18 seed frames (for 12 to 14 where objects are tracked
# in windows of large frames, as these are memorized at several scales).
DEFAULT_BUDGET = 30_000  # entries
DEFAULT_RECENT_FRAMES = 3  # memorized frames
DEFAULT_OLDER = 3_000  # entries; what is read at every frame costs time at every frame


def paper_budget(total: int, classes: int) -> int:
    """The authors' budget of one class, in entries; `total` is shared by all classes, background included."""
    budget = total // classes
    return int(PAPER_TWO_CLASS_SHARE * budget) if classes == 2 else budget


@dataclass(frozen=True)
class PaperPolicy:
    """The authors' policy: every frame is merged into one pool at once; what is little used goes.

    Everything lives in the bank's `older` part. As in the authors' implementation the budget can be exceeded
    in two cases: by the first frame, and where a single frame has more new entries than the budget. Unlike there, a
    bank is never emptied.

    Attributes:
        budget_per_class: entries of one bank, see `paper_budget`.
        update_rate: share of the new direction in a merge.
        merge_threshold: cosine similarity of keys above which entries merge.
    """

    budget_per_class: int
    update_rate: float = UPDATE_RATE
    merge_threshold: float = MERGE_THRESHOLD

    def __post_init__(self) -> None:
        check_limits(self.budget_per_class, self.merge_threshold)
        if not 0 <= self.update_rate <= 1:
            raise ValueError(f"The update rate must be between 0 and 1, not {self.update_rate}.")

    def seed(self, bank: FeatureBank, entries: Entries, again: Collection[int] = ()) -> FeatureBank:
        """A bank that has memorized an outlined frame; after the first it is a frame like any other, `again` or not."""
        return self.memorize(bank, entries)

    def memorize(self, bank: FeatureBank, entries: Entries) -> FeatureBank:
        """A bank that has memorized one frame: `entries` of that frame only, at least one."""
        if bank.older is None:
            return replace(bank, older=entries)
        older, fresh = merge(bank.older, entries, self.update_rate, self.merge_threshold)
        now = int(entries.frame[0])
        while len(older) and len(older) + len(fresh) > self.budget_per_class:
            scores = usage_per_age(older, now)
            kept = scores > int(scores.min()) + 1
            if not kept.any() and not len(fresh):  # which would leave nothing to read
                kept = scores.argsort(descending=True, stable=True)[: self.budget_per_class].sort().values
            older = older.select(kept)
        return replace(bank, older=older.concat(fresh))


@dataclass(frozen=True)
class AdaptivePolicy:
    """The default policy: seeds for ever, recent frames whole, of older ones what is new and used, a hard budget.

    Keys and values are kept in few bits, see `Entries.quantized`. After every call `len(bank) <= budget` holds, unless
    the seeds alone exceed it, as they were given under a larger one: then nothing else is kept. Keeping recent frames
    whole avoids what XMem (arXiv 2207.07115) found to be AFB-URR's weakness: features compressed as soon as
    they are made lose detail.

    Attributes:
        budget: entries of one bank.
        recent_frames: memorized frames that are kept whole; fewer where the budget does not hold them.
        older: entries that are kept of all other frames together; fewer where the budget does not hold them.
        match_threshold: cosine similarity of keys above which an entry adds nothing to an older one.
    """

    budget: int = DEFAULT_BUDGET
    recent_frames: int = DEFAULT_RECENT_FRAMES
    older: int = DEFAULT_OLDER
    match_threshold: float = MERGE_THRESHOLD

    def __post_init__(self) -> None:
        check_limits(self.budget, self.match_threshold)
        if self.recent_frames < 0 or self.older < 0:
            raise ValueError(
                f"Recent frames and older entries must be 0 or more, not {self.recent_frames}, {self.older}."
            )

    def seed(self, bank: FeatureBank, entries: Entries, again: Collection[int] = ()) -> FeatureBank:
        """A bank that has memorized an outlined frame for ever: `entries` of that frame only, at least one.

        again: earlier frames with the same image; what these objects were there is forgotten.

        Raises:
            BankFullError: the outlined frames together would exceed the budget.
        """
        entries = entries.quantized()
        if bank.seeds is not None and again:
            bank = replace(bank, seeds=_without_outlines(bank.seeds, again, entries.valid.any(1)))
        outlined = 0 if bank.seeds is None else len(bank.seeds)
        if outlined + len(entries) > self.budget:
            raise BankFullError(
                f"The feature bank has a budget of {self.budget} entries, of which outlined frames hold "
                f"{outlined} for ever: one more outlined frame of {len(entries)} does not fit."
            )
        seeds = entries if bank.seeds is None else bank.seeds.concat(entries)
        return self._fitted(replace(bank, seeds=seeds), int(entries.frame[0]))

    def seed_again(self, bank: FeatureBank, entries: Entries) -> FeatureBank:
        """The same at one more scale of the frame, where outlines then fill at most half of the bank; else it stays."""
        outlined = len(entries) + (0 if bank.seeds is None else len(bank.seeds))
        return self.seed(bank, entries) if outlined <= self.budget / 2 else bank

    def memorize(self, bank: FeatureBank, entries: Entries) -> FeatureBank:
        """A bank that has memorized one frame: `entries` of that frame only, at least one.

        What covers them there is not kept: only of an outlined frame is it known, not just found.
        """
        entries = replace(entries, coverage=None).quantized()
        return self._fitted(replace(bank, recent=(*bank.recent, entries)), int(entries.frame[0]))

    def _fitted(self, bank: FeatureBank, now: int) -> FeatureBank:
        """The bank within its limits: recent frames become older entries, and the least used of these go."""
        # Seeds may exceed a budget that became smaller since: they stay, and leave room for nothing else.
        room = max(0, self.budget - (0 if bank.seeds is None else len(bank.seeds)))
        older, recent = bank.older, bank.recent
        while len(recent) > self.recent_frames or sum(len(frame) for frame in recent) > room:
            leaving, *staying = recent
            older = leaving if older is None else older.concat(unmatched(older, leaving, self.match_threshold))
            recent = tuple(staying)
        limit = min(self.older, room - sum(len(frame) for frame in recent))
        if older is not None and len(older) > limit:
            worst_first = usage_per_age(older, now).argsort(stable=True)  # of equals, the oldest goes first
            older = older.select(worst_first[len(older) - limit :].sort().values) if limit else None
        fitted = replace(bank, older=older, recent=recent).named_parts()
        # Counters in half precision cost a store half as much; they only say what is used more than others. Seeds stay
        # however little they are used.
        return FeatureBank.of_parts(
            {
                name: replace(
                    part, usage=part.usage.half().float() if name != "seeds" else torch.zeros_like(part.usage)
                )
                for name, part in fitted.items()
            }
        )


def _without_outlines(seeds: Entries, frames: Collection[int], anew: Tensor) -> Entries | None:
    """Seeds without what some objects, `anew` (K,) bool, are on some frames; None where nothing is left."""
    of_frames = torch.isin(seeds.frame, torch.tensor(list(frames), device=seeds.frame.device))
    left = replace(seeds, valid=seeds.valid & ~(anew[:, None] & of_frames))
    readable = left.valid.any(0)
    return left.select(readable) if readable.any() else None


def check_limits(budget: int, threshold: float) -> None:
    """Refuse limits without meaning with a `ValueError`."""
    if budget < 1:
        raise ValueError(f"The budget of a bank must be at least 1 entry, not {budget}.")
    if not -1 <= threshold <= 1:
        raise ValueError(f"The threshold of a match must be a cosine, between -1 and 1, not {threshold}.")


def usage_per_age(entries: Entries, now: int) -> Tensor:
    """How much entries were used per frame of distance from frame `now`, (N,); tracking may go backwards."""
    return entries.usage / (entries.frame - now).abs().clamp(min=1)
