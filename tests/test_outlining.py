"""CVAT's interactor protocol, through the real handler: a box and clicks become a mask."""

import base64
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from support import (
    GOLDEN_KOI,
    HEIGHT,
    RED_KOI,
    TURTLE,
    WIDTH,
    Function,
    box_of,
    jaccard,
    jpeg,
    one_sentence,
    png,
    rgb,
    true_mask,
)

from maskbank.networks.outliner import MOST_PIXELS

Point = tuple[float, float]

CORNERS = [[10, 10], [90, 80]]


def outline_request(image: bytes, box: list[float], clicks: list[Point] = [], beside: list[Point] = []) -> dict:  # noqa: B006
    """As CVAT's server sends it."""
    return {
        "image": base64.b64encode(image).decode(),
        "pos_points": [list(each) for each in clicks],
        "neg_points": [list(each) for each in beside],
        "obj_bbox": [box[:2], box[2:]],
    }


def shown(reply: dict[str, Any], size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """What CVAT's interface makes of a reply, (H, W) bool: rows of 0 and 1, and the box in which they lie."""
    assert set(reply) == {"mask", "bounds"}
    left, top, right, bottom = reply["bounds"]
    rows = reply["mask"]
    assert len(rows) == bottom - top + 1 and {len(row) for row in rows} == {right - left + 1}
    assert {pixel for row in rows for pixel in row} <= {0, 1}
    mask = np.zeros(size, bool)
    mask[top : bottom + 1, left : right + 1] = rows
    return mask


def outlined(function: Function, *args: Any) -> np.ndarray:
    status, reply = function.send(outline_request(*args))
    assert status == 200, reply
    return shown(reply)


def middle(mask: np.ndarray) -> Point:
    """The pixel of a mask that is farthest from its edge, where a person clicks."""
    distance = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = np.unravel_index(distance.argmax(), mask.shape)
    return float(column) + 0.5, float(row) + 0.5


@pytest.mark.parametrize("object_id", [RED_KOI, GOLDEN_KOI, TURTLE])
def test_a_box_becomes_what_a_tracker_finds_in_it(function: Function, object_id: int) -> None:
    truth = true_mask(0, object_id)
    mask = outlined(function, jpeg(0), box_of(truth))
    assert jaccard(mask, truth) > 0.8
    box = tuple(box_of(truth))
    np.testing.assert_array_equal(mask, function.service.outliner.object_in_box(box, rgb(0)).mask)


def test_corners_in_any_order(function: Function) -> None:
    left, top, right, bottom = box_of(true_mask(0, TURTLE))
    first = outlined(function, jpeg(0), [left, top, right, bottom])
    np.testing.assert_array_equal(outlined(function, jpeg(0), [right, top, left, bottom]), first)
    np.testing.assert_array_equal(outlined(function, jpeg(0), [right, bottom, left, top]), first)


def test_clicks_mend_what_is_found_in_hasty_boxes(function: Function) -> None:
    """A click where most is wrong, on what is missing or on what is too much, is heeded for the most part."""
    before, after, heeded = [], [], []
    for index, object_id in itertools.product((0, 20, 40), (RED_KOI, GOLDEN_KOI, TURTLE)):
        truth = true_mask(index, object_id)
        if not truth.any():
            continue
        left, top, right, bottom = box_of(truth)
        width, height = right - left, bottom - top
        hasty = [left - 0.15 * width, top + 0.1 * height, right - 0.1 * width, bottom + 0.15 * height]
        first = outlined(function, jpeg(index), hasty)
        missing, too_much = truth & ~first, first & ~truth
        adds = missing.sum() > too_much.sum()
        click = middle(missing if adds else too_much)
        second = outlined(function, jpeg(index), hasty, [click] if adds else [], [] if adds else [click])
        before.append(jaccard(first, truth))
        after.append(jaccard(second, truth))
        heeded.append(second[int(click[1]), int(click[0])] == adds)
    assert np.mean(after) > np.mean(before) + 0.01
    assert np.mean(heeded) > 0.6


def test_a_click_adds_what_is_missing(function: Function) -> None:
    truth = true_mask(0, TURTLE)
    left, top, right, bottom = box_of(truth)
    half = [left, top, (left + right) / 2, bottom]
    before = outlined(function, jpeg(0), half)
    after = outlined(function, jpeg(0), half, [middle(truth & ~before)])
    assert jaccard(after, truth) > jaccard(before, truth) + 0.1
    np.testing.assert_array_equal(after, outlined(function, jpeg(0), half, [middle(truth & ~before)]))


def test_there_is_always_a_mask(function: Function) -> None:
    truth = true_mask(0, TURTLE)
    everywhere = [(x, y) for x in range(5, WIDTH, 70) for y in range(5, HEIGHT, 70)]
    assert outlined(function, jpeg(0), box_of(truth), [], everywhere).any()
    assert outlined(function, jpeg(0), [-50, -50, WIDTH + 50, HEIGHT + 50], [(-9, -9), (WIDTH + 9, HEIGHT + 9)]).any()


def test_clicks_in_a_very_large_box(function: Function) -> None:
    image = cv2.resize(rgb(0), (WIDTH * 10, HEIGHT * 10), interpolation=cv2.INTER_NEAREST)
    assert image.shape[0] * image.shape[1] * 1.4**2 > MOST_PIXELS
    whole = (0.0, 0.0, float(image.shape[1]), float(image.shape[0]))
    truth = true_mask(0, TURTLE)
    click = tuple(10 * each for each in middle(truth))
    found = function.service.outliner.mask_with_clicks(whole, [click], [], image)
    assert found.shape == image.shape[:2] and found.any()


def test_it_leaves_the_banks_alone_and_is_counted(start: Callable[..., Function]) -> None:
    worker = start(MASKBANK_SIZE=64)
    before = worker.service.store.statistics()
    outlined(worker, jpeg(0), box_of(true_mask(0, TURTLE)))
    assert worker.service.store.statistics() == before
    assert 'maskbank_stage_seconds_total{stage="outline"}' in worker.get("/metrics")
    assert json.loads(worker.get("/"))["frames"] == 1


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"obj_bbox": None}, 400),
        ({"obj_bbox": []}, 400),
        ({"obj_bbox": [[1, 2]]}, 400),
        ({"obj_bbox": [[1, 2], [3, 4], [5, 6]]}, 400),
        ({"obj_bbox": [1, 2, 3, 4]}, 400),
        ({"obj_bbox": [[10, 10], [10, 80]]}, 400),
        ({"obj_bbox": [[700, 10], [900, 80]]}, 400),
        ({"obj_bbox": [[1, float("nan")], [3, 4]]}, 400),
        ({"obj_bbox": [[1, float("inf")], [3, 4]]}, 400),
        ({"obj_bbox": [[1, True], [3, 4]]}, 400),
        ({"pos_points": "here"}, 400),
        ({"pos_points": [[1]]}, 400),
        ({"pos_points": [["1", "2"]]}, 400),
        ({"neg_points": [[1, 2, 3]]}, 400),
        ({"neg_points": [[10**400, 2]]}, 400),
        ({"pos_points": [[1, 2]] * 150, "neg_points": [[1, 2]] * 51}, 413),
        ({"image": None}, 400),
        ({"image": "no image"}, 400),
    ],
)
def test_what_cannot_be_outlined_gets_a_sentence(function: Function, change: dict[str, Any], status: int) -> None:
    refused, sentence = function.send(outline_request(jpeg(0), [10, 10, 90, 80]) | change)
    assert refused == status
    assert one_sentence(sentence)


def test_a_click_beyond_the_image_counts_at_its_edge(function: Function) -> None:
    small = png(np.full((64, 64, 3), 90, np.uint8))
    status, reply = function.send(outline_request(small, [1, 1, 50, 50], [(1e6, 30)], [(-1e6, 1e6)]))
    assert status == 200 and shown(reply, (64, 64)).any()
    image, box = jpeg(0), list(box_of(true_mask(0, TURTLE)))
    beyond, edge = (outlined(function, image, box, [], [(x, 10.0)]) for x in (1e6, float(WIDTH)))
    assert (beyond == edge).all()


def test_clicks_without_a_box(function: Function) -> None:
    whole = {"image": base64.b64encode(jpeg(0)).decode(), "pos_points": [[50, 50]], "neg_points": []}
    status, sentence = function.send(whole)
    assert (status, sentence) == (400, "Draw a box around the object first; clicks correct what is found in it.")


def test_an_image_that_is_too_large(start: Callable[..., Function]) -> None:
    worker = start(MASKBANK_SIZE=64, MASKBANK_MAX_PIXELS=10_000)
    status, sentence = worker.send(outline_request(png(np.zeros((200, 200, 3), np.uint8)), [10, 10, 90, 80]))
    assert status == 413 and one_sentence(sentence)


def test_cvat_reads_its_description() -> None:
    """As CVAT's lambda manager does: any text counts as yes, and its interface takes no version below 2."""
    described = yaml.safe_load((Path(__file__).parents[1] / "interactor.yaml").read_text())
    annotations = described["metadata"]["annotations"]
    assert all(isinstance(value, str) for value in annotations.values()), "Nuclio's annotations are texts"
    assert annotations["type"] == "interactor" and int(annotations["version"]) >= 2
    assert (int(annotations["min_pos_points"]), int(annotations["min_neg_points"])) == (0, 0)
    assert annotations["startswith_box"] and "startswith_box_optional" not in annotations
    assert annotations["spec"] == "" and described["spec"]["description"]
