"""Stores that outlive a worker: the same tests for a directory and for Redis."""

import json
import math
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import redis
import torch
from support import TURTLE, Function, equal_tensors, mask_shape, request, tensors_of, true_mask

from maskbank import cli
from maskbank.bank.entries import Entries
from maskbank.bank.feature_bank import FeatureBank
from maskbank.bank.memory import Memory
from maskbank.errors import ForeignModelError, ForeignVersionError, UnavailableError
from maskbank.service.timing import Timings
from maskbank.shapes.window import Window
from maskbank.store.backend import Backend, BackendError, BankUsage
from maskbank.store.blobs import VERSION, pack, unpack
from maskbank.store.layout import CHUNK_BYTES, MAX_REFERRED, write_entries
from maskbank.store.memory import MemoryStore
from maskbank.store.opening import open_backend, open_store, redacted, store_url
from maskbank.store.serialization import read_description
from maskbank.store.shared import CLEAN_UP_EVERY, SharedStore
from maskbank.store.store import HISTORY, ObjectRecord, Revision

MODEL_ID = "lite 0123456789ab"
LONG = 3600.0
CACHE = 1 << 30


class RedisServer:
    """Debian's redis-server with a folder of its own, where it keeps all that it was told."""

    def __init__(self, folder: Path, url: str = "redis://127.0.0.1:{port}/0", port_option: str = "--port", *more: str):
        self.folder = folder
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = url.format(port=self.port)
        self.options = [port_option, str(self.port), "--dir", str(folder), "--save", "", "--appendonly", "yes", *more]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(["redis-server", *self.options], stdout=subprocess.DEVNULL)
        for _ in range(200):
            try:
                open_backend(self.url, LONG).check()
                return
            except BackendError:
                time.sleep(0.05)
        raise RuntimeError("redis-server does not start")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


# Of the commands that Kvrocks documents (kvrocks.apache.org/docs/supported-commands), those that the store needs.
KVROCKS = [
    *("ping", "select", "multi", "exec", "del", "pexpire"),
    *("hset", "hsetnx", "hget", "hmget", "hgetall", "hkeys", "hlen", "hstrlen", "hdel", "hincrby"),
]


@pytest.fixture(scope="module")
def kvrocks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that refuses everything else."""
    allowed = [f"+{command}" for command in KVROCKS]
    users = tmp_path_factory.mktemp("acl") / "users.acl"
    users.write_text(f"user default off\nuser maskbank on >secret ~maskbank:* {' '.join(allowed)}\n")
    url = "redis://maskbank:secret@127.0.0.1:{port}/0"
    server = RedisServer(tmp_path_factory.mktemp("kvrocks"), url, "--port", "--aclfile", str(users))
    yield server
    server.stop()


@pytest.fixture(params=["file", "redis", "kvrocks"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty store."""
    if request.param == "file":
        return f"file://{tmp_path / 'banks'}"
    url = request.getfixturevalue("redis_server" if request.param == "redis" else "kvrocks").url
    backend = open_backend(url, LONG)
    for usage in list(backend.usage()):
        backend.drop(usage.bank_id)
    return url


def opened(url: str, model_id: str = MODEL_ID, ttl_s: float = LONG, quota_bytes: float = math.inf) -> SharedStore:
    """The store as one more worker sees it, which has nothing in its memory yet."""
    store = open_store(url, ttl_s, model_id, CACHE, torch.device("cpu"), quota_bytes)
    assert isinstance(store, SharedStore)
    return store


def entries(n: int, frame: int, objects: int = 2, channels: int = 8) -> Entries:
    noise = torch.Generator().manual_seed(1000 * frame + n)
    keys = torch.randn(channels, n, generator=noise)
    values = torch.randn(objects, channels, n, generator=noise)
    valid = torch.rand(objects, generator=noise) < 0.8
    return replace(Entries.of_frame(keys, values, frame, valid), usage=torch.rand(n, generator=noise)).quantized()


def digest(bank: str, number: int) -> str:
    return f"digest of {bank} {number}"


def fetched(store: SharedStore, bank: str, number: int) -> Revision | None:
    return store.load(bank, number, digest(bank, number))


def revision(bank: str, number: int, seeds: Entries | None = None, recent: tuple[Entries, ...] = ()) -> Revision:
    prev_mask = (torch.rand(2, 9, 16) * 255).round() / 255
    records = (
        ObjectRecord("mask", (0, 0, 5, 6), tuple(range(number)), 0.5),
        ObjectRecord("polygon", (1, 2, 3, 4), None, 0.25, expected_j=0.625),
    )
    memory = Memory((FeatureBank(seeds or entries(5, 0), entries(3, 1), recent),), prev_mask, number, number - 1)
    return Revision(bank, number, digest(bank, number), memory, records)


def same(one: Revision, other: Revision) -> bool:
    def plain(r: Revision) -> tuple:
        memory = r.memory
        known = memory.frames, memory.last_memorized, memory.window, memory.finest, memory.size, memory.outlined
        return r.bank_id, r.number, r.digest, r.objects, *known

    return plain(one) == plain(other) and equal_tensors(tensors_of(one.memory), tensors_of(other.memory))


# ---------------------------------------------------------------- what is kept


def test_another_worker_finds_what_was_saved(url: str) -> None:
    """Bit for bit: half-precision features, bytes as previous masks, and numbers that are neither."""
    odd = revision("b" * 22, 2, recent=(entries(7, 2), entries(1, 3)))
    odd = replace(
        odd,
        memory=replace(
            odd.memory,
            prev_mask=torch.rand(2, 3, 5) * 1e-7,
            window=Window(3, 4, 160, 90),
            size=(90, 400),
            outlined={0: "5f", 2: "a0"},
        ),
    )
    empty = replace(odd, bank_id="c" * 22, memory=Memory((FeatureBank(), FeatureBank()), torch.zeros(2, 0, 0), 4, 3))
    exact = replace(entries(50, 1), keys=torch.randn(8, 50))
    full = revision("d" * 22, 1, seeds=exact)
    writer = opened(url)
    for each in (revision("a" * 22, 1), odd, empty, full):
        assert writer.save(each) is each
        assert writer.load(each.bank_id, each.number, each.digest) is each
        found = opened(url).load(each.bank_id, each.number, each.digest)
        assert found is not None and same(found, each)
    assert fetched(opened(url), "a" * 22, 2) is None and fetched(opened(url), "e" * 22, 1) is None


def test_large_parts_are_kept_in_pieces_of_a_bounded_size(url: str) -> None:
    seeds = entries(9000, 0, objects=5, channels=64)
    store = opened(url)
    store.save(revision("a" * 22, 1, seeds=seeds))
    backend = store.backend
    sizes = [len(blob) for blob in backend.get("a" * 22, backend.names("a" * 22))]
    assert len(sizes) > 3 and max(sizes) < 1.1 * CHUNK_BYTES
    assert same(fetched(opened(url), "a" * 22, 1), fetched(store, "a" * 22, 1))
    # One more seed frame: those before it are there already.
    before = store.written_bytes
    store.save(revision("a" * 22, 2, seeds=seeds.concat(entries(100, 5, objects=5, channels=64))))
    assert store.written_bytes - before < 0.1 * CHUNK_BYTES
    assert same(fetched(opened(url), "a" * 22, 2), fetched(store, "a" * 22, 2))


def test_a_frame_that_adds_little_writes_little(url: str) -> None:
    store = opened(url)
    first = revision("a" * 22, 1, seeds=entries(2000, 0))
    store.save(first)
    whole = store.written_bytes
    store.save(replace(first, number=2, digest="next"))
    assert store.written_bytes - whole < 3000 < 50_000 < whole
    assert same(opened(url).load("a" * 22, 2, "next"), replace(first, number=2, digest="next"))


def test_of_a_part_that_changes_only_what_is_new_is_written(url: str) -> None:
    """Whichever worker goes on, and whatever the part has become: rows leave, come and move."""
    random = np.random.default_rng(0)
    older, new_rows = entries(900, 0, channels=64), 900
    workers = [opened(url), opened(url)]
    whole = 0
    for number in range(1, 41):
        worker = workers[number // 3 % 2]
        if number > 1:
            fetched(worker, "a" * 22, number - 1)  # as a request does that goes on from there
            left = np.sort(random.permutation(len(older))[: random.integers(800, 901)])
            fresh = entries(int(random.integers(0, 120)), number, channels=64)
            new_rows += len(fresh)
            older = older.select(torch.from_numpy(left)).concat(fresh)
        memory = Memory((FeatureBank(None, older),), torch.zeros(2, 2, 2), number, 0)
        saved = Revision("a" * 22, number, digest("a" * 22, number), memory, ())
        assert worker.save(saved) is saved
        assert same(fetched(opened(url), "a" * 22, number), saved)
        whole = whole or worker.written_bytes
    written = sum(worker.written_bytes for worker in workers)
    # With the index; written whole every time, it would be eleven times as much.
    assert written < 2.5 * whole * new_rows / 900
    assert len(blobs_of_parts(opened(url), "a" * 22, 40)["older"]) <= MAX_REFERRED + 1


def blobs_of_parts(store: SharedStore, bank: str, number: int) -> dict[str, list[str]]:
    """The names of the blobs of each part of a revision's bank."""
    [data] = store.backend.get(bank, [f"r{number}"])
    [described] = read_description(data)["banks"]
    return described["parts"]


def test_what_a_worker_knows_is_not_fetched_again(url: str) -> None:
    first = revision("a" * 22, 1, seeds=entries(2000, 0))
    second = replace(first, number=2, digest="next", memory=replace(first.memory, frames=9))
    one, other = opened(url), opened(url)
    one.save(first)
    assert same(fetched(other, "a" * 22, 1), first)
    one.save(second)
    asked = []
    get = other.backend.get
    other.backend.get = lambda bank, names: asked.extend(names) or get(bank, names)
    found = other.load("a" * 22, 2, "next")
    assert same(found, second)
    assert [name[0] for name in asked] == ["r", "p"]  # the revision and the use counters
    assert found.memory.banks[0].seeds.keys is fetched(other, "a" * 22, 1).memory.banks[0].seeds.keys


def test_how_much_outlines_cover_is_kept_where_it_is_known(url: str) -> None:
    """Outlines from before 0.7, or of another network, do not say; those that come later do not change that."""
    plain = entries(300, 0)
    covered = replace(entries(300, 0), coverage=(torch.rand(2, 300) * 255).round() / 255)
    for bank, seeds in (("a" * 22, plain), ("b" * 22, covered)):
        first = revision(bank, 1, seeds)
        second = revision(bank, 2, seeds.concat(replace(entries(40, 5), coverage=torch.ones(2, 40))))
        opened(url).save(first)
        worker = opened(url)
        assert same(fetched(worker, bank, 1), first)
        worker.save(second)
        assert same(fetched(opened(url), bank, 2), second)
        known = second.memory.banks[0].seeds.coverage
        assert (known is None) == (seeds is plain) and (known is None or known.shape == (2, 340))


@pytest.mark.parametrize(
    "numbers", [[0.0, 1.0, 0.2], [1 / 255, 254 / 255], [0.1, -65504.0], [1e-9], [1e9], [float("nan")]]
)
def test_lean_numbers_lose_nothing(numbers: list[float]) -> None:
    tensor = torch.tensor(numbers)
    assert torch.equal(unpack(pack(tensor)).nan_to_num(7), tensor.nan_to_num(7))
    sizes = {0.0: 1, 1 / 255: 1, 0.1: 4, 1e-9: 4, 1e9: 4}
    assert pack(torch.tensor([0.5, -3.0, 1024.0])).dtype == torch.float16
    if numbers[0] in sizes:
        assert pack(tensor).element_size() == sizes[numbers[0]]


# ---------------------------------------------------------------- who is first, how long, how much


def test_the_first_of_two_has_the_name(url: str) -> None:
    mine, yours = revision("a" * 22, 1), replace(revision("a" * 22, 1), digest="yours")
    one, other = opened(url), opened(url)
    assert one.save(mine) is mine
    kept = other.save(yours)
    assert same(kept, mine) and fetched(other, "a" * 22, 1) is kept
    assert one.save(yours) is mine


def test_of_many_that_race_one_wins_and_all_see_it(url: str) -> None:
    stores = [opened(url) for _ in range(8)]
    for number in range(1, 11):
        offers = [replace(revision("a" * 22, number), digest=f"of {i}") for i in range(len(stores))]
        with ThreadPoolExecutor(len(stores)) as pool:
            kept = list(pool.map(lambda pair: pair[0].save(pair[1]), zip(stores, offers, strict=True)))
        assert len({each.digest for each in kept}) == 1
        assert all(same(each, kept[0]) for each in kept)
        assert same(opened(url).load("a" * 22, number, kept[0].digest), kept[0])


def test_an_unused_bank_expires_and_a_used_one_does_not(url: str) -> None:
    store = opened(url, ttl_s=1.0)
    for bank in "ab":
        store.save(revision(bank * 22, 1))
    for _ in range(4):
        time.sleep(0.4)
        assert fetched(opened(url, ttl_s=1.0), "a" * 22, 1) is not None
    assert fetched(opened(url, ttl_s=1.0), "b" * 22, 1) is None
    store.backend.drop("b" * 22)  # a directory is swept by and by
    assert [usage.bank_id for usage in store.backend.usage()] == ["a" * 22]


def test_a_directory_s_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("years of work")
    (tmp_path / ("x" * 22)).mkdir()
    (tmp_path / ("x" * 22) / "chapter").write_text("more of it")
    for folder in tmp_path.iterdir():
        os.utime(folder, (0, 0))
    store = opened(f"file://{tmp_path}", ttl_s=10)
    store.save(revision("a" * 22, 1))
    for usage in list(store.backend.usage()):
        store.backend.drop(usage.bank_id)
    assert (tmp_path / "thesis" / "chapter").exists() and (tmp_path / ("x" * 22) / "chapter").exists()


def test_redis_keeps_nothing_for_ever(redis_server: RedisServer) -> None:
    """Not what a writer that died left, nor by another worker's idea of how long banks live."""
    client = redis.Redis(port=redis_server.port)
    store = opened(redis_server.url, ttl_s=7200)
    backend = store.backend
    backend.drop("a" * 22)
    pipeline = type(client.pipeline())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "hsetnx", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.save(revision("a" * 22, 1))
    assert client.hlen("maskbank:" + "a" * 22) > 0 and 0 < client.pttl("maskbank:" + "a" * 22) <= 7_200_000
    opened(redis_server.url, ttl_s=7200).save(revision("b" * 22, 1))
    for ttl_s in (600, 48 * 3600):
        idle = {usage.bank_id: usage.idle_s for usage in open_backend(redis_server.url, ttl_s).usage()}
        assert idle["b" * 22] < 60 < idle["a" * 22]


def test_expired_directories_are_swept_by_whoever_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskbank.store.directory.SWEEP_EVERY_S", 0)
    store = opened(f"file://{tmp_path}", ttl_s=100)
    store.save(revision("a" * 22, 1))
    store.save(revision("b" * 22, 1))
    os.utime(tmp_path / ("a" * 22), (time.time() - 101,) * 2)
    store.save(revision("c" * 22, 1))
    assert sorted(os.listdir(tmp_path)) == ["b" * 22, "c" * 22]


def test_a_bank_that_cannot_be_dropped_keeps_nobody_from_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that belongs to another user, say."""
    monkeypatch.setattr("maskbank.store.directory.SWEEP_EVERY_S", 0)
    store = opened(f"file://{tmp_path}", ttl_s=100)
    for letter in "abc":
        store.save(revision(letter * 22, 1))
    for age, letter in ((102, "a"), (101, "b"), (50, "c")):
        os.utime(tmp_path / (letter * 22), (time.time() - age,) * 2)
    drop = store.backend.drop

    def drop_but_one(bank_id: str) -> None:
        if bank_id == "a" * 22:
            raise BackendError("Permission denied", transient=False)
        drop(bank_id)

    monkeypatch.setattr(store.backend, "drop", drop_but_one)
    store.save(revision("d" * 22, 1))
    assert sorted(os.listdir(tmp_path)) == [letter * 22 for letter in "acd"]
    store.quota_bytes, store._quota_due = 1, -math.inf
    store.save(revision("e" * 22, 1))
    assert sorted(os.listdir(tmp_path)) == [letter * 22 for letter in "ae"]
    for what in ("A bank that has expired", "Bank aaaaaa…"):
        assert f"{what} could not be dropped: Permission denied" in caplog.text
    assert "aaaaaaa" not in caplog.text


def test_what_others_write_beside_the_banks_in_redis_does_no_harm(redis_server: RedisServer) -> None:
    store = opened(redis_server.url)
    store.save(revision("a" * 22, 1))
    with redis.Redis(port=redis_server.port) as client:
        client.hset("maskbank:sizes", mapping={b"\xff\xfe": 3, "other": 4, "b" * 22: "much", "a" * 22: "?"})
        client.hset("maskbank:" + "a" * 22, "used", "yesterday")
    usages = {usage.bank_id: usage for usage in store.backend.usage()}
    assert usages["a" * 22].bytes == 0 and usages["a" * 22].idle_s > 1e6
    assert "other" not in usages


def test_a_folder_of_any_name(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/a#b?c=d%20"
    opened(url).save(revision("a" * 22, 1))
    assert os.listdir(tmp_path / "a#b?c=d%20") == ["a" * 22]


def test_a_clock_that_is_wrong_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines that share a volume may disagree about the time; the volume's own clock counts."""
    url = f"file://{tmp_path}"
    opened(url).save(revision("a" * 22, 1))
    now = time.time
    for hours in (13, -13):
        monkeypatch.setattr(time, "time", lambda hours=hours: now() + 3600 * hours)
        worker = opened(url)
        worker.save(revision("b" * 22, 1))  # looks for banks that have expired
        assert fetched(worker, "a" * 22, 1) is not None
        assert all(usage.idle_s < 60 for usage in worker.backend.usage())


def test_the_banks_that_were_not_used_for_longest_make_room(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskbank.store.shared.QUOTA_EVERY_S", 0)
    monkeypatch.setattr("maskbank.store.shared.QUOTA_SHARE", math.inf)
    banks = [letter * 22 for letter in "abcdef"]
    plain = opened(url)
    plain.save(revision(banks[0], 1, entries(900, 0)))
    size = plain.written_bytes
    store = opened(url, quota_bytes=4.5 * size)
    now = time.time
    for minute, bank in enumerate(banks[1:], 1):
        monkeypatch.setattr(time, "time", lambda minute=minute: now() + 60 * minute)
        if url.startswith("file"):
            for older in banks[:minute]:
                folder = Path(url.removeprefix("file://")) / older
                if folder.exists():
                    os.utime(folder, (folder.stat().st_mtime - 60,) * 2)
        if minute == 4:
            fetched(opened(url), banks[0], 1)  # who looks at it uses it
        assert store.save(revision(bank, 1, entries(900, minute))) is not None
        assert sum(usage.bytes for usage in store.backend.usage()) <= 4.5 * size
    left = {usage.bank_id for usage in store.backend.usage()}
    assert banks[0] in left and banks[-1] in left and banks[1] not in left and 3 <= len(left) <= 4
    known = store.statistics()
    assert known["evicted_banks"] == len(banks) - len(left) and known["stored_banks"] == len(left)
    assert known["stored_bytes"] == sum(usage.bytes for usage in store.backend.usage())


def test_what_a_bank_takes_is_told_after_a_clean_up(url: str) -> None:
    store = opened(url)
    for number in range(1, 2 * HISTORY + 2):
        store.save(revision("a" * 22, number))
    [usage] = store.backend.usage()
    names = store.backend.names("a" * 22)
    assert usage.bytes == sum(map(len, store.backend.get("a" * 22, names))) and usage.blobs == len(names)


def test_old_revisions_go_and_take_what_only_they_needed(url: str) -> None:
    store = opened(url)
    seeds = entries(50, 0)
    largest = 0
    for number in range(1, 4 * HISTORY):
        store.save(revision("a" * 22, number, seeds, recent=(entries(20, number),)))
        largest = max(largest, len(store.backend.names("a" * 22)))
    assert largest <= (HISTORY + CLEAN_UP_EVERY) * 3 + 10
    fresh = opened(url)
    for number in range(3 * HISTORY, 4 * HISTORY):
        assert same(
            fetched(fresh, "a" * 22, number),
            fetched(store, "a" * 22, number),
        )
    assert fetched(opened(url), "a" * 22, HISTORY) is None


def test_a_name_is_not_given_away_again(url: str) -> None:
    """Neither after a clean-up, nor after the backend forgot the newest revision."""
    one, other = opened(url), opened(url)
    history = [revision("a" * 22, number) for number in range(1, 2 * HISTORY + 1)]
    for each in history:
        one.save(each)
    assert fetched(opened(url), "a" * 22, 5) is None
    assert other.save(replace(history[4], digest="another future of 4")) is None
    other.backend.delete("a" * 22, [f"r{2 * HISTORY}"])
    assert other.save(revision("a" * 22, 2 * HISTORY + 1)) is None
    assert opened(url).save(revision("a" * 22, 2 * HISTORY)) is not None  # but this one is free again


def test_a_place_that_is_damaged_is_not_free(url: str) -> None:
    store = opened(url)
    store.save(revision("a" * 22, 1))
    store.backend.add("a" * 22, {}, "r2", b"torn")
    assert store.save(revision("a" * 22, 2)) is None and fetched(store, "a" * 22, 2) is None


def test_what_is_damaged_stops_neither_the_clean_up_nor_those_who_go_on(url: str) -> None:
    """A disk that lost power leaves torn blobs: of a revision, and of what many revisions share."""
    store, seeds = opened(url), entries(40, 0)
    for number in range(1, 4):
        store.save(revision("a" * 22, number, seeds))
    [shared] = write_entries(seeds).blobs
    for name in ("r1", shared):
        store.backend.delete("a" * 22, [name])
        store.backend.add("a" * 22, {name: b"torn"}, f"p{0:040}", b"")
    assert fetched(opened(url), "a" * 22, 3) is None
    for number in range(4, 3 * HISTORY):  # this worker has the seeds, and writes them again
        store.save(revision("a" * 22, number, seeds))
        assert same(fetched(opened(url), "a" * 22, number), fetched(store, "a" * 22, number))
    assert sum(name.startswith("r") for name in store.backend.names("a" * 22)) <= 2 * HISTORY


def test_clean_up_leaves_what_another_worker_is_about_to_need(url: str) -> None:
    store = opened(url)
    for number in range(1, 2 * HISTORY):
        store.save(revision("a" * 22, number))
    add, next_pieces = store.backend.add, write_entries(entries(30, 777)).blobs

    def add_while_another_worker_writes(*what: object) -> bool:
        added = add(*what)
        *some, (name, data) = next_pieces.items()  # of the next revision, which is not there yet
        add("a" * 22, dict(some), name, data)
        return added

    store.backend.add = add_while_another_worker_writes
    store.save(revision("a" * 22, 2 * HISTORY))
    names = store.backend.names("a" * 22)
    assert set(next_pieces) <= set(names) and "r1" not in names


# ---------------------------------------------------------------- what is refused


def test_another_model_s_bank_is_refused(url: str) -> None:
    opened(url).save(revision("a" * 22, 1))
    with pytest.raises(ForeignModelError, match=r"^These objects were tracked with another model .*; start tracking"):
        fetched(opened(url, model_id="lite ffffffffffff"), "a" * 22, 1)


def test_another_version_s_bank_is_refused(url: str) -> None:
    store = opened(url)
    store.save(revision("a" * 22, 1))
    [data] = store.backend.get("a" * 22, ["r1"])
    store.backend.drop("a" * 22)
    store.backend.add("a" * 22, {}, "r1", data.replace(b"maskbank %d " % VERSION, b"maskbank 999 ", 1))
    with pytest.raises(ForeignVersionError, match=r"another version of the tracker; start tracking again\.$"):
        fetched(opened(url), "a" * 22, 1)


def test_damage_is_noticed(url: str) -> None:
    """Whatever byte of whatever blob is wrong, and whatever blob is missing: the revision counts as lost."""
    store = opened(url)
    store.save(revision("a" * 22, 1))
    names = store.backend.names("a" * 22)
    blobs = dict(zip(names, store.backend.get("a" * 22, names), strict=True))
    assert len(blobs) == 4

    def found_among(blobs: dict[str, bytes]) -> bool:
        store.backend.drop("a" * 22)
        last = blobs.pop("r1")
        store.backend.add("a" * 22, blobs, "r1", last)
        return fetched(opened(url), "a" * 22, 1) is not None

    assert found_among(dict(blobs))
    for name, data in blobs.items():
        for position in (0, 30, 80, len(data) // 2, len(data) - 1):
            broken = data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :]
            assert not found_among(blobs | {name: broken})
        if name != "r1":
            assert not found_among({other: blob for other, blob in blobs.items() if other != name})
    store.backend.add("b" * 22, blobs, "r2", blobs["r1"])  # whole, but of another bank
    assert fetched(opened(url), "b" * 22, 2) is None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("disk", "must be memory://, file:///a/folder, redis://"),
        ("file://relative/folder", "must be memory://"),
        ("redis://", "must be memory://"),
        ("redis://host:port/0", "must be memory://.*port"),
        ("redis://default:se/cret@h", "must be memory://.*percent-encoded"),
        ("redis://host/0?password=secret", "must be memory://.*percent-encoded"),
        ("http://host/", "must be memory://"),
    ],
)
def test_addresses_that_cannot_be(start: Callable[..., Function], value: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"MASKBANK_STORE is .*{words}") as told:
        start(MASKBANK_STORE=value)
    assert "cret" not in str(told.value)


def test_the_store_that_cvat_names_is_used_unless_another_is_set() -> None:
    cvat = {"CVAT_FUNCTIONS_REDIS_HOST": "cvat_redis_ondisk", "CVAT_FUNCTIONS_REDIS_PORT": "6666"}
    assert store_url(cvat) == "redis://cvat_redis_ondisk:6666/0"
    assert store_url(cvat | {"CVAT_FUNCTIONS_REDIS_PASSWORD": "a/b@c"}) == "redis://:a%2Fb%40c@cvat_redis_ondisk:6666/0"
    assert store_url(cvat | {"MASKBANK_STORE": "memory://"}) == "memory://"
    assert store_url({"XDG_STATE_HOME": "/state"}) == "file:///state/maskbank"
    with pytest.raises(ValueError, match="CVAT_FUNCTIONS_REDIS_HOST is 'a:6666', but must be a host without"):
        store_url(cvat | {"CVAT_FUNCTIONS_REDIS_HOST": "a:6666"})
    with pytest.raises(ValueError, match="CVAT_FUNCTIONS_REDIS_PORT is 'x', but must be a number"):
        store_url(cvat | {"CVAT_FUNCTIONS_REDIS_PORT": "x"})


def test_tls_and_a_password_with_odd_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names, *files]
    subprocess.run(command, check=True, capture_output=True)
    certificate = str(tmp_path / "cert.pem")
    options = ["--tls-cert-file", certificate, "--tls-key-file", str(tmp_path / "key.pem"), "--tls-auth-clients", "no"]
    options += ["--tls-ca-cert-file", certificate, "--requirepass", "a/b@c#d", "--port", "0"]
    url = "rediss://:a%2Fb%40c%23d@localhost:{port}/0"
    with monkeypatch.context() as trusting:
        trusting.setenv("SSL_CERT_FILE", certificate)
        server = RedisServer(tmp_path, url, "--tls-port", *options)
        try:
            opened(server.url).save(revision("a" * 22, 1))
            assert same(
                fetched(opened(server.url), "a" * 22, 1),
                fetched(opened(server.url), "a" * 22, 1),
            )
            trusting.delenv("SSL_CERT_FILE")
            with pytest.raises(BackendError, match="certificate verify failed"):
                opened(server.url)
            wrong = server.url.replace("rediss", "redis")
            with pytest.raises(BackendError):
                opened(wrong)
        finally:
            server.stop()


def test_passwords_are_not_shown() -> None:
    assert redacted("rediss://user:p@ss@host:6666/0") == "rediss://…@host:6666/0"
    assert redacted("redis://host:6666/0") == "redis://host:6666/0"
    assert redacted("file:///a/b") == "file:///a/b"
    assert redacted("redis://host/0?password=secret") == "redis://host/0?…"
    for mistyped in (
        "redis:/:s3cret@host:6379/0",
        "redis:s3cret@host",
        "//:s3cret@host",
        ":s3cret@host:6379",
        "s3cret@host",
    ):
        assert "s3cret" not in redacted(mistyped) and "host" in redacted(mistyped)


# ---------------------------------------------------------------- kill, full, gone


ENDLESS = """
import sys
sys.path.insert(0, sys.argv[1])
from test_shared_store import entries, opened, revision
store, seeds = opened(sys.argv[2]), entries(3000, 0)
for number in range(int(sys.argv[3]), 10**6):
    store.save(revision("a" * 22, number, seeds, recent=(entries(500, number),)))
    print(number, flush=True)
"""


def test_a_killed_writer_leaves_every_saved_revision_whole(url: str) -> None:
    last = 0  # the first clean-up is at 50
    for attempt in range(8):
        command = [sys.executable, "-c", ENDLESS, str(Path(__file__).parent), url, str(last + 1)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            for line in writer.stdout:
                last = int(line)
                if last >= 12 * (attempt + 1):
                    break
            time.sleep(0.003 * attempt)
            writer.send_signal(signal.SIGKILL)
            last = max([last, *map(int, writer.stdout.read().split())])
        fresh = opened(url)
        expected = revision("a" * 22, last, entries(3000, 0), recent=(entries(500, last),))
        found = fetched(fresh, "a" * 22, last)
        assert found is not None and found.digest == expected.digest
        assert torch.equal(found.memory.banks[0].recent[0].values, expected.memory.banks[0].recent[0].values)
        numbers = {int(name[1:]) for name in fresh.backend.names("a" * 22) if name.startswith("r")}
        assert last <= max(numbers) <= last + 1
        last = max(numbers)  # it may have been killed between saving, which lets the oldest go, and saying so
        assert set(range(max(last - HISTORY + 1, 1), last + 1)) <= numbers
        assert all(fetched(fresh, "a" * 22, number) is not None for number in numbers)


def test_a_restart_of_the_store_is_waited_for(
    tmp_path: Path, start: Callable[..., Function], frames: list[bytes], turtle: dict
) -> None:
    server = RedisServer(tmp_path)
    try:
        one, other = (start(MASKBANK_SIZE=128, MASKBANK_STORE=server.url) for _ in range(2))
        _, states = one.ask(frames[0], [turtle], [])
        server.stop()
        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(one.track, frames[1], states)
            time.sleep(1)
            server.start()
            _, states = pending.result()
        assert "shared" not in states[0]
        other.track(frames[2], states)
    finally:
        server.stop()


def test_a_full_disk_is_told_and_goes_by(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The system's limit on the size of files stands in for the disk's end: the write fails the same way."""
    store = opened(f"file://{tmp_path}")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(UnavailableError, match="The tracker's memory is unreachable; try again"):
            store.save(revision("a" * 22, 1, seeds=entries(2000, 0)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert store.statistics()["failures"] == 1 and f"{tmp_path}: File too large" in caplog.text
    assert store.statistics()["reachable"] == 0
    assert "aaaaaaaaaa" not in caplog.text
    assert not any(name.startswith("r") for name in os.listdir(tmp_path / ("a" * 22)))
    store.save(revision("a" * 22, 1, seeds=entries(2000, 0)))
    assert fetched(opened(f"file://{tmp_path}"), "a" * 22, 1) is not None


def test_a_full_redis_is_told_and_goes_by(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server = RedisServer(tmp_path)
    client = redis.Redis(port=server.port)
    try:
        store = opened(server.url)
        client.config_set("maxmemory", 1)
        started = time.monotonic()
        with pytest.raises(UnavailableError, match="The tracker's memory is unreachable; try again"):
            store.save(revision("a" * 22, 1))
        assert time.monotonic() - started < 2  # waiting would not help
        assert "maxmemory" in caplog.text and "aaaaaaaaaa" not in caplog.text
        assert store.statistics()["reachable"] == 0
        client.config_set("maxmemory", 0)
        assert store.save(revision("a" * 22, 1)) is not None
        assert store.statistics()["reachable"] == 1

        client.config_set("maxmemory", 1)  # what is kept can be read, also by a worker that starts now
        assert fetched(opened(server.url), "a" * 22, 1) is not None
    finally:
        server.stop()


def test_a_redis_that_hangs_is_not_waited_for_at_every_frame(
    tmp_path: Path, start: Callable[..., Function], frames: list[bytes], turtle: dict
) -> None:
    server = RedisServer(tmp_path)
    try:
        worker = start(MASKBANK_SIZE=64, MASKBANK_STORE=server.url)
        _, states = worker.ask(frames[0], [turtle], [])
        server.process.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        _, states = worker.track(frames[1], states)
        first = time.monotonic() - started
        _, states = worker.track(frames[2], states)
        second = time.monotonic() - started - first
        assert first < 15 and second < 2 and states[0]["shared"] is False
        assert json.loads(worker.get("/"))["status"] == "store unreachable"
    finally:
        server.process.send_signal(signal.SIGCONT)
        server.stop()


def test_a_store_that_cannot_be_used_stops_the_start(start: Callable[..., Function], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"redis://:secret@127.0.0.1:{probe.getsockname()[1]}/0"
    for url in (f"file://{tmp_path}/file/banks", nobody, "redis://h..x:1/0"):
        with pytest.raises(BackendError) as told:
            start(MASKBANK_STORE=url)
        assert re.match(r"The store .* cannot be used: ", str(told.value))
        assert "secret" not in str(told.value)


# ---------------------------------------------------------------- the function


@pytest.fixture
def turtle() -> dict:
    return mask_shape(true_mask(0, TURTLE))


def test_any_worker_goes_on_with_the_same_masks(
    url: str, start: Callable[..., Function], function: Function, frames: list[bytes], turtle: dict
) -> None:
    """A worker that is new at every frame, against one that has all in its memory."""
    _, alone = function.ask(frames[0], [turtle], [])
    _, shared = start(MASKBANK_SIZE=128, MASKBANK_STORE=url).ask(frames[0], [turtle], [])
    for image in frames[1:]:
        before = shared
        expected, alone = function.track(image, alone)
        shapes, shared = start(MASKBANK_SIZE=128, MASKBANK_STORE=url).track(image, shared)
        assert shapes == expected
        assert shared[0]["confidence"] == alone[0]["confidence"]
        retried = start(MASKBANK_SIZE=128, MASKBANK_STORE=url)
        timings = Timings()
        again = retried.service.handle(request(image, [None], before), timings)
        assert json.loads(json.dumps(again)) == {"shapes": shapes, "states": shared}
        assert "track" not in timings  # answered, not computed again


def test_two_workers_in_turn_answer_as_one(
    url: str, start: Callable[..., Function], function: Function, frames: list[bytes], shapes: list[dict]
) -> None:
    """Each finds in its own memory what the other has long gone beyond, and three objects that compete."""
    workers = [start(MASKBANK_SIZE=128, MASKBANK_STORE=url) for _ in range(2)]
    _, alone = function.ask(frames[0], shapes, [])
    _, shared = workers[0].ask(frames[0], shapes, [])
    for number, image in enumerate(frames[1:], 1):
        expected, alone = function.track(image, alone)
        found, shared = workers[number % 2].track(image, shared)
        assert found == expected
    places = [tensor for worker in workers for tensor in layouts(worker, shared[0])]
    assert all(tensor.is_contiguous() for tensor in places)  # else sums would differ in their last bits


def layouts(worker: Function, state: dict) -> list[torch.Tensor]:
    """The tensors that products are made of, of a bank as a worker has it."""
    memory = worker.remembered(state).memory
    parts = [part for bank in memory.banks for part in bank.parts]
    return [memory.prev_mask, *(part.keys for part in parts), *(part.values for part in parts)]


def test_an_older_state_branches_on_another_worker(
    url: str, start: Callable[..., Function], frames: list[bytes], turtle: dict
) -> None:
    one, other = (start(MASKBANK_SIZE=128, MASKBANK_STORE=url) for _ in range(2))
    _, first = one.ask(frames[0], [turtle], [])
    _, straight = one.track(frames[1], first)
    branch = other.track(frames[2], first)
    assert branch[1][0]["bank"] != first[0]["bank"] == straight[0]["bank"]
    assert one.track(frames[2], first) == branch
    on_straight = other.track(frames[2], straight)
    assert on_straight[1][0]["bank"] == straight[0]["bank"]
    assert one.track(frames[2], straight) == on_straight


def test_after_a_failover_to_an_older_copy_nobody_gets_another_s_object(
    url: str, start: Callable[..., Function], frames: list[bytes], shapes: list[dict]
) -> None:
    """The copy lacks the newest revision, whose number is then given away again, for another frame."""
    one, other = (start(MASKBANK_SIZE=128, MASKBANK_STORE=url) for _ in range(2))
    _, first = one.ask(frames[0], shapes, [])
    bank, backend = first[0]["bank"], one.service.store.backend
    copied = dict(zip(names := backend.names(bank), backend.get(bank, names), strict=True))
    _, lost = one.track(frames[1], first)
    backend.drop(bank)
    last = copied.pop("r1")
    backend.add(bank, copied, "r1", last)

    _, anew = other.track(frames[4], first)
    assert (lost[0]["bank"], lost[0]["revision"]) == (anew[0]["bank"], anew[0]["revision"])
    assert other.send(request(frames[2], [], lost))[0] == 410  # and not what follows on frame 4
    undisturbed = start(MASKBANK_SIZE=128)
    _, states = undisturbed.ask(frames[0], shapes, [])
    after_lost = undisturbed.track(frames[2], undisturbed.track(frames[1], states)[1])[0]
    after_anew = undisturbed.track(frames[5], undisturbed.track(frames[4], states)[1])[0]
    assert one.track(frames[2], lost)[0] == after_lost  # this worker still has it
    assert one.track(frames[5], anew)[0] == after_anew == other.track(frames[5], anew)[0]
    assert one.track(frames[2], lost)[0] == after_lost


def test_a_store_that_goes_away_and_comes_back(
    tmp_path: Path,
    start: Callable[..., Function],
    frames: list[bytes],
    turtle: dict,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("maskbank.store.shared.RETRY_S", 0.5)
    monkeypatch.setattr("maskbank.store.shared.BACKOFF_S", 0.0)
    server = RedisServer(tmp_path)
    try:
        one, other = (start(MASKBANK_SIZE=128, MASKBANK_STORE=server.url) for _ in range(2))
        _, seeded = one.ask(frames[0], [turtle], [])
        _, before = one.track(frames[1], seeded)
        server.stop()
        _, meanwhile = one.track(frames[2], before)  # from its own memory
        status, sentence = other.send(request(frames[2], [None], before))
        assert (status, sentence) == (503, "The tracker's memory is unreachable; try again.")
        server.start()
        status, sentence = other.send(request(frames[3], [None], meanwhile))
        assert status == 503 and "only another worker kept it; try again" in sentence
        _, again = one.track(frames[2], before)  # the same request: now others have what it led to as well
        assert again[0] == {name: value for name, value in meanwhile[0].items() if name != "shared"}
        assert other.send(request(frames[3], [None], again))[0] == 200
        assert other.send(request(frames[2], [None], before))[0] == 200
        # What was made meanwhile has a name of its own, and goes on where it was made, then anywhere.
        assert meanwhile[0]["bank"] != before[0]["bank"] and meanwhile[0]["shared"] is False
        _, after = one.track(frames[3], meanwhile)
        assert "shared" not in after[0]
        assert other.send(request(frames[4], [None], after))[0] == 200
        assert one.service.store.statistics()["failures"] > 0
    finally:
        server.stop()


def counted(monkeypatch: pytest.MonkeyPatch, store: SharedStore, name: str, seconds: float = 0.0) -> list[int]:
    """Grows by an item at each call of this method of the store's backend, which takes so much longer."""
    calls: list[int] = []
    method = getattr(store.backend, name)

    def call(*arguments: object) -> object:
        calls.append(1)
        time.sleep(seconds)
        return method(*arguments)

    monkeypatch.setattr(store.backend, name, call)
    return calls


def test_after_it_was_away_a_store_is_tried_once_until_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maskbank.store.shared.RETRY_S", 0.5)
    monkeypatch.setattr("maskbank.store.shared.BACKOFF_S", 0.0)
    server = RedisServer(tmp_path)
    try:
        store = opened(server.url)
        tries = counted(monkeypatch, store, "get")

        def tried_to_load() -> int:
            tries.clear()
            with pytest.raises(UnavailableError):
                store.load("a" * 22, 1, "unknown")
            return len(tries)

        server.stop()
        assert tried_to_load() > 1
        assert tried_to_load() == tried_to_load() == 1
        server.start()
        assert store.load("a" * 22, 1, "unknown") is None
        server.stop()
        assert tried_to_load() > 1
    finally:
        server.stop()


def test_what_all_banks_take_is_looked_at_more_rarely_where_that_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maskbank.store.shared.QUOTA_EVERY_S", 0.0)
    store = opened(f"file://{tmp_path}")
    looks = counted(monkeypatch, store, "usage", seconds=0.3)
    store.save(revision("a" * 22, 1))
    store.save(revision("a" * 22, 2))  # 30 seconds would have to pass
    assert len(looks) == 1
    monkeypatch.setattr("maskbank.store.shared.QUOTA_SHARE", 1e9)
    store._quota_due = 0.0
    store.save(revision("a" * 22, 3))
    store.save(revision("a" * 22, 4))
    assert len(looks) == 3


def test_a_replica_that_can_only_be_read_is_refused_at_the_start(redis_server: RedisServer) -> None:
    with redis.Redis(port=redis_server.port) as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        try:
            with pytest.raises(BackendError, match="cannot be used: .*read only replica"):
                opened(redis_server.url)
        finally:
            client.execute_command("REPLICAOF", "NO", "ONE")
    opened(redis_server.url)


# ---------------------------------------------------------------- the command


def run(capsys: pytest.CaptureFixture, *arguments: str) -> tuple[int, str]:
    code = cli.main(["store", *arguments])
    out, err = capsys.readouterr()
    return code, out + err


def test_the_command_shows_and_purges(url: str, capsys: pytest.CaptureFixture) -> None:
    store = opened(url, ttl_s=12 * 3600)
    assert run(capsys, "--url", url, "stat") == (0, "0 banks, 0 bytes\n")
    store.save(revision("a" * 22, 1))
    store.save(revision("b" * 22, 1))
    code, text = run(capsys, "--url", url, "ls")
    lines = [line.split() for line in text.splitlines()]
    assert code == 0 and [(line[0], line[3]) for line in lines] == [("a" * 22, "4"), ("b" * 22, "4")]
    total = sum(int(line[1]) for line in lines)
    assert total == store.written_bytes
    assert run(capsys, "--url", url, "stat")[1].startswith(f"2 banks, {total} bytes, unused for up to 0.0")
    assert run(capsys, "--url", url, "purge", "--older-than", "1") == (0, "0 banks removed, 0 bytes\n")
    assert run(capsys, "--url", url, "purge", "--older-than", "0") == (0, f"2 banks removed, {total} bytes\n")
    assert fetched(opened(url), "a" * 22, 1) is None


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(capsys, "--url", "memory://", "ls")[0] == 1
    code, text = run(capsys, "--url", "redis://127.0.0.1:1/0", "ls")
    assert code == 1 and text.startswith("maskbank: Redis: ") and text.count("\n") == 1
    code, text = run(capsys, "--url", "nowhere", "ls")
    assert code == 1 and text.startswith("maskbank: MASKBANK_STORE is 'nowhere', but must be memory://")
    assert run(capsys, "--url", f"file://{tmp_path}/typo", "ls") == (
        1,
        f"maskbank: {tmp_path}/typo: No such file or directory\n",
    )


def test_the_caches_are_bounded() -> None:
    cache = MemoryStore(LONG, 50_000)

    class Forgetful:
        """A backend that takes everything, and of it all keeps only the names."""

        known: tuple[str, ...] = ()

        def get(self, bank: str, names: list[str]) -> list[None]:
            return [None] * len(names)

        def usage(self) -> Iterator[BankUsage]:
            return iter(())

        def add(self, bank: str, blobs: dict[str, bytes], name: str, data: bytes) -> bool:
            self.known += (*blobs, name)
            return True

        def names(self, bank: str) -> list[str]:
            return list(self.known)

        def delete(self, *_: object) -> None: ...

    backend: Backend = Forgetful()
    store = SharedStore(backend, MODEL_ID, cache, torch.device("cpu"))
    for number in range(1, 60):
        store.save(revision("a" * 22, number, seeds=entries(100, number)))
    assert cache.bytes <= 50_000 and len(store._parts) < 30
