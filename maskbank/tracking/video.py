"""A whole video through the tracker: frames and seed masks in, an id map per frame out."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from maskbank.tracking.clip_objects import track_clip_objects
from maskbank.tracking.tracker import Frame, Tracker


@dataclass(frozen=True, eq=False)
class TrackedFrame:
    """The objects of one frame."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    ids: np.ndarray  # (H, W) uint8: object ids as in the seeds, 0 is background
    confidence: dict[int, float]  # by object id, for the objects seeded so far


def track_video(
    tracker: Tracker,
    frames: Iterable[np.ndarray],
    seeds: Mapping[int, np.ndarray],
    seed_frames: Mapping[int, np.ndarray] | None = None,
) -> Iterator[TrackedFrame]:
    """Tracks the objects of `seeds` through `frames`; yields one result per frame.

    Args:
        tracker: for instance from `maskbank.tracking.loading.load_tracker`.
        frames: (H, W, 3) uint8 RGB each.
        seeds: by frame index an id map (H, W) uint8. An id that was seeded before is corrected at that frame, a new one
            joins. Frames before the first seed stay empty.
        seed_frames: the frames of seeds, where they are at hand ahead; these seeds then count from the start, see
            `track_clip_objects`.

    Raises:
        ValueError: a seed's size is not its frame's, or it shows no object.
    """
    for index, seed in sorted(seeds.items()):
        if not seed.any():
            raise ValueError(f"The seed mask of frame {index} shows no object.")
    at_hand = {index: _checked(index, image, seeds) for index, image in (seed_frames or {}).items()}
    numbered = ((index, Frame(_checked(index, image, seeds))) for index, image in enumerate(frames))
    for frame, predictions in track_clip_objects(tracker, numbered, seeds, at_hand, lambda i: Frame(at_hand[i])):
        ids = np.zeros(frame.image.shape[:2], np.uint8)
        for object_id, prediction in predictions.items():
            ids[prediction.mask] = object_id
        yield TrackedFrame(frame.image, ids, {i: each.confidence for i, each in predictions.items()})


def _checked(index: int, image: np.ndarray, seeds: Mapping[int, np.ndarray]) -> np.ndarray:
    """The image; raises ValueError where its seed has another size."""
    outlined, size = seeds.get(index), image.shape[:2]
    if outlined is not None and outlined.shape != size:
        got, expected = (f"{shape[1]} x {shape[0]}" for shape in (outlined.shape, size))
        raise ValueError(f"The seed mask of frame {index} is {got} pixels, but the frame is {expected}.")
    return image
