"""What a store that outlives the process is built on: named pieces of bytes, bank by bank, shared by all workers."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

BANK = re.compile(r"[\w-]{22}", re.ASCII)  # what a bank is called


class ShelfError(OSError):
    """The shelf could not do it; the text is the reason, for the administrator, and names no bank."""

    def __init__(self, reason: str, passing: bool):
        super().__init__(reason)
        self.passing = passing  # whether waiting a little may help: the shelf may be restarting


@dataclass(frozen=True)
class BankUsage:
    """What a bank takes."""

    bank: str
    pieces: int
    bytes: int
    idle_s: float  # since it was last used


class Shelf(Protocol):
    """Every method raises ShelfError when the shelf cannot be reached or is full. A piece never changes.

    A bank that was not touched for the shelf's time to live is gone.
    """

    def check(self) -> None:
        """Does nothing if the shelf can be read and written."""

    def names(self, bank: str) -> list[str]:
        """Of all pieces of a bank."""

    def get(self, bank: str, names: Collection[str]) -> list[bytes | None]:
        """The pieces of those names, None for those that are not there."""

    def add(self, bank: str, pieces: Mapping[str, bytes], name: str, data: bytes) -> bool:
        """Adds `pieces`, then one more piece, `name`, unless there is one of that name: then returns False.

        Whoever finds `name` finds all `pieces`, also when this process is killed in the middle.
        """

    def touch(self, bank: str) -> None:
        """Lets a bank live longer; of an unknown one, does nothing."""

    def delete(self, bank: str, names: Collection[str]) -> None:
        """Removes pieces, those that are there."""

    def drop(self, bank: str) -> None:
        """Removes a bank, if it is there."""

    def usage(self) -> Iterator[BankUsage]:
        """Of all banks."""
