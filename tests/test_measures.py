"""The DAVIS measures against hand-computed cases and a slow reference written from the definition."""

import time

import cv2
import numpy as np
import pytest

from maskbank.evaluation.baselines import BASELINES
from maskbank.evaluation.measures import (
    boundary_f,
    calibration_error,
    contour,
    decay,
    jaccard,
    mean_j_and_f,
    rank_correlation,
    recall,
    worst_found,
)

SIZE = (360, 640)  # diagonal 734.3 px, so the tolerance of F is ceil(5.87) = 6 px


def box(top: int, left: int, height: int, width: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def slow_boundary_f(mask: np.ndarray, truth: np.ndarray, tolerance: float = 0.008) -> float:
    """F by the book: every contour pixel looks for one of the other contour within the tolerance."""

    def points(m: np.ndarray) -> list[tuple[int, int]]:
        height, width = m.shape
        found = []
        for y in range(height):
            for x in range(width):
                near = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
                if any(v < height and u < width and m[v, u] != m[y, x] for v, u in near):
                    found.append((y, x))
        return found

    def share(these: list[tuple[int, int]], those: list[tuple[int, int]], reach: float) -> float:
        hits = [any((y - v) ** 2 + (x - u) ** 2 <= reach**2 for v, u in those) for y, x in these]
        return sum(hits) / len(hits)

    ours, theirs = points(mask), points(truth)
    if not ours or not theirs:
        return float(len(ours) == len(theirs))
    reach = np.ceil(tolerance * np.hypot(*mask.shape))
    precision, recall = share(ours, theirs, reach), share(theirs, ours, reach)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def blob(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    field = cv2.GaussianBlur(rng.random(size), (0, 0), 4)
    return field > np.quantile(field, rng.uniform(0.3, 0.95))


def test_jaccard_by_hand():
    assert jaccard(box(0, 0, 10, 10), box(0, 5, 10, 10)) == pytest.approx(50 / 150)
    assert jaccard(box(0, 0, 10, 10), box(20, 20, 10, 10)) == 0
    assert jaccard(box(0, 0, 4, 4).astype(np.uint8) * 255, box(0, 0, 4, 4)) == 1  # any non-zero is the object


@pytest.mark.parametrize("measure", [jaccard, boundary_f])
def test_perfect_empty_and_missing(measure):
    thing, nothing = box(100, 100, 50, 80), box(0, 0, 0, 0)
    assert measure(thing, thing) == 1
    assert measure(nothing, nothing) == 1
    assert measure(thing, nothing) == 0
    assert measure(nothing, thing) == 0


@pytest.mark.parametrize("measure", [jaccard, boundary_f])
def test_other_sizes_are_refused(measure):
    with pytest.raises(ValueError, match="cannot be compared"):
        measure(np.zeros((4, 5)), np.zeros((5, 4)))
    with pytest.raises(ValueError, match="cannot be compared"):
        measure(np.zeros((4, 5, 1)), np.zeros((4, 5, 1)))


def test_measures_are_symmetric():
    rng = np.random.default_rng(1)
    a, b = blob(rng, (90, 120)), blob(rng, (90, 120))
    assert jaccard(a, b) == jaccard(b, a)
    assert boundary_f(a, b) == pytest.approx(boundary_f(b, a))


@pytest.mark.parametrize("shift", range(0, 12))
def test_f_of_a_shifted_box_drops_beyond_six_pixels(shift):
    truth, moved = box(100, 200, 60, 100), box(100, 200 + shift, 60, 100)
    j = (100 - shift) / (100 + shift)
    assert jaccard(moved, truth) == pytest.approx(j)
    if shift <= 6:
        assert boundary_f(moved, truth) == 1
    else:  # the two upright sides are lost, the long ones stay but for a corner
        assert 0.55 < boundary_f(moved, truth) < 0.75


def test_tolerance_is_a_share_of_the_diagonal():
    truth, moved = box(100, 200, 60, 100), box(109, 209, 60, 100)
    assert boundary_f(moved, truth, tolerance=0.02) == 1  # 15 px
    assert boundary_f(moved, truth, tolerance=0.001) < 0.1  # 1 px


def test_contour_is_one_line_and_leaves_out_the_image_edge():
    mask = box(1, 1, 2, 2, (4, 4))
    expected = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(contour(mask), expected)
    assert not contour(np.ones((5, 7))).any()


def test_f_equals_the_slow_reference():
    rng = np.random.default_rng(2)
    for _ in range(12):
        size = tuple(int(n) for n in rng.integers(20, 60, 2))
        mask = blob(rng, size)
        truth = mask ^ (blob(rng, size) & blob(rng, size))
        for tolerance in (0.008, 0.05):
            assert boundary_f(mask, truth, tolerance) == pytest.approx(slow_boundary_f(mask, truth, tolerance))


def test_f_is_fast_on_a_frame_of_480p():
    rng = np.random.default_rng(3)
    field = cv2.GaussianBlur(rng.random((480, 854)), (0, 0), 20)
    mask, truth = field > 0.5, field > 0.502
    boundary_f(mask, truth)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        boundary_f(mask, truth)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.05  # about 5 ms on an idle core; generous, for machines under load


def test_mean_skips_the_seed_and_the_last_frame():
    truth = [box(0, 0, 10, 10) * np.uint8(1)] * 4
    wrong = np.zeros(SIZE, np.uint8)
    perfect = mean_j_and_f([wrong, truth[1], truth[2], wrong], truth, [1])[1]
    assert (perfect.j, perfect.f, perfect.j_and_f) == (1, 1, 1)
    with_last = mean_j_and_f([wrong, truth[1], truth[2], wrong], truth, [1], skip_last=False)[1]
    assert with_last.j == pytest.approx(2 / 3)


def test_mean_is_per_object_and_knows_frames_without_annotation():
    ids = (box(0, 0, 10, 10) * 1 + box(50, 50, 10, 10) * 2).astype(np.uint8)
    only_first = np.where(ids == 1, ids, 0)
    scores = mean_j_and_f([ids] * 5, [ids, None, only_first, None, ids], [1, 2])
    assert scores[1].j == 1
    assert scores[2].j == scores[2].f == 0  # object 2 is shown where it is not
    with pytest.raises(ValueError, match="leave none to score"):
        mean_j_and_f([ids, ids], [ids, ids], [1])
    with pytest.raises(ValueError, match="2 masks but 1"):
        mean_j_and_f([ids, ids], [ids], [1])


def test_baselines_on_a_panning_picture():
    rng = np.random.default_rng(4)
    picture = cv2.GaussianBlur(rng.random((120, 200, 3), np.float32), (0, 0), 2)
    picture = cv2.normalize(picture, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    frames = [np.ascontiguousarray(picture[:, 30 - 3 * i : 190 - 3 * i]) for i in range(8)]  # 3 px to the right
    truths = [box(40, 20 + 3 * i, 40, 40, (120, 160)) * np.uint8(2) for i in range(8)]
    answers = {name: list(run(iter(frames), truths[0])) for name, run in BASELINES.items()}
    for answer in answers.values():
        assert len(answer) == 8 and answer[-1].dtype == np.uint8
        np.testing.assert_array_equal(answer[0], truths[0])
    scores = {name: mean_j_and_f(answer, truths, [2])[2].j for name, answer in answers.items()}
    assert scores["copy"] == pytest.approx(np.mean([(40 - 3 * i) / (40 + 3 * i) for i in range(1, 7)]))
    assert scores["flow"] > 0.95
    with pytest.raises(ValueError, match="does not fit the seed"):
        list(BASELINES["flow"](iter(frames), truths[0][:50]))


def test_rank_correlation():
    assert rank_correlation([1, 2, 3, 4], [10, 20, 300, 4000]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [5, 4, 3, 2]) == pytest.approx(-1)
    # ranks 1, 2.5, 2.5, 4 against 1, 3, 2, 4
    assert rank_correlation([0.1, 0.5, 0.5, 0.9], [1, 3, 2, 4]) == pytest.approx(
        np.corrcoef([1, 2.5, 2.5, 4], [1, 3, 2, 4])[0, 1]
    )
    assert np.isnan(rank_correlation([1, 1, 1], [1, 2, 3]))


def test_recall_counts_frames_above_a_half():
    assert recall([0.5, 0.51, 0.9, 0.1]) == 0.5


def test_decay_compares_the_first_quarter_with_the_last():
    """DAVIS's quarters of nine frames are 0-2, 2-4, 4-6 and 6-8."""
    assert decay([0.9, 0.8, 0.7, 0, 0, 0, 0.5, 0.3, 0.1]) == pytest.approx(0.5)
    assert decay([0.2, 0.6]) < 0  # it gets better
    assert decay([0.4]) == 0


def test_calibration_error_by_hand():
    """One bin is right on average, and one, with half of the samples, is 0.2 too sure."""
    assert calibration_error([0.61, 0.69, 0.9, 0.95], [0.7, 0.6, 0.65, 0.8]) == pytest.approx(0.1)
    assert calibration_error([1.0, 0.0], [1.0, 0.0]) == 0
    assert calibration_error([0.5, 0.5], [0.0, 1.0]) == 0  # calibrated, though of no use


def test_the_worst_that_are_found_by_hand():
    values = [0.1, 0.2, 0.9, 0.8, 0.7, 0.6, 0.95, 0.85, 0.75, 0.65]
    assert worst_found(values, values) == 1
    assert worst_found([0.5, 0.9, 0.4, *[0.95] * 7], values) == 0.5
    assert worst_found([-value for value in values], values) == 0
    assert worst_found([0.3], [0.4]) == 1
