"""A whole video through the tracker: frames and seed masks in, an id map per frame out."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from maskbank.tracker import Memory, Tracker


@dataclass(frozen=True, eq=False)
class Step:
    """The answer for one frame."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    ids: np.ndarray  # (H, W) uint8: object ids as in the seeds, 0 is background
    confidence: dict[int, float]  # by object id, for the objects seeded so far


def propagate(tracker: Tracker, frames: Iterable[np.ndarray], seeds: Mapping[int, np.ndarray]) -> Iterator[Step]:
    """Tracks the objects of `seeds` through `frames`; yields one step per frame.

    frames: (H, W, 3) uint8 RGB. seeds: by frame index an id map (H, W) uint8. An id that was seeded before is
    corrected at that frame, a new one joins. Frames before the first seed stay empty.

    Raises ValueError when a seed's size is not its frame's, or when it shows no object.
    """
    for index, seed in sorted(seeds.items()):
        if not seed.any():
            raise ValueError(f"The seed mask of frame {index} shows no object.")
    memory = Memory()
    numbers: dict[int, int] = {}  # object id → its number in the memory
    for index, image in enumerate(frames):
        masks = _seed_masks(seeds[index], image, index, numbers) if index in seeds else {}
        if not numbers:
            yield Step(image, np.zeros(image.shape[:2], np.uint8), {})
            continue
        [(memory, tracked)] = tracker.track(tracker.look(image), [memory], [masks])
        ids = np.zeros(image.shape[:2], np.uint8)
        for object_id, number in numbers.items():
            ids[tracked[number].mask] = object_id
        yield Step(image, ids, {i: tracked[n].confidence for i, n in numbers.items()})


def _seed_masks(seed: np.ndarray, image: np.ndarray, index: int, numbers: dict[int, int]) -> dict[int, np.ndarray]:
    """The masks of a seed by number; gives new objects theirs."""
    if seed.shape != image.shape[:2]:
        wanted, got = (f"{s[1]} x {s[0]}" for s in (image.shape, seed.shape))
        raise ValueError(f"The seed mask of frame {index} is {got} pixels, but the frame is {wanted}.")
    return {numbers.setdefault(int(i), len(numbers)): seed == i for i in np.unique(seed) if i}
