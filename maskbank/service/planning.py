"""From a request's objects to what is asked of each bank."""

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from maskbank.bank.memory import BankRequest, Memory, Seed
from maskbank.deadline import Deadline
from maskbank.errors import RequestError, TooLargeError
from maskbank.networks.outliner import FoundObject, Outliner
from maskbank.networks.overlaps import disjoint
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
    origin: tuple[str, frozenset[int]]  # the bank and the objects that the states name


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

    Raises:
        RequestError: a shape does not fit the image, or lies wholly under others.
        LateError: there is no time for all of them.
    """
    shapes = {index: entry.shape for index, entry in enumerate(entries) if entry.shape is not None}

    def found() -> Iterator[tuple[int, FoundObject]]:
        for index, shape in shapes.items():
            deadline.check()
            try:
                yield index, outliner.object_of(shape, image)
            except RequestError as error:
                raise in_object(entries[index].number, error) from None

    seeds = {}
    for index, seed in disjoint(found(), deadline):
        if seed.box is None:
            hidden = RequestError("It lies wholly under other objects, or nearly; track them one after the other.")
            raise in_object(entries[index].number, hidden)
        seeds[index] = seed
    return seeds


def plan(
    entries: Sequence[Entry],
    revisions: Mapping[Place, Revision],
    outlined: Mapping[int, Seed],
    memory_groups: Callable[[Sequence[Seed]], Sequence[int]],
    drifted_apart: Callable[[Sequence[BankRequest]], Sequence[Sequence[Sequence[int]]]],
) -> tuple[list[tuple[Place, int]], list[list[BankPlan]]]:
    """Groups a request's objects by bank.

    Args:
        outlined: from `outlined_seeds`.
        memory_groups: the seeds of new objects to the number of the new bank of each; see `Tracker.memory_groups`.
        drifted_apart: which objects of each bank are to go on in banks of their own; see `Tracker.drifted_apart`.

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
    requests = {
        place: BankRequest(revisions.get(place, NEW_BANK).memory, own, frozenset(requested[place]))
        for place, own in seeds.items()
    }
    plans: list[BankPlan] = []
    moved: dict[tuple[Place, int], tuple[Place, int]] = {}
    for (place, request), groups in zip(requests.items(), drifted_apart(list(requests.values())), strict=True):
        whole = BankPlan(
            revisions.get(place, NEW_BANK), request, types[place], place, (place[0], frozenset(requested[place]))
        )
        own_plans = [whole] if len(groups) == 1 else [_part(whole, group) for group in groups]
        for group, planned in zip(groups, own_plans, strict=True):
            if planned is not whole:
                moved |= {(place, number): (planned.place, new) for new, number in enumerate(group)}
        plans += own_plans
    objects = [moved.get(each, each) for each in objects]
    rounds: list[list[BankPlan]] = []
    for planned in plans:
        free = next((each for each in rounds if not any(_share_an_object(planned, other) for other in each)), None)
        if free is None:
            rounds.append([planned])
        else:
            free.append(planned)
    return objects, rounds


def _part(plan: BankPlan, group: Sequence[int]) -> BankPlan:
    """The part of a plan that concerns some objects, as they go on in a bank of their own.

    What precedes that bank's first revision is in no store; the same request makes the same of it again.
    """
    old, request = plan.revision, plan.request.of_objects(group)
    revision = replace(
        old,
        bank_id=derived_id(f"{old.bank_id} {old.number} {old.digest} {list(group)}"),
        memory=request.memory,
        objects=tuple(old.objects[number] for number in group),
    )
    return BankPlan(
        revision,
        request,
        {group.index(number): kind for number, kind in plan.types.items() if number in group},
        (revision.bank_id, revision.number, revision.digest),
        (plan.origin[0], frozenset(group)),
    )


def derived_id(text: str) -> str:
    """The name of a bank that comes from another one: as hard to guess as that, and always the same for the same."""
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()[:16]).decode().rstrip("=")


def _share_an_object(one: BankPlan, other: BankPlan) -> bool:
    same_bank = one.origin[0] == other.origin[0] != NEW_BANK.bank_id
    return same_bank and not one.origin[1].isdisjoint(other.origin[1])
