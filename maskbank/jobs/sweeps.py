"""Two sweeps over a job's frames, forward and backward, and what of each becomes the result."""

import base64
import itertools
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from maskbank.errors import RequestError
from maskbank.files.images import decode_image
from maskbank.jobs.function import BadRequest, Propagate, StateExpired
from maskbank.jobs.objects import JobObject
from maskbank.jobs.run_folder import SweepLog, SweepPrediction
from maskbank.networks.outliner import HARD_BELOW, FoundObject, certain
from maskbank.networks.overlaps import disjoint
from maskbank.shapes.rle import decode_rle, encode_rle
from maskbank.shapes.shape import Shape
from maskbank.shapes.window import Window
from maskbank.tracking import fusion
from maskbank.tracking.clip_objects import MOST_AHEAD, ahead

FRAMES_PER_REQUEST = 16  # what an interruption costs at most; the function takes up to 40
BYTES_PER_REQUEST = 32 << 20  # of encoded images; a third more in base64, of the 128 MiB that the function takes
MAX_PIXELS = 170_000_000  # of an image with seeds; the function may be set to take fewer
MAX_LOSSES = 3  # of the states in one sweep; then the function cannot keep them

ImageOf = Callable[[int], bytes]  # a frame's number to its encoded image
ObjectOf = Callable[[Shape, np.ndarray], FoundObject]  # see `Outliner.object_of`
Answers = Mapping[int, Sequence[SweepPrediction | None]]  # of a sweep: by frame, for each object


def forward_order(frames: Sequence[int], objects: Sequence[JobObject]) -> list[int]:
    """The frames from the first seed to the end; the first one only where all objects are tracks, which have no more
    to be found behind their first seed."""
    start = bisect_left(frames, min(min(each.seeds) for each in objects))
    return list(frames[start : start + 1] if all(each.is_track for each in objects) else frames[start:])


def backward_order(frames: Sequence[int], objects: Sequence[JobObject]) -> list[int]:
    """The frames from the last seed to the start."""
    return list(frames[: bisect_right(frames, max(max(each.seeds) for each in objects))])[::-1]


def sweep(
    log: SweepLog,
    objects: Sequence[JobObject],
    image_of: ImageOf,
    propagate: Propagate,
    object_of: ObjectOf,
    on_hard_box: Callable[[JobObject, int], None],
) -> Iterator[int]:
    """Tracks all objects, which compete for pixels, through the frames of a log that have no answers yet.

    A seed on the way starts its object or corrects it. All seeds of an object are known when it starts, see
    `track_clip_objects`. Where the function has lost the states, all objects start again from their last seeds; where
    it refuses a seed as a correction, because it remembers as many as it can, the object starts again with it. After
    each request the number of frames that have answers is given.

    on_hard_box: told of an object, and of the frame, when it is hard to tell what its box there means.

    Raises what `propagate` raises, but StateExpired; ValueError for a seed that cannot be used.
    """
    # What one reply leaves out is in the next request, and what was learnt ahead comes up again.
    fetch = lru_cache(FRAMES_PER_REQUEST + MOST_AHEAD + 1)(image_of)

    outlined = {frame for each in objects for frame in each.seeds}

    @lru_cache(MOST_AHEAD + 1)  # what is in a box takes time to find
    def outlines_on(frame: int) -> list[dict[str, Any] | None]:
        return _outlines_on(frame, objects, fetch, object_of, on_hard_box)

    def request_frame(frame: int, slots: Collection[int]) -> dict[str, Any]:
        """A frame of a request, with what is outlined there of some objects."""
        outlines = outlines_on(frame) if frame in outlined else []
        shapes = [shape if slot in slots else None for slot, shape in enumerate(outlines)]
        image = base64.b64encode(fetch(frame)).decode()
        return {"image": image, "shapes": shapes} if any(shapes) else {"image": image}

    losses = 0
    alone: set[int] = set()  # frames on which objects start with what is outlined there only
    while len(log.answers) < len(log.order):
        if log.states is None:
            log.drop_from(last_seeds(log.order[: len(log.answers)], objects))
        frames = _next_request(log.order[len(log.answers) :], objects, fetch)
        states = known = log.states or [None] * len(objects)
        starting = [slot for slot, each in enumerate(objects) if frames[0] in each.seeds and known[slot] is None]
        if starting and frames[0] not in alone:
            states = _with_all_seeds(known, starting, frames[0], objects, propagate, request_frame)
        body = {"frames": [request_frame(frame, range(len(objects))) for frame in frames], "states": states}
        try:
            reply = propagate(body)
        except StateExpired as error:
            losses += 1
            if losses > MAX_LOSSES:
                text = "The function lost its memory again and again; it needs a store that all its workers share"
                raise ValueError(f"{text} (MASKBANK_STORE).") from error
            log.states = None
            continue
        except ValueError as error:
            if isinstance(error, BadRequest) and states != known:
                alone.add(frames[0])
                continue
            anew = _without_states_of_seeds(log.states, objects, frames[0])
            if isinstance(error, BadRequest) and anew != log.states:
                log.states = anew
                continue
            raise ValueError(_in_terms_of_the_job(str(error), frames, objects)) from error
        log.append(frames[: len(reply["frames"])], reply)
        yield len(log.answers)


def check_outlines(
    frames: Sequence[int],
    objects: Sequence[JobObject],
    image_of: ImageOf,
    object_of: ObjectOf,
    on_hard_box: Callable[[JobObject, int], None],
) -> None:
    """Raises ValueError with one sentence for outlines on these frames that cannot be used: before hours of tracking,
    not when their turn comes."""
    for frame in frames:
        if any(frame in each.seeds for each in objects):
            _outlines_on(frame, objects, image_of, object_of, on_hard_box)


def _with_all_seeds(
    states: list[Any],
    starting: Sequence[int],
    frame: int,
    objects: Sequence[JobObject],
    propagate: Propagate,
    request_frame: Callable[[int, Collection[int]], dict[str, Any]],
) -> list[Any]:
    """The states with those of objects that start on a frame, once the function knows their seeds on other frames.

    starting: the slots of these objects.
    """
    others = ahead(frame, {each for slot in starting for each in objects[slot].seeds})
    known: list[Any] = [None] * len(objects)
    for each in [frame, *others] if others else ():  # first where all of them are, as they share a bank then
        body = {"frames": [request_frame(each, starting)], "states": known}
        try:
            known = propagate(body)["states"]
        except StateExpired:
            return states
        except BadRequest:  # no room for more; what is wrong with the frame itself, it says again
            break
        except ValueError as error:
            raise ValueError(_in_terms_of_the_job(str(error), [each], objects)) from error
    return [known[slot] if slot in starting else state for slot, state in enumerate(states)]


def last_seeds(answered: Sequence[int], objects: Sequence[JobObject]) -> int:
    """The latest position from which on every object that was begun in these frames has a seed; 0 if none was.

    Objects whose seed comes later than there have no answers up to it, see `SweepLog`.
    """
    position = {frame: i for i, frame in enumerate(answered)}
    seeded = [[position[frame] for frame in each.seeds if frame in position] for each in objects]
    return min((max(own) for own in seeded if own), default=0)


def _next_request(frames: Sequence[int], objects: Sequence[JobObject], image_of: ImageOf) -> Sequence[int]:
    """As many of these frames as one request should have; only the first of them may have seeds."""
    seeds = (i for i, frame in enumerate(frames) if i and any(frame in each.seeds for each in objects))
    frames = frames[: min(next(seeds, FRAMES_PER_REQUEST), FRAMES_PER_REQUEST)]
    sizes = itertools.accumulate(len(image_of(frame)) for frame in frames)
    return frames[: max(1, sum(size <= BYTES_PER_REQUEST for size in sizes))]


def _without_states_of_seeds(states: list[Any] | None, objects: Sequence[JobObject], frame: int) -> list[Any] | None:
    return states and [None if frame in each.seeds else state for each, state in zip(objects, states, strict=True)]


def _outlines_on(
    frame: int,
    objects: Sequence[JobObject],
    image_of: ImageOf,
    object_of: ObjectOf,
    on_hard_box: Callable[[JobObject, int], None],
) -> list[dict[str, Any] | None]:
    """The seeds of all objects on a frame, as the function takes them."""
    try:
        pixels = decode_image(image_of(frame), MAX_PIXELS)
    except RequestError as error:
        raise ValueError(f"Frame {frame}: {error}") from error

    def found() -> Iterator[tuple[int, FoundObject]]:
        for slot, drawn in enumerate(objects):
            if frame in drawn.seeds:
                yield slot, outlined_object(drawn, frame, pixels, object_of)

    shapes: list[dict[str, Any] | None] = [None] * len(objects)
    for slot, seed in disjoint(found()):  # here, as the function will not know which of them come from boxes
        if seed.box is None:
            hidden = (
                "it lies wholly under other objects, or nearly; outline what is seen, or leave labels out (--labels)."
            )
            raise ValueError(f"Frame {frame}: {objects[slot].name}: {hidden}")
        if seed.expected_j is not None and seed.expected_j < HARD_BELOW:
            on_hard_box(objects[slot], frame)
        # A mask, whatever was drawn: it says most, and the results may be of any type.
        shapes[slot] = {"type": "mask", "points": encode_rle(seed.mask)}
    return shapes


def outlined_object(drawn: JobObject, frame: int, pixels: np.ndarray, object_of: ObjectOf) -> FoundObject:
    """What is outlined of an object on a frame, by any number of shapes; of boxes the lowest `expected_j` counts.

    pixels: of the frame, (H, W, 3) uint8 RGB. Raises ValueError with one sentence where an outline means nothing.
    """
    try:
        parts = [object_of(shape, pixels) for shape in drawn.seeds[frame].shapes]
    except RequestError as error:
        raise ValueError(f"{drawn.name} on frame {frame}: {error}") from error
    if len(parts) == 1:
        return parts[0]
    mask = np.any([part.mask for part in parts], axis=0)
    in_boxes = [part.expected_j for part in parts if part.expected_j is not None]
    if not in_boxes:
        return FoundObject(mask, None, certain)

    def logits_in(window: Window) -> np.ndarray:
        most = np.full((window.height, window.width), -np.inf, np.float32)
        for part in parts:
            own = window.cut(part.mask)
            most[own] = np.maximum(most, part.logits_in(window))[own]
        return most

    return FoundObject(mask, min(in_boxes), logits_in)


def _in_terms_of_the_job(sentence: str, frames: Sequence[int], objects: Sequence[JobObject]) -> str:
    """The function counts the frames and objects of a request, from 1."""
    if re.search(r"objects.* at most", sentence):
        sentence = f"{sentence.rstrip('.')}; --labels tracks those of some labels at a time."
    sentence = re.sub(r"(?<=\bFrame )\d+", lambda found: str(frames[int(found[0]) - 1]), sentence)
    return re.sub(r"\bobject (\d+)", lambda found: objects[int(found[1]) - 1].name, sentence)


def fuse(
    frames: Sequence[int],
    objects: Sequence[JobObject],
    forward: Answers,
    backward: Answers,
) -> list[dict[int, SweepPrediction]]:
    """For each object the answers that count, by frame (`maskbank.tracking.fusion`); none where a person said what is
    to be seen. The masks of a frame share no pixel.

    Args:
        frames: that were tracked through, in order.
        objects: in the order of the answers.
        forward, backward: the answers of a sweep by frame.
    """
    results = []
    for slot, drawn in enumerate(objects):
        ahead = {frame: own for frame, answers in forward.items() if (own := answers[slot]) is not None}
        back = {frame: own for frame, answers in backward.items() if (own := answers[slot]) is not None}
        seeded = drawn.seeds.keys() & set(frames)
        results.append(fusion.fuse(frames, seeded, set(drawn.to_find(frames)), ahead, back, _agreement))
    for frame in frames:
        found = {slot: own[frame] for slot, own in enumerate(results) if frame in own and own[frame].mask is not None}
        ahead_there = [each.mask for each in forward.get(frame, ()) if each]  # which share no pixel with each other
        if len({any(answer.mask is mask for mask in ahead_there) for answer in found.values()}) > 1:
            for slot, answer in _apart(found):
                results[slot][frame] = answer
    return results


def _apart(found: Mapping[int, SweepPrediction]) -> Iterator[tuple[int, SweepPrediction]]:
    """Answers on one frame, by slot, that have masks, see `fusion.apart`."""
    points = {slot: answer.mask for slot, answer in found.items() if answer.mask is not None}
    width, height = np.max([each[-2:] for each in points.values()], axis=0) + 1
    masks = {slot: decode_rle(each, height, width) for slot, each in points.items()}
    for slot, mask in fusion.apart(masks, {slot: found[slot].confidence for slot in points}).items():
        if mask.any():
            yield slot, found[slot]._replace(mask=np.array(encode_rle(mask), np.int32))
        else:
            yield slot, SweepPrediction(None, round(1 - found[slot].confidence, 3))


def _agreement(ahead: SweepPrediction, back: SweepPrediction) -> float:
    """See `fusion.overlap`."""
    one, other = ahead.mask, back.mask
    if one is None or other is None:
        return float(one is other)
    width, height = np.maximum(one[-2:], other[-2:]) + 1  # of an image that holds both
    return fusion.overlap(decode_rle(one, height, width), decode_rle(other, height, width))
