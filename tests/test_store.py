"""Banks in memory: they expire, take no more room than they may, and the oldest goes first."""

from dataclasses import replace

import pytest
import torch

from maskbank.bank.entries import Entries
from maskbank.bank.feature_bank import FeatureBank
from maskbank.bank.memory import Memory
from maskbank.store.memory import NUMBER_BYTES, MemoryStore
from maskbank.store.store import HISTORY, ObjectRecord, Revision, Store

PREV_MASK = 100 * 4  # bytes of a revision's own tensor
SHARED = 1000 * (4 + 4 + 1 + 8 + 4)  # bytes of the entries that the revisions of a bank share
UNLIMITED = 1 << 40


def entries() -> Entries:
    return Entries.of_frame(torch.zeros(1, 1000), torch.zeros(1, 1, 1000), 0)


def digest(bank: str, number: int) -> str:
    return f"{bank}{number}"


def fetched(store: Store, bank: str, number: int) -> Revision | None:
    return store.load(bank, number, digest(bank, number))


def revision(bank: str, number: int, seeds: Entries | None = None, mask: int = 0) -> Revision:
    """A revision with a previous mask of its own, entries that others may share, and a mask of so many numbers."""
    banks = () if seeds is None else (FeatureBank(seeds=seeds),)
    record = ObjectRecord("mask", (0, 0, 1, 1), tuple(range(mask)) or None, 1.0)
    return Revision(bank, number, digest(bank, number), Memory(banks, torch.zeros(1, 100)), (record,))


def history(bank: str, length: int) -> list[Revision]:
    shared = entries()
    return [revision(bank, number, shared) for number in range(1, length + 1)]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def kept(store: MemoryStore, *banks: str) -> dict[str, list[int]]:
    """The numbers of the revisions that are left, looked up behind the store's back: loading is using."""
    return {bank: sorted(number for number, _ in store._banks.get(bank, ())) for bank in banks}


def test_what_is_saved_is_loaded() -> None:
    store: Store = MemoryStore(10, UNLIMITED)
    one, two = history("a", 2)
    store.save(one)
    store.save(two)
    assert fetched(store, "a", 1) is one and fetched(store, "a", 2) is two
    assert fetched(store, "a", 3) is None and fetched(store, "b", 1) is None and fetched(store, "", 0) is None


def test_a_revision_is_named_for_ever() -> None:
    store = MemoryStore(10, UNLIMITED)
    first = revision("a", 1)
    store.save(first)
    before = store.bytes
    store.save(replace(first, digest="another", memory=Memory((), torch.zeros(9, 9))))
    assert fetched(store, "a", 1) is first and store.bytes == before


def test_a_bank_expires_when_it_is_not_used() -> None:
    clock = Clock()
    store = MemoryStore(10, UNLIMITED, clock)
    for bank in "abc":
        store.save(revision(bank, 1))
    clock.now = 9
    assert fetched(store, "a", 1)
    store.save(revision("b", 2))
    fetched(store, "c", 7)  # asking for what is not there is no use
    clock.now = 11
    assert len(store) == 3  # nothing happens until somebody asks
    assert fetched(store, "c", 1) is None
    assert fetched(store, "a", 1) and fetched(store, "b", 1) and fetched(store, "b", 2) and len(store) == 2
    clock.now = 21.5
    store.save(revision("d", 1))
    assert len(store) == 1 and store.bytes == PREV_MASK


def test_it_expires_after_not_at_the_time() -> None:
    clock = Clock()
    store = MemoryStore(10, UNLIMITED, clock)
    store.save(revision("a", 1))
    clock.now = 10
    assert fetched(store, "a", 1)
    clock.now = 20.5
    assert fetched(store, "a", 1) is None and store.bytes == 0


def test_shared_tensors_are_counted_once() -> None:
    store = MemoryStore(10, UNLIMITED)
    for count, each in enumerate(history("a", 5), 1):
        store.save(each)
        assert store.bytes == SHARED + count * PREV_MASK
    # A part of a tensor is held as a whole.
    seeds = entries()
    store.save(revision("b", 1, replace(seeds, keys=torch.zeros(1, 4000)[:, :1000])))
    assert store.bytes == 2 * SHARED + 6 * PREV_MASK + 3000 * 4


def test_masks_are_counted() -> None:
    store = MemoryStore(10, PREV_MASK + 1500 * NUMBER_BYTES)
    store.save(revision("a", 1, mask=1000))
    assert store.bytes == PREV_MASK + 1000 * NUMBER_BYTES
    store.save(revision("a", 2, mask=1001))
    assert kept(store, "a") == {"a": [2]} and store.bytes == PREV_MASK + 1001 * NUMBER_BYTES


def test_only_the_newest_revisions_are_kept() -> None:
    store = MemoryStore(10, UNLIMITED)
    for each in history("a", 2 * HISTORY):
        store.save(each)
    assert kept(store, "a") == {"a": list(range(HISTORY + 1, 2 * HISTORY + 1))}
    assert store.bytes == SHARED + HISTORY * PREV_MASK


def test_old_revisions_go_first() -> None:
    store = MemoryStore(10, SHARED + 3 * PREV_MASK)
    for each in history("a", 10):
        store.save(each)
        assert store.bytes <= store.max_bytes
    assert kept(store, "a") == {"a": [8, 9, 10]}


def test_old_revisions_of_the_bank_that_was_used_last_go_last() -> None:
    store = MemoryStore(10, 2 * SHARED + 5 * PREV_MASK)
    a, b = history("a", 4), history("b", 4)
    for each in (*a[:2], *b[:2]):
        store.save(each)
    fetched(store, "a", 2)
    store.save(a[2])
    assert kept(store, "a", "b") == {"a": [1, 2, 3], "b": [1, 2]}
    store.save(a[3])
    assert kept(store, "a", "b") == {"a": [1, 2, 3, 4], "b": [2]}
    store.save(b[2])  # now b is the one in use
    assert kept(store, "a", "b") == {"a": [2, 3, 4], "b": [2, 3]}
    assert store.bytes == store.max_bytes


def test_the_least_recently_used_bank_goes_when_old_revisions_are_not_enough() -> None:
    store = MemoryStore(10, 3 * (SHARED + PREV_MASK))
    for bank in "abc":
        for each in history(bank, 2):
            store.save(each)
    assert kept(store, "a", "b", "c") == {"a": [2], "b": [2], "c": [2]}
    fetched(store, "a", 2)
    store.save(history("d", 1)[0])
    assert kept(store, "a", "b", "c", "d") == {"a": [2], "b": [], "c": [2], "d": [1]}
    assert len(store) == 3 and store.bytes == store.max_bytes


@pytest.mark.parametrize("room", [1, SHARED])
def test_the_newest_revision_stays_even_if_it_is_too_large(room: int) -> None:
    store = MemoryStore(10, room)
    a = history("a", 3)
    for each in a:
        store.save(each)
        assert kept(store, "a") == {"a": [each.number]}
    [other] = history("b", 1)
    store.save(other)
    assert kept(store, "a", "b") == {"a": [], "b": [1]} and store.bytes == SHARED + PREV_MASK


def test_nothing_is_left_of_what_went() -> None:
    clock = Clock()
    store = MemoryStore(10, 2 * (SHARED + 2 * PREV_MASK), clock)
    for step in range(40):
        clock.now += 1
        for bank in "abc"[: 1 + step % 3]:
            store.save(history(bank, 1 + step % 5)[-1])
    clock.now += 100
    assert fetched(store, "a", 1) is None
    assert (len(store), store.bytes, len(store._holders), len(store._used)) == (0, 0, 0, 0)
