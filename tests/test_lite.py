"""The bundled network's tricks: none of them may change what it computes."""

import copy
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from maskbank.bank import readout
from maskbank.bank.entries import Entries
from maskbank.bank.feature_bank import FeatureBank
from maskbank.bank.memory import BankRequest, Memory
from maskbank.networks.aggregation import HIDDEN_LOGIT, MIN_UNCERTAINTY, aggregate, uncertainty
from maskbank.networks.lite import Lite, disputed_window, full_size, similarity, to_prev_mask
from maskbank.networks.lite_segmenter import LiteSegmenter, fold_batch_norm, total_weight
from maskbank.networks.novelty import familiar, found_places, key_novelty, object_novelty
from maskbank.networks.search_area import SearchArea
from maskbank.networks.seed_recall import expected_jaccard, seed_precision, seed_recall

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> Lite:
    """Random weights whose batch norms have seen something."""
    torch.manual_seed(0)
    network = Lite().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network


@pytest.fixture(autouse=True)
def same_random_numbers_every_time() -> None:
    torch.manual_seed(1)


def read(bank: FeatureBank, query: Tensor, precision: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """As the network reads a bank: values, novelty of the keys, usage."""
    found = readout.read(bank, query, similarity, total_weight, precision)
    return found.values, key_novelty(found.best_similarity, query), found.usage


def blobs(height: int, width: int, places: list[tuple[int, int, int]]) -> Tensor:
    """Rough logits at 1/4, (1, n, h, w): sure nearly everywhere, each object in doubt around its place (y, x, size)."""
    coarse = torch.full((1, len(places), height, width), -9.0)
    for number, (y, x, size) in enumerate(places):
        coarse[0, number, y : y + size, x : x + size] = torch.rand(coarse[0, number, y : y + size, x : x + size].shape)
    return coarse


# Refinement.


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 29), st.integers(0, 45), st.integers(3, 9)), min_size=1, max_size=3))
def test_refinement_of_a_window_is_that_of_the_whole(network: Lite, places: list[tuple[int, int, int]]) -> None:
    """Where objects are decoded one by one, only what is disputed is refined, else everything. Both give the same."""
    coarse = blobs(32, 48, places)
    decoder, objects = copy.deepcopy(network.decoder), len(places)
    torch.manual_seed(1)
    with torch.inference_mode():
        features = network.encode(torch.rand(1, 3, 128, 192))
        x16, x4 = torch.randn(objects, 160, 8, 12), torch.randn(objects, 48, 32, 48)
        parts = (x16, x4, coarse.transpose(0, 1))
        unused = torch.zeros(1, objects, 128, 8, 12), torch.zeros(1, objects, 32, 48)
        decoder._coarse = lambda *_: parts
        whole = decoder(features, *unused)
        one_by_one = zip(*(part.split(1) for part in parts), strict=True)
        decoder._coarse = lambda *_: next(one_by_one)
        cropped = decoder.decode_in_areas(features, *unused, [SearchArea(0, 0, 12, 8)] * objects)
    upsampled = nn.functional.interpolate(coarse, scale_factor=2, mode="bilinear")
    gate = uncertainty(upsampled)
    assert (whole.logits != cropped.logits).logical_and(gate == 0).sum() == 0
    assert torch.allclose(whole.logits, cropped.logits, atol=1e-4)
    refined = (whole.logits - upsampled).abs() > 1e-3
    assert refined.any() and not refined[gate == 0].any()
    assert torch.allclose(whole.presence, cropped.presence, atol=1e-4)
    assert torch.allclose(whole.quality, cropped.quality, atol=1e-4)


@torch.inference_mode()
def test_objects_decoded_one_by_one(network: Lite) -> None:
    """Everywhere, they are what they are at once; in an area, much the same inside, and nowhere else."""
    torch.manual_seed(2)
    features = network.encode(torch.rand(1, 3, 240, 400))
    readout = network.value(features, torch.rand(1, 2, 240, 400))
    prev_mask = torch.rand(1, 2, 60, 100)
    at_once = network.decode(features, readout, prev_mask)
    everywhere = SearchArea(0, 0, 25, 15)
    one_by_one = network.decode(features, readout, prev_mask, [everywhere] * 2)
    for name in ("coarse", "logits", "presence", "quality"):
        assert torch.allclose(getattr(at_once, name), getattr(one_by_one, name), atol=1e-3), name
    area = SearchArea(2, 1, 24, 14)
    in_area = network.decode(features, readout, prev_mask, [everywhere, area])
    assert torch.allclose(in_area.coarse[0, 0], one_by_one.coarse[0, 0], atol=1e-4)
    outside = torch.ones(60, 100, dtype=torch.bool)
    area.cut(outside, 4).fill_(False)
    assert (in_area.coarse[0, 1][outside] == HIDDEN_LOGIT).all()
    inner = SearchArea(9, 7, 17, 8)  # no convolution before the coarse mask reaches from here to the rim
    assert torch.allclose(inner.cut(in_area.coarse[0, 1], 4), inner.cut(one_by_one.coarse[0, 1], 4), atol=1e-4)


@torch.inference_mode()
def test_strips_of_the_encoder_are_the_whole(network: Lite, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(2, 3, 144, 208)
    whole = network.encoder(images)
    for elements in (1, 40_000):
        monkeypatch.setattr("maskbank.networks.efficientnet_lite.STRIP_ELEMENTS", elements)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(network.encoder(images), whole, strict=True))


def test_a_window_is_around_what_is_disputed() -> None:
    gate = torch.zeros(64, 96)
    gate[20:31, 40] = 0.5
    assert disputed_window(gate) == (slice(6, 20), slice(16, 25), slice(12, 40), slice(32, 50))
    gate[0, 0] = gate[63, 95] = 0.1
    assert disputed_window(gate) == (slice(0, 32), slice(0, 48), slice(0, 64), slice(0, 96))


def test_uncertainty() -> None:
    """1 where two classes are level, 0 where one is far ahead; only the two best are in dispute."""
    logits = torch.tensor([[0.0, 8.0, -9.0, 5.0], [-9.0, 8.0, -9.0, 4.9], [-9.0, -9.0, -9.0, 0.1]])
    found = uncertainty(logits.view(1, 3, 1, 4))[0, :, 0]
    assert found[:, 0].tolist() == [1, 0, 0]
    assert found[:, 1].tolist() == [1, 1, 0]
    assert found[:, 2].tolist() == [0, 0, 0]
    assert found[0, 3] == found[1, 3] > 0.8 and found[2, 3] == 0
    ratio = torch.tensor(0.1).exp()  # of the two softmax scores
    assert found[0, 3] == pytest.approx(float((1 - ratio).exp()))
    values = uncertainty(torch.randn(1, 4, 50, 50) * 5)
    assert ((values == 0) | ((values > MIN_UNCERTAINTY) & (values <= 1))).all()


def test_classes_compete() -> None:
    logits = torch.tensor([[1.0, -50.0], [2.0, -50.0]]).view(1, 2, 1, 2)
    expected = torch.tensor([0.0, 1.0, 2.0]).softmax(0)[1:]
    assert torch.allclose(aggregate(logits)[0, :, 0, 0], expected)
    assert (aggregate(logits)[0, :, 0, 1] < 1e-20).all()


# Batch norm, padding.


@torch.inference_mode()
def test_folded_batch_norms_change_nothing(network: Lite) -> None:
    folded = fold_batch_norm(copy.deepcopy(network))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    image = torch.rand(1, 3, 72, 100)
    masks = torch.rand(1, 1, 72, 100)  # of one object: among several, rounding decides which two are in dispute
    outputs = []
    for each in (network, folded):
        features = each.encode(image)
        values = each.value(features, masks)
        decoded = each.decode(features, values, to_prev_mask(masks))
        outputs.append([features.key, values, decoded.coarse, decoded.logits, decoded.presence, decoded.quality])
    for before, after in zip(*outputs, strict=True):
        assert before.any() and torch.allclose(before, after, rtol=1e-3, atol=1e-3 * float(before.abs().max()))


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 31), (7, 90), (90, 7)])
@torch.inference_mode()
def test_any_size_is_padded_and_cut_again(network: Lite, size: tuple[int, int]) -> None:
    height, width = (max(2, -(-side // 16)) for side in size)
    features = network.encode(torch.rand(1, 3, *size))
    assert features.size == size and features.key.shape == (1, 64, height * width)
    masks = torch.rand(1, 2, *size) / 2
    values = network.value(features, masks)
    assert values.shape == (1, 2, 128, height * width)
    prev_mask = to_prev_mask(masks)
    assert prev_mask.shape == (1, 2, 4 * height, 4 * width)
    assert float(prev_mask.sum() * 16) == pytest.approx(float(masks.sum()), rel=1e-4)
    decoded = network.decode(features, values, prev_mask)
    assert decoded.logits.shape == (1, 2, 8 * height, 8 * width)
    logits = full_size(decoded.logits, size)
    assert logits.shape == (1, 2, *size) and logits.isfinite().all()
    # Padding is at the right and the bottom: the rest is as of an image that needs none.
    whole = torch.full((1, 3, 16 * height, 16 * width), 127 / 255)
    whole[..., : size[0], : size[1]] = torch.rand(1, 3, *size)
    assert torch.allclose(network.encode(whole[..., : size[0], : size[1]]).key, network.encode(whole).key, atol=1e-4)


# Reading a bank.


def entries_of(n: int, valid: list[bool], seed: int) -> Entries:
    rng = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(64, n, generator=rng), torch.randn(len(valid), 128, n, generator=rng)
    return Entries.of_frame(keys, values, seed, torch.tensor(valid))


def alone(bank: FeatureBank, objects: list[int], parts: list[int]) -> FeatureBank:
    """The bank of some objects and some of its parts only."""
    some = [bank.parts[i] for i in parts]
    return FeatureBank(
        recent=tuple(Entries(p.keys, p.values[objects], p.valid[objects], p.frame, p.usage) for p in some)
    )


def test_similarity_ranks_like_distances() -> None:
    keys, query = torch.randn(2, 64, 40), torch.randn(2, 64, 30)
    found = similarity(keys, query)
    distances = torch.cdist(query.transpose(1, 2), keys.transpose(1, 2))
    assert found.shape == distances.shape == (2, 30, 40)
    assert torch.equal(found.argsort(2, descending=True), distances.argsort(2))
    # More than the order: differences are those of squared distances, over the root of the channels.
    squares = -distances.square() / 8
    assert torch.allclose(found - found[..., :1], squares - squares[..., :1], atol=1e-3)


def test_what_is_read_is_the_mean_of_similar_entries() -> None:
    bank = FeatureBank(seeds=entries_of(20, [True], 0), older=entries_of(5, [True], 1))
    query = torch.randn(1, 64, 7)
    values_read, novelty, use = read(bank, query)
    keys = torch.cat([part.keys for part in bank.parts], 1)
    values = torch.cat([part.values for part in bank.parts], 2)
    nearness = -torch.cdist(keys.T, query[0].T).square() / 8
    weights = nearness.softmax(0)
    assert torch.allclose(-novelty, nearness.amax(0), atol=1e-4)
    assert torch.allclose(values_read[0], values[0] @ weights, atol=1e-4)
    assert torch.allclose(use, weights.sum(1), atol=1e-4) and float(use.sum()) == pytest.approx(7)
    rounded, *rest = read(bank, query, torch.bfloat16)
    assert torch.allclose(rounded.float(), values_read, atol=0.03) and all(map(torch.equal, rest, (novelty, use)))


def test_seed_labels_are_read_from_outlined_frames_only() -> None:
    covered = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]])
    seeds = replace(entries_of(3, [True, True], 1), coverage=covered)
    bank = FeatureBank(seeds=seeds, older=entries_of(5, [True, True], 2), recent=(entries_of(4, [True, False], 3),))
    query = torch.randn(1, 64, 7)
    labels = readout.read(bank, query, similarity, total_weight).seed_labels
    weights = similarity(seeds.keys[None], query)[0].softmax(1)
    assert labels is not None and torch.allclose(labels, covered @ weights.T, atol=1e-5)
    unknown = replace(bank, seeds=replace(seeds, coverage=None))
    assert readout.read(unknown, query, similarity, total_weight).seed_labels is None


def test_seed_recall() -> None:
    def square(*corners: int) -> Tensor:
        left, top, right, bottom = corners
        mask = torch.zeros(20, 30)
        mask[top:bottom, left:right] = 1
        return mask

    whole, half = square(4, 4, 10, 10), square(4, 4, 7, 10)
    look_alike = torch.maximum(whole, square(22, 4, 28, 10))
    found = torch.stack([whole, half, whole, whole, torch.zeros(20, 30), whole])
    labels = torch.stack([whole, whole, half, look_alike, whole, torch.zeros(20, 30)])
    recall = seed_recall(found, labels)
    assert recall.tolist() == pytest.approx([1, 0.5, 1, 1, 0, 0], abs=0.01)


def test_seed_precision() -> None:
    left, right = torch.zeros(2, 20, 30)
    left[4:10, 4:10] = right[4:10, 10:16] = 1
    slipped = torch.zeros(20, 30)
    slipped[4:10, 7:13] = 1
    labels = torch.stack([left, right])
    for found, precision in (([left, right], [1, 1]), ([slipped, right], [0.5, 1]), ([right, 0 * right], [0, 1])):
        assert seed_precision(torch.stack(found), labels).tolist() == pytest.approx(precision, abs=0.01)
    assert seed_precision(slipped[None], left[None]).tolist() == [1]  # a single object has nobody to be taken for
    quality = torch.tensor([0.8, 0.8])
    # The slipped mask has half of its labels, which are half of its own: 0.6 times 0.8 and 0.4 times 0.5, by √0.5.
    expected = expected_jaccard(quality, torch.stack([slipped, right]), labels)
    share = 36 / (36 + 8) / 2
    assert expected[0].item() == pytest.approx(((1 - share) * 0.8 + share * 0.5) * 0.5**0.5, abs=0.01)
    assert expected[1].item() == pytest.approx((1 - share) * 0.8 + share, abs=0.01)


def test_places_that_read_in_turns_read_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = FeatureBank(seeds=entries_of(20, [True, True], 0), older=entries_of(5, [True, False], 1))
    query = torch.randn(1, 64, 9)
    at_once = read(bank, query)
    monkeypatch.setattr("maskbank.bank.readout.QUERIES_AT_ONCE", 4)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(read(bank, query), at_once, strict=True))


def test_nobody_gets_what_was_not_wanted() -> None:
    bank = FeatureBank(seeds=entries_of(300, [True, True], 0))
    query = torch.randn(1, 64, 40)
    wanted = torch.ones(2, 40, dtype=torch.bool)
    wanted[1, :3] = wanted[1, 36:] = False
    full, *rest = read(bank, query)
    some = readout.read(bank, query, similarity, total_weight, wanted=wanted)
    assert torch.allclose(some.values, full * wanted[:, None], atol=1e-4)
    assert torch.equal(some.usage, rest[1])


def test_where_nothing_is_found_the_frame_stands_for_the_mask() -> None:
    novelty, nothing = torch.tensor([[[1.0, 2.0, 3.0, 6.0]]]), torch.zeros(1, 1, 2, 2)
    assert object_novelty(novelty, nothing) == 3 * novelty.mean()
    found = nothing.clone()
    found[..., 0] = 1.0  # the places of 1 and 3
    assert object_novelty(novelty, found).item() == pytest.approx(2 * 3 + 2, abs=0.01)


def test_what_is_novel_is_not_taken_for_the_objects() -> None:
    """In a novel frame, unless what was found there is familiar; and in a known one whatever was found."""
    coarse = torch.full((1, 3, 16, 16), -10.0)
    coarse[:, 0, :8] = coarse[:, 1, 8:] = 10.0  # nothing of the third is found
    found = found_places(coarse)
    novelty = torch.full((1, 3, 4, 4), 35.0)
    novelty[:, 1, 2:] = 5.0
    threshold = torch.tensor(60.0)
    known = familiar(object_novelty(novelty.flatten(2), found), threshold)
    assert known[0, 0] < 0.01 and known[0, 1] > 0.99 and known[0, 2] < 0.01
    assert (familiar(object_novelty(novelty.flatten(2) / 3, found), threshold) > 0.99).all()
    assert (
        familiar(object_novelty(novelty.flatten(2), found), Lite().novelty_threshold) == 1
    ).all()  # a new network cannot tell yet


def test_an_object_reads_only_what_is_valid_for_it() -> None:
    """Four objects: one may read all, two share what they may read, one joined last."""
    valid = [[True, True, True, False], [True, False, False, False], [True, True, True, True]]
    parts = [entries_of(n, flags, seed) for seed, (n, flags) in enumerate(zip((9, 6, 4), valid, strict=True))]
    bank = FeatureBank(seeds=parts[0], older=parts[1], recent=(parts[2],))
    query = torch.randn(1, 64, 12)
    *found, use = read(bank, query)
    for objects, readable in (([0], [0, 1, 2]), ([1, 2], [0, 2]), ([3], [2])):
        *expected, _ = read(alone(bank, objects, readable), query)
        for part, own in zip(found, expected, strict=True):
            assert torch.allclose(part[objects], own, atol=1e-5)
    assert float(use.sum()) == pytest.approx(12, rel=1e-4)

    # Whatever stands in entries that an object may not read, it reads the same.
    def poisoned(part: Entries) -> Entries:
        return Entries(part.keys, part.values + 1e6 * ~part.valid[:, None], part.valid, part.frame, part.usage)

    *again, _ = read(FeatureBank(poisoned(parts[0]), poisoned(parts[1]), (poisoned(parts[2]),)), query)
    assert all(map(torch.equal, found, again))


@torch.inference_mode()
def test_objects_in_a_bank_of_their_own_read_as_before() -> None:
    seeds = replace(entries_of(6, [True, True, False], 0), coverage=torch.rand(3, 6))
    older = replace(entries_of(8, [True, True, True], 1), valid=torch.rand(3, 8) < 0.5)
    bank = FeatureBank(seeds, older, (entries_of(5, [False, True, False], 2), entries_of(4, [True, False, True], 3)))
    query = torch.randn(1, 64, 7)
    whole = readout.read(bank, query, similarity, total_weight)
    for numbers in ([1], [0, 1], [1, 0]):
        own_bank = bank.of_objects(numbers)
        own = readout.read(own_bank, query, similarity, total_weight)
        assert torch.allclose(own.values, whole.values[numbers], atol=1e-5)
        assert torch.allclose(own.seed_labels, whole.seed_labels[numbers], atol=1e-5)
        assert all(part.valid.any(0).all() for part in own_bank.parts)
    assert len(bank.of_objects([1]).recent) == 1 and bank.of_objects([2]).seeds is None


def test_an_object_that_joins_changes_nothing_for_the_others(network: Lite) -> None:
    """Not what they read; it may still take their pixels."""
    segmenter = LiteSegmenter(copy.deepcopy(network), CPU)
    features = segmenter.encode(torch.rand(1, 3, 64, 96))
    masks = torch.rand(2, 64, 96).softmax(0)
    banks = segmenter.add_objects((), 2)
    [entries] = segmenter.memorize(features, masks, torch.tensor([True, True]), 0)
    bank = FeatureBank(seeds=entries)
    [joined] = segmenter.add_objects((bank,), 1)
    query = features.key.float()
    *before, _ = read(bank, query)
    seeds = Entries.of_frame(torch.randn(64, 24), torch.randn(3, 128, 24), 1, torch.tensor([False, False, True]))
    joined = FeatureBank(seeds=joined.seeds.concat(seeds))
    *after, _ = read(joined, query)
    assert banks[0].parts == ()
    for old, new in zip(before, after, strict=True):
        assert len(new) == 3 and new.isfinite().all() and torch.allclose(old, new[:2], atol=1e-5)
    assert segmenter.memorize(features, masks, torch.tensor([False, False]), 1) == (None,)


@torch.inference_mode()
def test_jobs_that_are_segmented_together_read_their_own_banks(network: Lite) -> None:
    segmenter = LiteSegmenter(copy.deepcopy(network), CPU)
    features = segmenter.encode(torch.rand(1, 3, 48, 80))
    jobs = []
    for seed in (0, 1):
        masks = torch.rand(2, 48, 80, generator=torch.Generator().manual_seed(seed)).softmax(0)
        [entries] = segmenter.memorize(features, masks, torch.tensor([True, True]), 0)
        jobs.append(BankRequest(Memory((FeatureBank(seeds=entries),), segmenter.prev_mask(torch.zeros(2, 48, 80)))))
    everywhere = [SearchArea(0, 0, 5, 3)] * 2
    together = segmenter.segment(features, jobs, [everywhere, everywhere], strict=True)
    assert [part.logits.shape for part in together] == [(2, 48, 80)] * 2
    for job, part in zip(jobs, together, strict=True):
        [single] = segmenter.segment(features, [job], [everywhere], strict=True)
        assert torch.equal(single.usage[0], part.usage[0]) and len(part.usage[0]) == 15
        assert ((part.presence >= 0) & (part.presence <= 1)).all() and part.quality.shape == (2,)


def test_the_bundled_file_is_small() -> None:
    file = Path(__file__).parents[1] / "weights" / "lite.safetensors"
    assert file.stat().st_size <= 30_000_000
