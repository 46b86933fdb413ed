"""The feature bank: what is remembered of past frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from maskbank.bank.entries import Entries


class BankFullError(ValueError):
    """The permanent entries of a bank leave no room for one more seed frame."""


@dataclass(frozen=True, eq=False)
class FeatureBank:
    """What is remembered of one object, or of several that share their keys.

    Attributes:
        seeds: entries of frames that a person outlined.
        older: entries of other frames: what was new in them, and is used most.
        recent: entries of the last memorized frames, whole; one item per frame, oldest first.
    """

    seeds: Entries | None = None
    older: Entries | None = None
    recent: tuple[Entries, ...] = ()

    @property
    def parts(self) -> tuple[Entries, ...]:
        """All entries, in the order in which usage is counted: seeds, older, recent."""
        return tuple(part for part in (self.seeds, self.older, *self.recent) if part is not None)

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def seed_frames(self) -> list[int]:
        """The indices of the frames that its seeds are of."""
        return [] if self.seeds is None else self.seeds.frame.unique().tolist()

    def count_usage(self, increments: Tensor) -> FeatureBank:
        """A bank whose usage counters have grown by `increments`, (N,) in the order of the parts.

        Raises:
            ValueError: not one increment per entry.
        """
        if increments.shape != (len(self),):
            got = tuple(increments.shape)
            raise ValueError(f"A bank of {len(self)} entries cannot count increments of shape {got}.")
        growths = increments.split([len(part) for part in self.parts])
        grown = iter(replace(part, usage=part.usage + growth) for part, growth in zip(self.parts, growths, strict=True))
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

    def of_objects(self, numbers: Sequence[int]) -> FeatureBank:
        """The bank of some of its objects, in the order of their numbers."""
        own = {name: entries.of_objects(numbers) for name, entries in self.named_parts().items()}
        readable = {name: entries for name, entries in own.items() if len(entries)}
        recent = tuple(entries for name, entries in readable.items() if name.startswith("recent."))
        return FeatureBank(readable.get("seeds"), readable.get("older"), recent)

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
