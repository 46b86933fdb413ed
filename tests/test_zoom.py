"""Small objects in large frames: in which window they are tracked, and that it pays."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from support import RED_KOI, TURTLE, Function, decoded, disjoint, jaccard, mask_shape, png, rgb, true_mask

from maskbank.bank.feature_bank import FeatureBank
from maskbank.bank.memory import BankRequest, Memory, Seed
from maskbank.networks.aggregation import HIDDEN_LOGIT
from maskbank.networks.lite import to_prev_mask
from maskbank.networks.models import MODELS, load_segmenter
from maskbank.shapes.window import Window
from maskbank.tracking.aggregation import Aggregation
from maskbank.tracking.clip_objects import ClipObjects, track_objects
from maskbank.tracking.tracker import Frame, Tracker
from maskbank.tracking.zoom import (
    MOST_WINDOWS,
    choose_windows,
    drifted_apart,
    memory_groups,
    moved_logits,
    moved_prev_mask,
)

CPU = torch.device("cpu")
SIZE, WORKING = (1080, 1920), (240, 427)


def box(left: int, top: int, width: int, height: int, size: tuple[int, int] = SIZE) -> Seed:
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = True
    return Seed(mask)


def window_of(*seeds: Seed, size: tuple[int, int] = SIZE, working: tuple[int, int] = WORKING) -> Window | None:
    [window] = choose_windows(size, working, [BankRequest(Memory(), dict(enumerate(seeds)))])
    return window


def test_a_small_object_is_in_the_middle_of_a_window_of_the_images_own_scale() -> None:
    window = window_of(box(900, 500, 40, 40))
    assert window == Window(920 - 214, 520 - 120, 427, 240)
    assert window_of(box(0, 1070, 20, 10)) == Window(0, 840, 427, 240)  # as far as the image allows it


def test_a_larger_one_is_seen_from_farther_away() -> None:
    half = window_of(box(900, 500, 100, 40), box(800, 450, 30, 30))
    assert half is not None and (half.width, half.height) == (854, 480)
    assert window_of(box(900, 500, 400, 40)) is None
    assert window_of(box(20, 20, 40, 40), box(1800, 1000, 40, 40)) is None  # no window holds both


@pytest.mark.parametrize("size", [(240, 427), (300, 533), (120, 213)])
def test_a_frame_that_the_network_sees_nearly_as_it_is_has_no_window(size: tuple[int, int]) -> None:
    assert window_of(box(50, 50, 10, 10, size), size=size) is None


def test_a_window_is_kept_until_the_object_is_much_larger() -> None:
    def choose_window(request: BankRequest) -> Window | None:
        return choose_windows(SIZE, WORKING, [request])[0]

    def request(side: int, window: Window | None, finest: float = 1.0) -> BankRequest:
        shown = torch.zeros(1, 60, 108)
        scale = 1 if window else WORKING[0] / SIZE[0]
        cells = max(round(side * scale / 4), 1)
        shown[0, 30 - cells // 2 : 30 - cells // 2 + cells, 54 - cells // 2 : 54 - cells // 2 + cells] = 1
        return BankRequest(Memory(prev_mask=shown, window=window, finest=finest))

    inside = Window(700, 400, 427, 240)
    assert choose_window(request(100, inside)).height == 240
    assert choose_window(request(100, None)).height == 480
    assert choose_window(request(130, inside)).height == 480
    # None is finer than those in which the seeds are known.
    assert choose_window(request(20, None)).height == 240
    assert choose_window(request(20, None, finest=0.5)).height == 480
    assert choose_window(request(20, None, finest=0.0)) is None
    assert choose_window(replace(request(20, None, finest=0.0), seeds={0: box(9, 9, 9, 9)})) is not None
    gone = replace(inside, left=0)
    assert choose_window(BankRequest(Memory(prev_mask=torch.zeros(1, 60, 108), window=gone))) is None


def test_a_previous_mask_stays_where_it_was_in_the_image() -> None:
    before, now = Window(600, 300, 427, 240), Window(640, 340, 427, 240)
    shown = torch.zeros(1, 60, 108)
    shown[0, 20:30, 40:60] = 1  # pixels 760 to 840, 380 to 420
    moved = moved_prev_mask(shown, before, now, SIZE, WORKING)
    expected = torch.zeros(1, 60, 108)
    expected[0, 10:20, 30:50] = 1
    assert moved.shape == shown.shape and (moved - expected).abs().max() < 0.05
    afar = moved_prev_mask(shown, before, None, SIZE, WORKING)
    rows, columns = np.nonzero(afar[0].numpy() > 0.3)
    assert rows.mean() * 18 + 9 == pytest.approx(400, abs=9) and columns.mean() * 18 + 9 == pytest.approx(800, abs=9)
    assert torch.allclose(moved_prev_mask(shown, before, before, SIZE, WORKING), shown, atol=1e-4)


def test_logits_stay_where_they_were_in_the_image() -> None:
    before, now = Window(600, 300, 427, 240), Window(640, 340, 427, 240)
    logits = torch.full((240, 427), -5.0)
    logits[80:120, 160:240] = 5  # pixels 760 to 840, 380 to 420
    moved = moved_logits(logits, before, now, SIZE, (240, 427))
    expected = torch.full((240, 427), -5.0)
    expected[40:80, 120:200] = 5
    expected[200:], expected[:, 387:] = HIDDEN_LOGIT, HIDDEN_LOGIT  # what `before` does not show
    assert torch.allclose(moved, expected, atol=0.01)
    afar = moved_logits(logits, before, None, SIZE, (240, 427))
    rows, columns = np.nonzero(afar.numpy() > 0)
    assert rows.mean() == pytest.approx(400 / 4.5, abs=1) and columns.mean() == pytest.approx(800 / 4.5, abs=1)
    assert afar[0, 0] == HIDDEN_LOGIT


def windows_of(*seeds: Seed) -> list[Window | None]:
    return choose_windows(SIZE, WORKING, [BankRequest(Memory(), {0: seed}) for seed in seeds])


def test_objects_far_apart_have_windows_of_their_own() -> None:
    left, near, right = box(20, 20, 40, 40), box(100, 60, 40, 40), box(1800, 1000, 40, 40)
    large = box(700, 100, 500, 900)
    windows = windows_of(left, right, near, large)
    assert windows[0] == windows[2] == window_of(left, near)  # one window holds both, no coarser than their own
    assert windows[1] == window_of(right) and windows[3] is None
    assert memory_groups(SIZE, WORKING, [Seed(each.mask) for each in (left, right, near, large)]) == [0, 1, 0, 2]
    assert memory_groups(SIZE, WORKING, [left, near]) == [0, 0] and memory_groups(SIZE, WORKING, []) == []
    # Several windows are only for small ones; one by itself may have one that gains less.
    wide = box(1500, 900, 140, 40)
    assert windows_of(left, wide) == [window_of(left), None] and window_of(wide) is not None


def test_there_are_few_windows() -> None:
    row = [box(80 + 440 * i, 20, 40, 40) for i in range(MOST_WINDOWS)]
    assert len({*windows_of(*row)}) == MOST_WINDOWS
    coarser = windows_of(*row, box(280, 20, 40, 40))  # one more: it shares a coarser window with the first
    assert len({*coarser}) == MOST_WINDOWS and coarser[0] == coarser[4] and coarser[0].height == 480
    assert [window.height for window in coarser[1:4]] == [240] * 3
    corners = [box(x, y, 20, 20) for x in (20, 960, 1880) for y in (20, 1040)]
    assert windows_of(*corners) == [None] * 6


@pytest.mark.parametrize("extent", [(1, 1), (3, 40), (60, 2), (5, 5)])
def test_what_is_tiny_or_thin_stays_in_its_window(extent: tuple[int, int]) -> None:
    seed = box(902, 502, *extent)
    window = window_of(seed)
    assert window is not None
    seen = torch.from_numpy(window.cut(seed.mask).astype(np.float32))[None]
    known = Memory((FeatureBank(),), to_prev_mask(seen), 1, 0, window=window, finest=1.0)
    [next_one] = choose_windows(SIZE, WORKING, [BankRequest(known)])
    assert next_one is not None and next_one.height == window.height
    assert next_one.cut(seed.mask).sum() == seed.mask.sum()


# The tracker.


def pond() -> np.ndarray:
    """Without its animals, (1080, 1920, 3)."""
    return cv2.GaussianBlur(cv2.resize(rgb(0), (1920, 1080)), (0, 0), 40)


def far_away(index: int, shift: int = 0) -> np.ndarray:
    """A frame of the sample clip, 320 x 180 pixels of 1920 x 1080."""
    image = pond()
    image[400:580, 800 + shift : 1120 + shift] = cv2.resize(rgb(index), (320, 180), interpolation=cv2.INTER_AREA)
    return image


def far_mask(index: int, object_id: int, shift: int = 0) -> np.ndarray:
    small = cv2.resize(true_mask(index, object_id).astype(np.float32), (320, 180), interpolation=cv2.INTER_AREA) > 0.5
    mask = np.zeros((1080, 1920), bool)
    mask[400:580, 800 + shift : 1120 + shift] = small
    return mask


def run(zooms: bool) -> tuple[list[Memory], list[float]]:
    tracker = Tracker(replace(MODELS["lite"], zooms=zooms), load_segmenter("lite", None, CPU)[0], CPU, 240)
    memory, memories, scores = Memory(), [], []
    for index in range(6):
        seeds = {0: Seed(far_mask(0, TURTLE))} if index == 0 else {}
        [(memory, [found])] = tracker.track(Frame(far_away(index, 8 * index)), [BankRequest(memory, seeds)])
        memories.append(memory)
        scores.append(jaccard(found.mask, far_mask(index, TURTLE, 8 * index)))
    return memories, scores


def test_a_small_object_is_followed_much_better_than_without_a_window() -> None:
    memories, scores = run(zooms=True)
    assert scores[0] == 1 and min(scores) > 0.75
    assert np.mean(scores[1:]) > np.mean(run(zooms=False)[1][1:]) + 0.1
    windows = [memory.window for memory in memories]
    assert all(window and (window.width, window.height) == (427, 240) for window in windows)
    assert windows[5].left - windows[1].left == pytest.approx(32, abs=16)
    # The outlined frame is known as it looks in the window, in one of half the scale, and in the whole frame.
    assert len(memories[0].banks[0].seeds) == 3 * len(memories[-1].banks[0].recent[0])


def test_what_is_gone_is_searched_for_in_the_whole_frame_and_found_again() -> None:
    tracker = Tracker(MODELS["lite"], load_segmenter("lite", None, CPU)[0], CPU, 480)
    memory, seen = Memory(), []
    elsewhere = cv2.GaussianBlur(cv2.resize(rgb(0)[:, ::-1], (1920, 1080)), (0, 0), 40)
    images = [far_away(0), far_away(1, 8), elsewhere, elsewhere, far_away(2, -600), far_away(3, -592)]
    for number, image in enumerate(images):
        seeds = {0: Seed(far_mask(0, TURTLE))} if number == 0 else {}
        [(memory, [found])] = tracker.track(Frame(image), [BankRequest(memory, seeds)])
        seen.append((memory.window, found))
    assert seen[1][0] is not None and seen[3][0] is None
    assert seen[5][0] is not None and jaccard(seen[5][1].mask, far_mask(3, TURTLE, -592)) > 0.6


@pytest.mark.parametrize(("budget", "scales"), [(500, 1), (1700, 2), (9000, 4)])
def test_an_outline_in_a_window_never_fills_a_bank(budget: int, scales: int) -> None:
    """In 4K a window at the scale of the image has two coarser ones, and the whole frame; each takes 405 entries."""
    tracker = Tracker(MODELS["lite"], load_segmenter("lite", None, CPU)[0], CPU, 240, budget)
    image = cv2.resize(far_away(0), (3840, 2160))
    mask = np.zeros((2160, 3840), bool)
    mask[900:940, 2000:2040] = True
    [(memory, _)] = tracker.track(Frame(image), [BankRequest(Memory(), {0: Seed(mask)})])
    assert memory.window is not None and memory.window.height == 240
    assert len(memory.banks[0].seeds) == scales * 405


def test_objects_of_several_banks_share_a_window_and_the_pixels() -> None:
    tracker = Tracker(MODELS["lite"], load_segmenter("lite", None, CPU)[0], CPU, 240)
    memories = []
    for object_id in (TURTLE, RED_KOI):
        [(memory, _)] = tracker.track(Frame(far_away(0)), [BankRequest(Memory(), {0: Seed(far_mask(0, object_id))})])
        memories.append(memory)
    assert memories[0].window != memories[1].window
    results = tracker.track(Frame(far_away(1)), [BankRequest(memory) for memory in memories])
    assert results[0][0].window == results[1][0].window
    turtle, koi = (found.mask for _, [found] in results)
    assert not (turtle & koi).any()
    assert results[0][0].window.height == 480  # coarser than those in which they were outlined
    assert jaccard(turtle, far_mask(1, TURTLE)) > 0.5 and jaccard(koi, far_mask(1, RED_KOI)) > 0.5


def test_a_frame_of_another_size_has_other_windows() -> None:
    """What is known of the frame before is where in it an object was."""
    tracker = Tracker(MODELS["lite"], load_segmenter("lite", None, CPU)[0], CPU, 240)
    large = cv2.resize(far_away(0), (3840, 2160))
    mask = cv2.resize(far_mask(0, TURTLE).view(np.uint8), (3840, 2160), interpolation=cv2.INTER_NEAREST).view(bool)
    [(memory, _)] = tracker.track(Frame(large), [BankRequest(Memory(), {0: Seed(mask)})])
    assert memory.window is not None and memory.size == (2160, 3840)
    [window] = tracker.windows((1080, 1920), [BankRequest(memory)])
    truth = far_mask(0, TURTLE)
    assert window is not None and window.cut(truth).sum() == truth.sum()
    [(memory, [found])] = tracker.track(Frame(far_away(0)), [BankRequest(memory)])
    assert memory.window == window and jaccard(found.mask, truth) > 0.5


def test_a_frame_that_was_turned_has_its_window_where_the_object_was() -> None:
    tracker = Tracker(MODELS["lite"], load_segmenter("lite", None, CPU)[0], CPU, 240)
    mask = far_mask(0, TURTLE)
    [(memory, _)] = tracker.track(Frame(far_away(0)), [BankRequest(Memory(), {0: Seed(mask)})])
    [window] = tracker.windows(SIZE[::-1], [BankRequest(memory)])
    rows, columns = np.nonzero(cv2.resize(mask.view(np.uint8), SIZE))  # stretched, as its place is all that is known
    assert window is not None
    assert window.top <= rows.min() and rows.max() < window.top + window.height
    assert window.left <= columns.min() and columns.max() < window.left + window.width


def test_a_frame_that_was_turned_after_one_that_was_seen_in_full() -> None:
    tracker = Tracker(MODELS["lite"], load_segmenter("lite", None, CPU)[0], CPU, 240)
    [(memory, _)] = tracker.track(Frame(far_away(0)), [BankRequest(Memory(), {0: Seed(far_mask(0, TURTLE))})])
    [(memory, _)] = tracker.track(Frame(np.full_like(far_away(0), 90)), [BankRequest(memory)])
    [(memory, [found])] = tracker.track(Frame(far_away(1)), [BankRequest(memory)])
    assert memory.window is None and found.visible
    turned, mask = (cv2.resize(each, SIZE) for each in (far_away(2), far_mask(2, TURTLE).view(np.uint8)))
    [(_, [found])] = tracker.track(Frame(turned), [BankRequest(memory)])
    assert found.visible and jaccard(found.mask, mask.view(bool)) > 0.5


def two_ponds(index: int) -> np.ndarray:
    """The animals of the sample clip twice, 1100 pixels apart."""
    image = far_away(index, -600)
    image[400:580, 1300:1620] = cv2.resize(rgb(index), (320, 180), interpolation=cv2.INTER_AREA)
    return image


def test_small_objects_far_apart_are_each_followed_closely() -> None:
    tracker = Tracker(MODELS["lite"], load_segmenter("lite", None, CPU)[0], CPU, 240)
    seeds = np.zeros(SIZE, np.uint8)
    seeds[far_mask(0, TURTLE, -600)], seeds[far_mask(0, TURTLE, 500)] = 1, 2
    objects = ClipObjects()
    for index in range(4):
        objects, found = track_objects(tracker, Frame(two_ponds(index)), objects, None if index else seeds)
    assert [(memory.window.width, memory.window.height) for memory in objects.memories] == [(427, 240)] * 2
    assert jaccard(found[1].mask, far_mask(3, TURTLE, -600)) > 0.75
    assert jaccard(found[2].mask, far_mask(3, TURTLE, 500)) > 0.75


def test_a_frame_that_is_outlined_again_is_remembered_once_whatever_the_window() -> None:
    tracker = Tracker(MODELS["lite"], load_segmenter("lite", None, CPU)[0], CPU, 240)
    first, second = (np.zeros(SIZE, np.uint8) for _ in range(2))
    first[far_mask(0, TURTLE)], first[far_mask(0, RED_KOI)] = 1, 2
    second[far_mask(3, TURTLE)] = 1
    objects = ClipObjects()
    for index, outlined in ((0, first), (3, second), (5, None), (3, second), (0, first)):
        objects, _ = track_objects(tracker, Frame(far_away(index)), objects, outlined)
    [memory] = objects.memories
    [bank] = memory.banks
    assert memory.window is not None and memory.outlined.keys() == {3, 4}
    assert bank.seeds.frame.unique().tolist() == [3, 4]
    assert bank.seeds.valid[1].equal(bank.seeds.frame == 4)


def parting(index: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """A frame of a turtle and a fish that drift apart, each with the water around it, and their masks."""
    animals, image = far_away(index), pond()
    masks = []
    for object_id, x in ((TURTLE, 900 - 40 * index), (RED_KOI, 1020 + 40 * index)):
        rows, columns = np.nonzero(far_mask(0, object_id))
        around = slice(rows.min() - 25, rows.max() + 25), slice(columns.min() - 25, columns.max() + 25)
        place = slice(500, 500 + around[0].stop - around[0].start), slice(x, x + around[1].stop - around[1].start)
        image[place] = animals[around]
        masks.append(np.zeros(SIZE, bool))
        masks[-1][place] = far_mask(index, object_id)[around]
    return image, masks


def test_small_objects_that_drift_apart_get_windows_of_their_own() -> None:
    tracker = Tracker(MODELS["lite"], load_segmenter("lite", None, CPU)[0], CPU, 480)
    seeds = np.zeros(SIZE, np.uint8)
    for number, mask in enumerate(parting(0)[1], 1):
        seeds[mask] = number
    objects, memories = ClipObjects(), []
    for index in range(6):
        image, truths = parting(index)
        objects, found = track_objects(tracker, Frame(image), objects, None if index else seeds)
        memories.append(len(objects.memories))
    assert memories[0] == 1 and memories[-1] == 2 and memories == sorted(memories)
    assert all(memory.window and memory.window.height == 480 for memory in objects.memories)
    for number, truth in enumerate(truths, 1):
        assert jaccard(found[number].mask, truth) > 0.65


def test_which_objects_of_a_memory_have_drifted_apart() -> None:
    def memory(*boxes: tuple[int, int, int, int] | None, finest: float = 1.0) -> Memory:
        """Objects that were at these places (left, top, right, bottom) of a previous mask of the whole frame."""
        prev_mask = torch.zeros(len(boxes), 60, 108)
        for own, place in zip(prev_mask, boxes, strict=True):
            if place:
                own[place[1] : place[3], place[0] : place[2]] = 1
        return Memory((FeatureBank(),), prev_mask, 5, 3, finest=finest)

    def apart(*memories: Memory) -> list[list[list[int]]]:
        return drifted_apart(SIZE, WORKING, [BankRequest(each) for each in memories])

    left, near, right, large = (10, 30, 13, 33), (14, 30, 17, 33), (90, 30, 93, 33), (30, 10, 80, 50)
    assert apart(memory(left, near)) == [[[0, 1]]]
    assert apart(memory(left, right, near)) == [[[0, 2], [1]]]
    assert apart(memory(left, large)) == [[[0], [1]]]
    assert apart(memory(left, None)) == [
        [[0], [1]]
    ]  # what is gone may be anywhere, which is no reason to lose the other
    assert apart(memory(large, None)) == [[[0, 1]]]
    assert apart(memory(left, right, finest=0.0)) == [[[0, 1]]]  # known from the whole frame only
    assert apart(memory(left), memory(right, near), Memory()) == [[[0]], [[0], [1]], [[]]]
    assert drifted_apart((480, 854), (480, 854), [BankRequest(memory(left, right))]) == [[[0, 1]]]


def test_objects_in_windows_that_overlap_compete_for_pixels() -> None:
    left, right = Window(600, 300, 427, 240), Window(800, 300, 427, 240)
    requests = [BankRequest(Memory(prev_mask=torch.zeros(1, 60, 108), window=window)) for window in (left, right)]
    logits = torch.full((2, 1, 240, 427), -9.0)
    logits[0, 0, 100:140, 210:400] = 3  # from 810 to 1000 in the image
    logits[1, 0, 100:140, 100:200] = 5  # from 900 to 1000
    aggregation = Aggregation(SIZE, requests, list(logits))
    (one, [first]), (other, [second]) = (aggregation.of(i) for i in range(2))
    rows, columns = np.nonzero(first.mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (400, 439, 810, 899)
    rows, columns = np.nonzero(second.mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (400, 439, 900, 999)
    total = 1 + np.exp(3) + np.exp(5)
    assert one[0, 120, 350].item() == pytest.approx(np.exp(3) / total, rel=1e-3)  # 950 in the image
    assert other[0, 120, 150].item() == pytest.approx(np.exp(5) / total, rel=1e-3)
    assert one[0, 120, 250].item() == pytest.approx(np.exp(3) / (1 + np.exp(3)), rel=1e-3)  # 850: nobody else's


def test_what_is_outlined_in_another_window_is_no_others() -> None:
    left, right = Window(600, 300, 427, 240), Window(800, 300, 427, 240)
    known = BankRequest(Memory(prev_mask=torch.zeros(1, 60, 108), window=left))
    outlined = BankRequest(Memory(window=right), {0: box(900, 400, 100, 40)})
    logits = torch.full((1, 240, 427), -9.0)
    logits[0, 100:140, 210:400] = 3
    aggregation = Aggregation(SIZE, [known, outlined], [logits, torch.zeros(0, 240, 427)])
    (one, [first]), (other, [second]) = (aggregation.of(i) for i in range(2))
    assert not first.mask[:, 900:].any() and (second.mask == outlined.seeds[0].mask).all()
    assert one[0, 120, 350] == 0 and one[0, 120, 250] > 0.9 and other[0, 120, 150] == 1


def test_the_function_gives_objects_far_apart_banks_of_their_own(function: Function) -> None:
    places = (-600, 500)
    outlined = [mask_shape(far_mask(0, TURTLE, shift)) for shift in places]
    _, states = function.ask(png(two_ponds(0)), outlined, [])
    assert states[0]["bank"] != states[1]["bank"]
    shapes, _ = function.track(png(two_ponds(1)), states)
    found = [decoded(shape, SIZE) for shape in shapes]
    assert disjoint(found)
    for mask, shift in zip(found, places, strict=True):
        assert jaccard(mask, far_mask(1, TURTLE, shift)) > 0.7


def test_the_function_goes_on_in_a_bank_for_each_when_objects_drift_apart(
    start: Callable[..., Function], tmp_path: Path
) -> None:
    """The same request gets the same reply, earlier states can be gone on from, and corrections reach their object."""
    function, other = (start(MASKBANK_SIZE=480, MASKBANK_STORE=f"file://{tmp_path}") for _ in range(2))
    images, truths = zip(*((png(image), masks) for image, masks in map(parting, range(7))), strict=True)
    _, states = function.ask(images[0], [mask_shape(mask) for mask in truths[0]], [])
    history = [states]
    for image in images[1:6]:
        function, other = other, function  # any worker goes on
        shapes, states = function.track(image, states)
        history.append(states)
    for shape, truth in zip(shapes, truths[5], strict=True):
        assert jaccard(decoded(shape, SIZE), truth) > 0.65
    for image, before, after in zip(images[1:6], history, history[1:], strict=False):
        assert function.track(image, before)[1] == other.track(image, before)[1] == after
    banks = [tuple(state["bank"] for state in each) for each in history]
    together = sum(len(set(each)) == 1 for each in banks)
    assert 0 < together < 6 and len({*banks[together], banks[0][0]}) == 3 and len(set(banks[together:])) == 1
    by_itself = [function.track(images[together], [state]) for state in history[together - 1]]
    assert by_itself[0][1][0]["bank"] == banks[0][0]  # it stays in the bank
    for ([shape], _), truth in zip(by_itself, truths[together], strict=True):  # each is seen where it is
        assert jaccard(decoded(shape, SIZE), truth) > 0.65
    corrected, _ = function.ask(images[6], [None, mask_shape(truths[6][1])], states)
    assert jaccard(decoded(corrected[0], SIZE), truths[6][0]) > 0.65
    assert (decoded(corrected[1], SIZE) == truths[6][1]).all()


@pytest.mark.parametrize("size", [(4000, 8), (3000, 1), (1, 3000), (2, 2000)])
def test_very_narrow_images_are_tracked_as_well(size: tuple[int, int]) -> None:
    tracker = Tracker(MODELS["lite"], load_segmenter("lite", None, CPU)[0], CPU, 64)
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    seed = box(0, size[0] // 2, 1, 1, size)
    [(memory, [outlined])] = tracker.track(Frame(pixels), [BankRequest(Memory(), {0: seed})])
    assert (outlined.mask == seed.mask).all()
    [(_, [found])] = tracker.track(Frame(pixels), [BankRequest(memory)])
    assert found.mask.shape == size and 0 <= found.confidence <= 1
