"""One CVAT tracker request in, one reply out."""

import base64
import hashlib
import secrets
from dataclasses import dataclass, replace

import numpy as np

from maskbank.bank import BankFullError
from maskbank.errors import ExpiredError, RequestError, UnavailableError
from maskbank.images import decode_image
from maskbank.requests import START_AGAIN, STATE_VERSION, Entry, State, in_object, parse_request
from maskbank.shapes import Shape, decode_rle, encode_rle, mask_box, mask_to_shape, shape_to_mask
from maskbank.store import Answer, ObjectRecord, Revision, Store
from maskbank.timing import Timings
from maskbank.tracker import Frame, Memory, Tracked, Tracker

NEW = Revision(bank="", number=0, digest="", memory=Memory(), objects=())


@dataclass(frozen=True)
class Job:
    """The part of a request that concerns one revision of one bank; a bank yet to be made is `NEW`."""

    revision: Revision
    wanted: frozenset[int]  # the objects that the request asks for
    seeds: dict[int, tuple[str, np.ndarray]]  # by object: the shape's type and its mask, (H, W) bool


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
        with timings.stage("store"):
            revisions = self._load(request.entries)
        with timings.stage("decode"):
            image = decode_image(request.image, self.max_pixels)
            masks = outline(request.entries, image)
            digest = request_digest(request.image, request.entries)

        places, rounds = plan(request.entries, revisions, masks)
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
        with timings.stage("encode"):
            replies = [
                reply_to(entry, done[place], number, image.shape[:2])
                for entry, (place, number) in zip(request.entries, places, strict=True)
            ]
        return {"shapes": [shape for shape, _ in replies], "states": [state for _, state in replies]}

    def _load(self, entries: tuple[Entry, ...]) -> dict[tuple[str, int], Revision]:
        """The revisions that the request's states name."""
        revisions = {}
        for number, entry in enumerate(entries, 1):
            if entry.state is None:
                continue
            place = (entry.state.bank, entry.state.revision)
            revision = revisions.get(place) or self.store.load(*place)
            if revision is None and not entry.state.shared:
                text = "The tracker's memory was unreachable on the frame before, and only another worker kept it"
                raise in_object(number, UnavailableError(f"{text}; try again, or {START_AGAIN}."))
            if revision is None:
                text = f"The tracker no longer remembers it: it restarted, or ran out of time or room; {START_AGAIN}."
                raise in_object(number, ExpiredError(text))
            if entry.state.object >= len(revision.objects):
                raise in_object(number, RequestError(f"The state is damaged; {START_AGAIN}."))
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
        seeds = [{number: mask for number, (_, mask) in job.seeds.items()} for job in jobs]
        try:
            memories, wanted = [job.revision.memory for job in jobs], [job.wanted for job in jobs]
            results = self.tracker.track(frame, memories, seeds, wanted)
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
    for number, entry in enumerate(entries, 1):
        if entry.shape is None:
            continue
        try:
            masks[number - 1] = shape_to_mask(entry.shape, image)
        except RequestError as error:
            raise in_object(number, error) from None
    free = np.ones(image.shape[:2], bool)
    for index in sorted(masks, key=lambda i: (masks[i].sum(), i)):
        masks[index] = masks[index] & free
        if not masks[index].any():
            raise in_object(
                index + 1, RequestError("It lies wholly under other objects; track them one after the other.")
            )
        free &= ~masks[index]
    return masks


def plan(
    entries: tuple[Entry, ...], revisions: dict[tuple[str, int], Revision], masks: dict[int, np.ndarray]
) -> tuple[list[tuple[tuple[str, int], int]], list[list[Job]]]:
    """Groups a request's objects by bank.

    Returns for each entry its place, (bank, revision number), and its object's number there; and the jobs in rounds:
    the jobs of a round compete for pixels, so no object is in a round twice, from two revisions of its bank.
    """
    seeds: dict[tuple[str, int], dict[int, tuple[str, np.ndarray]]] = {place: {} for place in revisions}
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
            seeds[place][number] = (type_, masks[index])
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


def record(old: Revision, seeds: dict[int, tuple[str, np.ndarray]], number: int, tracked: Tracked) -> ObjectRecord:
    known = old.objects[number] if number < len(old.objects) else None
    box = mask_box(tracked.mask)
    answer = Answer(tuple(encode_rle(tracked.mask)) if box else None, round(tracked.confidence, 3))
    if known is None:
        return ObjectRecord(seeds[number][0], box, answer)
    return replace(known, box=box or known.box, answer=answer)


def reply_to(entry: Entry, revision: Revision, number: int, size: tuple[int, int]) -> tuple[object, dict]:
    """The shape and the state that answer one object; `size` is the image's height and width."""
    known = revision.objects[number]
    mask = known.answer.mask
    state = {
        "v": STATE_VERSION,
        "bank": revision.bank,
        "object": number,
        "revision": revision.number,
        "type": known.type,
        "box": list(known.box),
        "visible": mask is not None,
        "confidence": known.answer.confidence,
    }
    if not revision.shared:
        state["shared"] = False
    if entry.shape is not None and (entry.state is None or entry.shape.type == known.type):
        shape = entry.shape  # what the annotator drew is the truth, to the last digit
    elif mask is not None:
        shape = Shape("mask", mask) if known.type == "mask" else mask_to_shape(decode_rle(mask, *size), known.type)
    else:
        shape = last_known(known) if known.type == "rectangle" or entry.legacy else None
    if shape is None:
        return None, state
    points = list(shape.points)
    return points if entry.legacy else {"type": shape.type, "points": points}, state


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
