"""Where banks live between requests.

A bank is stored revision by revision: `(bank, number)` names one state for ever.
"""

from dataclasses import dataclass
from typing import Protocol

from maskbank.tracker import Memory

HISTORY = 50  # newest revisions of a bank that can be gone back to


@dataclass(frozen=True)
class Answer:
    """What was found of one object in the frame that made a revision."""

    mask: tuple[int, ...] | None  # CVAT's run lengths and box; None: not visible
    confidence: float  # 0 to 1


@dataclass(frozen=True)
class ObjectRecord:
    """What a revision knows of one object beside its features."""

    type: str  # of the shapes it is answered with
    box: tuple[int, int, int, int]  # the last known one: left, top, right, bottom; the last two inclusive
    answer: Answer


@dataclass(frozen=True, eq=False)
class Revision:
    """One state of one bank."""

    bank: str
    number: int
    digest: str  # of the request that made it: the same request gets the same answer
    memory: Memory
    objects: tuple[ObjectRecord, ...]
    shared: bool = True  # False: the store did not take it, and only this process knows it


class Store(Protocol):
    """Keeps revisions for a while."""

    def load(self, bank: str, number: int) -> Revision | None:
        """The revision, or None when the store does not have it (any more).

        Raises UnavailableError when that cannot be known now, ForeignBankError when another model made the revision.
        """

    def save(self, revision: Revision) -> Revision | None:
        """Keeps a revision, unless its place is taken, and returns what the place holds: this one or the other.

        None: the place is taken by one that cannot be read, or that cannot be known.
        Raises UnavailableError when it could not be kept where other workers find it.
        """

    def keep_here(self, revision: Revision) -> None:
        """Keeps a revision in the memory of this process only."""

    def usage(self) -> dict[str, int]:
        """What is there to say of it in numbers, by name."""
