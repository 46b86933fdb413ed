"""Where memories live between requests.

A memory is stored revision by revision under the identifier of its bank. `(bank_id, number)` is a place, which the
first takes that comes; `(bank_id, number, digest)` names one state for ever, even where a store falls back to an older
copy of itself and gives a place away twice.
"""

from dataclasses import dataclass
from typing import Protocol

from maskbank.bank.memory import Memory

HISTORY = 50  # newest revisions of a bank that can be gone back to


@dataclass(frozen=True)
class ObjectRecord:
    """What a revision knows of one object beside its features."""

    type: str  # of the shapes that stand for it in replies
    box: tuple[int, int, int, int]  # the last known one: left, top, right, bottom; the last two inclusive
    rle: tuple[int, ...] | None  # its mask in the frame that made the revision, as CVAT's points; None: not visible
    confidence: float  # 0 to 1, in that frame
    expected_j: float | None = None  # of the mask that was found in a box drawn on that frame; None: no box was


@dataclass(frozen=True, eq=False)
class Revision:
    """One state of one bank."""

    bank_id: str
    number: int
    digest: str  # of the request that made it: the same request gets the same reply
    memory: Memory
    objects: tuple[ObjectRecord, ...]
    image: str = ""  # digest of the image file that it was tracked on
    shared: bool = True  # False: the store did not take it, and only this process knows it


class Store(Protocol):
    """Keeps revisions for a while."""

    def load(self, bank_id: str, number: int, digest: str) -> Revision | None:
        """The revision of that digest, or None when the store does not have it (any more).

        Raises UnavailableError when that cannot be known now, ForeignModelError or ForeignVersionError when what is
        there cannot be used.
        """

    def save(self, revision: Revision) -> Revision | None:
        """Keeps a revision, unless its place is taken, and returns what the place holds: this one or the other.

        None: the place is taken by one that cannot be read, or that cannot be known.
        Raises UnavailableError when it could not be kept where other workers find it.
        """

    def save_locally(self, revision: Revision) -> None:
        """Keeps a revision in the memory of this process only."""

    def statistics(self) -> dict[str, int]:
        """Counts and sizes for monitoring, by name."""
