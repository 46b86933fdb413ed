"""The objects of a clip by their ids, in as many memories as they need."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from maskbank.bank.feature_bank import BankFullError, FeatureBank
from maskbank.bank.memory import BankRequest, Memory, Seed
from maskbank.tracking.tracker import Frame, Prediction, Tracker

MOST_AHEAD = 8  # outlined frames that are memorized ahead: each of them is read on every frame


@dataclass(frozen=True, eq=False)
class ClipObjects:
    """What is known of the objects that were outlined so far.

    Attributes:
        memories: of all of them.
        places: by object id, the position of its memory and its number there.
    """

    memories: tuple[Memory, ...] = ()
    places: Mapping[int, tuple[int, int]] = field(default_factory=dict)

    def without(self, ids: Collection[int]) -> "ClipObjects":
        """The others; what their memories hold of these objects competes with nobody any more."""
        places = {i: place for i, place in self.places.items() if i not in ids}
        used = sorted({position for position, _ in places.values()})
        return ClipObjects(
            tuple(self.memories[position] for position in used),
            {i: (used.index(position), number) for i, (position, number) in places.items()},
        )

    def joined(self, others: "ClipObjects") -> "ClipObjects":
        """These objects and others."""
        moved = {i: (len(self.memories) + position, number) for i, (position, number) in others.places.items()}
        return ClipObjects(self.memories + others.memories, {**self.places, **moved})


def track_clip_objects(
    tracker: Tracker,
    frames: Iterable[tuple[int, Frame]],
    outlines: Mapping[int, np.ndarray],
    at_hand: Collection[int],
    frame_at: Callable[[int], Frame],
) -> Iterator[tuple[Frame, dict[int, Prediction]]]:
    """Tracks the objects of a clip through its frames; yields each with its predictions by object id.

    An object joins on the first of these frames that outlines it, and each later outline corrects it; where its memory
    has no room for one more, it starts anew from there. All its outlines count from the start: they are memorized when
    it joins, as in the permanent memory of XMem++ (Bekuzarov et al., ICCV 2023, arXiv 2307.15958). On the 25 training
    sequences of DAVIS-2016, which `lite-open` never saw, J&F of the frames that are not outlined is 0.9, 1.9 and 1.1
    higher for that, with 2, 3 and 5 outlines (docs/experiments.md).

    Args:
        tracker: for instance from `maskbank.tracking.loading.load_tracker`.
        frames: numbers and frames, in the order of tracking.
        outlines: by frame an id map (H, W) uint8.
        at_hand: the outlined frames that can be had before their turn.
        frame_at: the number of one of these to the frame.
    """
    objects = ClipObjects()
    for number, frame in frames:
        outlined = outlines.get(number)
        if outlined is None and not objects.places:
            yield frame, {}
            continue
        if outlined is not None and not tracker.tune:  # which would be tuned to each of them, for seconds
            joining = [int(i) for i in np.unique(outlined) if i and i not in objects.places]
            showing = [each for each in at_hand if np.isin(outlines[each], joining).any()]
            others = [(frame_at(each), outlines[each]) for each in ahead(number, showing)]
            if others:
                objects = objects.joined(_by_all_outlines(tracker, joining, [(frame, outlined), *others]))
        try:
            objects, predictions = track_objects(tracker, frame, objects, outlined)
        except BankFullError:  # of objects with very many outlines: they start anew from this one
            if outlined is None or not np.isin(outlined, list(objects.places)).any():
                raise
            objects = objects.without(np.unique(outlined).tolist())
            objects, predictions = track_objects(tracker, frame, objects, outlined)
        yield frame, predictions


def ahead(frame: int, outlined: Collection[int]) -> list[int]:
    """Of all outlined frames those to memorize ahead, before objects are tracked from one of them: at most
    `MOST_AHEAD`, evenly spread."""
    others = sorted(set(outlined) - {frame})
    count = min(len(others), MOST_AHEAD)
    return [others[(2 * i + 1) * len(others) // (2 * count)] for i in range(count)]


def _by_all_outlines(
    tracker: Tracker, joining: Sequence[int], outlined: Iterable[tuple[Frame, np.ndarray]]
) -> ClipObjects:
    """Objects that join, known by these outlines; the first are those where they join, so that they share memories."""
    objects = ClipObjects()
    for frame, ids in outlined:
        try:
            objects, _ = track_objects(
                tracker, frame, objects, np.where(np.isin(ids, joining), ids, 0).astype(np.uint8)
            )
        except BankFullError:  # a small budget: the outlines on the way come first
            break
    # Of an object that is not outlined on one of these frames nothing was to be learnt there.
    only_seeds = tuple(replace(each, banks=tuple(map(_only_seeds, each.banks))) for each in objects.memories)
    return replace(objects, memories=only_seeds)


def _only_seeds(bank: FeatureBank) -> FeatureBank:
    return bank if bank.seeds is None else FeatureBank(seeds=bank.seeds)  # the paper's bank has no part for them


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
    tracked: list[set[int]] = [set() for _ in memories]
    for position, number in places.values():
        tracked[position].add(number)
    requests = [
        BankRequest(memory, seeds, frozenset(numbers))
        for memory, seeds, numbers in zip(memories, own, tracked, strict=True)
    ]
    parts: list[BankRequest] = []
    moved: dict[tuple[int, int], tuple[int, int]] = {}  # places, as objects that drifted apart get their own memories
    for position, apart in enumerate(tracker.drifted_apart(frame.image.shape[:2], requests)):
        for numbers in apart:
            stays = len(apart) == 1
            moved |= {(position, each): (len(parts), each if stays else new) for new, each in enumerate(numbers)}
            parts.append(requests[position] if stays else requests[position].of_objects(numbers))
    places = {i: moved[place] for i, place in places.items()}
    results = tracker.track(frame, parts)
    after = ClipObjects(tuple(memory for memory, _ in results), places)
    return after, {i: results[position][1][number] for i, (position, number) in places.items()}
