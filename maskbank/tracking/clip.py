"""A clip in both directions: what is outlined later on counts for the frames before, too."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from maskbank.files.frames import FrameSource
from maskbank.tracking.clip_objects import ahead
from maskbank.tracking.fusion import MaskAnswer, apart, fuse, mask_agreement
from maskbank.tracking.tracker import Tracker
from maskbank.tracking.video import TrackedFrame, track_video

_Sweep = dict[int, dict[int, MaskAnswer]]  # by object id and frame


def frames_to_track(length: int, seeds: Mapping[int, np.ndarray]) -> int:
    """How often `track_clip` tracks a frame of a clip of a length."""
    last = max(seeds)
    return length + (last + 1 if last else 0)


def track_clip(
    tracker: Tracker, frames: FrameSource, seeds: Mapping[int, np.ndarray], on_tracked: Callable[[], object]
) -> Iterator[TrackedFrame]:
    """Tracks the objects of `seeds` through all frames; yields one result per frame, in order.

    Each object is found from its outlines on both sides, see `fuse`: before its first one by a sweep back from there.
    Both sweeps know the outlines from the start (of many, eight that are evenly spread), see `track_clip_objects`.
    So the frames up to the last seed come when two sweeps are done, unless that is the first frame.

    Args:
        tracker: for instance from `maskbank.tracking.loading.load_tracker`.
        frames: of the clip.
        seeds: by frame index an id map (H, W) uint8, at least one.
        on_tracked: called whenever a frame was tracked, see `frames_to_track`.

    Raises what `track_video` raises.
    """
    last = max(seeds)
    kept = ahead(-1, seeds) if len(seeds) > 1 else []  # of many not all: images are large
    seed_frames = {i: frame for i, frame in zip(range(max(kept, default=-1) + 1), frames, strict=False) if i in kept}
    onwards = _counted(track_video(tracker, frames, seeds, seed_frames), on_tracked)
    if last:
        forward = _answers(onwards, range(last + 1))
        mirrored = {last - index: seed for index, seed in seeds.items()}
        mirrored_frames = {last - index: frame for index, frame in seed_frames.items()}
        back = _counted(track_video(tracker, frames.backwards(last + 1), mirrored, mirrored_frames), on_tracked)
        backward = _answers(back, range(last, -1, -1))
        yield from _fused(frames, last, seeds, forward, backward)
    yield from onwards


def _counted(tracked: Iterator[TrackedFrame], on_tracked: Callable[[], object]) -> Iterator[TrackedFrame]:
    for each in tracked:
        on_tracked()
        yield each


def _answers(tracked: Iterator[TrackedFrame], indices: range) -> _Sweep:
    answers: _Sweep = {}
    for index, each in zip(indices, tracked, strict=False):  # `tracked` keeps what comes behind these
        for object_id, confidence in each.confidence.items():
            answers.setdefault(object_id, {})[index] = MaskAnswer(each.ids == object_id, confidence)
    return answers


def _fused(
    frames: FrameSource, last: int, seeds: Mapping[int, np.ndarray], forward: _Sweep, backward: _Sweep
) -> Iterator[TrackedFrame]:
    """The frames up to the last seed."""
    indices = range(last + 1)
    found = {}
    for object_id, own in backward.items():  # which has all objects: it passes all seeds
        outlined = {index for index, seed in seeds.items() if (seed == object_id).any()}
        between = fuse(indices, outlined, set(indices) - outlined, forward[object_id], own, mask_agreement)
        found[object_id] = between | {index: own[index] for index in outlined}
    for index, image in zip(indices, frames, strict=False):
        answers = {object_id: own[index] for object_id, own in found.items()}
        ids = np.zeros(image.shape[:2], np.uint8)
        confidence = {object_id: answer.confidence for object_id, answer in answers.items()}
        for object_id, mask in apart({i: answer.mask for i, answer in answers.items()}, confidence).items():
            ids[mask] = object_id
            if answers[object_id].visible and not mask.any():
                confidence[object_id] = round(1 - confidence[object_id], 3)  # that it is gone
        yield TrackedFrame(image, ids, confidence)
