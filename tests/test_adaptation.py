"""The tuning of the decoder to a job: what it changes, and that it lives and travels with the bank."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import GOLDEN_KOI, TURTLE, Function, box_of, decoded, jaccard, jpeg, mask_shape, rgb, true_mask

from maskbank.bank.memory import BankRequest, Memory, Seed, TunedDecoder
from maskbank.deadline import Deadline
from maskbank.networks.models import MODELS, load_segmenter
from maskbank.tracking.tracker import Frame, Tracker
from maskbank.tuning import decoder_tuner
from maskbank.tuning.decoder_tuner import DecoderTuner, id_map, some_objects
from maskbank.tuning.samples import Sample

CPU = torch.device("cpu")
OUTLINED = {0: true_mask(0, TURTLE), 1: true_mask(0, GOLDEN_KOI)}


@pytest.fixture(scope="module", autouse=True)
def a_few_steps() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder_tuner, "STEPS", 6)
        yield


@pytest.fixture(scope="module")
def tuner() -> DecoderTuner:
    return DecoderTuner(load_segmenter("lite", None, CPU)[0], seconds=60)


def adapting(start: Callable[..., Function], **settings: object) -> Function:
    return start(MASKBANK_SIZE=128, MASKBANK_ADAPT_SECONDS=20, **settings)


def same(one: TunedDecoder, other: TunedDecoder) -> bool:
    return one.weights.keys() == other.weights.keys() and all(
        torch.equal(weight, other.weights[name]) for name, weight in one.weights.items()
    )


def test_it_learns_the_outlined_frame(tuner: DecoderTuner) -> None:
    """On the same clips, the adapted network makes smaller errors than the one it comes from."""
    found = tuner(rgb(0), list(OUTLINED.values()), None, Deadline.within(60))
    again = tuner(rgb(0), list(OUTLINED.values()), None, Deadline.within(60))
    further = tuner(rgb(4), [true_mask(4, TURTLE)], found, Deadline.within(60))
    assert same(found, again) and not same(found, further)
    own = dict(tuner._loss.network.decoder.named_parameters())
    # A bias or two may move by less than half precision can tell, which the bundled weights have as well.
    moved = [name for name, weight in found.weights.items() if not torch.equal(weight, own[name])]
    assert len(moved) > 0.9 * len(found.weights) and any("weight" in name for name in moved)
    assert {name for name in own if name not in found.weights} == {n for n in own if n.startswith("quality_head.")}
    assert all(torch.equal(w.half().float(), w) and not w.requires_grad for w in found.weights.values())


def test_the_network_itself_stays_as_it_is(tuner: DecoderTuner) -> None:
    network = tuner._loss.network
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    random = torch.random.get_rng_state()
    tuner(rgb(0), list(OUTLINED.values()), None, Deadline.within(60))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(random, torch.random.get_rng_state())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_it_ends_when_the_time_is_over(tuner: DecoderTuner, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tuner(rgb(0), list(OUTLINED.values()), None, Deadline.within(60))
    assert tuner(rgb(0), list(OUTLINED.values()), before, Deadline.within(0)) is before
    monkeypatch.setattr(decoder_tuner, "STEPS", 1)
    one_step = tuner(rgb(0), list(OUTLINED.values()), None, Deadline.within(60))
    monkeypatch.setattr(decoder_tuner, "STEPS", 10**6)
    ended = tuner(rgb(0), list(OUTLINED.values()), None, Deadline.within(0.001))
    assert ended is not None and same(ended, one_step)


def test_all_jobs_of_a_request_share_the_time(start: Callable[..., Function], monkeypatch: pytest.MonkeyPatch) -> None:
    """Corrections of several banks in one request: the time counts once, not for each."""
    function = start(MASKBANK_SIZE=64, MASKBANK_ADAPT_SECONDS=1)
    monkeypatch.setattr(decoder_tuner, "STEPS", 1)
    states = [function.ask(jpeg(0), [mask_shape(true_mask(0, TURTLE))], [])[1][0] for _ in range(4)]
    tracker, ends = function.service.tracker, []
    tune = tracker.tune

    class Noted:
        seconds = tune.seconds

        def __call__(self, *what: Any) -> TunedDecoder | None:
            ends.append(what[-1].ends)
            return tune(*what)

    monkeypatch.setattr(tracker, "tune", Noted())
    boxes = [[10 * i, 10, 10 * i + 8, 10, 10 * i + 8, 200, 10 * i, 200] for i in range(4)]
    before = time.monotonic()
    function.ask(jpeg(1), [{"type": "polygon", "points": box} for box in boxes], states)
    assert len(ends) == 4 and len(set(ends)) == 1 and before < ends[0] <= time.monotonic() + 1


def test_a_tiny_object_among_many(tuner: DecoderTuner) -> None:
    """Nothing breaks where clips show no object, or there are more than a mask has numbers."""
    masks = []
    for i in range(300):
        mask = np.zeros((360, 640), bool)
        mask[i, 3 * (i % 200)] = True
        masks.append(mask)
    found = tuner(rgb(0), masks, None, Deadline.within(60))
    assert all(torch.isfinite(weight).all() for weight in found.weights.values())


def test_a_step_has_a_few_of_the_objects() -> None:
    squares = [np.zeros((360, 640), bool) for _ in range(11)]
    for number, square in enumerate(squares[1:]):  # the first is empty
        square[100:120, 40 * number : 40 * number + 20] = True
    ids = id_map(squares)
    some = some_objects(Sample(rgb(0), ids), np.random.default_rng(0))
    assert set(np.unique(some.ids)) == set(range(9))
    assert len({*map(tuple, (np.unique(ids[some.ids == i]) for i in range(1, 9)))}) == 8


def test_outlines_that_leave_no_background() -> None:
    halves = np.arange(640)[None].repeat(360, 0) < 320
    some = some_objects(Sample(rgb(0), id_map([halves, ~halves])), np.random.default_rng(0))
    assert sorted(map(tuple, (np.unique(some.ids[side]) for side in (halves, ~halves)))) == [(1,), (2,)]


def test_jobs_are_segmented_each_with_its_own_network(tuner: DecoderTuner) -> None:
    """Together in a frame, each is found as it is alone."""
    segmenter = load_segmenter("lite", None, CPU)[0]
    tracker = Tracker(MODELS["lite"], segmenter, CPU, 128, tune=tuner)
    plain = Tracker(MODELS["lite"], segmenter, CPU, 128)
    first = Frame(rgb(0))
    [(one, _)] = tracker.track(first, [BankRequest(Memory(), {0: Seed(OUTLINED[0])})])
    [(other, _)] = plain.track(first, [BankRequest(Memory(), {0: Seed(OUTLINED[1])})])
    assert one.tuned_decoder is not None and other.tuned_decoder is None
    frame = Frame(rgb(1))
    [(_, [alone])] = tracker.track(frame, [BankRequest(one)])
    [(_, [untuned])] = tracker.track(frame, [BankRequest(replace(one, tuned_decoder=None))])
    (_, [beside]), _ = tracker.track(frame, [BankRequest(one), BankRequest(other)])
    assert alone.confidence == pytest.approx(beside.confidence, abs=1e-3)
    assert alone.confidence != pytest.approx(untuned.confidence, abs=1e-3)


def test_another_worker_goes_on_with_it(start: Callable[..., Function], tmp_path: Path) -> None:
    workers = [adapting(start, MASKBANK_STORE=f"file://{tmp_path}") for _ in range(2)]
    outlined = [mask_shape(mask) for mask in OUTLINED.values()]
    _, states = workers[0].ask(jpeg(0), outlined, [])
    followed = workers[0].track(jpeg(1), states)
    assert workers[1].track(jpeg(1), states) == followed
    _, states = followed
    for worker, turn in zip((workers[1], workers[0], workers[1]), (2, 3, 4), strict=True):
        shapes, states = worker.track(jpeg(turn), states)
    assert jaccard(decoded(shapes[0]), true_mask(4, TURTLE)) > 0.6
    kept = [worker.remembered(states[0]) for worker in workers]
    assert same(*(revision.memory.tuned_decoder for revision in kept))
    # Written once, not with every frame.
    sizes = sorted(file.stat().st_size for file in tmp_path.rglob("p*"))
    assert sum(size > 400_000 for size in sizes) == 2 and sizes[-1] <= 2.1 * 2**20


def test_a_correction_adapts_it_further(start: Callable[..., Function]) -> None:
    function = adapting(start)
    _, states = function.ask(jpeg(0), [mask_shape(OUTLINED[0])], [])
    _, corrected = function.ask(jpeg(1), [mask_shape(true_mask(1, TURTLE))], states)
    _, followed = function.track(jpeg(2), corrected)

    def of(state: dict) -> TunedDecoder:
        return function.remembered(state).memory.tuned_decoder

    assert not same(of(states[0]), of(corrected[0]))
    assert of(corrected[0]) is of(followed[0])
    adaptations = 2 * 4 * 1_000_000
    assert function.service.store.statistics()["cached_bytes"] > 2 * adaptations  # and the decoders made of them


def test_without_seconds_there_is_none(start: Callable[..., Function]) -> None:
    function = start(MASKBANK_SIZE=64, MASKBANK_ADAPT_SECONDS=0)
    _, [state] = function.ask(jpeg(0), [mask_shape(OUTLINED[0])], [])
    assert function.remembered(state).memory.tuned_decoder is None


def test_it_does_not_learn_from_boxes(start: Callable[..., Function]) -> None:
    """The mask in a box is a guess, until somebody outlines it."""
    function = adapting(start)

    def adapted(state: dict) -> bool:
        return function.remembered(state).memory.tuned_decoder is not None

    box = {"type": "rectangle", "points": box_of(OUTLINED[0])}
    _, [state] = function.ask(jpeg(0), [box], [])
    assert not adapted(state)
    _, [moved] = function.ask(jpeg(1), [{"type": "rectangle", "points": box_of(true_mask(1, TURTLE))}], [state])
    assert not adapted(moved)
    _, [outlined] = function.ask(jpeg(2), [mask_shape(true_mask(2, TURTLE))], [moved])
    assert adapted(outlined) and outlined["type"] == "rectangle"
