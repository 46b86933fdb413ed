"""A whole video through the tracker, without files."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from support import CLIP

from maskbank.evaluation.measures import jaccard
from maskbank.files.frames import FrameSource, open_frames
from maskbank.files.masks import read_id_mask
from maskbank.files.video import VideoWriter
from maskbank.networks.models import MODELS, load_segmenter
from maskbank.tracking.clip import frames_to_track, track_clip
from maskbank.tracking.clip_objects import ClipObjects, track_objects
from maskbank.tracking.tracker import Frame, Tracker
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


def run(
    tracker: Tracker, images: list[np.ndarray], seeds: dict[int, np.ndarray], ahead: bool = False
) -> list[TrackedFrame]:
    steps = list(track_video(tracker, images, seeds, {index: images[index] for index in seeds} if ahead else None))
    assert len(steps) == len(images)
    for step, image in zip(steps, images, strict=True):
        assert step.image is image
        assert step.ids.shape == image.shape[:2] and step.ids.dtype == np.uint8
        assert all(0 <= value <= 1 for value in step.confidence.values())
    return steps


def test_an_object_with_more_outlines_than_its_memory_holds_starts_anew(images):
    segmenter, _ = load_segmenter("lite", None, torch.device("cpu"))
    entries = (128 // 16) * (240 // 16)  # of a frame
    small = Tracker(MODELS["lite"], segmenter, torch.device("cpu"), short_side=128, budget=3 * entries + entries // 2)
    seeds = {0: truth(0, gold=1, turtle=2)} | {index: truth(index, gold=1) for index in range(1, FRAMES - 1)}
    steps = run(small, images, seeds)
    for step, index in zip(steps[1:-1], range(1, FRAMES - 1), strict=True):
        np.testing.assert_array_equal(step.ids == 1, seeds[index] == 1)
    for index, step in enumerate(steps):
        for name, number in (("gold", 1), ("turtle", 2)):
            assert jaccard(step.ids == number, truth(index, **{name: 1}) == 1) > 0.6
            assert number in step.confidence


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


# In both directions.


def test_what_is_outlined_later_counts_from_the_start(tracker, images):
    """An object is known by all its outlines when it joins, and begins where it joins."""
    seeds = {0: truth(0, turtle=3), 2: truth(2, gold=2), 5: truth(5, turtle=3, gold=2)}
    steps = run(tracker, images, seeds, ahead=True)
    turtle, gold = (np.where(seeds[5] == i, i, 0).astype(np.uint8) for i in (3, 2))
    objects = ClipObjects()
    for index, ids in ((0, seeds[0]), (5, turtle), (0, seeds[0])):
        objects, _ = track_objects(tracker, Frame(images[index]), objects, ids)
    objects, expected = track_objects(tracker, Frame(images[1]), objects, None)
    assert steps[1].confidence == {3: expected[3].confidence}
    np.testing.assert_array_equal(steps[1].ids == 3, expected[3].mask)
    others = ClipObjects()
    for index, ids in ((2, seeds[2]), (5, gold)):
        others, _ = track_objects(tracker, Frame(images[index]), others, ids)
    objects, _ = track_objects(tracker, Frame(images[2]), objects.joined(others), seeds[2])
    _, expected = track_objects(tracker, Frame(images[3]), objects, None)
    assert steps[3].confidence == {i: each.confidence for i, each in expected.items()}
    assert steps[1].confidence != run(tracker, images, seeds)[1].confidence


def test_outlines_beyond_what_a_bank_holds_come_on_their_way(images):
    segmenter, _ = load_segmenter("lite", None, torch.device("cpu"))
    small = Tracker(MODELS["lite"], segmenter, torch.device("cpu"), short_side=128, budget=300)  # two frames of 112
    seeds = {0: truth(0, turtle=3), 3: truth(3, turtle=3)}
    for step, index in zip(run(small, images, seeds, ahead=True), range(FRAMES), strict=True):
        assert jaccard(step.ids == 3, truth(index, turtle=3) == 3) > 0.3
    tiny = Tracker(MODELS["lite"], segmenter, torch.device("cpu"), short_side=128, budget=150)
    assert run(tiny, images[:3], seeds, ahead=False)[2].ids.any()
    known = list(itertools.islice(track_video(tiny, images, seeds, {3: images[3]}), 3))
    assert (known[2].ids == 3).any()


class Clip(FrameSource):
    """Frames in memory."""

    fps = 25.0

    def __init__(self, images: list[np.ndarray]):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return f"{index}.jpg"

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.images)

    def backwards(self, stop: int) -> Iterator[np.ndarray]:
        return reversed(self.images[:stop])


def run_both_ways(
    tracker: Tracker, images: list[np.ndarray], seeds: dict[int, np.ndarray]
) -> tuple[list[TrackedFrame], int]:
    """What is found, and how many frames were tracked for it."""
    calls: list[None] = []
    steps = list(track_clip(tracker, Clip(images), seeds, lambda: calls.append(None)))
    assert all(step.image is image for step, image in zip(steps, images, strict=True))
    return steps, len(calls)


def test_what_is_outlined_in_the_middle_is_found_before_and_after(tracker, images):
    seed = truth(3, gold=7, turtle=3)
    steps, tracked = run_both_ways(tracker, images, {3: seed})
    assert tracked == frames_to_track(FRAMES, {3: seed}) == FRAMES + 4
    np.testing.assert_array_equal(steps[3].ids, seed)
    after = run(tracker, images[3:], {0: seed})
    before = run(tracker, images[3::-1], {0: seed})[::-1]
    for step, expected in zip(steps, before + after[1:], strict=True):
        np.testing.assert_array_equal(step.ids, expected.ids)
        assert step.confidence == expected.confidence
    assert jaccard(steps[0].ids == 3, truth(0, turtle=3) == 3) > 0.3


def test_between_two_outlines_each_object_is_found_from_one_of_them(tracker, images):
    seeds = {0: truth(0, turtle=3), 4: truth(4, turtle=3, gold=2)}
    steps, _ = run_both_ways(tracker, images, seeds)
    ahead = run(tracker, images, seeds, ahead=True)
    back = run(tracker, images[4::-1], {0: seeds[4], 4: seeds[0]}, ahead=True)[::-1]
    for index in (0, 4):
        np.testing.assert_array_equal(steps[index].ids == 3, seeds[index] == 3)
    sides = [
        [(step.ids == 3).tobytes() == (each[i].ids == 3).tobytes() for each in (ahead, back)]
        for i, step in enumerate(steps[1:4], start=1)
    ]
    assert all(any(side) for side in sides)
    assert not (sides[0] == [False, True] and sides[2] == [True, False])  # first from the left, then from the right
    assert [step.confidence[2] for step in steps[:4]] == [step.confidence[2] for step in back[:4]]  # gold: only back
    np.testing.assert_array_equal(steps[5].ids, ahead[5].ids)


def test_of_many_outlines_as_many_as_can_be_are_learnt_ahead(tracker, images, monkeypatch):
    """The images that are kept for it are those that it picks."""
    seen = []

    def track(tracker, frame, known, outlined):
        seen.append([i for i, image in enumerate(many) if image is frame.image])
        return track_objects(tracker, frame, known, outlined)

    many = [np.roll(images[0], shift, 1) for shift in range(20)]
    seeds = {index: np.roll(truth(0, turtle=3), index, 1) for index in range(20)}
    monkeypatch.setattr("maskbank.tracking.clip_objects.track_objects", track)
    next(iter(track_clip(tracker, Clip(many), seeds, lambda: None)))
    assert seen[:10] == [[0], [1], [3], [6], [8], [11], [13], [16], [18], [0]]
    assert seen[29:39] == [[19], [18], [16], [13], [11], [8], [6], [3], [1], [19]]


def test_what_is_outlined_on_the_first_frame_is_tracked_once(tracker, images):
    seeds = {0: truth(0, turtle=3)}
    steps, tracked = run_both_ways(tracker, images, seeds)
    assert tracked == FRAMES
    for step, expected in zip(steps, run(tracker, images, seeds), strict=True):
        np.testing.assert_array_equal(step.ids, expected.ids)


@pytest.mark.parametrize("block", [1, 2 * 360 * 640 * 3, 1 << 30])
def test_a_video_backwards_has_the_same_frames(tmp_path, images, block, monkeypatch):
    with VideoWriter(tmp_path / "film.mp4", fps=10) as video:
        for image in images:
            video.write(image)
    monkeypatch.setattr("maskbank.files.frames.BLOCK_BYTES", block)
    frames = open_frames(tmp_path / "film.mp4")
    expected = list(frames)
    for stop in (1, 3, FRAMES):
        found = list(frames.backwards(stop))
        assert len(found) == stop
        for one, other in zip(found, expected[:stop][::-1], strict=True):
            np.testing.assert_array_equal(one, other)
