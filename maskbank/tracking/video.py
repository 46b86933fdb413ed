"""A whole video through the tracker: frames and seed masks in, an id map per frame out."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from maskbank.tracking.clip_objects import ClipObjects, track_objects
from maskbank.tracking.tracker import Frame, Tracker


@dataclass(frozen=True, eq=False)
class TrackedFrame:
    """The objects of one frame."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    ids: np.ndarray  # (H, W) uint8: object ids as in the seeds, 0 is background
    confidence: dict[int, float]  # by object id, for the objects seeded so far


def track_video(
    tracker: Tracker, frames: Iterable[np.ndarray], seeds: Mapping[int, np.ndarray]
) -> Iterator[TrackedFrame]:
    """Tracks the objects of `seeds` through `frames`; yields one result per frame.

    Args:
        tracker: for instance from `maskbank.tracking.loading.load_tracker`.
        frames: (H, W, 3) uint8 RGB each.
        seeds: by frame index an id map (H, W) uint8. An id that was seeded before is corrected at that frame, a new one
            joins. Frames before the first seed stay empty.

    Raises:
        ValueError: a seed's size is not its frame's, or it shows no object.
    """
    for index, seed in sorted(seeds.items()):
        if not seed.any():
            raise ValueError(f"The seed mask of frame {index} shows no object.")
    objects = ClipObjects()
    for index, image in enumerate(frames):
        outlined, size = seeds.get(index), image.shape[:2]
        if outlined is not None and outlined.shape != size:
            got, expected = (f"{shape[1]} x {shape[0]}" for shape in (outlined.shape, size))
            raise ValueError(f"The seed mask of frame {index} is {got} pixels, but the frame is {expected}.")
        ids = np.zeros(size, np.uint8)
        if outlined is None and not objects.places:
            yield TrackedFrame(image, ids, {})
            continue
        objects, predictions = track_objects(tracker, Frame(image), objects, outlined)
        for object_id, prediction in predictions.items():
            ids[prediction.mask] = object_id
        yield TrackedFrame(image, ids, {i: each.confidence for i, each in predictions.items()})
