"""What a store that outlives the process is built on: named blobs, bank by bank, shared by all workers."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

BANK_ID = re.compile(r"[\w-]{22}", re.ASCII)


class BackendError(OSError):
    """The backend could not do it; the text is the reason, for the administrator, and names no bank."""

    def __init__(self, reason: str, transient: bool):
        super().__init__(reason)
        self.transient = transient  # whether waiting a little may help: the backend may be restarting


@dataclass(frozen=True)
class BankUsage:
    """What a bank takes."""

    bank_id: str
    blobs: int
    bytes: int
    idle_s: float  # since it was last used


class Backend(Protocol):
    """Every method raises BackendError when the backend cannot be reached or is full. A blob never changes.

    A bank that was not touched for the backend's time to live is gone.
    """

    def check(self) -> None:
        """Does nothing if the backend can be read and written."""

    def names(self, bank_id: str) -> list[str]:
        """Of all blobs of a bank."""

    def get(self, bank_id: str, names: Collection[str]) -> list[bytes | None]:
        """The blobs of those names, None for those that are not there."""

    def add(self, bank_id: str, blobs: Mapping[str, bytes], name: str, data: bytes) -> bool:
        """Adds `blobs`, then one more blob, `name`, unless there is one of that name: then returns False.

        Whoever finds `name` finds all `blobs`, also when this process is killed in the middle.
        """

    def touch(self, bank_id: str) -> None:
        """Lets a bank live longer; of an unknown one, does nothing."""

    def delete(self, bank_id: str, names: Collection[str]) -> None:
        """Removes blobs, those that are there."""

    def drop(self, bank_id: str) -> None:
        """Removes a bank, if it is there."""

    def usage(self) -> Iterator[BankUsage]:
        """Of all banks."""
