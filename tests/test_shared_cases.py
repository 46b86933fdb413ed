"""Rules that the package shares with the plugin for CVAT's user interface, whose tests read the same cases."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest

from maskbank.jobs.objects import Label, find_objects
from maskbank.shapes.rotation import unrotated
from maskbank.shapes.shape import Shape
from maskbank.tracking.clip_objects import ahead
from maskbank.tracking.fusion import fuse
from maskbank.tracking.suggestions import suggest, sureness

CASES = Path(__file__).parent / "cases"


def cases(name: str) -> list[dict]:
    return json.loads((CASES / f"{name}.json").read_text())


@pytest.mark.parametrize("case", cases("rotated_shapes"), ids=lambda case: f"{case['type']} by {case['rotation']}")
def test_rotated_shapes(case: dict):
    found = unrotated(Shape(case["type"], tuple(case["points"])), case["rotation"])
    assert found.type == case["expected"]["type"]
    assert found.points == pytest.approx(case["expected"]["points"], abs=1e-6)


def drawn(index: int, shape: dict) -> dict:
    """A shape as CVAT gives it, whose first coordinate tells which one it is."""
    points = [index, 0.0, index + 9.0, 9.0]
    known = {"points": points, "rotation": 0.0, "outside": False, "source": "manual", "z_order": 0, "attributes": []}
    return known | shape


@pytest.mark.parametrize("case", cases("same_object"), ids=lambda case: case["name"])
def test_which_shapes_are_one_object(case: dict):
    shapes = [drawn(index, shape) for index, shape in enumerate(case["shapes"])]
    labels = {shape["label_id"]: Label(shape["label_id"], "a label", "any", frozenset()) for shape in shapes}
    annotations = {"shapes": shapes, "tracks": []}
    if case["objects"] == "unclear":
        with pytest.raises(ValueError, match="cannot be told"):
            find_objects(annotations, labels, range(10))
    else:
        objects = find_objects(annotations, labels, range(10))
        found = [sorted(part.points[0] for seed in each.seeds.values() for part in seed.shapes) for each in objects]
        assert sorted(found) == sorted(case["objects"])


@pytest.mark.parametrize("case", cases("sureness"), ids=lambda case: case["name"])
def test_what_a_confidence_counts_for(case: dict):
    assert sureness(case["confidence"], case["visible"]) == case["expected"]


@pytest.mark.parametrize("case", cases("ahead"), ids=lambda case: case["name"])
def test_which_outlined_frames_are_memorized_ahead(case: dict):
    assert ahead(case["frame"], case["outlined"]) == case["ahead"]


class Answer(NamedTuple):
    """What a sweep found on a frame; in the cases a negative confidence is that of an object that is gone."""

    is_ahead: bool
    position: int
    confidence: float
    visible: bool

    def with_confidence(self, confidence: float) -> "Answer":
        return self._replace(confidence=confidence)


@pytest.mark.parametrize("case", cases("fusion"), ids=lambda case: case["name"])
def test_which_sweep_counts_between_two_outlines(case: dict):
    count = len(case["agreement"])
    forward, backward = (
        {i: Answer(way == "forward", i, abs(sure), sure > 0) for i, sure in enumerate(case[way], 1)}
        for way in ("forward", "backward")
    )
    frames = range(count + 2)
    found = fuse(
        frames, [0, count + 1], frames[1:-1], forward, backward, lambda one, _: case["agreement"][one.position - 1]
    )
    assert [found[frame].is_ahead for frame in frames[1:-1]] == [i < case["ahead"] for i in range(count)]
    assert [found[frame].confidence for frame in frames[1:-1]] == pytest.approx(case["confidence"], abs=0.001)


@pytest.mark.parametrize("case", cases("suggestions"), ids=lambda case: case["name"])
def test_which_frame_to_outline_next(case: dict):
    found = [
        {"position": each.position, "objects": list(each.objects)}
        for each in suggest(dict(enumerate(case["confidence"])), 1)
    ]
    assert found == ([case["expected"]] if case["expected"] else [])
