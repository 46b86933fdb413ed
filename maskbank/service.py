"""One request in, one reply out: CVAT's for a frame, or one for several frames."""

import base64
import hashlib
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from maskbank.bank import BankFullError
from maskbank.errors import ExpiredError, RequestError, UnavailableError
from maskbank.images import decode_image
from maskbank.requests import (
    START_AGAIN,
    STATE_VERSION,
    Entry,
    State,
    in_frame,
    in_object,
    parse_propagation,
    parse_request,
)
from maskbank.shapes import Shape, decode_rle, encode_rle, mask_box, mask_to_shape, shape_to_mask
from maskbank.store import Answer, ObjectRecord, Revision, Store
from maskbank.timing import Timings
from maskbank.tracker import Frame, Memory, Tracked, Tracker

ANSWER_WITHIN_S = 20.0  # with what is done by then; Nuclio and CVAT do not wait much longer
NEW = Revision(bank="", number=0, digest="", memory=Memory(), objects=())


@dataclass(frozen=True)
class Seed:
    """An object that was outlined."""

    type: str  # of the shapes that the object is answered with
    mask: np.ndarray  # (H, W) bool
    guessed: bool  # whether the mask was found in a box


@dataclass(frozen=True)
class Job:
    """The part of a request that concerns one revision of one bank; a bank yet to be made is `NEW`."""

    revision: Revision
    wanted: frozenset[int]  # the objects that the request asks for
    seeds: dict[int, Seed]  # by object


@dataclass(frozen=True)
class Found:
    """The answer for one object of a request, in one image."""

    entry: Entry
    revision: Revision
    object: int  # its number there
    size: tuple[int, int]  # height, width of the image

    @property
    def known(self) -> ObjectRecord:
        return self.revision.objects[self.object]


class Service:
    """Answers requests; one at a time.

    Args:
        tracker: finds objects in frames.
        store: keeps banks between requests.
        max_pixels: of an image.
        max_objects: of a request.
    """

    def __init__(self, tracker: Tracker, store: Store, max_pixels: int, max_objects: int):
        self.tracker = tracker
        self.store = store
        self.max_pixels = max_pixels
        self.max_objects = max_objects

    def handle(self, body: object, timings: Timings | None = None) -> dict[str, list]:
        """The reply `{"shapes": [...], "states": [...]}` to a request's body; `timings` gets the time of each stage.

        Raises RequestError with a status and one sentence for the annotator; nothing is changed then.
        """
        timings = Timings() if timings is None else timings
        with timings.stage("decode"):
            request = parse_request(body, self.max_objects)
        found = self._answer(request.image, request.entries, timings)
        with timings.stage("encode"):
            return {
                "shapes": [shape_for_cvat(each) for each in found],
                "states": [state_of(each) for each in found],
            }

    def propagate(self, body: object, timings: Timings | None = None) -> dict[str, list]:
        """The reply to a request that tracks objects through several frames.

        The body is `{"frames": [{"image": ..., "shapes": [shape or null, ...]}, ...], "states": [state or null, ...]}`
        with one place per object in all lists; lists of nothing but null may be left out. A shape without a state
        starts that object; every later shape is one more seed for it. The frames are tracked in the order they come.

        The reply is `{"frames": [{"shapes": [...], "confidences": [...]}, ...], "states": [...]}`. What is not visible
        is null, boxes too; of what was not outlined yet the confidence is null as well. Frames that are not begun
        after `ANSWER_WITHIN_S` seconds are left out: the caller sends them again with the states of the reply.

        Raises RequestError as `handle` does; the states in the request stay good.
        """
        started = time.monotonic()
        timings = Timings() if timings is None else timings
        with timings.stage("decode"):
            request = parse_propagation(body, self.max_objects)
        states = list(request.states)
        latest: list[Found | None] = [None] * len(states)
        frames = []
        for number, (image, shapes) in enumerate(zip(request.images, request.shapes, strict=True), 1):
            slots = [slot for slot, given in enumerate(zip(shapes, states, strict=True)) if any(given)]
            entries = tuple(Entry(slot + 1, shapes[slot], states[slot], legacy=False) for slot in slots)
            try:
                found = self._answer(image, entries, timings) if slots else []
            except RequestError as error:
                raise in_frame(number, error) from None
            for slot, each in zip(slots, found, strict=True):
                latest[slot] = each
                states[slot] = State(each.revision.bank, each.object, each.revision.number, each.revision.shared)
            with timings.stage("encode"):
                frames.append(frame_reply(latest))
            if time.monotonic() - started > ANSWER_WITHIN_S:
                break
        return {"frames": frames, "states": [each and state_of(each) for each in latest]}

    def _answer(self, encoded: bytes, entries: tuple[Entry, ...], timings: Timings) -> list[Found]:
        """What is found of each object in an image."""
        with timings.stage("store"):
            revisions = self._load(entries)
        with timings.stage("decode"):
            image = decode_image(encoded, self.max_pixels)
            masks = outline(entries, image)
            digest = request_digest(encoded, entries)

        places, rounds = plan(entries, revisions, masks)
        frame: Frame | None = None
        done: dict[tuple[str, int], Revision] = {}
        for jobs in rounds:
            with timings.stage("store"):
                next_revisions = self._answered_before(jobs, digest)
            if next_revisions is None:
                with timings.stage("track"):
                    frame = frame or self.tracker.look(image)
                    tracked = self._track(frame, jobs, digest)
                with timings.stage("store"):
                    next_revisions = [self._keep(job.revision, new) for job, new in zip(jobs, tracked, strict=True)]
            done |= {
                (job.revision.bank, job.revision.number): new for job, new in zip(jobs, next_revisions, strict=True)
            }
        return [
            Found(entry, done[place], number, image.shape[:2])
            for entry, (place, number) in zip(entries, places, strict=True)
        ]

    def _load(self, entries: tuple[Entry, ...]) -> dict[tuple[str, int], Revision]:
        """The revisions that the request's states name."""
        revisions = {}
        for entry in entries:
            if entry.state is None:
                continue
            place = (entry.state.bank, entry.state.revision)
            revision = revisions.get(place) or self.store.load(*place)
            if revision is None and not entry.state.shared:
                text = "The tracker's memory was unreachable on the frame before, and only another worker kept it"
                raise in_object(entry.number, UnavailableError(f"{text}; try again, or {START_AGAIN}."))
            if revision is None:
                text = f"The tracker no longer remembers it: it restarted, or ran out of time or room; {START_AGAIN}."
                raise in_object(entry.number, ExpiredError(text))
            if entry.state.object >= len(revision.objects):
                raise in_object(entry.number, RequestError(f"The state is damaged; {START_AGAIN}."))
            revisions[place] = revision
        return revisions

    def _answered_before(self, jobs: list[Job], digest: str) -> list[Revision] | None:
        """What this very request led to when it came before; None if it did not, or not all of it is left."""
        found = []
        for job in jobs:
            if job.revision is NEW:
                return None
            places = (job.revision.bank, branch_id(job.revision, digest))
            try:
                revisions = [self.store.load(bank, job.revision.number + 1) for bank in places]
            except UnavailableError:  # then it is answered again
                return None
            answered = next((r for r in revisions if r is not None and r.digest == digest), None)
            if answered is None:
                return None
            found.append(answered)
        return found

    def _track(self, frame: Frame, jobs: list[Job], digest: str) -> list[Revision]:
        """Tracks and seeds: the revisions that follow those of the jobs."""
        seeds = [{number: seed.mask for number, seed in job.seeds.items()} for job in jobs]
        guessed = [{number for number, seed in job.seeds.items() if seed.guessed} for job in jobs]
        try:
            memories, wanted = [job.revision.memory for job in jobs], [job.wanted for job in jobs]
            results = self.tracker.track(frame, memories, seeds, wanted, guessed)
        except BankFullError:
            raise RequestError(
                "These objects already have as many corrected frames as the tracker can remember; "
                "start tracking again from this frame."
            ) from None
        revisions = []
        for job, (memory, tracked) in zip(jobs, results, strict=True):
            old = job.revision
            bank = old.bank or secrets.token_urlsafe(16)
            records = tuple(record(old, job.seeds, number, answer) for number, answer in enumerate(tracked))
            revisions.append(Revision(bank, old.number + 1, digest, memory, records))
        return revisions

    def _keep(self, old: Revision, revision: Revision) -> Revision:
        """Stores what follows `old`; returns it as it is stored.

        Another request may have gone on from `old` first: then this is the first revision of a branch. The same
        request may have: then its answer counts. Where the store is unreachable, this worker goes on by itself, in a
        branch, as another worker may give the name away meanwhile.
        """
        branch = replace(revision, bank=branch_id(old, revision.digest)) if old.bank else revision
        try:
            for place in (revision, branch):
                kept = self.store.save(place)
                if kept is not None and kept.digest == revision.digest:
                    return kept
        except UnavailableError:
            pass  # the state that is sent to CVAT says so
        branch = replace(branch, shared=False)
        self.store.keep_here(branch)
        return branch


def outline(entries: tuple[Entry, ...], image: np.ndarray) -> dict[int, np.ndarray]:
    """The masks of the shapes in a request, by entry: (H, W) bool, made disjoint.

    Where shapes overlap, the smaller one has the pixels: it is more likely in front, and would be lost otherwise.
    """
    masks: dict[int, np.ndarray] = {}
    for index, entry in enumerate(entries):
        if entry.shape is None:
            continue
        try:
            masks[index] = shape_to_mask(entry.shape, image)
        except RequestError as error:
            raise in_object(entry.number, error) from None
    free = np.ones(image.shape[:2], bool)
    for index in sorted(masks, key=lambda i: (masks[i].sum(), i)):
        masks[index] = masks[index] & free
        if not masks[index].any():
            error = RequestError("It lies wholly under other objects; track them one after the other.")
            raise in_object(entries[index].number, error)
        free &= ~masks[index]
    return masks


def plan(
    entries: tuple[Entry, ...], revisions: dict[tuple[str, int], Revision], masks: dict[int, np.ndarray]
) -> tuple[list[tuple[tuple[str, int], int]], list[list[Job]]]:
    """Groups a request's objects by bank.

    Returns for each entry its place, (bank, revision number), and its object's number there; and the jobs in rounds:
    the jobs of a round compete for pixels, so no object is in a round twice, from two revisions of its bank.
    """
    seeds: dict[tuple[str, int], dict[int, Seed]] = {place: {} for place in revisions}
    wanted: dict[tuple[str, int], set[int]] = {}
    places = []
    new_place = (NEW.bank, NEW.number)
    for index, entry in enumerate(entries):
        if entry.state is not None:
            place, number = (entry.state.bank, entry.state.revision), entry.state.object
            type_ = revisions[place].objects[number].type
        else:
            place = new_place
            number, type_ = len(seeds.setdefault(place, {})), entry.shape.type
        if index in masks:
            seeds[place][number] = Seed(type_, masks[index], entry.shape.type == "rectangle")
        wanted.setdefault(place, set()).add(number)
        places.append((place, number))
    rounds: list[list[Job]] = []
    for place, own_seeds in seeds.items():
        job = Job(revisions.get(place, NEW), frozenset(wanted[place]), own_seeds)
        free = (r for r in rounds if not any(o.revision.bank == place[0] and o.wanted & job.wanted for o in r))
        jobs = next(free, None)
        if jobs is None:
            rounds.append([job])
        else:
            jobs.append(job)
    return places, rounds


def record(old: Revision, seeds: dict[int, Seed], number: int, tracked: Tracked) -> ObjectRecord:
    known = old.objects[number] if number < len(old.objects) else None
    box = mask_box(tracked.mask)
    answer = Answer(tuple(encode_rle(tracked.mask)) if box else None, round(tracked.confidence, 3))
    if known is None:
        return ObjectRecord(seeds[number].type, box, answer)
    return replace(known, box=box or known.box, answer=answer)


def state_of(found: Found) -> dict:
    """What CVAT keeps of an object and sends back with the next frame."""
    state = {
        "v": STATE_VERSION,
        "bank": found.revision.bank,
        "object": found.object,
        "revision": found.revision.number,
        "type": found.known.type,
        "box": list(found.known.box),
        "visible": found.known.answer.mask is not None,
        "confidence": found.known.answer.confidence,
    }
    if not found.revision.shared:
        state["shared"] = False
    return state


def shape_of(found: Found) -> Shape | None:
    """In the type of the object's first shape; None where it is not visible."""
    entry, known = found.entry, found.known
    if entry.shape is not None and (entry.state is None or entry.shape.type == known.type):
        return entry.shape  # what the annotator drew is the truth, to the last digit
    if known.answer.mask is None:
        return None
    if known.type == "mask":
        return Shape("mask", known.answer.mask)
    return mask_to_shape(decode_rle(known.answer.mask, *found.size), known.type)


def shape_for_cvat(found: Found) -> object:
    """The shape as CVAT's tracker protocol wants it: a box, and any shape of the legacy protocol, is never missing."""
    shape = shape_of(found)
    if shape is None and (found.known.type == "rectangle" or found.entry.legacy):
        shape = last_known(found.known)
    return shape and (list(shape.points) if found.entry.legacy else as_json(shape))


def frame_reply(found: Sequence[Found | None]) -> dict[str, list]:
    """One frame of the reply of `Service.propagate`."""
    shapes = [shape_of(each) if each else None for each in found]
    return {
        "shapes": [shape and as_json(shape) for shape in shapes],
        "confidences": [each and each.known.answer.confidence for each in found],
    }


def as_json(shape: Shape) -> dict:
    return {"type": shape.type, "points": list(shape.points)}


def last_known(known: ObjectRecord) -> Shape:
    """For CVAT's own tracker tab, which cannot do without a shape: where the object was when it was last seen."""
    left, top, right, bottom = known.box
    corners = (float(left), float(top), float(right + 1), float(bottom + 1))
    if known.type == "rectangle":
        return Shape("rectangle", corners)
    x1, y1, x2, y2 = corners
    return Shape("polygon", (x1, y1, x2, y1, x2, y2, x1, y2))


def request_digest(image: bytes, entries: tuple[Entry, ...]) -> str:
    """Names what a request does to banks: two with the same digest lead from one revision to the same next.

    A bank's objects are all tracked together, so which of them are asked for makes a difference only to the objects
    of other banks.
    """
    digest = hashlib.sha256(hashlib.sha256(image).digest())
    states = [replace(entry.state, shared=True) if entry.state else State("", 0, 0) for entry in entries]
    revisions = {(state.bank, state.revision) for state in states}
    objects = {(state.bank, state.revision, state.object) for state in states} if len(revisions) > 1 else set()
    seeds = [(state, entry.shape) for state, entry in zip(states, entries, strict=True) if entry.shape]
    digest.update(repr((sorted(revisions), sorted(objects), seeds)).encode())
    return digest.hexdigest()


def branch_id(revision: Revision, digest: str) -> str:
    """The bank of a second future of a revision; as hard to guess as the first, and the same for the same request."""
    text = f"{revision.bank} {revision.number} {digest}"
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()[:16]).decode().rstrip("=")
