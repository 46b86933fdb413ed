"""The revision that follows another, and how both are told apart from all others."""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil

from maskbank.bank.memory import Memory
from maskbank.service.planning import BankPlan, Place, derived_id
from maskbank.service.requests import Entry, State
from maskbank.shapes.rle import encode_rle, mask_box
from maskbank.shapes.window import Window
from maskbank.store.store import ObjectRecord, Revision
from maskbank.tracking.tracker import Prediction

Box = tuple[int, int, int, int]


def next_revision(
    plan: BankPlan, memory: Memory, predictions: Sequence[Prediction], digest: str, image: str
) -> Revision:
    """What follows the revision of a plan, now that it was tracked for the request with that digest.

    image: its `image_digest`.
    """
    old = plan.revision
    records = tuple(_record(plan, number, prediction) for number, prediction in enumerate(predictions))
    return Revision(old.bank_id or secrets.token_urlsafe(16), old.number + 1, digest, memory, records, image)


def still_revisions(plans: Sequence[BankPlan], digest: str, image: str) -> list[Revision] | None:
    """What follows where a frame is the one before once more, as in a still: the same, and there is nothing to learn.

    None where it is another image, a person outlined something on it, or its objects did not compete for its pixels
    then, as they were not tracked together.
    """
    together = len({each.revision.digest for each in plans}) == 1
    if not together or any(each.request.seeds or each.revision.image != image for each in plans):
        return None
    return [
        replace(
            each.revision,
            number=each.revision.number + 1,
            digest=digest,
            memory=replace(each.revision.memory, frames=each.revision.memory.frames + 1),
            objects=tuple(replace(record, expected_j=None) for record in each.revision.objects),
            shared=True,
        )
        for each in plans
    ]


def _record(plan: BankPlan, number: int, prediction: Prediction) -> ObjectRecord:
    mask = prediction.mask
    box = mask_box(mask)
    rle = tuple(encode_rle(mask)) if box else None
    confidence = round(prediction.confidence, 3)
    seed = plan.request.seeds.get(number)
    expected_j = None if seed is None or seed.expected_j is None else round(seed.expected_j, 3)
    if number < len(plan.revision.objects):
        known = plan.revision.objects[number]
        box = box or _scaled(known.box, plan.revision.memory.size or mask.shape, mask.shape)
        return ObjectRecord(known.type, box, rle, confidence, expected_j)
    assert box, "a seed covers at least one pixel"
    return ObjectRecord(plan.types[number], box, rle, confidence, expected_j)


def _scaled(box: Box, before: tuple[int, ...], now: tuple[int, ...]) -> Box:
    """A box, its right and bottom inclusive, of an image of another height and width."""
    if before == now:
        return box
    left, top, right, bottom = box
    down, across = now[0] / before[0], now[1] / before[1]
    last_x, last_y = now[1] - 1, now[0] - 1
    return (
        min(int(left * across), last_x),
        min(int(top * down), last_y),
        min(ceil((right + 1) * across) - 1, last_x),
        min(ceil((bottom + 1) * down) - 1, last_y),
    )


def image_digest(image: bytes) -> str:
    """Names the file of an image."""
    return hashlib.sha256(image).hexdigest()


def request_digest(image: str, entries: Sequence[Entry], windows: Mapping[Place, Window | None]) -> str:
    """Names what a request does to banks: two with the same digest lead from one revision to the same next.

    As the digests of the revisions that it begins with are part of it, it names the whole history of its banks.

    A bank's objects are all tracked together, so which of them are asked for makes a difference only to the objects
    of other banks, and to the window in which all are seen.

    image: its `image_digest`. windows: in which the banks are tracked, by the places of their revisions.
    """
    digest = hashlib.sha256(image.encode())
    states = [replace(entry.state, shared=True) if entry.state else State("", 0, 0, "") for entry in entries]
    revisions = {state.place for state in states}
    objects = {(*state.place, state.object) for state in states} if len(revisions) > 1 else set()
    seeds = [(state, entry.shape) for state, entry in zip(states, entries, strict=True) if entry.shape]
    digest.update(repr((sorted(revisions), sorted(objects), sorted(windows.items(), key=repr), seeds)).encode())
    return digest.hexdigest()


def branch_id(revision: Revision, digest: str) -> str:
    """The bank of a second future of a revision; as hard to guess as the first, and the same for the same request."""
    return derived_id(f"{revision.bank_id} {revision.number} {digest}")
