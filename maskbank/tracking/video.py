"""A whole video through the tracker: frames and seed masks in, an id map per frame out."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from maskbank.bank.memory import BankRequest, Memory, Seed
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
    memory = Memory()
    numbers: dict[int, int] = {}  # object id → its number in the memory
    for index, image in enumerate(frames):
        outlined = _seeds(seeds[index], image, index, numbers) if index in seeds else {}
        if not numbers:
            yield TrackedFrame(image, np.zeros(image.shape[:2], np.uint8), {})
            continue
        [(memory, predictions)] = tracker.track(Frame(image), [BankRequest(memory, outlined)])
        ids = np.zeros(image.shape[:2], np.uint8)
        for object_id, number in numbers.items():
            ids[predictions[number].mask] = object_id
        yield TrackedFrame(image, ids, {i: predictions[n].confidence for i, n in numbers.items()})


def _seeds(ids: np.ndarray, image: np.ndarray, index: int, numbers: dict[int, int]) -> dict[int, Seed]:
    """The seeds of an id map by object number; gives new objects theirs."""
    if ids.shape != image.shape[:2]:
        expected, got = (f"{s[1]} x {s[0]}" for s in (image.shape, ids.shape))
        raise ValueError(f"The seed mask of frame {index} is {got} pixels, but the frame is {expected}.")
    return {numbers.setdefault(int(i), len(numbers)): Seed(ids == i) for i in np.unique(ids) if i}
