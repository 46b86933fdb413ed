"""From a request's objects to what is asked of each bank."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from maskbank.bank.memory import BankRequest, Memory, Seed
from maskbank.deadline import Deadline
from maskbank.errors import RequestError, TooLargeError
from maskbank.networks.outliner import Outliner
from maskbank.service.requests import Entry, in_object
from maskbank.store.store import Revision

NEW_BANK = Revision(bank_id="", number=0, digest="", memory=Memory(), objects=())  # what precedes the first revision

BANKS_HOLD = 4  # times as many objects as a request may have: those that were outlined anew stay in their old bank
MAX_OBJECT_PIXELS = 240_000_000  # objects of a request × pixels of its image: 28 in 4K, 6 in the largest image

Place = tuple[str, int, str]  # of a revision: bank_id, number and digest


@dataclass(frozen=True)
class BankPlan:
    """The part of a request that concerns one revision of one bank."""

    revision: Revision
    request: BankRequest  # of its memory
    types: Mapping[int, str]  # of the shapes that were outlined, by object
    place: Place  # of the revision


def check_amount(entries: Sequence[Entry], revisions: Mapping[Place, Revision], most: int, pixels: int) -> None:
    """Raises TooLargeError where the objects that would be tracked, with all that share their banks, are too many."""
    new = sum(entry.state is None for entry in entries)
    tracked = new + sum(len(revision.objects) for revision in revisions.values())
    if tracked > BANKS_HOLD * most:
        raise TooLargeError(
            f"The banks of these objects hold {tracked} objects together, but at most {BANKS_HOLD * most} can be "
            "tracked at once: start some of them again, apart from the others."
        )
    if tracked > 1 and tracked * pixels > MAX_OBJECT_PIXELS:
        raise TooLargeError(
            f"The request tracks {tracked} objects on {pixels} pixels, but on such an image at most "
            f"{max(1, MAX_OBJECT_PIXELS // pixels)} can be tracked at once: track the others after them."
        )


def outlined_seeds(
    entries: Sequence[Entry], image: np.ndarray, outliner: Outliner, deadline: Deadline
) -> dict[int, Seed]:
    """What was outlined in a request, by position of the entry, made disjoint.

    Where shapes overlap, the smaller one has the pixels: it is more likely in front, and would be lost otherwise.

    Raises:
        RequestError: a shape does not fit the image, or lies wholly under others.
        LateError: there is no time for all of them.
    """
    seeds: dict[int, Seed] = {}
    areas: dict[int, int] = {}
    for index, entry in enumerate(entries):
        if entry.shape is None:
            continue
        deadline.check()
        try:
            mask = outliner.mask(entry.shape, image)
        except RequestError as error:
            raise in_object(entry.number, error) from None
        seeds[index] = Seed(mask, from_box=entry.shape.type == "rectangle")
        areas[index] = int(mask.sum())
    free = np.ones(image.shape[:2], bool)
    for index in sorted(seeds, key=lambda i: (areas[i], i)):
        mask = seeds[index].mask & free
        if not mask.any():
            hidden = RequestError("It lies wholly under other objects; track them one after the other.")
            raise in_object(entries[index].number, hidden)
        free &= ~mask
        seeds[index] = Seed(mask, seeds[index].from_box)
    return seeds


def plan(
    entries: Sequence[Entry],
    revisions: Mapping[Place, Revision],
    outlined: Mapping[int, Seed],
    memory_groups: Callable[[Sequence[Seed]], Sequence[int]],
) -> tuple[list[tuple[Place, int]], list[list[BankPlan]]]:
    """Groups a request's objects by bank.

    Args:
        outlined: from `outlined_seeds`.
        memory_groups: the seeds of new objects to the number of the new bank of each; see `Tracker.memory_groups`.

    Returns for each entry the place of its revision and its object's number there; and the plans in rounds: the objects
    of a round compete for pixels, so no object is in a round twice, from two revisions of its bank. New banks have the
    place of `NEW_BANK`, with their own numbers.
    """
    new = [index for index, entry in enumerate(entries) if entry.state is None]
    banks = dict(zip(new, memory_groups([outlined[index] for index in new]), strict=True))
    seeds: dict[Place, dict[int, Seed]] = {place: {} for place in revisions}
    types: dict[Place, dict[int, str]] = {place: {} for place in revisions}
    requested: dict[Place, set[int]] = {}
    objects = []
    for index, entry in enumerate(entries):
        if entry.state is not None:
            place, number = entry.state.place, entry.state.object
        else:
            place = (NEW_BANK.bank_id, banks[index], NEW_BANK.digest)
            number = len(seeds.setdefault(place, {}))
        if entry.shape is not None:
            seeds[place][number] = outlined[index]
            types.setdefault(place, {})[number] = entry.shape.type
        requested.setdefault(place, set()).add(number)
        objects.append((place, number))
    rounds: list[list[BankPlan]] = []
    for place, own_seeds in seeds.items():
        revision = revisions.get(place, NEW_BANK)
        request = BankRequest(revision.memory, own_seeds, frozenset(requested[place]))
        planned = BankPlan(revision, request, types[place], place)
        free = next((each for each in rounds if not any(_share_an_object(planned, other) for other in each)), None)
        if free is None:
            rounds.append([planned])
        else:
            free.append(planned)
    return objects, rounds


def _share_an_object(one: BankPlan, other: BankPlan) -> bool:
    same_bank = one.revision.bank_id == other.revision.bank_id != NEW_BANK.bank_id
    return same_bank and not one.request.competitors.isdisjoint(other.request.competitors)
