"""Objects in boxes."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import GOLDEN_KOI, RED_KOI, TURTLE, box_of, jaccard, one_sentence, rgb, true_mask

from maskbank.errors import RequestError
from maskbank.networks.interactor import Interactor
from maskbank.networks.models import BUNDLED_INTERACTORS
from maskbank.networks.outliner import Outliner, load_outliner
from maskbank.shapes.conversion import shape_to_mask
from maskbank.shapes.shape import Shape, parse_shape

# J in an exact box, and in one that is hasty, cut off, or on a small or large image; nothing was trained on the clip.
LEAST = {"interactor": (0.8, 0.75), "interactor-open": (0.7, 0.55)}


@pytest.fixture(scope="module", params=BUNDLED_INTERACTORS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def outliner(name: str) -> Outliner:
    return load_outliner(BUNDLED_INTERACTORS[name], torch.device("cpu"))


def in_box(outliner: Outliner, box: list[float], image: np.ndarray) -> np.ndarray:
    return outliner.mask(parse_shape({"type": "rectangle", "points": box}), image)


@pytest.mark.parametrize("object_id", [RED_KOI, GOLDEN_KOI, TURTLE])
def test_the_object_in_a_box_is_found(outliner: Outliner, name: str, object_id: int) -> None:
    truth = true_mask(0, object_id)
    filled = np.zeros_like(truth)
    left, top, right, bottom = map(int, box_of(truth))
    filled[top:bottom, left:right] = True
    found = in_box(outliner, box_of(truth), rgb(0))
    assert jaccard(found, truth) > max(LEAST[name][0], jaccard(filled, truth) + 0.05)


def test_it_says_how_good_the_mask_in_a_box_may_be(outliner: Outliner) -> None:
    image, turtle = rgb(0), true_mask(0, TURTLE)
    sure = outliner.object_in_box(tuple(box_of(turtle)), image)
    left, top, right, bottom = box_of(turtle)
    half = outliner.object_in_box((1.5 * left - 0.5 * right, top, (left + right) / 2, bottom), image)
    assert sure.expected_j is not None and half.expected_j is not None
    assert 0.7 < sure.expected_j <= 1 and 0 <= half.expected_j < sure.expected_j - 0.1
    drawn = outliner.object_of(Shape("polygon", (10.0, 10.0, 90.0, 10.0, 90.0, 80.0)), image)
    assert drawn.expected_j is None and drawn.mask.any()


def test_at_any_size(outliner: Outliner, name: str) -> None:
    image, truth = rgb(0), true_mask(0, TURTLE)
    for size in ((160, 90), (3840, 2160)):
        resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        mask = cv2.resize(truth.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)
        assert jaccard(in_box(outliner, box_of(mask), resized), mask) > LEAST[name][1]


def test_a_box_drawn_in_haste(outliner: Outliner, name: str) -> None:
    truth = true_mask(0, TURTLE)
    left, top, right, bottom = box_of(truth)
    width, height = right - left, bottom - top
    hasty = [left + 0.08 * width, top - 0.1 * height, right + 0.1 * width, bottom - 0.05 * height]
    assert jaccard(in_box(outliner, hasty, rgb(0)), truth) > LEAST[name][1]


def test_the_same_box_gives_the_same_mask(outliner: Outliner) -> None:
    box = box_of(true_mask(0, TURTLE))
    np.testing.assert_array_equal(in_box(outliner, box, rgb(0)), in_box(outliner, box, rgb(0)))


def test_a_box_over_the_edge_is_cut_off(outliner: Outliner, name: str) -> None:
    truth = true_mask(0, TURTLE)
    left, top, right, bottom = map(int, box_of(truth))
    half = (left + right) // 2
    image, truth = rgb(0)[:, half:], truth[:, half:]
    inside = in_box(outliner, [0, top, right - half, bottom], image)
    beyond = in_box(outliner, [-500, top, right - half, bottom], image)
    np.testing.assert_array_equal(inside, beyond)
    assert jaccard(inside, truth) > LEAST[name][1]


def test_where_nothing_is_found_it_is_the_ellipse() -> None:
    blind = Interactor()
    with torch.no_grad():
        blind.mask.weight.zero_()
        blind.mask.bias.fill_(-1)
    found = in_box(Outliner(blind, torch.device("cpu")), [20, 10, 100, 70], rgb(0))
    np.testing.assert_array_equal(found, shape_to_mask(Shape("ellipse", (60, 40, 100, 10)), *found.shape))


@pytest.mark.parametrize(("box", "hint"), [
    ([700, 0, 710, 5], "no pixel"), ([-9, -9, -1, -1], "no pixel"), ([640, 0, 650, 10], "no pixel"),
    ([3.6, 3.6, 4.4, 4.4], "no pixel"),
    ([3, 3, 3, 8], "empty"), ([8, 3, 3, 8], "empty"), ([3, 8, 8, 3], "empty"),
])  # fmt: skip
def test_boxes_that_do_not_fit_the_image(outliner: Outliner, box: list[float], hint: str) -> None:
    with pytest.raises(RequestError, match=hint) as refused:
        in_box(outliner, box, rgb(0))
    assert refused.value.status == 400 and one_sentence(str(refused.value))


@settings(deadline=None, max_examples=60)
@given(st.tuples(*[st.integers(-12, 52)] * 4).map(lambda box: [number / 2 + 3 for number in box]))
def test_any_box_gives_pixels_near_it_or_a_sentence(outliner: Outliner, box: list[float]) -> None:
    image = rgb(0)[60:80, 90:115]
    left, top, right, bottom = box
    columns = [column for column in range(25) if left <= column + 0.5 < right]
    rows = [row for row in range(20) if top <= row + 0.5 < bottom]
    if not columns or not rows:
        with pytest.raises(RequestError):
            in_box(outliner, box, image)
        return
    found = in_box(outliner, box, image)
    assert found.shape == (20, 25) and found.dtype == bool and found.any()
