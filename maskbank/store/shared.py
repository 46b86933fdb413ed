"""Banks on a shelf that all workers share, with what this worker used last kept decoded in memory."""

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar
from weakref import WeakValueDictionary

import torch
from torch.utils.weak import WeakIdKeyDictionary

from maskbank.bank import Entries
from maskbank.errors import UnavailableError
from maskbank.networks.segmenter import Adaptation
from maskbank.store import HISTORY, Revision
from maskbank.store.format import (
    DamagedError,
    Names,
    adaptation_pieces,
    entries_pieces,
    pieces_of,
    read,
    revision_name,
    revision_number,
    use_piece,
    write,
)
from maskbank.store.memory import MemoryStore
from maskbank.store.shelf import Shelf, ShelfError

PATIENCE_S = 5.0  # with a shelf that may be restarting
REST_S = 5.0  # after patience was in vain, for so long requests do not wait for the shelf

Result = TypeVar("Result")

log = logging.getLogger(__name__)


class SharedStore:
    """`(bank, number)` names one state for ever, so what the cache holds of a bank is right whoever advanced it.

    Args:
        shelf: where revisions outlive this process.
        maker: the model and its weights.
        cache: of decoded revisions.
        device: where the tensors of decoded revisions are.
    """

    def __init__(self, shelf: Shelf, maker: str, cache: MemoryStore, device: torch.device):
        self.shelf = shelf
        self.maker = maker
        self.cache = cache
        self.device = device
        self.failures = 0  # of the shelf, after some patience
        self.written_bytes = 0
        self._rests_until = -float("inf")
        self._parts: WeakValueDictionary[Names, Entries | Adaptation] = WeakValueDictionary()  # of cached revisions
        # By adaptation, and of entries by their values, which outlive a count of use.
        self._names: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def load(self, bank: str, number: int) -> Revision | None:
        return self.cache.load(bank, number) or self._fetch(bank, number)

    def save(self, revision: Revision) -> Revision | None:
        taken = self.cache.load(revision.bank, revision.number)
        if taken is not None:
            return taken
        if not self._patiently(lambda: self._add(revision)):
            return self._fetch(revision.bank, revision.number)
        if revision.number % HISTORY == 0:
            self._clean_up(revision.bank, revision.number - HISTORY)
        return self.cache.save(revision)

    def keep_here(self, revision: Revision) -> None:
        self.cache.save(revision)

    def usage(self) -> dict[str, int]:
        return {
            **self.cache.usage(),
            "reachable": int(time.monotonic() >= self._rests_until),
            "failures": self.failures,
            "written_bytes": self.written_bytes,
        }

    def _fetch(self, bank: str, number: int) -> Revision | None:
        try:
            revision = self._patiently(lambda: self._read(bank, number))
        except DamagedError as error:
            log.error("Revision %d of bank %s… is lost: %s", number, bank[:6], error)
            return None
        return revision and self.cache.save(revision)

    def _read(self, bank: str, number: int) -> Revision | None:
        [data] = self.shelf.get(bank, [revision_name(number)])
        if data is None:
            return None
        revision = read(data, self.maker, lambda names: self._pieces(bank, names), self._parts, self.device)
        if (revision.bank, revision.number) != (bank, number):
            raise DamagedError("Another revision is in its place.")
        self.shelf.touch(bank)
        return revision

    def _pieces(self, bank: str, names: Names) -> list[bytes]:
        pieces = self.shelf.get(bank, names)
        if None in pieces:
            raise DamagedError("A piece of it is missing.")
        return pieces

    def _add(self, revision: Revision) -> bool:
        """Whether the place was free.

        It counts as taken, too, when the bank has revisions but not the one before: that one is too old to go back to,
        or the shelf has forgotten it, and its successor's name may have been given away.
        """
        there = set(self.shelf.names(revision.bank))
        follows = revision_name(revision.number - 1) in there or not any(map(revision_number, there))
        if not follows or revision_name(revision.number) in there:
            return False
        pieces: dict[str, bytes] = {}
        banks = []
        for bank in revision.memory.banks:
            named = bank.named_parts()
            places = {}
            for part, entries in named.items():
                places[part] = names = self._name(entries.values, partial(entries_pieces, entries), there, pieces)
                self._parts[names] = entries
            use, content = use_piece(named)
            pieces[use] = content
            banks.append((places, use))
        adaptation, weights = revision.memory.adaptation, ()
        if adaptation is not None:
            weights = self._name(adaptation, partial(adaptation_pieces, adaptation), there, pieces)
            self._parts[weights] = adaptation
        needed = {name for places, use in banks for names in (*places.values(), (use,)) for name in names} | {*weights}
        data = write(revision, self.maker, banks, weights)
        pieces = {name: piece for name, piece in pieces.items() if name not in there}
        added = self.shelf.add(revision.bank, pieces, revision_name(revision.number), data)
        self.written_bytes += sum(map(len, pieces.values())) + len(data)
        if added and not needed.issubset(self.shelf.names(revision.bank)):
            raise ShelfError("The bank expired or was purged while it was written to.", passing=False)
        return added

    def _name(
        self, thing: object, make: Callable[[], dict[str, bytes]], there: set[str], pieces: dict[str, bytes]
    ) -> Names:
        """The names of the pieces of something; the pieces are made, and put among `pieces`, if they are not there."""
        names = self._names.get(thing)
        if names is None or not there.issuperset(names):
            own = make()
            pieces |= own
            self._names[thing] = names = tuple(own)
        return names

    def _clean_up(self, bank: str, newest_dropped: int) -> None:
        """Drops revisions that are too old to go back to, and the pieces that only they needed.

        It comes once in `HISTORY` revisions, so that up to twice as many are there.
        Pieces that no revision needs stay: another worker may be about to add the one that does.
        """
        try:
            names = self.shelf.names(bank)
            old = [name for name in names if 0 < (revision_number(name) or 0) <= newest_dropped]
            kept = [name for name in names if (revision_number(name) or 0) > newest_dropped]
            needed, unneeded = (
                set().union(*(pieces_of(data) for data in self.shelf.get(bank, some) if data)) for some in (kept, old)
            )
            self.shelf.delete(bank, old)
            self.shelf.delete(bank, unneeded - needed)
        except (ShelfError, DamagedError) as error:  # next time, then
            log.warning("Old revisions of bank %s… could not be dropped: %s", bank[:6], error)

    def _patiently(self, use_shelf: Callable[[], Result]) -> Result:
        """What it returns; tried again for a while when the shelf may be restarting.

        Raises UnavailableError, and whatever else `use_shelf` raises.
        """
        patience = time.monotonic() + PATIENCE_S
        while True:
            try:
                if time.monotonic() < self._rests_until:
                    raise ShelfError("It did not answer a moment ago.", passing=False)
                return use_shelf()
            except ShelfError as error:
                if error.passing and time.monotonic() < patience:
                    time.sleep(0.1)
                    continue
                if error.passing:
                    self._rests_until = time.monotonic() + REST_S
                self.failures += 1
                log.error("The store cannot be used: %s", error)
                raise UnavailableError("The tracker's memory is unreachable; try again.") from error
