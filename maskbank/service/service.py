"""The service: CVAT's request for a frame, or one for several frames, to its reply."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from maskbank.bank.feature_bank import BankFullError
from maskbank.deadline import ANSWER_WITHIN_S, REPLY_WITHIN_S, TRACKING_S, Deadline
from maskbank.errors import START_AGAIN, ExpiredError, LateError, RequestError, UnavailableError
from maskbank.files.images import decode_image
from maskbank.networks.outliner import Outliner
from maskbank.service.decoding import DecodedAhead
from maskbank.service.heap import TRIM_EVERY, trim_heap
from maskbank.service.outlining import OutlineRequest, is_outline_request, outline_reply, parse_outline_request
from maskbank.service.planning import BankPlan, Place, check_amount, outlined_seeds, plan
from maskbank.service.replies import ObjectReply, frame_reply, shape_for_cvat, state_of, suggestion_reply
from maskbank.service.requests import (
    Entry,
    State,
    in_frame,
    in_object,
    parse_frame_request,
    parse_object,
    parse_propagate_request,
)
from maskbank.service.revisions import branch_id, image_digest, next_revision, request_digest, still_revisions
from maskbank.service.timing import Timings
from maskbank.shapes.window import Window
from maskbank.store.store import Revision, Store
from maskbank.tracking.tracker import Frame, Tracker


class Service:
    """Replies to requests; one at a time.

    Args:
        tracker: finds objects in frames.
        outliner: finds objects in boxes.
        store: keeps banks between requests.
        max_pixels: of an image.
        max_objects: of a request.
    """

    def __init__(self, tracker: Tracker, outliner: Outliner, store: Store, max_pixels: int, max_objects: int):
        self.tracker = tracker
        self.outliner = outliner
        self.store = store
        self.max_pixels = max_pixels
        self.max_objects = max_objects
        self._tracked = 0  # frames

    def handle(self, body: object, timings: Timings | None = None) -> dict[str, list[Any]]:
        """The reply `{"shapes": [...], "states": [...]}` to a request's body; `timings` gets the time of each stage.

        CVAT sends requests for an interactor to the same address: then it is that of `outline_reply`.

        Raises RequestError with a status and one sentence for the annotator; nothing is changed then.
        """
        deadline = Deadline.within(ANSWER_WITHIN_S)
        timings = Timings() if timings is None else timings
        with timings.stage("decode"):
            body = parse_object(body, "The request must be a JSON object with an image, shapes and states.")
        if is_outline_request(body):
            return self._outline(parse_outline_request(body), timings)
        with timings.stage("decode"):
            request = parse_frame_request(body, self.max_objects)
        image = partial(decode_image, request.image, self.max_pixels)
        replies = self._track_frame(request.image, image, request.entries, deadline, timings)
        with timings.stage("encode"):
            return {
                "shapes": [shape_for_cvat(each) for each in replies],
                "states": [state_of(each) for each in replies],
            }

    def _outline(self, request: OutlineRequest, timings: Timings) -> dict[str, list[Any]]:
        with timings.stage("decode"):
            image = decode_image(request.image, self.max_pixels)
        with timings.stage("outline"):
            mask = self.outliner.mask_with_clicks(request.box, request.positive, request.negative, image)
        with timings.stage("encode"):
            return outline_reply(mask)

    def propagate(self, body: object, timings: Timings | None = None) -> dict[str, Any]:
        """The reply to a request that tracks objects through several frames.

        The body is `{"frames": [{"image": ..., "shapes": [shape or null, ...]}, ...], "states": [state or null, ...]}`
        with one place per object in all lists; lists of nothing but null may be left out. A shape without a state
        starts that object; every later shape is one more seed for it. The frames are tracked in the order they come.

        The reply is `{"frames": [{"shapes": [...], "confidences": [...]}, ...], "suggestion": ..., "states": [...]}`.
        What is not visible is null, boxes too; of what was not outlined yet the confidence is null as well. Frames that
        would not be done after `REPLY_WITHIN_S` seconds are left out, but for the first: the caller sends them again
        with the states of the reply. Of the frames that are there, the suggestion names the one to outline next.

        Raises RequestError as `handle` does; the states in the request stay good.
        """
        deadline, reply_by = Deadline.within(ANSWER_WITHIN_S), Deadline.within(REPLY_WITHIN_S)
        timings = Timings() if timings is None else timings
        with timings.stage("decode"):
            request = parse_propagate_request(body, self.max_objects)
        states = list(request.states)
        latest: list[ObjectReply | None] = [None] * len(states)
        frames: list[dict[str, list[Any]]] = []
        slowest_s = 0.0  # of the frames so far, as far as it was not for tuning
        with DecodedAhead(request.images, partial(decode_image, max_pixels=self.max_pixels)) as images:
            for position, (encoded, shapes) in enumerate(zip(request.images, request.shapes, strict=True)):
                slots = [slot for slot, given in enumerate(zip(shapes, states, strict=True)) if any(given)]
                entries = tuple(Entry(slot + 1, shapes[slot], states[slot], legacy=False) for slot in slots)
                is_tuned_to = any(shape and shape.type != "rectangle" for shape in shapes)
                tuning_s = self.tracker.tune_s if is_tuned_to else 0.0
                if frames and reply_by.left_s < slowest_s + tuning_s:
                    break
                started = time.monotonic()
                try:
                    image = partial(images.image, position)
                    replies = self._track_frame(encoded, image, entries, deadline, timings) if slots else []
                except LateError:
                    if frames:
                        break
                    raise
                except RequestError as error:
                    raise in_frame(position + 1, error) from None
                for slot, each in zip(slots, replies, strict=True):
                    latest[slot] = each
                    states[slot] = State(
                        each.revision.bank_id,
                        each.object,
                        each.revision.number,
                        each.revision.digest,
                        each.revision.shared,
                    )
                with timings.stage("encode"):
                    frames.append(frame_reply(latest))
                slowest_s = max(slowest_s, time.monotonic() - started - tuning_s)
        return {
            "frames": frames,
            "suggestion": suggestion_reply(frames, request.shapes[: len(frames)]),
            "states": [each and state_of(each) for each in latest],
        }

    def _track_frame(
        self,
        encoded: bytes,
        decoded: Callable[[], np.ndarray],
        entries: tuple[Entry, ...],
        deadline: Deadline,
        timings: Timings,
    ) -> list[ObjectReply]:
        """What becomes of each object in an image. Raises LateError where the deadline passes meanwhile."""
        tune_until = deadline.earlier(TRACKING_S).sooner(self.tracker.tune_s)
        with timings.stage("store"):
            revisions = self._load(entries)
        with timings.stage("decode"):
            image = decoded()
            shown = image_digest(encoded)
        check_amount(entries, revisions, self.max_objects, image.shape[0] * image.shape[1])
        with timings.stage("outline"):
            seeds = outlined_seeds(entries, image, self.outliner, deadline)

        size = image.shape[:2]
        objects, rounds = plan(
            entries,
            revisions,
            seeds,
            partial(self.tracker.memory_groups, size),
            partial(self.tracker.drifted_apart, size),
        )
        windows: dict[Place, Window | None] = {}
        for plans in rounds:
            chosen = self.tracker.windows(size, [each.request for each in plans])
            windows |= zip((each.place for each in plans), chosen, strict=True)
        digest = request_digest(shown, entries, windows)
        frame = Frame(image)
        done: dict[Place, Revision] = {}
        for plans in rounds:
            with timings.stage("store"):
                followers = self._replied_before(plans, digest)
            if followers is None:
                deadline.check()
                self._tracked += 1
                if self._tracked % TRIM_EVERY == 0:
                    trim_heap()
                with timings.stage("track"):
                    tracked = still_revisions(plans, digest, shown)
                    tracked = tracked or self._track(frame, plans, digest, shown, tune_until)
                with timings.stage("store"):
                    followers = [self._save(each.revision, new) for each, new in zip(plans, tracked, strict=True)]
            done |= {each.place: follower for each, follower in zip(plans, followers, strict=True)}
        height, width = size
        return [
            ObjectReply(entry, done[place], number, (height, width))
            for entry, (place, number) in zip(entries, objects, strict=True)
        ]

    def _load(self, entries: tuple[Entry, ...]) -> dict[Place, Revision]:
        """The revisions that the request's states name."""
        revisions: dict[Place, Revision] = {}
        for entry in entries:
            if entry.state is None:
                continue
            place = entry.state.place
            revision = revisions.get(place) or self.store.load(*place)
            if revision is None and not entry.state.shared:
                text = "The tracker's memory was unreachable on the frame before, and only another worker kept it"
                raise in_object(entry.number, UnavailableError(f"{text}; try again, or {START_AGAIN}."))
            if revision is None:
                why = "it restarted, the bank or its frame is too old, or there was no room"
                raise in_object(
                    entry.number, ExpiredError(f"The tracker no longer remembers it: {why}; {START_AGAIN}.")
                )
            if entry.state.object >= len(revision.objects):
                raise in_object(entry.number, RequestError(f"The state is damaged; {START_AGAIN}."))
            revisions[place] = revision
        return revisions

    def _replied_before(self, plans: Sequence[BankPlan], digest: str) -> list[Revision] | None:
        """What this very request led to when it came before; None if it did not, or not all of it is left."""
        found = []
        for each in plans:
            if not each.revision.bank_id:
                return None
            bank_ids = (each.revision.bank_id, branch_id(each.revision, digest))
            try:
                revisions = [self.store.load(bank_id, each.revision.number + 1, digest) for bank_id in bank_ids]
            except UnavailableError:  # then it is tracked again
                return None
            follower = next((revision for revision in revisions if revision is not None), None)
            if follower is None:
                return None
            found.append(follower if follower.shared else self._shared(follower))
        return found

    def _shared(self, revision: Revision) -> Revision:
        """One that only this worker has, as the store was away when it was made; in the store, if that is back."""
        try:
            kept = self.store.save(replace(revision, shared=True))
        except UnavailableError:
            return revision
        return kept if kept is not None and kept.digest == revision.digest else revision

    def _track(
        self, frame: Frame, plans: Sequence[BankPlan], digest: str, shown: str, tune_until: Deadline
    ) -> list[Revision]:
        """The revisions that follow those of the plans."""
        try:
            results = self.tracker.track(frame, [each.request for each in plans], tune_until)
        except BankFullError:
            raise RequestError(
                "These objects already have as many outlines as the tracker can remember; "
                "start tracking again from this frame."
            ) from None
        return [next_revision(each, *result, digest, shown) for each, result in zip(plans, results, strict=True)]

    def _save(self, old: Revision, revision: Revision) -> Revision:
        """Stores what follows `old`; returns it as it is stored.

        Another request may have gone on from `old` first: then this is the first revision of a branch. The same
        request may have: then its reply counts. Where the store is unreachable, this worker goes on by itself, in a
        branch, as another worker may give the name away meanwhile.
        """
        branch = replace(revision, bank_id=branch_id(old, revision.digest)) if old.bank_id else revision
        try:
            for place in (revision, branch):
                kept = self.store.save(place)
                if kept is not None and kept.digest == revision.digest:
                    return kept
        except UnavailableError:
            pass  # the state that is sent to CVAT says so
        branch = replace(branch, shared=False)
        self.store.save_locally(branch)
        return branch
