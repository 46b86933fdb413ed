"""Search areas: where objects are looked for between memorized frames, and that nothing is missed for it."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from support import GOLDEN_KOI, RED_KOI, TURTLE, jaccard, rgb, true_mask
from torch import Tensor

from maskbank.bank.memory import BankRequest, Memory, Seed
from maskbank.networks import lite_segmenter
from maskbank.networks.aggregation import HIDDEN_LOGIT
from maskbank.networks.search_area import SearchArea
from maskbank.settings import Settings
from maskbank.tracking.loading import load_tracker
from maskbank.tracking.search_area import common_area, in_area, may_be_outside, pasted, search_areas, whole_area
from maskbank.tracking.tracker import Frame, Prediction, Tracker

WORKING = (480, 853)
WHOLE = SearchArea(0, 0, 54, 30)


def prev_mask(*boxes: tuple[int, int, int, int]) -> Tensor:
    """Objects that fill boxes (left, top, right, bottom), in working pixels."""
    masks = torch.zeros(len(boxes), 120, 216)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top // 4 : bottom // 4, left // 4 : right // 4] = 1
    return masks


def areas_of(*boxes: tuple[int, int, int, int]) -> list[SearchArea]:
    return search_areas(BankRequest(Memory(prev_mask=prev_mask(*boxes))), WORKING)


def test_an_area_leaves_room_around_its_object() -> None:
    assert areas_of((400, 160, 480, 240)) == [SearchArea(22, 7, 33, 18)]  # 44 pixels on each side, in whole cells
    assert areas_of((0, 0, 8, 8), (840, 470, 853, 480)) == [SearchArea(0, 0, 3, 3), SearchArea(50, 27, 54, 30)]


def test_where_an_object_may_be_anywhere_it_is_looked_for_everywhere() -> None:
    assert areas_of((400, 160, 480, 240), (0, 0, 0, 0), (10, 10, 800, 400))[1:] == [WHOLE, WHOLE]
    other_image = BankRequest(Memory(prev_mask=torch.ones(1, 60, 60)))
    assert search_areas(other_image, WORKING) == [WHOLE]
    small = BankRequest(Memory(prev_mask=prev_mask((400, 160, 480, 240))[:, :56]))
    assert search_areas(small, (224, 853)) == [SearchArea(0, 0, 54, 14)]
    without_masks = BankRequest(Memory(prev_mask=torch.zeros(2, 0, 0)))  # of a network that takes none
    assert search_areas(without_masks, WORKING) == [WHOLE, WHOLE]


def test_the_common_area_holds_all() -> None:
    near = [SearchArea(2, 3, 8, 9), SearchArea(6, 1, 12, 5)]
    assert common_area(near, WORKING) == SearchArea(2, 1, 12, 9)
    assert common_area([*near, SearchArea(50, 20, 54, 30)], WORKING) == WHOLE


def test_sides_in_steps_hold_the_area_and_stay_inside() -> None:
    assert SearchArea(3, 4, 8, 10).widened(2, WHOLE) == SearchArea(3, 4, 9, 10)
    assert SearchArea(49, 27, 54, 30).widened(4, WHOLE) == SearchArea(46, 26, 54, 30)
    assert SearchArea(0, 0, 53, 29).widened(4, SearchArea(0, 0, 54, 29)) == SearchArea(0, 0, 54, 29)
    assert WHOLE.widened(1, WHOLE) == WHOLE.widened(4, WHOLE) == WHOLE


def test_what_is_cut_comes_back_to_its_place() -> None:
    area = SearchArea(48, 26, 54, 30)  # to the corner, where the last cell is narrower than 16 pixels
    logits = torch.rand(2, *WORKING)
    found = pasted(area.cut(logits, 16), area, WORKING)
    assert torch.equal(area.cut(found, 16), area.cut(logits, 16))
    outside = torch.ones(WORKING, dtype=torch.bool)
    area.cut(outside, 16).fill_(False)
    assert (found[:, outside] == HIDDEN_LOGIT).all()
    assert torch.equal(pasted(logits, whole_area(WORKING), WORKING), logits)
    cut = in_area(BankRequest(Memory(prev_mask=prev_mask((800, 440, 840, 470)))), area)
    assert cut.memory.prev_mask.shape == (1, 16, 24) and cut.memory.prev_mask.sum() == 10 * 7


def found(*boxes: tuple[int, int, int, int]) -> Tensor:
    """Logits of an object that fills boxes (left, top, right, bottom), in working pixels."""
    logits = torch.full(WORKING, -5.0)
    for left, top, right, bottom in boxes:
        logits[top:bottom, left:right] = 1.0
    return logits


@pytest.mark.parametrize(
    ("box", "outside"),
    [
        ((220, 160, 300, 240), False),
        ((220, 112, 300, 192), True),  # at the upper rim
        ((220, 208, 300, 288), True),
        ((288, 160, 368, 240), True),
        ((160, 160, 240, 240), True),
        ((220, 160, 300, 195), True),  # less than half is left
        ((220, 160, 300, 205), False),
        ((0, 0, 80, 80), True),  # it is not in its area at all
    ],
)
def test_what_nears_the_rim_or_shrinks_may_be_outside(box: tuple[int, int, int, int], outside: bool) -> None:
    [before] = prev_mask((220, 160, 300, 240))
    assert may_be_outside(found(box), before, SearchArea(10, 7, 23, 18), WORKING) == outside


def test_the_image_s_border_is_no_rim() -> None:
    [before] = prev_mask((0, 0, 100, 480))
    logits = found((0, 0, 100, 480))
    assert not may_be_outside(logits, before, SearchArea(0, 0, 20, 30), WORKING)
    assert may_be_outside(logits, before, SearchArea(0, 0, 7, 30), WORKING)
    assert not may_be_outside(found(), before, whole_area(WORKING), WORKING)  # then it is gone


# With the network.


@pytest.fixture(scope="module")
def tracker() -> Tracker:
    return load_tracker(Settings(short_side=240, adapt_seconds=0))[0]


def run(
    tracker: Tracker, images: list[np.ndarray], objects: tuple[int, ...]
) -> tuple[list[Frame], list[list[Prediction]]]:
    """Tracks objects that are outlined on the first frame of the sample clip."""
    memory, frames, found = Memory(), [], []
    seeds = {k: Seed(true_mask(0, number)) for k, number in enumerate(objects)}
    for image in images:
        frames.append(Frame(image))
        [(memory, predictions)] = tracker.track(frames[-1], [BankRequest(memory, seeds)])
        found.append(predictions)
        seeds = {}
    return frames, found


def test_between_memorized_frames_only_the_areas_are_seen(tracker: Tracker) -> None:
    """And what is found in them is what is found in the whole frame."""
    images = [rgb(index) for index in range(8)]
    objects = (RED_KOI, GOLDEN_KOI)
    frames, found = run(tracker, images, objects)
    whole = whole_area((240, 427))
    seen = [[area for _, area in frame.views] for frame in frames]
    for index, areas in enumerate(seen):
        if index % 3 == 0:  # memorized
            assert areas == [whole]
        else:
            assert areas[0].cells < 0.8 * whole.cells
    assert sum(len(areas) == 1 for areas in seen) >= 6  # few are seen twice
    everywhere = Tracker(replace(tracker.model, searches=False), tracker.segmenter, tracker.device, 240)
    expected_frames, expected = run(everywhere, images, objects)
    assert all([area for _, area in frame.views] == [whole] for frame in expected_frames)
    for ours, theirs in zip(found, expected, strict=True):
        for mine, other in zip(ours, theirs, strict=True):
            assert jaccard(mine.mask, other.mask) > 0.93
            assert mine.confidence == pytest.approx(other.confidence, abs=0.08)


def test_a_previous_mask_of_an_image_of_another_size_is_handed_on_whole(tracker: Tracker, monkeypatch) -> None:
    given: list[Memory] = []
    segment = tracker.segmenter.segment

    def segment_and_note(features, requests, areas, strict):
        given.extend(request.memory for request in requests)
        return segment(features, requests, areas, strict)

    monkeypatch.setattr(tracker.segmenter, "segment", segment_and_note)
    image = rgb(0)
    [(memory, _)] = tracker.track(Frame(image), [BankRequest(Memory(), {0: Seed(true_mask(0, TURTLE))})])
    tracker.track(Frame(image[:, :360]), [BankRequest(memory)])
    assert given[-1].prev_mask.sum() == memory.prev_mask.sum() > 0


def test_an_object_that_leaves_its_area_is_found_again_at_once(tracker: Tracker) -> None:
    """The camera jumps by half of the picture: nothing is left where the object was."""
    images = [rgb(0), np.roll(rgb(1), -320, axis=1)]
    frames, [_, [turtle]] = run(tracker, images, (TURTLE,))
    assert [area for _, area in frames[1].views][-1] == whole_area((240, 427))
    assert jaccard(turtle.mask, np.roll(true_mask(1, TURTLE), -320, axis=1)) > 0.6


@pytest.mark.parametrize("elsewhere", [lite_segmenter.ELSEWHERE, float("inf")])
def test_what_is_to_be_memorized_is_found_wherever_the_outlines_call_it(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch, elsewhere: float
) -> None:
    """Turtle and koi are one object, of which the koi is hidden until then, and comes back outside of the area."""
    monkeypatch.setattr(lite_segmenter, "ELSEWHERE", elsewhere)
    memory, seeds = Memory(), {0: Seed(true_mask(0, TURTLE) | true_mask(0, GOLDEN_KOI))}
    for index in range(4):
        image = rgb(index)
        if index in (1, 2):
            hidden = cv2.dilate(true_mask(index, GOLDEN_KOI).astype(np.uint8), np.ones((15, 15), np.uint8))
            image = cv2.inpaint(image, hidden, 3, cv2.INPAINT_TELEA)
        [(memory, [found])] = tracker.track(Frame(image), [BankRequest(memory, seeds)])
        seeds = {}
        if index == 2:
            assert jaccard(found.mask, true_mask(2, TURTLE)) > 0.8
    assert memory.last_memorized == 3
    seen = (found.mask & true_mask(3, GOLDEN_KOI)).sum() / true_mask(3, GOLDEN_KOI).sum()
    assert seen > 0.7 if elsewhere < 1 else seen < 0.1
