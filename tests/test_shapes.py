"""Shapes to masks and back: the codec of CVAT, outlines that stand for their mask, objects found in boxes."""

import json
import math

import cv2
import numpy as np
import pytest
from cvat_sdk.masks import decode_mask, encode_mask
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from maskbank.errors import RequestError
from maskbank.shapes.conversion import mask_to_shape, shape_to_mask
from maskbank.shapes.polygon import POLYGON_POINTS
from maskbank.shapes.rle import decode_rle, encode_rle, mask_box
from maskbank.shapes.shape import MAX_POLYGON_NUMBERS, SHAPE_TYPES, Shape, parse_shape

# numpy warns about pycocotools' decode, which only these tests call

small_masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9))


def polygon(*points: float) -> Shape:
    return Shape("polygon", points)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


def largest_parts(mask: np.ndarray) -> list[np.ndarray]:
    """The largest 8-connected part, or parts of equal size, with holes filled (otherwise than the product does)."""
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    areas[0] = 0
    filled = []
    for part in np.flatnonzero(areas == areas.max()):
        outside = np.pad(parts != part, 1, constant_values=True).astype(np.uint8)
        cv2.floodFill(outside, None, (0, 0), 2)
        filled.append(outside[1:-1, 1:-1] != 2)
    return filled


def blob(seed: int, height: int, width: int, smoothness: float) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    return cv2.GaussianBlur(noise, (0, 0), smoothness) > 0


def drawings() -> dict[str, np.ndarray]:
    """Masks like real ones, in 240 x 320: thin legs, bays, parts, holes, letters, an object cut by the edge."""
    names = ("walker", "wheel", "letters", "star", "cut", "rope")
    result = {name: np.zeros((240, 320), np.uint8) for name in names}
    cv2.circle(result["walker"], (150, 60), 20, 1, -1)
    cv2.ellipse(result["walker"], (150, 120), (26, 45), 8, 0, 360, 1, -1)
    for start, stop in (((140, 150), (120, 225)), ((160, 150), (185, 222)), ((130, 100), (95, 140))):
        cv2.line(result["walker"], start, stop, 1, 9)
    cv2.circle(result["wheel"], (160, 120), 80, 1, 12)
    for angle in np.arange(0, math.pi, 0.5):
        x, y = round(78 * math.cos(angle)), round(78 * math.sin(angle))
        cv2.line(result["wheel"], (160 - x, 120 - y), (160 + x, 120 + y), 1, 2)
    cv2.putText(result["letters"], "CVAT", (20, 150), cv2.FONT_HERSHEY_SIMPLEX, 3.5, 1, 14)
    angles = np.arange(10) * math.pi / 5
    radius = np.where(np.arange(10) % 2, 40, 105)
    corners = np.stack([160 + radius * np.sin(angles), 120 - radius * np.cos(angles)], axis=1)
    cv2.fillPoly(result["star"], [corners.astype(np.int32)], 1)
    cv2.circle(result["cut"], (310, 10), 90, 1, -1)
    curve = np.stack([np.arange(10, 310), 120 + 80 * np.sin(np.arange(10, 310) / 30)], axis=1)
    cv2.polylines(result["rope"], [curve.astype(np.int32)], False, 1, 3)
    return {name: mask.astype(bool) for name, mask in result.items()}


def refused(status: int, call, *arguments: object) -> str:
    """The sentence with which a call is refused."""
    with pytest.raises(RequestError) as caught:
        call(*arguments)
    sentence = str(caught.value)
    assert caught.value.status == status, sentence
    assert sentence[0].isupper() and sentence.endswith(".") and ". " not in sentence and "\n" not in sentence
    assert len(sentence) < 160
    for word in ("Traceback", "Error", "Exception", "numpy", "cv2", "array", "dtype", "float", "list index"):
        assert word not in sentence
    return sentence


# Mask RLE


@settings(deadline=None, max_examples=300)
@given(small_masks)
def test_rle_equals_cvats_codec_both_ways(mask):
    points = encode_rle(mask)
    assert points == encode_mask(mask)
    assert all(type(number) is int for number in points)
    height, width = mask.shape
    np.testing.assert_array_equal(decode_rle(points, height, width), mask)
    if mask.any():
        assert mask_to_shape(mask, "mask") == Shape("mask", tuple(points))
        shape = parse_shape({"type": "mask", "points": [float(number) for number in points]})
        np.testing.assert_array_equal(shape_to_mask(shape, height, width), mask)


@settings(deadline=None)
@given(small_masks, st.data())
def test_rle_with_a_wider_box_is_read_like_cvat_does(mask, data):
    height, width = mask.shape
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    right, bottom = data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    points = encode_mask(mask, bbox=[left, top, right, bottom])
    expected = decode_mask(points, image_width=width, image_height=height)
    np.testing.assert_array_equal(decode_rle(points, height, width), expected)


numbers = st.integers(-2, 9) | st.sampled_from([0.5, 2.0, 30_000, -1e300, math.inf, math.nan])
boxes = st.tuples(*[st.integers(-1, 4)] * 4)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.integers(0, 5), max_size=5),
    st.tuples(*[st.integers(-1, 4)] * 4),
    st.lists(numbers, max_size=2),
)
def test_rle_is_refused_exactly_when_cvat_refuses_it(runs, box, start):
    points = [*start, *runs, *box]
    try:
        expected = decode_mask(points, image_width=4, image_height=3)
    except (ValueError, OverflowError, MemoryError, RuntimeError):
        refused(400, decode_rle, points, 3, 4)
    else:
        np.testing.assert_array_equal(decode_rle(points, 3, 4), expected)


def test_rle_on_a_large_mask():
    mask = cv2.resize(blob(3, 216, 384, 8).astype(np.uint8), (3840, 2160)).astype(bool)
    points = encode_rle(mask)
    assert points == encode_mask(mask)
    np.testing.assert_array_equal(decode_rle(points, 2160, 3840), mask)


@settings(deadline=None)
@given(small_masks)
def test_mask_box(mask):
    rows, columns = mask.nonzero()
    expected = (columns.min(), rows.min(), columns.max(), rows.max()) if rows.size else None
    assert mask_box(mask) == expected


# Filling polygons


def test_polygon_covers_the_pixels_whose_centre_it_contains():
    square = shape_to_mask(polygon(1, 1, 3, 1, 3, 3, 1, 3), 4, 5)
    np.testing.assert_array_equal(np.argwhere(square), [[1, 1], [1, 2], [2, 1], [2, 2]])
    shifted = shape_to_mask(polygon(1.4, 1.4, 3.4, 1.4, 3.4, 3.4, 1.4, 3.4), 4, 5)
    np.testing.assert_array_equal(shifted, square)
    moved_on = shape_to_mask(polygon(1.6, 1.6, 3.6, 1.6, 3.6, 3.6, 1.6, 3.6), 4, 5)
    np.testing.assert_array_equal(moved_on, np.roll(square, (1, 1), (0, 1)))


eighths = st.integers(-40, 120).map(lambda number: number / 8)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(eighths, eighths), min_size=3, max_size=8))
def test_polygon_fill_is_even_odd(corners):
    """Against a ray to the right from every centre; self-intersections and corners outside are included."""
    height, width = 9, 11
    inside = np.zeros((height, width), bool)
    unclear = np.zeros((height, width), bool)  # centres on an edge: either answer is right
    for row, column in np.ndindex(height, width):
        x, y = column + 0.5, row + 0.5
        for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
            side = (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)  # exact in eighths
            between = min(x0, x1) <= x <= max(x0, x1) and min(y0, y1) <= y <= max(y0, y1)
            unclear[row, column] |= side == 0 and between
            if (y0 <= y) != (y1 <= y) and (side > 0) == (y1 > y0):
                inside[row, column] ^= True
    try:
        filled = shape_to_mask(polygon(*np.ravel(corners).tolist()), height, width)
    except RequestError:
        filled = np.zeros((height, width), bool)
    np.testing.assert_array_equal(filled[~unclear], inside[~unclear])


@settings(deadline=None)
@given(st.integers(1, 95).map(lambda number: number / 8), st.integers(1, 79).map(lambda number: number / 8))
def test_polygons_that_share_edges_neither_overlap_nor_leave_gaps(x, y):
    corners = [(0, 0), (12, 0), (12, 10), (0, 10)]
    count = np.zeros((10, 12), int)
    for a, b in zip(corners, corners[1:] + corners[:1], strict=True):
        try:
            count += shape_to_mask(polygon(x, y, *a, *b), 10, 12)
        except RequestError:
            continue  # a triangle thinner than a pixel
    np.testing.assert_array_equal(count, 1)


def test_polygon_agrees_with_coco():
    for name, mask in drawings().items():
        shape = mask_to_shape(mask, "polygon")
        rles = coco_mask.frPyObjects([list(shape.points)], *mask.shape)
        theirs = coco_mask.decode(coco_mask.merge(rles)).astype(bool)
        assert iou(shape_to_mask(shape, *mask.shape), theirs) > 0.97, name


def test_polygon_with_many_edges_across_a_large_image():
    """Nearly as many crossings as are allowed: a comb with 900 teeth across 1000 columns; one with 3000 is refused."""
    many = np.arange(3000)
    comb = np.stack([np.where(many % 2, 1000.0, 0.0), many / 3000 * 600], axis=1)
    assert "to and fro" in refused(413, shape_to_mask, polygon(*comb.ravel().tolist()), 720, 1000)
    rows = np.arange(900)
    corners = np.stack([np.where(rows % 2, 1000.0, 0.0), rows / 900 * 600], axis=1)
    points = np.concatenate([corners, [[1000, 700], [0, 700]]])
    filled = shape_to_mask(polygon(*points.ravel().tolist()), 720, 1000)
    assert filled[600:700].all() and not filled[700:].any()
    assert 0.4 < filled[:600].mean() < 0.6


# Outlining


def check_polygon(mask: np.ndarray, least: float = 0.95) -> int:
    """Outline a mask, check the outline, and return its number of points."""
    height, width = mask.shape
    shape = mask_to_shape(mask, "polygon")
    x, y = np.array(shape.points).reshape(-1, 2).T
    assert 3 <= len(x) <= POLYGON_POINTS
    assert x.min() >= 0 and y.min() >= 0 and x.max() <= width and y.max() <= height
    again = shape_to_mask(shape, height, width)
    assert max(iou(again, part) for part in largest_parts(mask)) >= least
    return len(x)


@settings(deadline=None, max_examples=300)
@given(small_masks.filter(np.any))
def test_polygon_round_trip_of_tiny_masks(mask):
    check_polygon(mask)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(20, 90), st.integers(20, 90), st.floats(3, 10))
def test_polygon_round_trip_of_blobs(seed, height, width, smoothness):
    mask = blob(seed, height, width, smoothness)
    assume(mask.any())
    check_polygon(mask)


points_in_40 = st.tuples(st.integers(0, 39), st.integers(0, 39))


@settings(deadline=None)
@given(st.lists(points_in_40, min_size=2, max_size=3))
def test_polygon_round_trip_of_lines_of_one_pixel(corners):
    mask = np.zeros((40, 40), np.uint8)
    cv2.polylines(mask, [np.array(corners, np.int32)], False, 1, 1)
    check_polygon(mask.astype(bool))


@pytest.mark.parametrize("name, mask", drawings().items())
def test_polygon_round_trip_of_drawings(name, mask):
    points = check_polygon(mask)
    assert points <= (POLYGON_POINTS if name == "rope" else 50)


def test_polygon_uses_few_points():
    y, x = np.mgrid[:200, :200]
    assert check_polygon(np.hypot(x - 100, y - 90) < 70) <= 14
    assert check_polygon((x > 20) & (x < 90) & (y > 30) & (y < 50)) == 4
    assert check_polygon(np.ones((1, 1), bool)) <= 4
    assert check_polygon(abs(x - y) <= 0) == 4  # a line of one pixel


def test_polygon_of_an_outline_that_needs_more_points_than_allowed():
    mask = np.zeros((40, 400), bool)
    mask[20:] = True
    mask[:, ::2] = True  # 200 teeth, 800 corners
    check_polygon(mask, least=0.5)
    mask = np.ones((2, 8000), bool)
    mask[0, ::2] = False  # so many and so short teeth that a coarse outline of them has no area
    check_polygon(mask, least=0.5)


def test_polygon_is_the_largest_part_with_its_holes_filled():
    y, x = np.mgrid[:100, :160]
    ring = abs(np.hypot(x - 50, y - 50) - 35) < 6
    disc = np.hypot(x - 130, y - 50) < 15
    filled = shape_to_mask(mask_to_shape(ring | disc, "polygon"), 100, 160)
    assert iou(filled, np.hypot(x - 50, y - 50) < 41) > 0.95


# Rectangles and ellipses


@pytest.mark.parametrize("type", SHAPE_TYPES)
def test_empty_mask_has_no_shape(type):
    assert mask_to_shape(np.zeros((5, 6), bool), type) is None


@settings(deadline=None)
@given(small_masks.filter(np.any), st.sampled_from(SHAPE_TYPES))
def test_every_shape_can_be_sent_and_read_again(mask, type):
    shape = mask_to_shape(mask, type)
    again = parse_shape(json.loads(json.dumps({"type": shape.type, "points": shape.points})))
    assert again == shape and shape.type == type
    if type != "rectangle":
        assert shape_to_mask(again, *mask.shape).shape == mask.shape


@settings(deadline=None)
@given(small_masks.filter(np.any))
def test_rectangle_is_the_box_of_all_pixels_in_edge_coordinates(mask):
    rows, columns = mask.nonzero()
    expected = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    shape = mask_to_shape(mask, "rectangle")
    assert shape.points == expected and all(type(number) is float for number in shape.points)


@settings(deadline=None)
@given(st.floats(20, 60), st.floats(20, 60), st.floats(3, 15), st.floats(3, 15))
def test_ellipse_round_trip(x, y, radius_x, radius_y):
    rows, columns = np.mgrid[:80, :80] + 0.5
    mask = np.square((columns - x) / radius_x) + np.square((rows - y) / radius_y) <= 1
    given_shape = parse_shape({"type": "ellipse", "points": [x, y, x + radius_x, y - radius_y]})
    np.testing.assert_array_equal(shape_to_mask(given_shape, 80, 80), mask)
    fitted = mask_to_shape(mask, "ellipse")
    assert iou(shape_to_mask(fitted, 80, 80), mask) >= 0.75
    np.testing.assert_allclose(fitted.points, given_shape.points, atol=1.0)


# Bad input


def test_legacy_lists_and_extra_keys():
    assert parse_shape([1, 2.5, 3, 4]) == Shape("rectangle", (1, 2.5, 3, 4))
    assert parse_shape([0, 0, 4, 0, 4, 4]) == Shape("polygon", (0, 0, 4, 0, 4, 4))
    value = {"type": "rectangle", "points": [1, 2, 3, 4], "rotation": 0, "label": None}
    assert parse_shape(value) == Shape("rectangle", (1, 2, 3, 4))


@pytest.mark.parametrize("value", [
    None, True, 7, "rectangle", [], [1], [1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 3, None], [[1, 2], [3, 4], [5, 6], [7, 8]],
    {}, {"type": "rectangle"}, {"points": [1, 2, 3, 4]}, {"type": "cuboid", "points": [1, 2, 3, 4]},
    {"type": ["mask"], "points": [1, 2, 3, 4]}, {"type": {}, "points": []}, {"type": None, "points": [1, 2, 3, 4]},
    {"type": "rectangle", "points": None}, {"type": "rectangle", "points": "1,2,3,4"},
    {"type": "rectangle", "points": {"0": 1}}, {"type": "rectangle", "points": []},
    {"type": "rectangle", "points": [1, 2, 3]}, {"type": "rectangle", "points": [1, 2, 3, 4, 5]},
    {"type": "rectangle", "points": [1, 2, "3", 4]}, {"type": "rectangle", "points": [0, 0, True, True]},
    {"type": "rectangle", "points": [1, 2, math.nan, 4]}, {"type": "rectangle", "points": [1, 2, math.inf, 4]},
    {"type": "rectangle", "points": [1, -math.inf, 3, 4]}, {"type": "rectangle", "points": [1, 2, 1e7, 4]},
    {"type": "rectangle", "points": [1, 2, 10**400, 4]}, {"type": "rectangle", "points": [1, 2, 3, 1j]},
    {"type": "ellipse", "points": [1, 2, 3]}, {"type": "ellipse", "points": [1, 2, 3, 4, 5]},
    {"type": "polygon", "points": [1, 2, 3, 4]}, {"type": "polygon", "points": [1, 2, 3, 4, 5, 6, 7]},
    {"type": "polygon", "points": [1, 2, 3, 4, 5, -1e9]}, {"type": "polygon", "points": []},
    {"type": "mask", "points": [0, 0, 0, 0]}, {"type": "mask", "points": []},
    {"type": "mask", "points": [0, math.nan, 0, 0, 0, 0]}, {"type": "mask", "points": [0, 10**30, 0, 0, 0, 0]},
])  # fmt: skip
def test_values_that_are_no_shape(value):
    refused(400, parse_shape, value)


def test_too_many_points():
    assert parse_shape({"type": "polygon", "points": [1.5] * MAX_POLYGON_NUMBERS})
    sentence = refused(413, parse_shape, {"type": "polygon", "points": [1.5] * (MAX_POLYGON_NUMBERS + 2)})
    assert str(MAX_POLYGON_NUMBERS) in sentence
    refused(413, parse_shape, [1.5] * (MAX_POLYGON_NUMBERS + 2))
    assert parse_shape({"type": "mask", "points": [1] * (MAX_POLYGON_NUMBERS + 2)})
    refused(413, parse_shape, {"type": "mask", "points": [1] * 2_000_001})


@pytest.mark.parametrize("type, points, hint", [
    ("mask", [0, 3, 0, 0, 1, 1], "add up to 3"), ("mask", [0, 5, 0, 0, 1, 1], "add up to 5"),
    ("mask", [0, 10**9, 0, 0, 1, 1], "add up to"), ("mask", [-1, 5, 0, 0, 1, 1], "negative"),
    ("mask", [0.5, 3.5, 0, 0, 1, 1], "whole"), ("mask", [0, 4, 0, 0, 1.5, 1], "whole"),
    ("mask", [0, 4, 19, 0, 20, 1], "inside the image"), ("mask", [0, 4, 0, 9, 1, 10], "inside the image"),
    ("mask", [0, 4, -1, 0, 0, 1], "inside the image"), ("mask", [0, 4, 1, 1, 0, 0], "inside the image"),
    ("mask", [4, 0, 0, 1, 1], "no pixel"),
    ("polygon", [30, 0, 40, 5, 30, 9], "no pixel"), ("polygon", [1, 1, 5, 5, 9, 9], "no pixel"),
    ("polygon", [2, 2, 2, 2, 2, 2], "no pixel"), ("polygon", [-1e6, -1e6, -1e6, -5, -5, -1e6], "no pixel"),
    ("ellipse", [5, 5, 5, 3], "right of its centre"), ("ellipse", [5, 5, 3, 3], "right of its centre"),
    ("ellipse", [5, 5, 7, 7], "above"), ("ellipse", [50, 50, 53, 47], "no pixel"),
    ("ellipse", [5, 5, 5.2, 4.8], "no pixel"),
])  # fmt: skip
def test_shapes_that_do_not_fit_the_image(type, points, hint):
    shape = parse_shape({"type": type, "points": points})
    assert hint in refused(400, shape_to_mask, shape, 10, 20)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.sampled_from(["type", "points", "x"]), inner),
    max_leaves=8,
)
likely = st.fixed_dictionaries({
    "type": st.sampled_from(SHAPE_TYPES),
    "points": st.lists(st.integers(-3, 30) | st.floats(-1e6, 1e6), min_size=3, max_size=9),
})  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(anything | likely)
def test_any_value_gives_a_mask_or_a_sentence(value):
    try:
        shape = parse_shape(value)
        assume(shape.type != "rectangle")  # see test_outliner.py
        mask = shape_to_mask(shape, 12, 16)
    except RequestError as error:
        assert str(error).endswith(".") and error.status in (400, 413)
    else:
        assert mask.shape == (12, 16) and mask.dtype == bool and mask.any()
