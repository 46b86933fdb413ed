"""From the setting MASKBANK_STORE to a store."""

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, urlsplit

import torch

from maskbank.store.backend import Backend, BackendError
from maskbank.store.directory import DirectoryBackend
from maskbank.store.memory import MemoryStore
from maskbank.store.redis import RedisBackend
from maskbank.store.shared import SharedStore
from maskbank.store.store import Store

ENCODED = "/ # ? @ in a password must be percent-encoded"
FORMS = "memory://, file:///a/folder, redis://[[user]:password@]host[:port][/database] or, with TLS, rediss://…"


class StoreUrlError(ValueError):
    """A store's address that cannot be."""


def store_url(environment: Mapping[str, str]) -> str:
    """What MASKBANK_STORE says, else the Redis that CVAT's deploy scripts name, else a folder of this user's.

    Raises StoreUrlError.
    """

    def text(name: str, default: str = "") -> str:
        return environment.get(name, "").strip() or default

    url = text("MASKBANK_STORE")
    if url:
        return url
    host = text("CVAT_FUNCTIONS_REDIS_HOST")
    if host:
        if not re.fullmatch(r"[\w.-]+", host):
            raise StoreUrlError(f"CVAT_FUNCTIONS_REDIS_HOST is {host!r}, but must be a host without its port.")
        port = text("CVAT_FUNCTIONS_REDIS_PORT", "6379")
        if not port.isdigit():
            raise StoreUrlError(f"CVAT_FUNCTIONS_REDIS_PORT is {port!r}, but must be a number.")
        password = text("CVAT_FUNCTIONS_REDIS_PASSWORD")
        login = f":{quote(password, safe='')}@" if password else ""
        return f"redis://{login}{host}:{port}/0"
    folder = text("XDG_STATE_HOME")
    if not folder:
        try:
            folder = str(Path.home() / ".local" / "state")
        except RuntimeError as error:  # a user without a home, as containers may have
            raise StoreUrlError("There is no home folder to keep banks in; set MASKBANK_STORE.") from error
    return f"file://{folder}/maskbank"


def open_backend(url: str, ttl_s: float) -> Backend | None:
    """The backend at an address, None for memory://. It is not reached for yet.

    Raises StoreUrlError with the end of a sentence: "must be …".
    """
    if url == "memory://":
        return None
    if url.startswith("file:///"):
        return DirectoryBackend(Path(url.removeprefix("file://")), ttl_s)  # a ? or # is a part of the folder's name
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:  # its text may show a part of a password
        raise StoreUrlError(f"must be {FORMS}; the port must be a number, and {ENCODED}") from error
    if parts.scheme in ("redis", "rediss") and parts.hostname and port != 0:
        if parts.query or parts.fragment or not re.fullmatch(r"(/\d*)?", parts.path):
            raise StoreUrlError(f"must be {FORMS}; nothing follows the database's number, and {ENCODED}")
        return RedisBackend(url, ttl_s)
    raise StoreUrlError(f"must be {FORMS}")


def open_store(
    url: str, ttl_s: float, model_id: str, cache_bytes: int, device: torch.device, quota_bytes: float
) -> Store:
    """The store at an address, see `SharedStore`.

    Raises StoreUrlError, and BackendError when the store cannot be reached.
    """
    cache = MemoryStore(ttl_s, cache_bytes)
    backend = open_backend(url, ttl_s)
    if backend is None:
        return cache
    try:
        backend.check()
    except (BackendError, UnicodeError) as error:  # a host's name that cannot be
        raise BackendError(f"The store {redacted(url)} cannot be used: {error}", transient=False) from error
    return SharedStore(backend, model_id, cache, device, quota_bytes)


def redacted(url: str) -> str:
    """The address without user and password, however it is written, slashes forgotten or not."""
    without_login = re.sub(r"^(\w+:(?=/))?(/*).*@", r"\1\2…@", url, flags=re.DOTALL)
    return re.sub(r"[?#].*", "?…", without_login, flags=re.DOTALL)
