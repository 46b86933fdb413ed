"""The loop between network and bank: any image, memories that stay as they are, a bounded bank, the paper's way."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import GOLDEN_KOI, RED_KOI, TURTLE, Function, decoded, disjoint, jaccard, mask_shape, png, rgb, true_mask
from test_afb_urr import recipe
from torch import Tensor

from maskbank.bank.entries import Entries
from maskbank.bank.feature_bank import BankFullError, FeatureBank
from maskbank.bank.memory import BankRequest, Memory, Seed
from maskbank.bank.policies import PaperPolicy, paper_budget
from maskbank.files.images import working_size
from maskbank.networks.afb_urr import AfbUrr
from maskbank.networks.models import MODELS
from maskbank.networks.weights import load_state_dict
from maskbank.settings import Settings
from maskbank.tracking.loading import load_tracker
from maskbank.tracking.tracker import Frame, Prediction, Tracker


def noise(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def halves(height: int, width: int) -> dict[int, np.ndarray]:
    """Two objects that share an image; one where it has only one pixel."""
    left = np.arange(height * width).reshape(height, width) < (height * width + 1) // 2
    return {number: mask for number, mask in enumerate((left, ~left)) if mask.any()}


def track(
    tracker: Tracker, image: np.ndarray, memory: Memory, masks: dict | None = None
) -> tuple[Memory, list[Prediction]]:
    seeds = {number: Seed(mask) for number, mask in (masks or {}).items()}
    [result] = tracker.track(Frame(image), [BankRequest(memory, seeds)])
    return result


def same(one: list[Prediction], other: list[Prediction]) -> bool:
    """Bit for bit."""
    return len(one) == len(other) and all(
        (a.mask == b.mask).all() and a.confidence == b.confidence for a, b in zip(one, other, strict=True)
    )


def contents(memory: Memory) -> list[Tensor]:
    return [memory.prev_mask, *(t for bank in memory.banks for part in bank.parts for _, t in part.tensors())]


@pytest.fixture(scope="module")
def tracker() -> Tracker:
    return load_tracker(Settings(short_side=64, adapt_seconds=0))[0]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights for the paper's network, in the format that its authors released."""
    path = tmp_path_factory.mktemp("weights") / "recipe.pth"
    torch.save({"model": recipe(AfbUrr()), "epoch": 0}, path)
    return path


@pytest.fixture(scope="module", params=["lite", "afb-urr", "afb-urr-paper"])
def any_tracker(request: pytest.FixtureRequest, tracker: Tracker) -> Tracker:
    if request.param == "lite":
        return tracker
    checkpoint = request.getfixturevalue("checkpoint")
    return load_tracker(Settings(model=request.param, weights=checkpoint, short_side=64, adapt_seconds=0))[0]


# Images.


@pytest.mark.parametrize(
    "size", [(1, 1), (7, 400), (400, 7), (33, 17), (16, 16), (65, 64), (130, 70), (20, 3000), (3000, 1)]
)
def test_images_of_any_size(tracker: Tracker, size: tuple[int, int]) -> None:
    seeds = halves(*size)
    memory, tracked = track(tracker, noise(0, *size), Memory(), seeds)
    assert all((answer.mask == seeds[k]).all() and answer.confidence == 1 for k, answer in enumerate(tracked))
    for seed in (1, 2):
        memory, tracked = track(tracker, noise(seed, *size), memory)
        masks = [answer.mask for answer in tracked]
        assert len(masks) == len(seeds) and all(mask.shape == size and mask.dtype == bool for mask in masks)
        assert disjoint(masks)
        assert all(0 <= answer.confidence <= 1 for answer in tracked)
    # The same image and what is known of it: nearly everything is found again.
    memory, _ = track(tracker, noise(0, *size), Memory(), seeds)
    assert memory.prev_mask.shape[1:] == tuple(
        max(2, -(-side // 16)) * 4 for side in working_size(*size, 64, MODELS["lite"].max_scale)
    )


def test_the_paper_s_networks_take_any_size(any_tracker: Tracker) -> None:
    for size in ((1, 1), (90, 61), (7, 100)):
        seeds = halves(*size)
        memory, _ = track(any_tracker, noise(0, *size), Memory(), seeds)
        memory, tracked = track(any_tracker, noise(1, *size), memory)
        assert disjoint([answer.mask for answer in tracked])
        assert all(answer.mask.shape == size and 0 <= answer.confidence <= 1 for answer in tracked)


def test_the_size_may_change_midway(any_tracker: Tracker) -> None:
    memory, _ = track(any_tracker, noise(0, 60, 90), Memory(), halves(60, 90))
    for size in ((90, 60), (40, 40), (60, 90)):
        memory, tracked = track(any_tracker, noise(1, *size), memory)
        assert [answer.mask.shape for answer in tracked] == [size, size]


def test_a_portrait_is_tracked_like_a_landscape(tracker: Tracker) -> None:
    """Turned frames of the sample clip: the animal is found in both."""
    for turn in (lambda image: image, lambda image: np.ascontiguousarray(np.rot90(image))):
        memory, _ = track(tracker, turn(rgb(0)), Memory(), {0: turn(true_mask(0, TURTLE))})
        for index in (1, 2):
            memory, [answer] = track(tracker, turn(rgb(index)), memory)
            assert jaccard(answer.mask, turn(true_mask(index, TURTLE))) > 0.3


# Memories.


def test_a_memory_stays_as_it_is(any_tracker: Tracker) -> None:
    """What comes later, whatever it is, changes nothing that an older memory answers."""
    height, width = 60, 90
    images = [noise(seed, height, width) for seed in range(8)]
    older, _ = track(any_tracker, images[0], Memory(), halves(height, width))
    older, _ = track(any_tracker, images[1], older)
    before = [tensor.clone() for tensor in contents(older)]
    expected, first = track(any_tracker, images[2], older)
    memory = expected
    for image in images[3:]:
        memory, _ = track(any_tracker, image, memory)
    corner = np.zeros((height, width), bool)
    corner[:20, :20] = True
    memory, _ = track(any_tracker, images[0], memory, {1: corner})
    memory, _ = track(any_tracker, images[1], memory, {2: ~corner})
    memory, tracked = track(any_tracker, images[2], memory)
    assert len(tracked) == memory.objects == 3
    assert all(torch.equal(a, b) for a, b in zip(contents(older), before, strict=True))
    again, second = track(any_tracker, images[2], older)
    assert same(first, second)
    assert all(torch.equal(a, b) for a, b in zip(contents(again), contents(expected), strict=True))
    assert (older.frames, again.frames, memory.frames) == (2, 3, 11)


def test_two_workers_answer_alike(tracker: Tracker) -> None:
    other = load_tracker(Settings(short_side=64, adapt_seconds=0))[0]
    answers = []
    for each in (tracker, other):
        memory, _ = track(each, rgb(0), Memory(), {0: true_mask(0, TURTLE), 1: true_mask(0, GOLDEN_KOI)})
        for index in (1, 2, 3):
            memory, tracked = track(each, rgb(index), memory)
        answers.append((tracked, contents(memory)))
    assert same(answers[0][0], answers[1][0])
    assert all(torch.equal(a, b) for a, b in zip(answers[0][1], answers[1][1], strict=True))


def test_jobs_share_the_pixels(tracker: Tracker) -> None:
    """Objects of several jobs compete; those that nobody asks for do so within their own job only."""
    ids = (RED_KOI, GOLDEN_KOI, TURTLE)
    three, _ = track(tracker, rgb(0), Memory(), {k: true_mask(0, i) for k, i in enumerate(ids)})
    anew, _ = track(tracker, rgb(0), Memory(), {0: true_mask(0, TURTLE)})
    frame = Frame(rgb(1))
    [(_, alone)] = tracker.track(frame, [BankRequest(anew)])
    [(_, three_alone)] = tracker.track(frame, [BankRequest(three)])
    together = [tracked for _, tracked in tracker.track(frame, [BankRequest(three), BankRequest(anew)])]
    assert disjoint([answer.mask for tracked in together for answer in tracked])
    assert jaccard(together[0][2].mask, together[1][0].mask) == 0
    requests = [BankRequest(three, requested=frozenset({0, 1})), BankRequest(anew, requested=frozenset({0}))]
    requested = [tracked for _, tracked in tracker.track(frame, requests)]
    assert disjoint([requested[0][0].mask, requested[0][1].mask, requested[1][0].mask])
    assert jaccard(requested[1][0].mask, alone[0].mask) > 0.8
    # In its own job the one that is not requested is what it was, but for what the other job's objects take from it.
    assert disjoint([answer.mask for answer in requested[0]])
    assert (requested[0][2].mask & ~three_alone[2].mask).sum() < 0.02 * three_alone[2].mask.sum()


# The bank.


def test_the_bank_is_bounded(tracker: Tracker) -> None:
    """60 frames, memorized one and all, in a bank with room for three."""
    model = replace(MODELS["lite"], memorize_every=1, confident_only=False)
    small = Tracker(model, tracker.segmenter, tracker.device, 64, budget=100)
    memory, _ = track(small, rgb(0), Memory(), {0: true_mask(0, TURTLE), 1: true_mask(0, RED_KOI)})
    [bank] = memory.banks
    seeds = bank.seeds
    assert len(bank) == len(seeds) == 32
    for index in range(1, 60):
        memory, _ = track(small, rgb(index), memory)
        [bank] = memory.banks
        assert len(bank) <= 100 and memory.last_memorized == index
        assert bank.seeds.keys is seeds.keys and bank.seeds.values is seeds.values
        if index > 3:
            assert len(bank) > 64 and bank.recent[-1].frame[0] == index
    with pytest.raises(BankFullError):
        for index in (1, 2, 2, 3):  # what is outlined once more takes no room
            memory, _ = track(small, rgb(index), memory, {0: true_mask(index, TURTLE)})
    assert len(memory.banks[0].seeds) == 96 and memory.outlined.keys() == {0, 60, 62}


def test_when_a_frame_is_memorized(start: Callable[..., Function]) -> None:
    """Every third frame, if the network is sure; an object that is surely gone is learnt as gone."""
    function = start(MASKBANK_SIZE=64)
    tracker = function.service.tracker
    network = tracker.segmenter.network

    def run(presence: float, quality: float) -> list[int]:
        """The frames that are memorized, after the first."""
        with function.seeing(presence), torch.no_grad():
            network.decoder.quality_head.layers[-1].weight[1] = 0
            network.decoder.quality_head.layers[-1].bias[1] = float(np.log(quality / (1 - quality)))
            memory, _ = track(tracker, rgb(0), Memory(), {0: true_mask(0, TURTLE)})
            for index in range(1, 12):
                memory, [answer] = track(tracker, rgb(index), memory)
                assert answer.visible == (presence > 0.5)
                if answer.visible:  # the mean of the network's own estimate and of the seed recall, from 0 to 1
                    assert presence * quality / 2 - 0.01 < answer.confidence < presence * (quality + 1) / 2 + 0.01
                else:
                    assert answer.confidence == pytest.approx(1 - presence, abs=0.01)  # bfloat16, where the CPU has it
        return [int(entries.frame[0]) for entries in memory.banks[0].recent]

    assert run(0.95, 0.95) == [3, 6, 9]
    assert run(0.95, 0.5) == []
    assert run(0.3, 0.9) == []
    assert run(0.05, 0.9) == [3, 6, 9]


# Objects that are gone.


def test_an_object_that_is_fully_gone(any_tracker: Tracker) -> None:
    """Other objects have all its pixels: it has none, is remembered, and does not break the frames after."""
    height, width = 50, 70
    memory, _ = track(any_tracker, noise(0, height, width), Memory(), halves(height, width))
    everything = np.ones((height, width), bool)
    memory, tracked = track(any_tracker, noise(1, height, width), memory, {0: everything})
    assert tracked[0].mask.all() and not tracked[1].visible
    for seed in (2, 3):
        memory, tracked = track(any_tracker, noise(seed, height, width), memory)
        assert disjoint([answer.mask for answer in tracked])
    assert memory.objects == 2


def test_a_corrected_object_takes_no_other_s_place(tracker: Tracker) -> None:
    """What the network still sees of an object where a person says it is not is nobody's doubt any more."""
    memory, _ = track(tracker, rgb(0), Memory(), {0: true_mask(0, TURTLE)})
    corner = np.zeros((360, 640), bool)
    corner[:40, :40] = True
    # The same animal as two objects of one job, both of which are found where it is.
    double = replace(
        memory,
        banks=(FeatureBank(seeds=twins(memory.banks[0].seeds)),),
        prev_mask=memory.prev_mask.repeat(2, 1, 1),
    )
    frame = Frame(rgb(1))
    [(after, [first, second])] = tracker.track(frame, [BankRequest(double, {0: Seed(corner)})])
    assert (first.mask == corner).all()
    assert jaccard(second.mask, true_mask(1, TURTLE)) > 0.3
    # The network is told the same as the annotator: this is where the second is.
    pixels = after.prev_mask[1].sum() * 16 * (360 / 64) ** 2
    assert pixels > 0.7 * second.mask.sum()


def twins(entries: Entries) -> Entries:
    """Entries of one object as those of two that look alike."""
    assert entries.coverage is not None
    return replace(
        entries,
        values=entries.values.repeat(2, 1, 1),
        valid=entries.valid.repeat(2, 1),
        coverage=entries.coverage.repeat(2, 1),
    )


def test_confidence_falls_where_a_part_that_was_outlined_is_lost() -> None:
    """The network may be as sure as before: it does not look for what it no longer takes for the object."""
    tracker, _ = load_tracker(Settings(short_side=240, device="cpu"))
    memory, _ = track(tracker, rgb(0), Memory(), {0: true_mask(0, GOLDEN_KOI)})
    frame = Frame(rgb(1))

    def confidence(memory: Memory) -> float:
        [(_, [answer])] = tracker.track(frame, [BankRequest(memory)])
        return answer.confidence

    # As if on the first frame more had been outlined than what is found now: the water around the fish.
    seeds = memory.banks[0].seeds
    assert seeds is not None and seeds.coverage is not None
    larger = F.max_pool2d(seeds.coverage.view(1, 1, *grid(tracker, frame)), 5, 1, 2).view_as(seeds.coverage)
    with_more = replace(memory, banks=(replace(memory.banks[0], seeds=replace(seeds, coverage=larger)),))
    unknown = replace(memory, banks=(replace(memory.banks[0], seeds=replace(seeds, coverage=None)),))
    assert confidence(memory) > 0.8 and confidence(unknown) > 0.8
    assert confidence(with_more) < confidence(memory) - 0.1


def grid(tracker: Tracker, frame: Frame) -> tuple[int, int]:
    height, width = tracker.view(frame).features.f16.shape[-2:]
    return height, width


# The paper's network.


def test_the_paper_s_way_through_the_handler(start: Callable[..., Function], checkpoint: Path) -> None:
    """MASKBANK_MODEL=afb-urr-paper is the authors' loop: no resizing, every frame, soft probabilities."""
    part = np.s_[20:250:3, 140:310:3]  # of the sample clip: 77 x 57 pixels with both koi
    images = [np.ascontiguousarray(rgb(index)[part]) for index in range(5)]
    size = images[0].shape[:2]
    assert size[0] % 16 and size[1] % 16
    given = np.stack([true_mask(0, object_id)[part] for object_id in (RED_KOI, GOLDEN_KOI)])
    function = start(MASKBANK_MODEL="afb-urr-paper", MASKBANK_WEIGHTS=checkpoint, MASKBANK_SIZE=128)
    _, states = function.ask(png(images[0]), [mask_shape(mask) for mask in given], [])

    network = AfbUrr()
    network.load_state_dict(load_state_dict(checkpoint))
    policy = PaperPolicy(paper_budget(300_000, 3))
    with torch.inference_mode():
        classes = torch.from_numpy(np.stack([~given.any(0), *given])).float()
        banks = [FeatureBank()] * 3
        seen = np.zeros(3, bool)
        for t, image in enumerate(images):
            features = network.encode(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)
            if t:
                logits, usage = network.segment(features, banks)
                classes = logits.softmax(0)
                banks = [bank.count_usage(growth) for bank, growth in zip(banks, usage, strict=True)]
                best = classes.argmax(0).numpy()
                first, second = classes.topk(2, 0).values
                clear = (first - second > 1e-5).numpy()  # not a draw that rounding decides
                assert clear.mean() > 0.99
                shapes, states = function.track(png(image), states)
                for number, shape in enumerate(shapes, 1):
                    assert (decoded(shape, size) == (best == number))[clear].all()
                seen |= [(best == number).any() for number in range(3)]
            banks = [
                policy.memorize(bank, Entries.of_frame(*pair, frame=t))
                for bank, pair in zip(banks, network.memorize(features, classes), strict=True)
            ]
    assert seen[1:].all()  # not a comparison of empty masks
    stored = function.remembered(states[0]).memory.banks
    assert [len(bank) for bank in stored] == [len(bank) for bank in banks]
    for ours, expected in zip(stored, banks, strict=True):
        assert torch.allclose(ours.older.keys, expected.older.keys, atol=1e-3)
        assert torch.equal(ours.older.frame, expected.older.frame)
        assert torch.allclose(ours.older.usage, expected.older.usage, atol=1e-3)


def test_the_paper_s_network_with_our_policy(checkpoint: Path) -> None:
    """`afb-urr`: a bank for the background and one for each object, of which each learns what it may."""
    tracker = load_tracker(Settings(model="afb-urr", weights=checkpoint, short_side=64))[0]
    size = (50, 70)
    entries = 4 * 5  # of 64 x 80 padded pixels
    memory, _ = track(tracker, noise(0, *size), Memory(), halves(*size))
    assert [len(bank.seeds) for bank in memory.banks] == [entries] * 3
    memory, _ = track(tracker, noise(1, *size), memory, {1: halves(*size)[0]})
    assert [len(bank.seeds) for bank in memory.banks] == [entries, entries, 2 * entries]
    memory, _ = track(tracker, noise(2, *size), memory, {2: halves(*size)[1]})
    assert [len(bank) for bank in memory.banks] == [entries, entries, 2 * entries, entries]
    memory, tracked = track(tracker, noise(3, *size), memory)
    assert len(tracked) == 3 and disjoint([answer.mask for answer in tracked])


def test_in_a_novel_scene_all_objects_are_gone_until_the_known_one_is_back() -> None:
    """The negative of a frame: the decoder finds something in it, but it looks like nothing that is remembered."""
    tracker = load_tracker(Settings(adapt_seconds=0))[0]
    memory, _ = track(tracker, rgb(0), Memory(), {0: true_mask(0, RED_KOI), 1: true_mask(0, TURTLE)})
    for _ in range(6):  # long enough for a frame to be memorized
        memory, answers = track(tracker, 255 - rgb(1), memory)
        assert not any(answer.visible for answer in answers) and all(answer.confidence > 0.8 for answer in answers)
    memory, answers = track(tracker, rgb(2), memory)
    for answer, animal in zip(answers, (RED_KOI, TURTLE), strict=True):
        assert jaccard(answer.mask, true_mask(2, animal)) > 0.75
