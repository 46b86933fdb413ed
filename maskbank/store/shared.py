"""A store on a backend that all workers share, with what this worker used last kept decoded in memory."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import repeat
from typing import TypeVar

import torch
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from maskbank.bank.entries import Entries
from maskbank.bank.memory import TunedDecoder
from maskbank.errors import ForeignVersionError, UnavailableError
from maskbank.store.backend import Backend, BackendError
from maskbank.store.blobs import DamagedError, without_header
from maskbank.store.layout import Layout, Names, StoredParts, write_changes, write_entries
from maskbank.store.memory import MemoryStore
from maskbank.store.serialization import (
    blobs_of,
    decoder_blobs,
    index_blob,
    read_revision,
    revision_blob,
    revision_name,
    revision_number,
)
from maskbank.store.store import HISTORY, Revision

GROWING = ("seeds", "older")  # parts of a bank that mostly stay when something is memorized; others are frames
CLEAN_UP_EVERY = 10  # revisions
# After so long a worker that writes looks at what all banks take; later where that takes more than a share of its time.
QUOTA_EVERY_S, QUOTA_AT_LAST_S = 30.0, 600.0
QUOTA_SHARE = 0.01
QUOTA_LEFT = 0.9  # of the quota, when banks had to go: not one more at every frame
RETRY_S = 5.0  # for so long a backend is tried again that may be restarting; once, after that was in vain
BACKOFF_S = 5.0  # after that was in vain, for so long requests do not wait for the backend

T = TypeVar("T")

log = logging.getLogger(__name__)


class SharedStore:
    """A revision's digest names it for ever, so what the cache holds is right whoever advanced the bank.

    Args:
        backend: where revisions outlive this process.
        model_id: names the model and its weights.
        cache: of decoded revisions.
        device: where the tensors of decoded revisions are.
        quota_bytes: what all banks of all workers may take; when it is more, those go first that were not used for
            longest.
    """

    def __init__(
        self, backend: Backend, model_id: str, cache: MemoryStore, device: torch.device, quota_bytes: float = math.inf
    ):
        self.backend = backend
        self.model_id = model_id
        self.cache = cache
        self.device = device
        self.quota_bytes = quota_bytes
        self.stored_banks = self.stored_bytes = 0  # of all workers, when it was last looked at
        self.evicted_banks = 0  # by this worker
        self._quota_due = -math.inf
        self.failures = 0  # of the backend, after all tries
        self.written_bytes = 0
        self._rests_until = -math.inf
        self._is_away = False  # it did not answer at the last try
        self._works = True  # the last use of it did not fail
        self._parts = StoredParts()

    def load(self, bank_id: str, number: int, digest: str) -> Revision | None:
        """See `Store`."""
        found = self.cache.load(bank_id, number, digest) or self._fetch(bank_id, number)
        return found if found is not None and found.digest == digest else None

    def save(self, revision: Revision) -> Revision | None:
        """See `Store`."""
        taken = self.cache.holder(revision.bank_id, revision.number)
        if taken is not None and (taken.shared or taken.digest != revision.digest):
            return taken
        if not self._retried(lambda: self._add(revision)):
            return self._fetch(revision.bank_id, revision.number)
        if revision.number % CLEAN_UP_EVERY == 0:
            self._clean_up(revision.bank_id, revision.number - HISTORY)
        if time.monotonic() >= self._quota_due:
            self._keep_quota(revision.bank_id)
        return self.cache.keep(revision)

    def save_locally(self, revision: Revision) -> None:
        """See `Store`."""
        self.cache.keep(revision)

    def statistics(self) -> dict[str, int]:
        """See `Store`."""
        return {
            **self.cache.statistics(),
            "reachable": int(self._works and time.monotonic() >= self._rests_until),
            "failures": self.failures,
            "written_bytes": self.written_bytes,
            "stored_banks": self.stored_banks,
            "stored_bytes": self.stored_bytes,
            "evicted_banks": self.evicted_banks,
        }

    def _fetch(self, bank_id: str, number: int) -> Revision | None:
        try:
            revision = self._retried(lambda: self._read(bank_id, number))
        except DamagedError as error:
            log.error("Revision %d of bank %s… is lost: %s", number, bank_id[:6], error)
            return None
        return revision and self.cache.keep(revision)

    def _read(self, bank_id: str, number: int) -> Revision | None:
        [data] = self.backend.get(bank_id, [revision_name(number)])
        if data is None:
            return None
        revision = read_revision(data, self.model_id, partial(self._blobs, bank_id), self._parts, self.device)
        if (revision.bank_id, revision.number) != (bank_id, number):
            raise DamagedError("Another revision is in its place.")
        try:
            self.backend.touch(bank_id)
        except BackendError as error:  # it is full, say: what was read is good all the same
            log.warning("Bank %s… could not be marked as used: %s", bank_id[:6], error)
        return revision

    def _blobs(self, bank_id: str, names: Names) -> list[bytes]:
        """What the blobs of those names hold. One that is damaged goes, so that whoever has its content adds it."""
        contents = []
        for name, blob in zip(names, self.backend.get(bank_id, names), strict=True):
            if blob is None:
                raise DamagedError("A blob of it is missing.")
            try:
                contents.append(without_header(blob))
            except DamagedError:
                self.backend.delete(bank_id, [name])
                raise
        return contents

    def _add(self, revision: Revision) -> bool:
        """Whether the place was free.

        It counts as taken, too, when the bank has revisions but not the one before: that one is too old to go back to,
        or the backend has forgotten it, and its successor's name may have been given away.
        """
        there = set(self.backend.names(revision.bank_id))
        follows = revision_name(revision.number - 1) in there or not any(map(revision_number, there))
        if not follows or revision_name(revision.number) in there:
            return False
        blobs: dict[str, bytes] = {}
        banks = []
        for bank, bank_before in zip(revision.memory.banks, self._banks_before(revision), strict=False):
            parts = bank.named_parts()
            layouts = {
                part: self._written(entries, bank_before.get(part), there, blobs) for part, entries in parts.items()
            }
            index, content = index_blob(parts, layouts)
            blobs[index] = content
            banks.append(({part: layout.names for part, layout in layouts.items()}, index))
        weights = self._written_decoder(revision.memory.tuned_decoder, there, blobs)
        needed = {name for parts, usage in banks for names in (*parts.values(), (usage,)) for name in names} | {
            *weights
        }
        data = revision_blob(revision, self.model_id, banks, weights)
        new = {name: blob for name, blob in blobs.items() if name not in there}
        added = self.backend.add(revision.bank_id, new, revision_name(revision.number), data)
        self.written_bytes += sum(map(len, new.values())) + len(data)
        if added and not needed.issubset(self.backend.names(revision.bank_id)):
            raise BackendError("The bank expired or was purged while it was written to.", transient=False)
        return added

    def _banks_before(self, revision: Revision) -> Iterator[Mapping[str, Entries]]:
        """Of each bank in the revision before, if it is in memory: parts that may share entries with the new one."""
        before = self.cache.holder(revision.bank_id, revision.number - 1)
        for bank in before.memory.banks if before else ():
            yield {part: entries for part, entries in bank.named_parts().items() if part in GROWING}
        yield from repeat({})

    def _written(self, entries: Entries, before: Entries | None, there: set[str], blobs: dict[str, bytes]) -> Layout:
        """Where entries are; the blobs for what is not there yet are put among `blobs`."""
        layout = self._parts.layout_of(entries)
        if layout is None or not there.issuperset(layout.names):
            layout_before = None if before is None else self._parts.layout_of(before)
            if before is not None and layout_before is not None and there.issuperset(layout_before.names):
                layout, new = write_changes(entries, before, layout_before)
            else:
                layout, new = write_entries(entries)
            blobs |= new
        self._parts.add(entries, layout)
        return layout

    def _written_decoder(self, decoder: TunedDecoder | None, there: set[str], blobs: dict[str, bytes]) -> Names:
        """The same for a decoder, if there is one."""
        if decoder is None:
            return ()
        layout = self._parts.layout_of(decoder)
        if layout is None or not there.issuperset(layout.names):
            new = decoder_blobs(decoder)
            blobs |= new
            layout = Layout(tuple(new))
        self._parts.add(decoder, layout)
        return layout.names

    def _clean_up(self, bank_id: str, newest_dropped: int) -> None:
        """Drops revisions that are too old to go back to, and the blobs that only they needed.

        It comes once in `CLEAN_UP_EVERY` revisions, so that as many more are there.
        Blobs that no revision needs stay: another worker may be about to add the one that does. So do those of a
        revision that is damaged, until the bank goes.
        """
        try:
            names = self.backend.names(bank_id)
            old = [name for name in names if 0 < (revision_number(name) or 0) <= newest_dropped]
            if not old:
                return
            kept = [name for name in names if (revision_number(name) or 0) > newest_dropped]
            needed, unneeded = (
                {name for data in self.backend.get(bank_id, some) if data for name in _blobs_of(data)}
                for some in (kept, old)
            )
            self.backend.delete(bank_id, old)
            self.backend.delete(bank_id, unneeded - needed)
        except BackendError as error:  # next time, then
            log.warning("Old revisions of bank %s… could not be dropped: %s", bank_id[:6], error)

    def _keep_quota(self, written: str) -> None:
        """Drops the banks that were not used for longest, but for the one that was just written."""
        started = time.monotonic()
        self._quota_due = started + QUOTA_EVERY_S
        try:
            usages = sorted(self.backend.usage(), key=lambda usage: -usage.idle_s)
            now = time.monotonic()
            self._quota_due = now + min(max(QUOTA_EVERY_S, (now - started) / QUOTA_SHARE), QUOTA_AT_LAST_S)
            self.stored_banks, self.stored_bytes = len(usages), sum(usage.bytes for usage in usages)
            if self.stored_bytes <= self.quota_bytes:
                return
            for usage in usages:
                if self.stored_bytes <= QUOTA_LEFT * self.quota_bytes:
                    break
                if usage.bank_id != written and self._drops(usage.bank_id):
                    self.stored_banks -= 1
                    self.stored_bytes -= usage.bytes
                    self.evicted_banks += 1
            log.warning("The store was over its quota: %d banks are left.", self.stored_banks)
        except BackendError as error:  # next time, then
            log.warning("What the store holds could not be looked at: %s", error)

    def _drops(self, bank_id: str) -> bool:
        """Whether a bank could be dropped: one that belongs to another user must not keep the rest."""
        try:
            self.backend.drop(bank_id)
        except BackendError as error:
            log.warning("Bank %s… could not be dropped: %s", bank_id[:6], error)
            return False
        return True

    def _retried(self, use_backend: Callable[[], T]) -> T:
        """What it returns; tried again for a while when the backend may be restarting.

        Raises UnavailableError, and whatever else `use_backend` raises.
        """
        try:
            if time.monotonic() < self._rests_until:
                raise BackendError("It did not answer a moment ago.", transient=False)
            retrying = Retrying(
                retry=retry_if_exception(lambda error: isinstance(error, BackendError) and error.transient),
                stop=stop_after_delay(0 if self._is_away else RETRY_S),
                wait=wait_fixed(0.1),
                reraise=True,
            )
            answer = retrying(use_backend)
            self._is_away, self._works = False, True
            return answer
        except BackendError as error:
            if error.transient:
                self._is_away = True
                self._rests_until = time.monotonic() + BACKOFF_S
            self._works = False
            self.failures += 1
            log.error("The store cannot be used: %s", error)
            raise UnavailableError from error


def _blobs_of(data: bytes) -> set[str]:
    """The names of all blobs that a revision needs; of one that nobody can read, none."""
    try:
        return blobs_of(data)
    except (DamagedError, ForeignVersionError):
        return set()
