"""A backend in Redis, or in what speaks its protocol (Kvrocks, Valkey): a hash per bank, a field per blob."""

import re
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from maskbank.store.backend import BANK_ID, BackendError, BankUsage

PREFIX = "maskbank:"
USED = "used"  # the field that says when a bank was last used, in seconds of Unix time
SIZES = PREFIX + "sizes"  # the bytes of each bank, by its name: what lists them without a search through all keys
TIMEOUT_S = 2.0  # for an answer; an annotator is waiting
FETCH_AT_ONCE = 16  # blobs, of megabytes at most


class RedisBackend:
    """Needs Redis's oldest commands only: hashes, expiry, transactions; nothing that goes through all keys.

    Args:
        url: redis:// or, with TLS, rediss://; user, password, port and database as redis-py reads them.
        ttl_s: seconds after which an untouched bank is gone.
    """

    def __init__(self, url: str, ttl_s: float):
        self.ttl_ms = max(int(ttl_s * 1000), 1)
        # Any: redis-py's types do not tell what a command answers from what a pipeline returns.
        self._redis: Any = redis.Redis.from_url(
            url,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 1, (redis.ConnectionError,)),  # for a connection that a restart has left stale
            protocol=2,
        )

    def check(self) -> None:
        """Writes to the server, which a replica that can only be read would refuse; a full one is better than none."""
        key = PREFIX + "check"
        with _translated_errors(), suppress(redis.OutOfMemoryError), self._redis.pipeline() as pipeline:
            pipeline.hset(key, USED, _now()).pexpire(key, self.ttl_ms).execute()

    def names(self, bank_id: str) -> list[str]:
        """See `Backend`."""
        with _translated_errors():
            return [name.decode() for name in self._redis.hkeys(PREFIX + bank_id) if name != USED.encode()]

    def get(self, bank_id: str, names: Collection[str]) -> list[bytes | None]:
        """See `Backend`."""
        found: list[bytes | None] = []
        with _translated_errors():
            left = iter(names)
            while some := list(islice(left, FETCH_AT_ONCE)):
                found += self._redis.hmget(PREFIX + bank_id, some)
        return found

    def add(self, bank_id: str, blobs: Mapping[str, bytes], name: str, data: bytes) -> bool:
        """See `Backend`."""
        key = PREFIX + bank_id
        with _translated_errors():
            for blob, content in blobs.items():
                with self._redis.pipeline() as pipeline:  # no blob without an expiry, wherever this process dies
                    self._count(pipeline, bank_id, len(content))
                    pipeline.hset(key, blob, content).pexpire(key, self.ttl_ms).execute()
            with self._redis.pipeline() as pipeline:
                self._count(pipeline, bank_id, len(data))
                pipeline.hsetnx(key, name, data).hset(key, USED, _now()).pexpire(key, self.ttl_ms)
                return bool(pipeline.execute()[2])

    def _count(self, pipeline: Any, bank_id: str, size: int) -> None:
        """Two commands; what two workers write at once counts twice."""
        pipeline.hincrby(SIZES, bank_id, size).pexpire(SIZES, self.ttl_ms)

    def touch(self, bank_id: str) -> None:
        """See `Backend`."""
        key = PREFIX + bank_id
        with _translated_errors():
            if self._redis.pexpire(key, self.ttl_ms):
                with self._redis.pipeline() as pipeline:
                    pipeline.hset(key, USED, _now()).pexpire(key, self.ttl_ms).pexpire(SIZES, self.ttl_ms).execute()

    def delete(self, bank_id: str, names: Collection[str]) -> None:
        """See `Backend`."""
        key = PREFIX + bank_id
        with _translated_errors():
            with self._redis.pipeline() as pipeline:
                for name in names:
                    pipeline.hstrlen(key, name)
                size = sum(pipeline.execute())
            if size:
                with self._redis.pipeline() as pipeline:
                    pipeline.hdel(key, *names).hincrby(SIZES, bank_id, -size).execute()

    def drop(self, bank_id: str) -> None:
        """See `Backend`."""
        with _translated_errors(), self._redis.pipeline() as pipeline:
            pipeline.delete(PREFIX + bank_id).hdel(SIZES, bank_id).execute()

    def usage(self) -> Iterator[BankUsage]:
        """See `Backend`."""
        with _translated_errors():
            sizes = {name.decode(errors="replace"): size for name, size in self._redis.hgetall(SIZES).items()}
            for bank_id in filter(BANK_ID.fullmatch, sorted(sizes)):  # others write to this Redis, too
                key = PREFIX + bank_id
                with self._redis.pipeline(transaction=False) as pipeline:
                    fields, used = pipeline.hlen(key).hget(key, USED).execute()
                if not fields:
                    self._redis.hdel(SIZES, bank_id)  # it has expired
                    continue
                # Without a mark it was never finished, and is of no use to anyone.
                idle_s = time.time() - _number(used) if used else float("inf")
                yield BankUsage(bank_id, fields - bool(used), int(_number(sizes[bank_id])), max(idle_s, 0.0))


def _number(text: bytes) -> float:
    """0 for what is none."""
    try:
        return float(text)
    except ValueError:
        return 0.0


def _now() -> str:
    return f"{time.time():.0f}"


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Raises BackendError for what Redis refused."""
    try:
        yield
    except redis.RedisError as error:
        # redis-py repeats the commands of a pipeline, which name the bank.
        reason = re.sub(r"Command # .* of pipeline caused error: ", "", str(error), flags=re.DOTALL)
        reason = re.sub(re.escape(PREFIX) + r"\S*", PREFIX + "…", reason)
        transient = isinstance(error, redis.ConnectionError | redis.TimeoutError | redis.BusyLoadingError)
        raise BackendError(f"Redis: {reason}", transient) from error
