"""A whole video through the tracker, without files."""

import numpy as np
import pytest
import torch
from support import CLIP

from maskbank.evaluation.measures import jaccard
from maskbank.files.frames import open_frames
from maskbank.files.masks import read_id_mask
from maskbank.networks.models import MODELS, load_segmenter
from maskbank.tracking.tracker import Tracker
from maskbank.tracking.video import TrackedFrame, track_video

FRAMES = 6


@pytest.fixture(scope="module")
def tracker() -> Tracker:
    segmenter, _ = load_segmenter("lite", None, torch.device("cpu"))
    return Tracker(MODELS["lite"], segmenter, torch.device("cpu"), short_side=128)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return [image for image, _ in zip(open_frames(CLIP / "frames"), range(FRAMES), strict=False)]


def truth(index: int, **new_ids: int) -> np.ndarray:
    """The known mask of a frame; `koi`, `gold` and `turtle` get the ids given, or are left out."""
    ids = read_id_mask(CLIP / "masks" / f"{index:05d}.png")
    renumber = np.zeros(256, np.uint8)
    for name, new in new_ids.items():
        renumber[{"koi": 1, "gold": 2, "turtle": 3}[name]] = new
    return renumber[ids]


def run(tracker: Tracker, images: list[np.ndarray], seeds: dict[int, np.ndarray]) -> list[TrackedFrame]:
    steps = list(track_video(tracker, images, seeds))
    assert len(steps) == len(images)
    for step, image in zip(steps, images, strict=True):
        assert step.image is image
        assert step.ids.shape == image.shape[:2] and step.ids.dtype == np.uint8
        assert all(0 <= value <= 1 for value in step.confidence.values())
    return steps


def test_ids_are_kept_and_frames_before_the_first_seed_are_empty(tracker, images):
    seed = truth(2, gold=7, turtle=3)
    steps = run(tracker, images, {2: seed})
    assert [step.confidence for step in steps[:2]] == [{}, {}]
    assert not any(step.ids.any() for step in steps[:2])
    np.testing.assert_array_equal(steps[2].ids, seed)
    assert steps[2].confidence == {3: 1.0, 7: 1.0}
    for step in steps[3:]:
        assert set(np.unique(step.ids)) <= {0, 3, 7} and set(step.confidence) == {3, 7}
    assert jaccard(steps[3].ids == 3, truth(3, turtle=3) == 3) > 0.3  # loose: and not the fish's id
    assert jaccard(steps[3].ids == 7, truth(3, turtle=3) == 3) < 0.1


def test_later_seeds_correct_objects_and_bring_new_ones(tracker, images):
    first, second = truth(0, turtle=9), truth(3, turtle=9, koi=200, gold=4)
    steps = run(tracker, images, {3: second, 0: first})
    assert [set(step.confidence) for step in steps] == [{9}] * 3 + [{4, 9, 200}] * 3
    np.testing.assert_array_equal(steps[0].ids, first)
    np.testing.assert_array_equal(steps[3].ids, second)
    assert steps[3].confidence == {4: 1.0, 9: 1.0, 200: 1.0}
    for step, other in zip(steps[:3], run(tracker, images[:3], {0: first}), strict=True):
        np.testing.assert_array_equal(step.ids, other.ids)
    assert {4, 200} & set(np.unique(steps[4].ids).tolist())  # loose: at least one of the new ones is followed


def test_seed_of_some_objects_leaves_the_others_tracked(tracker, images):
    partly = truth(2, gold=2)
    steps = run(tracker, images, {0: truth(0, gold=2, turtle=3), 2: partly})
    np.testing.assert_array_equal(steps[2].ids == 2, partly == 2)
    assert (steps[2].ids == 3).any()
    assert steps[2].confidence[2] == 1.0 > steps[2].confidence[3]


def test_same_seeds_give_the_same_answer(tracker, images):
    seeds = {0: truth(0, koi=1, gold=2, turtle=3)}
    for one, other in zip(run(tracker, images[:3], seeds), run(tracker, images[:3], seeds), strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)
        assert one.confidence == other.confidence


def test_without_seeds_everything_is_empty(tracker, images):
    assert not any(step.ids.any() for step in run(tracker, images, {}))


def test_bad_seeds_give_one_sentence(tracker, images):
    with pytest.raises(
        ValueError, match=r"^The seed mask of frame 1 is 200 x 360 pixels, but the frame is 640 x 360\.$"
    ):
        run(tracker, images, {1: truth(1, koi=1, turtle=2)[:, :200]})
    frames = iter(images)
    with pytest.raises(ValueError, match=r"^The seed mask of frame 4 shows no object\.$"):
        next(track_video(tracker, frames, {0: truth(0, turtle=1), 4: truth(0)}))
    assert next(frames) is images[0]  # known before any frame was looked at
