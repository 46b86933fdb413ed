"""Where the entries of a part of a bank lie in a store: an entry is written once, and then referred to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from maskbank.bank.entries import Entries
from maskbank.bank.memory import TunedDecoder
from maskbank.store.blobs import blob

CHUNK_BYTES = 2 << 20  # of entries in memory, about; in a blob they take a fifth of it
MAX_REFERRED = 12  # blobs of earlier revisions that a part refers to; what is read at once should not lie in hundreds
WRITTEN = (
    "keys",
    "values",
    "valid",
    "frame",
    "coverage",
)  # the tensors of entries, but for their usage, which keeps changing

Names = tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """The entries, or the weights, of some blobs one after the other; of entries, those in certain rows.

    Attributes:
        names: of the blobs.
        rows: positions in what the blobs hold together, int32; empty: all of it.
        sizes: how many entries each blob holds; it follows from the names.
    """

    names: Names
    rows: bytes = b""
    sizes: tuple[int, ...] = field(default=(), compare=False)

    def positions(self) -> np.ndarray:
        """(N,) of each entry in what the blobs hold together."""
        return np.frombuffer(self.rows, np.int32) if self.rows else np.arange(sum(self.sizes), dtype=np.int32)


class StoredParts:
    """Which blobs hold the parts and decoders that are in this worker's memory."""

    def __init__(self) -> None:
        self._parts: WeakValueDictionary[Layout, Entries | TunedDecoder] = WeakValueDictionary()
        # By tuned decoder, and of entries by their values, which outlive a count of usage.
        self._layouts: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def __len__(self) -> int:
        """How many there are."""
        return len(self._parts)

    def add(self, part: Entries | TunedDecoder, layout: Layout) -> None:
        """Makes known where something is."""
        self._parts[layout] = part
        self._layouts[part.values if isinstance(part, Entries) else part] = layout

    def at(self, layout: Layout) -> Entries | TunedDecoder | None:
        """What is there, if it is in memory."""
        return self._parts.get(layout)

    def layout_of(self, part: Entries | TunedDecoder) -> Layout | None:
        """Where something is, if that is known."""
        layout: Layout | None = self._layouts.get(part.values if isinstance(part, Entries) else part)
        return layout


class Written(NamedTuple):
    """Where something is now, and the blobs that have to be added for that, by name."""

    layout: Layout
    blobs: dict[str, bytes]


def write_entries(entries: Entries) -> Written:
    """All entries in blobs of their own."""
    made = [(*blob(chunk), chunk["keys"].shape[1]) for chunk in chunks(entries)]
    layout = Layout(tuple(name for name, _, _ in made), sizes=tuple(size for _, _, size in made))
    return Written(layout, {name: content for name, content, _ in made})


def write_changes(entries: Entries, before: Entries, layout: Layout) -> Written:
    """Entries of which some were there `before`, at `layout`: those are referred to, and the others written.

    Blobs of which less than an eighth would still be read, and the smallest where there are many, are not referred to:
    what is left of them is written anew.
    """
    place = _found(entries, before)  # in `before`, -1 for new ones
    place[place >= 0] = layout.positions()[place[place >= 0]]  # in the blobs
    starts = np.cumsum([0, *layout.sizes])
    holder = np.where(place < 0, -1, np.searchsorted(starts, place, side="right") - 1)
    live = np.bincount(holder[holder >= 0], minlength=len(layout.sizes))
    dense = [i for i, size in enumerate(layout.sizes) if live[i] * 8 >= size]
    kept = sorted(sorted(dense, key=lambda i: -live[i])[:MAX_REFERRED])
    refers = np.isin(holder, kept)
    if not refers.any():
        return write_entries(entries)
    new = Written(Layout(()), {})
    if not refers.all():
        new = write_entries(entries.select(torch.from_numpy(np.flatnonzero(~refers)).to(entries.keys.device)))

    sizes = tuple(layout.sizes[i] for i in kept)
    shift = np.zeros(len(layout.sizes), np.int64)  # of a kept blob, as others before it are left out
    shift[kept] = np.cumsum([0, *sizes[:-1]]) - starts[kept]
    rows = np.empty(len(entries), np.int32)
    rows[refers] = place[refers] + shift[holder[refers]]
    rows[~refers] = sum(sizes) + np.arange((~refers).sum())
    names = (*(layout.names[i] for i in kept), *new.layout.names)
    return Written(Layout(names, rows.tobytes(), (*sizes, *new.layout.sizes)), new.blobs)


def _found(entries: Entries, before: Entries) -> np.ndarray:
    """For each of N entries the position of the same one in `before`, bit for bit; -1 where there is none, (N,)."""
    marks, marks_before = _marks(entries.keys), _marks(before.keys)
    order = np.argsort(marks_before, kind="stable")
    if not len(order):
        return np.full(len(entries), -1)
    nearest = np.minimum(np.searchsorted(marks_before, marks, sorter=order), len(order) - 1)
    position = order[nearest]
    candidates = before.select(torch.from_numpy(position).to(before.keys.device))
    equal = torch.ones(len(entries), dtype=torch.bool, device=entries.keys.device)
    for name in WRITTEN:
        ours, theirs = getattr(entries, name), getattr(candidates, name)
        if ours is None and theirs is None:
            continue
        if ours is None or theirs is None or ours.shape != theirs.shape:  # other objects
            return np.full(len(entries), -1)
        equal &= (ours == theirs).flatten(0, -2).all(0) if ours.ndim > 1 else ours == theirs
    return np.where(equal.cpu().numpy(), position, -1)


def _marks(keys: Tensor) -> np.ndarray:
    """A number for each key (Ck, N) that hardly another one has, (N,) int64."""
    bits = keys.cpu().numpy().astype(np.float32).view(np.int32).astype(np.int64)
    factors = np.random.default_rng(0).integers(1, 2**62, (len(bits), 1), dtype=np.int64)
    marks: np.ndarray = (bits * factors).sum(0)
    return marks


def chunks(entries: Entries) -> Iterator[dict[str, Tensor]]:
    """What is written of entries, in portions of a size."""
    tensors = {name: tensor for name, tensor in entries.tensors() if name in WRITTEN}
    entry_bytes = sum(t.element_size() * (t.numel() // max(len(entries), 1)) for t in tensors.values())
    step = max(CHUNK_BYTES // max(entry_bytes, 1), 1)
    for start in range(0, max(len(entries), 1), step):
        yield {name: tensor[..., start : start + step] for name, tensor in tensors.items()}
