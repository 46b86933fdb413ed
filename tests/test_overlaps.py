"""Whose the pixels are where outlines overlap."""

import numpy as np
import pytest
import torch
from support import GOLDEN_KOI, RED_KOI, TURTLE, box_of, jaccard, rgb, true_mask

from maskbank.deadline import Deadline
from maskbank.errors import LateError
from maskbank.networks import outliner as outliner_module
from maskbank.networks.models import BUNDLED_INTERACTORS
from maskbank.networks.outliner import FoundObject, certain, load_outliner, undecided
from maskbank.networks.overlaps import disjoint
from maskbank.shapes.shape import Shape
from maskbank.shapes.window import Window

SIZE = (60, 80)


def block(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask


def by_hand(mask: np.ndarray) -> FoundObject:
    return FoundObject(mask, None, certain)


def in_box(mask: np.ndarray, logits: np.ndarray | float) -> FoundObject:
    """Found in a box, with logits (H, W) or the same everywhere."""
    return FoundObject(mask, 0.8, lambda area: area.cut(np.broadcast_to(logits, SIZE)))


def divided(*found: FoundObject) -> list[np.ndarray]:
    """The masks in the order of the objects, which share no pixel and leave out none."""
    seeds = dict(disjoint(enumerate(found)))
    masks = [seeds[number].mask for number in range(len(found))]
    assert (sum(mask.astype(int) for mask in masks) == np.any([each.mask for each in found], axis=0)).all()
    return masks


LARGE, SMALL = block(0, 0, 40, 40), block(30, 10, 50, 30)  # 1600 and 400 pixels, of which they share 200


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_that_were_drawn_the_smaller_one_has_what_they_share(order: int) -> None:
    large, small = divided(*[by_hand(LARGE), by_hand(SMALL)][::order])[::order]
    assert (small == SMALL).all() and (large == (LARGE & ~SMALL)).all()


def test_of_equals_the_first_one_has_what_they_share() -> None:
    one, other = block(0, 0, 20, 20), block(10, 0, 30, 20)
    assert (divided(by_hand(one), by_hand(other))[0] == one).all()
    assert (divided(in_box(one, 3), in_box(other, 3))[0] == one).all()


@pytest.mark.parametrize(("shift", "remains"), [(2, False), (4, True)])
def test_what_was_drawn_twice_leaves_no_rim(shift: int, remains: bool) -> None:
    seeds = dict(disjoint(enumerate([by_hand(block(0, 0, 30, 40)), by_hand(block(shift, 0, 30 + shift, 40))])))
    assert seeds[0].mask.sum() == 30 * 40
    assert seeds[1].mask.sum() == (shift * 40 if remains else 0)
    assert (seeds[1].box is not None) is remains


@pytest.mark.parametrize("order", [1, -1])
def test_what_was_found_in_boxes_is_divided_by_how_sure_the_network_was(order: int) -> None:
    logits = np.full(SIZE, 1.0)
    logits[:20] = 9.0
    large, small = divided(*[in_box(LARGE, 5), in_box(SMALL, logits)][::order])[::order]
    assert (small == (SMALL & ((logits > 5) | ~LARGE))).all() and (large == (LARGE & ~small)).all()


def test_a_little_less_sure_the_smaller_one_keeps_its_pixels() -> None:
    assert (divided(in_box(LARGE, 5), in_box(SMALL, 3))[1] == SMALL).all()  # 2 log 4 is 2.8


@pytest.mark.parametrize(("inside", "in_front"), [(17, False), (19, True)])
def test_what_lies_within_another_is_in_front_of_it_however_sure_that_is(inside: int, in_front: bool) -> None:
    bag = block(40 - inside, 5, 60 - inside, 15)  # 20 pixels wide, of which so many are inside
    assert (divided(in_box(LARGE, 20), in_box(bag, 0.1))[1] == (bag if in_front else bag & ~LARGE)).all()
    assert (divided(by_hand(LARGE), in_box(bag, 0.1))[1] == (bag if in_front else bag & ~LARGE)).all()
    assert (divided(by_hand(LARGE), by_hand(bag))[1] == bag).all()


def test_what_lies_within_two_together_is_in_front_of_both() -> None:
    coat, bag = block(10, 10, 26, 30), block(20, 15, 32, 23)  # the bag is half on the coat
    person, coat_left, bag_left = divided(in_box(LARGE, 20), in_box(coat, 10), in_box(bag, 1))
    assert (bag_left == bag).all() and (coat_left == (coat & ~bag)).all()
    one, other, ball = block(0, 0, 20, 20), block(20, 0, 40, 20), block(15, 5, 25, 15)
    assert (divided(in_box(one, 20), in_box(other, 20), in_box(ball, 1))[2] == ball).all()


@pytest.mark.parametrize(("height", "is_another"), [(31, True), (33, False)])  # of 40
def test_a_box_around_what_was_drawn_already_does_not_take_it(height: int, is_another: bool) -> None:
    found = block(0, 0, 40, height)
    large, box = divided(by_hand(LARGE), in_box(found, 20))
    assert (box == found).all() if is_another else (large == LARGE).all() and not box.any()


def test_what_was_drawn_keeps_its_pixels_from_what_was_found_beside_it() -> None:
    large, small = divided(by_hand(LARGE), in_box(SMALL, 20))
    assert (large == LARGE).all() and (small == (SMALL & ~LARGE)).all()
    large, small = divided(in_box(LARGE, 20), by_hand(SMALL))
    assert (large == (LARGE & ~SMALL)).all() and (small == SMALL).all()
    assert (divided(FoundObject(SMALL, 0.0, undecided), in_box(LARGE, 20))[1] == LARGE).all()


def test_a_box_around_everything_does_not_change_that() -> None:
    person, bag, phone = block(0, 0, 60, 60), block(10, 10, 30, 30), block(25, 15, 35, 25)  # the phone half on the bag
    _, bag_left, phone_left = divided(in_box(person, 20), by_hand(bag), in_box(phone, 20))
    assert (bag_left == bag).all() and (phone_left == (phone & ~bag)).all()


def test_what_lies_within_a_drawing_keeps_its_pixels_beside_others_that_do() -> None:
    person, bag, phone = block(0, 0, 60, 60), block(10, 10, 40, 30), block(35, 15, 45, 25)  # the phone half on the bag
    seeds = dict(disjoint(enumerate([by_hand(person), in_box(bag, 5), in_box(phone, 5)])))
    assert (seeds[2].mask == phone).all() and seeds[2].expected_j == 0.8


def test_what_loses_most_of_its_pixels_is_expected_to_be_wrong() -> None:
    first, second = block(0, 0, 20, 20), block(2, 0, 22, 20)  # the same thing in two boxes
    seeds = dict(disjoint([("kept", in_box(first, 9)), ("lost", in_box(second, 1)), ("drawn", by_hand(SMALL))]))
    assert seeds["kept"].expected_j == 0.8 and seeds["drawn"].expected_j is None
    assert seeds["lost"].expected_j == pytest.approx(0.1)


def test_three_divide_a_place_among_them() -> None:
    third = block(20, 20, 45, 45)
    large, small, middle = divided(in_box(LARGE, 3), in_box(SMALL, 1), in_box(third, 9))
    assert (middle == third).all() and (large == (LARGE & ~SMALL & ~third)).all()
    assert (small == (SMALL & ~third)).all()


def test_it_ends_when_its_time_is_over() -> None:
    with pytest.raises(LateError):
        list(disjoint([("one", by_hand(LARGE)), ("other", by_hand(SMALL))], Deadline.within(-1.0)))


def test_none_and_nothing() -> None:
    assert list(disjoint([])) == []
    empty, small = divided(in_box(np.zeros(SIZE, bool), 0.0), by_hand(SMALL))
    assert not empty.any() and (small == SMALL).all()


@pytest.mark.parametrize(
    "most_pixels", [outliner_module.MOST_PIXELS, 12_000]
)  # as it is, or looked at in a smaller image
def test_the_logits_of_what_is_found_in_a_box_are_those_of_its_mask(
    most_pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outliner_module, "MOST_PIXELS", most_pixels)
    outliner = load_outliner(BUNDLED_INTERACTORS["interactor"], torch.device("cpu"))
    found = outliner.object_of(Shape("rectangle", tuple(box_of(true_mask(0, TURTLE)))), rgb(0))
    height, width = found.mask.shape
    left, top, right, bottom = map(int, box_of(true_mask(0, TURTLE)))
    for window in (Window(0, 0, width, height), Window(left + 3, top + 3, (right - left) // 2, (bottom - top) // 2)):
        inside = np.asarray(found.logits_in(window)) > 0
        assert inside.shape == (window.height, window.width)
        assert jaccard(inside, window.cut(found.mask)) > (0.999 if most_pixels > 1e6 else 0.9)


def test_boxes_of_the_clip_become_masks_that_share_nothing() -> None:
    outliner = load_outliner(BUNDLED_INTERACTORS["interactor"], torch.device("cpu"))
    ids = (RED_KOI, GOLDEN_KOI, TURTLE)
    shapes = {each: Shape("rectangle", tuple(box_of(true_mask(0, each)))) for each in ids}
    found = disjoint((each, outliner.object_of(shape, rgb(0))) for each, shape in shapes.items())
    masks = {each: seed.mask for each, seed in found}
    assert np.sum([mask.astype(int) for mask in masks.values()], axis=0).max() == 1
    assert all(jaccard(masks[each], true_mask(0, each)) > 0.75 for each in ids)
