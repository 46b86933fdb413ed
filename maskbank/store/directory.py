"""A backend in a directory: a folder per bank, a file per blob; for the workers of one machine, or a shared volume."""

import logging
import os
import re
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from maskbank.store.backend import BANK_ID, BackendError, BankUsage

log = logging.getLogger(__name__)

SWEEP_EVERY_S = 600  # expired banks are looked for so often, by whoever writes
UNFINISHED = ".unfinished-"
BLOB = re.compile(r"r\d+|p[0-9a-f]{40}|" + re.escape(UNFINISHED) + r"\w+", re.ASCII)


class DirectoryBackend:
    """A blob is written beside its place and then linked into it, so that it is there as a whole or not at all.

    That holds when a process is killed, and after a power cut as far as the disk keeps what it was told to keep. What
    else lies in the directory is left alone. A bank's age is told by the file system's clock alone: machines that share
    a volume may disagree about the time.

    Args:
        root: the directory; made, for its owner only, where there is none.
        ttl_s: seconds after which an untouched bank is gone.
    """

    def __init__(self, root: Path, ttl_s: float):
        self.root = root
        self.ttl_s = ttl_s
        self._swept = -float("inf")

    def check(self) -> None:
        """Makes the directory where there is none, and writes a file on trial."""
        with _translated_errors(self.root):
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.root, prefix=UNFINISHED) as folder:
                self._write(Path(folder) / "trial", b"")

    def names(self, bank_id: str) -> list[str]:
        """See `Backend`."""
        folder = self._folder(bank_id)
        if folder is None:
            return []
        with _translated_errors(self.root), suppress(FileNotFoundError):
            return [name for name in os.listdir(folder) if BLOB.fullmatch(name) and not name.startswith(UNFINISHED)]
        return []

    def get(self, bank_id: str, names: Collection[str]) -> list[bytes | None]:
        """See `Backend`."""
        folder = self._folder(bank_id)
        return [None if folder is None else self._read(folder / name) for name in names]

    def add(self, bank_id: str, blobs: Mapping[str, bytes], name: str, data: bytes) -> bool:
        """See `Backend`."""
        self._sweep()
        folder = self.root / bank_id
        with _translated_errors(self.root):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for blob, content in blobs.items():
                self._write(folder / blob, content)
            if blobs:
                _sync_folder(folder)  # before the name that promises them
            added = self._write(folder / name, data)
            _sync_folder(folder)
        self.touch(bank_id)
        return added

    def touch(self, bank_id: str) -> None:
        """See `Backend`."""
        with _translated_errors(self.root), suppress(FileNotFoundError):
            os.utime(self.root / bank_id)

    def delete(self, bank_id: str, names: Collection[str]) -> None:
        """See `Backend`."""
        with _translated_errors(self.root):
            for name in names:
                (self.root / bank_id / name).unlink(missing_ok=True)

    def drop(self, bank_id: str) -> None:
        """See `Backend`."""
        folder = self.root / bank_id
        with _translated_errors(self.root), suppress(FileNotFoundError):
            # Revisions first: whoever finds one must find its blobs.
            for name in sorted(filter(BLOB.fullmatch, os.listdir(folder)), reverse=True):
                (folder / name).unlink(missing_ok=True)
            if not os.listdir(folder):
                folder.rmdir()

    def usage(self) -> Iterator[BankUsage]:
        """See `Backend`."""
        with _translated_errors(self.root):
            for bank_id, idle_s in self._banks():
                # Another worker drops banks meanwhile, and some may belong to another user.
                with suppress(FileNotFoundError, PermissionError):
                    sizes = [file.stat().st_size for file in (self.root / bank_id).iterdir()]
                    yield BankUsage(bank_id, len(sizes), sum(sizes), idle_s)

    def _banks(self) -> Iterator[tuple[str, float]]:
        """The identifiers of the banks, and for how many seconds each was not touched."""
        now = self._now()
        with os.scandir(self.root) as items:
            for item in sorted(items, key=lambda item: item.name):
                if BANK_ID.fullmatch(item.name) and item.is_dir(follow_symlinks=False):
                    with suppress(FileNotFoundError):
                        yield item.name, now - item.stat().st_mtime

    def _now(self) -> float:
        """What a file that is made now gets as its time."""
        with tempfile.TemporaryFile(dir=self.root) as file:
            return os.fstat(file.fileno()).st_mtime

    def _folder(self, bank_id: str) -> Path | None:
        """The bank's folder if it is there and has not expired."""
        with _translated_errors(self.root):
            try:
                touched = (self.root / bank_id).stat().st_mtime
                expired = self._now() - touched > self.ttl_s
            except FileNotFoundError:
                return None
        if expired:
            self.drop(bank_id)
        return None if expired else self.root / bank_id

    def _read(self, path: Path) -> bytes | None:
        with _translated_errors(self.root), suppress(FileNotFoundError):
            return path.read_bytes()
        return None

    def _write(self, path: Path, data: bytes) -> bool:
        """Whether the file is new."""
        descriptor, unfinished = tempfile.mkstemp(dir=path.parent, prefix=UNFINISHED)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            os.link(unfinished, path)
        except FileExistsError:
            return False
        finally:
            os.unlink(unfinished)
        return True

    def _sweep(self) -> None:
        if time.monotonic() - self._swept < SWEEP_EVERY_S:
            return
        self._swept = time.monotonic()
        with _translated_errors(self.root):
            expired = (
                [bank_id for bank_id, idle_s in self._banks() if idle_s > self.ttl_s] if self.root.exists() else []
            )
        for bank_id in expired:
            try:
                self.drop(bank_id)
            except BackendError as error:  # it belongs to another user, say; what is to be kept now can be all the same
                log.warning("A bank that has expired could not be dropped: %s", error)


def _sync_folder(folder: Path) -> None:
    """Returns when the names in a folder outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _translated_errors(root: Path) -> Iterator[None]:
    """Raises BackendError with what the system refused; the file's own name would tell the bank's."""
    try:
        yield
    except BackendError:
        raise
    except OSError as error:
        raise BackendError(f"{root}: {error.strerror or type(error).__name__}", transient=False) from error
