"""A store in the memory of this process: gone with it, and unknown to other workers."""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable

from torch import Tensor

from maskbank.store.store import HISTORY, Revision

NUMBER_BYTES = 36  # of a number in a tuple: 28 of the object, 8 of the reference to it


class MemoryStore:
    """Revisions of a bank share most of their tensors, so the `HISTORY` newest are kept while there is room.

    When there is not, old revisions go first, those of the bank that was not used for longest before others; a bank's
    newest revision goes only with the bank.

    Args:
        ttl_s: seconds after which a bank that was not used expires.
        max_bytes: of all tensors and masks together.
        clock: seconds, from any start.
    """

    def __init__(self, ttl_s: float, max_bytes: int, clock: Callable[[], float] = time.monotonic):
        self.ttl_s = ttl_s
        self.max_bytes = max_bytes
        self.clock = clock
        self.bytes = 0
        self._banks: OrderedDict[str, dict[tuple[int, str], Revision]] = OrderedDict()  # least recently used first
        self._used: dict[str, float] = {}
        self._holders: Counter[int] = Counter()  # by address of a tensor's memory: how many revisions share it

    def load(self, bank_id: str, number: int, digest: str) -> Revision | None:
        """See `Store`."""
        self._expire()
        revision = self._banks.get(bank_id, {}).get((number, digest))
        if revision is not None:
            self._touch(bank_id)
        return revision

    def save(self, revision: Revision) -> Revision:
        """See `Store`."""
        return self.holder(revision.bank_id, revision.number) or self.keep(revision)

    def holder(self, bank_id: str, number: int) -> Revision | None:
        """The first revision that took a place."""
        self._expire()
        return next((each for each in self._banks.get(bank_id, {}).values() if each.number == number), None)

    def keep(self, revision: Revision) -> Revision:
        """Keeps a revision, beside others of its place; returns the one of its digest that was there first, unless that
        was one that only this worker had."""
        self._expire()
        revisions = self._banks.setdefault(revision.bank_id, {})
        own = (revision.number, revision.digest)
        if own in revisions and revision.shared and not revisions[own].shared:
            self._release(revisions.pop(own))
        kept = revisions.setdefault(own, revision)
        if kept is revision:
            self._hold(revision)
            newest, _ = max(revisions)
            for name in [name for name in revisions if name[0] <= newest - HISTORY]:
                self._release(revisions.pop(name))
        self._touch(revision.bank_id)
        self._make_room()
        return kept

    def save_locally(self, revision: Revision) -> None:
        """The same as `save`: no other worker has this store."""
        self.save(revision)

    def statistics(self) -> dict[str, int]:
        """Banks in memory, and the bytes of their tensors and masks."""
        return {"cached_banks": len(self._banks), "cached_bytes": self.bytes}

    def __len__(self) -> int:
        """How many banks there are."""
        return len(self._banks)

    def _touch(self, bank_id: str) -> None:
        self._banks.move_to_end(bank_id)
        self._used[bank_id] = self.clock()

    def _expire(self) -> None:
        oldest = self.clock() - self.ttl_s
        while self._banks and self._used[next(iter(self._banks))] < oldest:
            self._drop_bank(next(iter(self._banks)))

    def _make_room(self) -> None:
        for revisions in list(self._banks.values()):
            for name in sorted(revisions)[:-1]:
                if self.bytes <= self.max_bytes:
                    return
                self._release(revisions.pop(name))
        while self.bytes > self.max_bytes and len(self._banks) > 1:
            self._drop_bank(next(iter(self._banks)))

    def _drop_bank(self, bank_id: str) -> None:
        for revision in self._banks.pop(bank_id).values():
            self._release(revision)
        del self._used[bank_id]

    def _hold(self, revision: Revision) -> None:
        self.bytes += _mask_bytes(revision)
        for address, size in _storages(revision).items():
            if not self._holders[address]:
                self.bytes += size
            self._holders[address] += 1

    def _release(self, revision: Revision) -> None:
        self.bytes -= _mask_bytes(revision)
        for address, size in _storages(revision).items():
            self._holders[address] -= 1
            if not self._holders[address]:
                self.bytes -= size
                del self._holders[address]


def _mask_bytes(revision: Revision) -> int:
    """Of the masks' numbers in a revision: the masks of a 4K frame can weigh as much as its tensors."""
    return NUMBER_BYTES * sum(len(known.rle or ()) for known in revision.objects)


def _storages(revision: Revision) -> dict[int, int]:
    """The memory blocks of a revision's tensors: address → bytes."""
    memory = revision.memory
    tensors = [
        memory.prev_mask,
        *(tensor for bank in memory.banks for part in bank.parts for _, tensor in part.tensors()),
    ]
    sizes = _block_sizes(tensors)
    if memory.tuned_decoder:  # the network keeps as much again for it: the decoder that it stands for
        sizes |= {address: 2 * size for address, size in _block_sizes(memory.tuned_decoder.weights.values()).items()}
    return sizes


def _block_sizes(tensors: Iterable[Tensor]) -> dict[int, int]:
    blocks = (tensor.untyped_storage() for tensor in tensors)
    return {block.data_ptr(): block.nbytes() for block in blocks if block.nbytes()}
