"""The objects of a clip by their ids, in as many memories as they need."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from maskbank.bank.memory import BankRequest, Memory, Seed
from maskbank.tracking.tracker import Frame, Prediction, Tracker


@dataclass(frozen=True, eq=False)
class ClipObjects:
    """What is known of the objects that were outlined so far.

    Attributes:
        memories: of all of them.
        places: by object id, the position of its memory and its number there.
    """

    memories: tuple[Memory, ...] = ()
    places: Mapping[int, tuple[int, int]] = field(default_factory=dict)


def track_objects(
    tracker: Tracker, frame: Frame, known: ClipObjects, outlined: np.ndarray | None
) -> tuple[ClipObjects, dict[int, Prediction]]:
    """Finds the objects in the next frame; they compete for pixels.

    Args:
        tracker: for instance from `maskbank.tracking.loading.load_tracker`.
        frame: in which there is at least one object, known or outlined.
        outlined: an id map (H, W) uint8; an id that is known is corrected, a new one joins. None: nothing is outlined.

    Returns what is known then, and the predictions by object id.
    """
    seeds = {} if outlined is None else {int(i): Seed(outlined == i) for i in np.unique(outlined) if i}
    new = [i for i in seeds if i not in known.places]
    groups = tracker.memory_groups(frame.image.shape[:2], [seeds[i] for i in new])
    places = dict(known.places)
    for i, group in zip(new, groups, strict=True):
        position = len(known.memories) + group
        places[i] = position, sum(each == position for each, _ in places.values())
    memories = [*known.memories, *(Memory() for _ in set(groups))]
    own: list[dict[int, Seed]] = [{} for _ in memories]
    for i, seed in seeds.items():
        position, number = places[i]
        own[position][number] = seed
    requests = [BankRequest(*each) for each in zip(memories, own, strict=True)]
    parts: list[BankRequest] = []
    moved: dict[tuple[int, int], tuple[int, int]] = {}  # places, as objects that drifted apart get their own memories
    for position, apart in enumerate(tracker.drifted_apart(frame.image.shape[:2], requests)):
        for numbers in apart:
            moved |= {(position, number): (len(parts), new) for new, number in enumerate(numbers)}
            parts.append(requests[position] if len(apart) == 1 else requests[position].of_objects(numbers))
    places = {i: moved[place] for i, place in places.items()}
    results = tracker.track(frame, parts)
    after = ClipObjects(tuple(memory for memory, _ in results), places)
    return after, {i: results[position][1][number] for i, (position, number) in places.items()}
