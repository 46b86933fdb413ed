"""Looking closer: objects that are small in a large frame are tracked in windows of it, which move with them.

The network sees a window at the size at which it would see the whole frame. A window's scale is that of the image
itself, or a half, a quarter of it. There are few scales because keys of one hardly resemble those of another: seeds are
memorized at the scale of their window and at all that are coarser, and a finer window is never chosen.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from maskbank.bank.memory import BankRequest, Memory, Seed
from maskbank.networks.aggregation import HIDDEN_LOGIT
from maskbank.shapes.rle import mask_box
from maskbank.shapes.window import Window
from maskbank.tracking.search_area import PREV_MASK_STRIDE, STRIDE, seen_places, whole_area

ROOM, KEPT_ROOM = 3.0, 2.0  # times as wide and high as its objects is a window at least, and one that they are in
LEAST_GAIN = 1.4  # times as large as in the whole frame is what a window shows
MOST_WINDOWS = 4  # of a frame: each takes as long as the whole frame would, so they are for those that gain much:
SMALL, KEPT_SMALL = 1 / 8, 1 / 6  # of the frame's shorter side is an object at most; and one that is in a window

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Whereabouts:
    """Where the requested objects of a memory are on an image, or were in the frame before.

    Attributes:
        boxes: of the objects; None where one was not to be seen, as then it may be anywhere.
        finest: the largest scale at which they are known, but for those that are outlined on the frame.
        window: in which they were in the frame before.
    """

    boxes: Sequence[Box] | None
    finest: float
    window: Window | None

    def small(self, size: tuple[int, int]) -> bool:
        """Whether all objects are small in an image of that size."""
        most = (KEPT_SMALL if self.window else SMALL) * min(size)
        return self.boxes is not None and all(max(box[2] - box[0], box[3] - box[1]) <= most for box in self.boxes)


def choose_windows(
    size: tuple[int, int], working: tuple[int, int], requests: Sequence[BankRequest]
) -> list[Window | None]:
    """For each request the window in which its objects are to be tracked; None: the whole frame.

    What one window can hold is seen together. Else small objects have several windows and the others see the whole
    frame. Requests share a window where it is no coarser than that which one of them has by itself; where such windows
    are too many, any that holds them; where even these are, all see the whole frame.

    Args:
        size: height and width of the image.
        working: of the whole image as the network sees it.
    """
    if not any(window_sizes(size, working)):
        return [None] * len(requests)
    places = [_whereabouts(request, size, working) for request in requests]
    together = _window_of(size, working, places)
    if together or len(places) < 2:
        return [together] * len(places)
    for may_be_coarser in (False, True):
        windows = _shared_windows(size, working, places, may_be_coarser)
        if windows is not None:
            return windows
    return [None] * len(places)


def _shared_windows(
    size: tuple[int, int], working: tuple[int, int], places: Sequence[Whereabouts], may_be_coarser: bool
) -> list[Window | None] | None:
    """Each of small objects joins the first others that can share a window; None: there would be too many windows."""
    groups: list[tuple[Window, list[int]]] = []
    for i, place in enumerate(places):
        alone = _window_of(size, working, [place]) if place.small(size) else None
        if alone is None:
            continue
        for position, (window, members) in enumerate(groups):
            joint = _window_of(size, working, [*(places[member] for member in members), place])
            if joint and (may_be_coarser or joint.height <= max(alone.height, window.height)):
                groups[position] = joint, [*members, i]
                break
        else:
            groups.append((alone, [i]))
        if len(groups) > MOST_WINDOWS:
            return None
    shared = {member: window for window, members in groups for member in members}
    return [shared.get(i) for i in range(len(places))]


def memory_groups(size: tuple[int, int], working: tuple[int, int], seeds: Sequence[Seed]) -> list[int]:
    """Which new objects are to share a memory: for each seed of a frame the number of its group, from 0.

    A memory has one window, so those that would be tracked in different windows are kept apart.
    """
    windows = choose_windows(size, working, [BankRequest(Memory(), {0: seed}) for seed in seeds])
    different = list(dict.fromkeys(windows))
    return [different.index(window) for window in windows]


def drifted_apart(
    size: tuple[int, int], working: tuple[int, int], requests: Sequence[BankRequest]
) -> list[list[list[int]]]:
    """Which objects of each request need a memory of their own from now on: the numbers of those that belong together.

    A memory has one window. Where no window shows all of its objects, because they are too far from each other or one
    is gone, those that are small have windows of their own.
    """
    together = [[sorted(request.competitors)] for request in requests]
    if not any(window_sizes(size, working)):
        return together
    parts: list[list[BankRequest]] = []
    for request, [numbers] in zip(requests, together, strict=True):
        several = len(numbers) > 1 and numbers[-1] < request.memory.objects  # none is new
        if several and _window_of(size, working, [_whereabouts(request, size, working)]) is None:
            parts.append([replace(request, requested=frozenset({number})) for number in numbers])
        else:
            parts.append([request])
    if all(len(own) == 1 for own in parts):
        return together
    windows = iter(choose_windows(size, working, [part for own in parts for part in own]))
    groups = []
    for own in parts:
        of_window: dict[Window | None, list[int]] = {}
        for part in own:
            of_window.setdefault(next(windows), []).extend(sorted(part.competitors))
        groups.append(list(of_window.values()))
    return groups


def _window_of(size: tuple[int, int], working: tuple[int, int], places: Sequence[Whereabouts]) -> Window | None:
    """The window that is to show all objects; None: the whole frame.

    It is the whole frame where an object is too large, too far from the others, or may be anywhere.
    """
    boxes = [place.boxes for place in places]
    if not any(boxes) or None in boxes:
        return None
    lefts, tops, rights, bottoms = zip(*(box for own in boxes for box in own or ()), strict=True)
    left, top, right, bottom = min(lefts), min(tops), max(rights), max(bottoms)
    finest = min(place.finest for place in places)
    kept = {place.window for place in places}
    for scale, height, width in window_sizes(size, working):
        stays = any(window and (window.height, window.width) == (height, width) for window in kept)
        room = KEPT_ROOM if stays else ROOM
        if scale <= finest and room * (right - left) <= width and room * (bottom - top) <= height:
            return _window_around((left + right) / 2, (top + bottom) / 2, height, width, size)
    return None


def _whereabouts(request: BankRequest, size: tuple[int, int], working: tuple[int, int]) -> Whereabouts:
    memory = request.memory
    known = [number for number in sorted(request.competitors) if number < memory.objects]
    unseeded = [number for number in known if number not in request.seeds]
    seeds = [seed for number, seed in request.seeds.items() if number in request.competitors]
    boxes = [_box(seed.box) for seed in seeds]
    boxes += [_last_box(memory, number, size, working) for number in unseeded]
    found = [box for box in boxes if box]
    finest = memory.finest if unseeded else 1.0
    return Whereabouts(found if len(found) == len(boxes) else None, finest, memory.window)


def coarser_windows(window: Window, size: tuple[int, int], working: tuple[int, int]) -> list[Window | None]:
    """Those of all coarser scales around a window, and at last the whole frame."""
    x, y = window.left + window.width / 2, window.top + window.height / 2
    sizes = [(height, width) for _, height, width in window_sizes(size, working) if height > window.height]
    return [*(_window_around(x, y, *each, size) for each in sizes), None]


def window_sizes(size: tuple[int, int], working: tuple[int, int]) -> Iterator[tuple[float, int, int]]:
    """The scales that windows may have, from fine to coarse, each with the height and width of such a window.

    There is none where the network sees the frame nearly as it is, or where a window would be thicker than a very
    narrow image.
    """
    scale = 1.0
    while scale >= LEAST_GAIN * working[0] / size[0]:
        height, width = (round(side / scale) for side in working)
        if height <= size[0] and width <= size[1]:
            yield scale, height, width
        scale /= 2


def _window_around(x: float, y: float, height: int, width: int, size: tuple[int, int]) -> Window:
    """A window that has a point in its middle, as far as the image allows it."""
    left, top = (
        min(max(round(middle - side / 2), 0), limit - side)
        for middle, side, limit in ((x, width, size[1]), (y, height, size[0]))
    )
    return Window(left, top, width, height)


def moved_prev_mask(
    prev_mask: Tensor, before: Window | None, now: Window | None, size: tuple[int, int], working: tuple[int, int]
) -> Tensor:
    """A previous mask as it is in another window, (n, 4h, 4w) with the network's padding.

    Args:
        prev_mask: (n, 4h', 4w'), in the window `before`.
        size: height and width of the image.
        working: what the network sees of any window, but for its padding.
    """
    axes, padded = [], whole_area(working)
    for axis, (limit, seen) in enumerate(zip(size, working, strict=True)):
        start_now, length_now = _span(now, axis, limit)
        start_before, length_before = _span(before, axis, limit)
        places = (padded.bottom, padded.right)[axis] * STRIDE // PREV_MASK_STRIDE
        place = start_now + (torch.arange(places) + 0.5) * PREV_MASK_STRIDE * length_now / seen  # in the image
        axes.append((place - start_before) * seen / length_before / PREV_MASK_STRIDE)
    return _sampled(prev_mask, *axes)


def stretched_prev_mask(prev_mask: Tensor, working: tuple[int, int]) -> Tensor:
    """A previous mask of a whole image, (n, 4h', 4w'), stretched to one that the network sees in the size `working`."""
    whole, cells = whole_area(working), STRIDE // PREV_MASK_STRIDE
    return F.adaptive_avg_pool2d(prev_mask, (whole.bottom * cells, whole.right * cells))


def moved_logits(
    logits: Tensor, before: Window | None, now: Window | None, size: tuple[int, int], seen: Sequence[int]
) -> Tensor:
    """Logits as they are in another window, `HIDDEN_LOGIT` where that shows more: (h', w') → (h, w).

    Args:
        logits: in the window `before`.
        size: height and width of the image.
        seen: h, w, what the network sees of the window `now`.
    """
    axes = []
    for axis, limit in enumerate(size):
        start_now, length_now = _span(now, axis, limit)
        start_before, length_before = _span(before, axis, limit)
        place = start_now + (torch.arange(seen[axis]) + 0.5) * length_now / seen[axis]  # in the image
        axes.append((place - start_before) * logits.shape[axis] / length_before)
    return _sampled(logits[None] - HIDDEN_LOGIT, *axes)[0] + HIDDEN_LOGIT


def _sampled(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """What maps (n, H, W) have at all pairs of rows and columns, in cells from the upper left: (n, h, w), 0 outside."""
    down, across = rows * 2 / maps.shape[1] - 1, columns * 2 / maps.shape[2] - 1
    grid = torch.stack(torch.broadcast_tensors(across[None, :], down[:, None]), -1).to(maps)
    return F.grid_sample(maps[None], grid[None], align_corners=False)[0]


def _span(window: Window | None, axis: int, limit: int) -> tuple[int, int]:
    if window is None:
        return 0, limit
    return (window.top, window.height) if axis == 0 else (window.left, window.width)


def _last_box(memory: Memory, number: int, size: tuple[int, int], working: tuple[int, int]) -> Box | None:
    """Where an object was in the frame before, in pixels of the image."""
    found = _box(mask_box(seen_places(memory.prev_mask[number : number + 1])[0].cpu().numpy()))
    if found is None:
        return None
    (top, height), (left, width) = (_span(memory.window, axis, size[axis]) for axis in (0, 1))
    across, down = PREV_MASK_STRIDE * width / working[1], PREV_MASK_STRIDE * height / working[0]
    return left + found[0] * across, top + found[1] * down, left + found[2] * across, top + found[3] * down


def _box(inclusive: tuple[int, int, int, int] | None) -> Box | None:
    return inclusive and (inclusive[0], inclusive[1], inclusive[2] + 1, inclusive[3] + 1)
