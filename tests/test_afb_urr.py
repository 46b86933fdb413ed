"""The paper's network against data made with the authors' implementation, and its weights' files."""

import copy
import json
import os
import pickle
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from maskbank.bank import readout
from maskbank.bank.entries import Entries
from maskbank.bank.feature_bank import FeatureBank
from maskbank.bank.policies import PaperPolicy, paper_budget
from maskbank.networks import afb_urr, afb_urr_segmenter, winograd
from maskbank.networks.afb_urr import AfbUrr, padding_for
from maskbank.networks.afb_urr_segmenter import AfbUrrSegmenter, fold_batch_norm
from maskbank.networks.weights import WeightsError, fingerprint, fit_weights, load_state_dict

GOLDEN = Path(__file__).parent / "golden"
TOLERANCE = 1e-3  # absolute, on scores: what the specification asks for


def recipe(network: nn.Module) -> dict[str, Tensor]:
    """The golden data's weights: random, the same everywhere, scaled so that activations stay moderate."""
    weights = {}
    for name, default in sorted(network.state_dict().items()):
        if name.endswith((".num_batches_tracked", ".mean", ".std")):
            weights[name] = default
            continue
        r = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(default.shape))
        if name.endswith(".running_mean"):
            r = 0.1 * r
        elif name.endswith(".running_var"):
            r = 1 + 0.1 * np.abs(r)
        elif default.ndim == 4:
            gain = np.sqrt(2 / np.prod(default.shape[1:]))
            if ".conv3." in name or (".conv2." in name and ("ResMM" in name or "ResFS" in name)):
                gain *= 0.25
            if name.startswith("keyval_r4.Key"):
                gain *= 0.3
            if "pred2" in name:
                gain *= 0.5
            r = gain * r
        else:
            r = 1 + 0.1 * r if name.endswith(".weight") else 0.05 * r
        weights[name] = torch.from_numpy(r.astype(np.float32))
    return weights


@pytest.fixture(autouse=True)
def same_random_numbers_every_time() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def network() -> AfbUrr:
    network = AfbUrr()
    fit_weights(network, recipe(network), "of the recipe")
    return network


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"afb_urr_{name}.npz") as file:
        return dict(file)


def largest_error(tensor: Tensor, expected: np.ndarray) -> float:
    assert tuple(tensor.shape) == expected.shape
    return float(np.abs(tensor.numpy() - expected).max())


def bank_of(keys: Tensor, values: Tensor) -> FeatureBank:
    return FeatureBank(older=Entries.of_frame(keys, values, frame=0))


def test_tensors_are_those_of_the_released_checkpoint() -> None:
    expected = json.loads((GOLDEN / "afb_urr_state_dict.json").read_text())
    with torch.device("meta"):
        tensors = AfbUrr().state_dict()
    assert {name: list(tensor.shape) for name, tensor in tensors.items()} == expected
    assert len(tensors) == 562


@pytest.mark.parametrize(
    ("name", "frames"),
    # In `eviction` a rounding flip at the use threshold may change later frames, so three are compared.
    [("two_class", None), ("three_class_padded", None), ("eviction", 3)],
)
@torch.inference_mode()
def test_golden(network: AfbUrr, name: str, frames: int | None) -> None:
    """The paper's loop (segment, memorize, update) gives what the authors' implementation gives."""
    data = golden(name)
    _, _, _, classes, total, rate, threshold = data["params"]
    policy = PaperPolicy(paper_budget(int(total), int(classes)), float(rate), float(threshold))
    images = torch.from_numpy(data["frames"])

    features = network.encode(images[:1])
    pairs = network.memorize(features, torch.from_numpy(data["mask0"][0]))
    assert largest_error(torch.stack([keys for keys, _ in pairs]), data["k0"]) < TOLERANCE
    assert largest_error(torch.cat([values for _, values in pairs]), data["v0"]) < TOLERANCE
    banks = [policy.seed(FeatureBank(), Entries.of_frame(k, v, frame=0)) for k, v in pairs]
    sizes, errors = [[len(bank) for bank in banks]], []
    for t in range(1, len(images)):
        features = network.encode(images[t : t + 1])
        logits, use = network.segment(features, banks)
        errors.append(largest_error(logits, data["scores"][t - 1]))
        pairs = network.memorize(features, logits.softmax(dim=0))
        banks = [
            policy.memorize(bank.count_usage(increments), Entries.of_frame(*pair, frame=t))
            for bank, increments, pair in zip(banks, use, pairs, strict=True)
        ]
        sizes.append([len(bank) for bank in banks])

    assert max(errors[:frames]) < TOLERANCE
    assert sizes == data["bank_sizes"].tolist()
    if frames is None:
        for i, bank in enumerate(banks):
            assert largest_error(bank.older.keys, data[f"bank_keys_{i}"]) < TOLERANCE
            assert largest_error(bank.older.values[0], data[f"bank_values_{i}"]) < TOLERANCE
            info = torch.stack([bank.older.frame, bank.older.usage], dim=1)
            assert largest_error(info, data[f"bank_info_{i}"]) < TOLERANCE


@torch.inference_mode()
def test_any_size_is_padded_and_cropped_back(network: AfbUrr) -> None:
    assert padding_for(90, 130) == (7, 7, 3, 3)
    assert padding_for(47, 33) == (7, 8, 0, 1)
    assert padding_for(32, 48) == (0, 0, 0, 0)
    image, mask = torch.rand(1, 3, 47, 33), torch.zeros(47, 33)
    mask[10:30, 5:20] = 1
    features = network.encode(image)
    assert features.key.shape == (128, 9) and features.image.shape == (1, 3, 48, 48)
    assert torch.equal(features.image[:, :, 0:47, 7:40], image) and not features.image[..., 40:].any()
    pairs = network.memorize(features, torch.stack([1 - mask, mask]))
    logits, use = network.segment(features, [bank_of(*pair) for pair in pairs])
    assert logits.shape == (2, 47, 33) and [len(u) for u in use] == [9, 9]
    assert logits.isfinite().all()


@torch.inference_mode()
def test_classes_in_groups_and_queries_in_groups_change_nothing(
    network: AfbUrr, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, masks = torch.rand(1, 3, 64, 80), torch.rand(5, 64, 80).softmax(dim=0)

    def run() -> tuple[Tensor, list[Tensor]]:
        features = network.encode(image)
        return network.segment(features, [bank_of(*pair) for pair in network.memorize(features, masks)])

    logits, usage = run()
    monkeypatch.setattr(readout, "READ_ELEMENTS", 50)
    monkeypatch.setattr(afb_urr, "CLASSES_AT_ONCE", 1)
    grouped_logits, grouped_usage = run()
    assert torch.allclose(logits, grouped_logits, atol=TOLERANCE)
    assert torch.allclose(torch.stack(usage), torch.stack(grouped_usage))


@pytest.mark.parametrize(("inputs", "outputs", "batch", "height", "width"), [(8, 5, 2, 7, 9), (256, 256, 1, 3, 1)])
@torch.inference_mode()
def test_winograds_convolution_is_a_convolution(
    monkeypatch: pytest.MonkeyPatch, inputs: int, outputs: int, batch: int, height: int, width: int
) -> None:
    monkeypatch.setattr(winograd, "TILES_AT_ONCE", 3)
    x = torch.randn(batch, inputs, height, width)
    for bias in (True, False):
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
        assert torch.allclose(winograd.WinogradConv2d(convolution)(x), convolution(x), atol=1e-5)


@torch.inference_mode()
def test_what_is_the_same_for_all_classes_is_convolved_once() -> None:
    shared, own = torch.randn(1, 3, 9, 7), torch.randn(2, 5, 9, 7)
    for first, second in ((shared, own), (own, shared)):
        convolution = nn.Conv2d(8, 4, 3, padding=1)
        joined = convolution(torch.cat([each.expand(2, -1, -1, -1) for each in (first, second)], 1))
        for each in (convolution, winograd.WinogradConv2d(convolution)):
            assert torch.allclose(afb_urr.convolve_joined(each, first, second), joined, atol=1e-5)


@pytest.mark.parametrize("bfloat16", [False, True])
@torch.inference_mode()
def test_the_segmenters_network_computes_the_same(
    network: AfbUrr, monkeypatch: pytest.MonkeyPatch, bfloat16: bool
) -> None:
    """Near to it where convolutions compute in bfloat16, with finite logits where the network is quite sure."""
    monkeypatch.setattr(afb_urr_segmenter, "fast_bfloat16", lambda device: bfloat16)
    image, masks = torch.rand(1, 3, 64, 80), torch.rand(2, 64, 80).softmax(dim=0)

    def run(network: AfbUrr) -> Tensor:
        features = network.encode(image)
        logits, _ = network.segment(features, [bank_of(*pair) for pair in network.memorize(features, masks)])
        return logits

    fast = AfbUrrSegmenter(copy.deepcopy(network), torch.device("cpu")).network
    quick = (fast.keyval_r4.Key, fast.keyval_r4.Value, fast.decoder.convFM, fast.decoder.RF2.convFS)
    assert all(isinstance(each, nn.Conv2d if bfloat16 else winograd.WinogradConv2d) for each in quick)
    exact = AfbUrrSegmenter(copy.deepcopy(network), torch.device("cpu"), exact=True).network
    expected, found = run(network), run(fast)
    assert torch.allclose(run(exact), expected, atol=TOLERANCE)
    assert found.dtype == torch.float32
    if not bfloat16:
        assert torch.allclose(found, expected, atol=TOLERANCE)
        return
    assert 0.001 < (found - expected).abs().mean() < 0.05 * expected.std()
    fast.decoder.pred2.weight.mul_(1000)
    assert run(fast).isfinite().all() and run(fast).abs().max() > 15


def read(bank: FeatureBank, features: afb_urr.Features) -> tuple[Tensor, Tensor]:
    """As the network reads a bank of one class: values and usage."""
    found = readout.read(bank, features.key[None], afb_urr.similarity, afb_urr.count_queries)
    return found.values[0], torch.log1p(found.usage)


@torch.inference_mode()
def test_a_bank_reads_the_same_in_parts_and_without_what_is_not_valid(network: AfbUrr) -> None:
    features = network.encode(torch.rand(1, 3, 32, 48))
    entries = Entries.of_frame(torch.randn(128, 9) / 4, torch.randn(1, 512, 9), frame=0)
    front, middle, rest = (entries.select(torch.arange(a, b)) for a, b in ((0, 2), (2, 5), (5, 9)))
    values, use = read(FeatureBank(older=entries), features)
    apart, apart_use = read(FeatureBank(seeds=front, older=middle, recent=(rest,)), features)
    assert torch.allclose(values, apart, atol=1e-5) and torch.equal(use, apart_use)
    weights = (entries.keys.T @ features.key / 128**0.5).softmax(dim=0)
    assert torch.allclose(values, entries.values[0] @ weights, atol=1e-4)

    hidden = replace(middle, valid=torch.zeros(1, 3, dtype=torch.bool))
    masked, masked_use = read(FeatureBank(seeds=front, older=hidden, recent=(rest,)), features)
    without, without_use = read(FeatureBank(seeds=front, recent=(rest,)), features)
    assert torch.allclose(masked, without, atol=1e-5)
    assert masked_use.tolist() == [*without_use[:2], 0, 0, 0, *without_use[2:]]
    for nothing in (FeatureBank(), FeatureBank(older=hidden)):
        with pytest.raises(ValueError, match="no entry to read"):
            read(nothing, features)


def test_wrong_inputs_are_refused(network: AfbUrr) -> None:
    with torch.inference_mode():
        features = network.encode(torch.rand(1, 3, 16, 20))
        with pytest.raises(ValueError, match=r"shape \(1, 3, H, W\), not \(3, 16, 20\)"):
            network.encode(torch.rand(3, 16, 20))
        with pytest.raises(ValueError, match=r"shape \(K, 16, 20\), not \(2, 16, 32\)"):
            network.memorize(features, torch.rand(2, 16, 32))
        with pytest.raises(ValueError, match="at least one more"):
            network.segment(features, [bank_of(torch.randn(128, 2), torch.randn(1, 512, 2))])


# Files. A small network will do: `fit_weights` knows nothing of architectures.


def small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


@pytest.mark.parametrize("kind", ["released", "numpy", "old", "bare", "safetensors"])
def test_weights_come_in_several_formats(tmp_path: Path, kind: str) -> None:
    theirs, ours = small(), small()
    state = theirs.state_dict()
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    released = {"model": state, "epoch": 99, "loss": 0.25, "seed": -1}
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "numpy":
        torch.save(released | {"loss": np.float64(0.25), "seed": np.int64(1)}, path)
    elif kind == "old":  # what PyTorch wrote before 1.6
        torch.save(released, path, _use_new_zipfile_serialization=False)
    else:
        torch.save(released if kind == "released" else state, path)
    assert fingerprint(ours) != fingerprint(theirs)
    fit_weights(ours, load_state_dict(path), path.name)
    assert fingerprint(ours) == fingerprint(theirs)


class Malicious:
    """Runs a command when unpickled by a reader that trusts its file."""

    def __init__(self, marker: Path):
        self.command = f"touch '{marker}'"

    def __reduce__(self) -> tuple:
        return os.system, (self.command,)


@pytest.mark.parametrize("raw", [False, True])
def test_a_file_with_code_is_refused_and_not_run(tmp_path: Path, raw: bool) -> None:
    path, marker = tmp_path / "w.pth", tmp_path / "was here"
    if raw:
        path.write_bytes(pickle.dumps({"model": Malicious(marker)}, protocol=2))
    else:
        torch.save({"model": small().state_dict(), "loss": Malicious(marker)}, path)
    with pytest.raises(WeightsError, match=r"holds more than tensors and numbers \(\w+\.system\)"):
        load_state_dict(path)
    assert not marker.exists()
    if raw:  # the file is what this test takes it for
        pickle.loads(path.read_bytes())
        assert marker.exists()


def test_unusable_files_are_told_apart(tmp_path: Path) -> None:
    def refused(name: str, content: bytes | None) -> str:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(WeightsError) as error:
            load_state_dict(path)
        return str(error.value).replace(f" {path}", "")

    torch.save(small().state_dict(), tmp_path / "good.pth")
    good = (tmp_path / "good.pth").read_bytes()
    torch.save({"model": {"epoch": 3}}, tmp_path / "numbers.pt")
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    damaged = "The weights file is damaged or not a PyTorch checkpoint."
    no_state = "The weights file holds no state dict, neither bare nor under 'model'."
    assert refused("none.pth", None) == "There is no weights file."
    assert refused("w.onnx", good) == "The weights file must end in .pth, .pt or .safetensors."
    assert refused("cut.pth", good[: len(good) // 2]) == damaged
    assert refused("empty.pth", b"") == damaged
    assert refused("page.pth", b"<html>404</html>") == "The weights file is not a PyTorch checkpoint."
    assert refused("numbers.pt", None) == no_state
    assert refused("list.pt", None) == no_state
    assert refused("w.safetensors", good) == "The weights file is damaged or not a safetensors file."


def test_weights_of_another_network_are_told_apart() -> None:
    network = small()
    before, state = fingerprint(network), small().state_dict()

    def refused(changed: dict[str, Tensor]) -> str:
        with pytest.raises(WeightsError) as error:
            fit_weights(network, changed, "w.pth")
        return str(error.value)

    misfit = "The weights w.pth are not for Sequential: "
    wide = torch.zeros(2, 3, 3, 3)
    bad = state["1.bias"].clone()
    bad[1] = torch.nan
    assert refused(state | {"0.weight": wide}) == (misfit + "0.weight has shape (2, 3, 3, 3) instead of (2, 1, 3, 3).")
    assert refused({k: v for k, v in state.items() if k != "0.bias"}) == (
        misfit + "1 of its 7 tensors are missing (0.bias)."
    )
    assert refused(state | {"2.bias": bad}) == misfit + "1 tensors are not its own (2.bias)."
    assert refused({f"net.{k}": v for k, v in state.items()}) == (
        misfit + "7 of its 7 tensors are missing (0.weight, 0.bias, 1.weight, …) "
        "and 7 tensors are not its own (net.0.weight, net.0.bias, net.1.weight, …)."
    )
    assert refused(state | {"1.bias": bad}) == ("The weights w.pth are damaged: 1.bias has values that are not finite.")
    assert fingerprint(network) == before


def test_a_fingerprint_tells_networks_apart() -> None:
    network = small()
    before = fingerprint(network)
    assert len(before) == 12 and int(before, 16) >= 0
    with torch.no_grad():
        network[1].running_mean[0] += 1e-6
    assert fingerprint(network) != before
    fixed = nn.Linear(2, 1)
    fixed.load_state_dict({"weight": torch.tensor([[1.0, 2.0]]), "bias": torch.tensor([3.0])})
    assert fingerprint(fixed) == "4297e6beae3e"  # for ever: stored banks are told apart by it
    assert fingerprint(fixed.half()) != "4297e6beae3e"


@torch.inference_mode()
def test_folded_batch_norms_change_nothing(network: AfbUrr) -> None:
    image, masks = torch.rand(1, 3, 70, 90), torch.rand(2, 70, 90).softmax(0)
    outputs = []
    for each in (network, fold_batch_norm(copy.deepcopy(network))):
        features = each.encode(image)
        memorized = each.memorize(features, masks)
        logits, _ = each.segment(features, [bank_of(keys, values) for keys, values in memorized])
        norms = sum(isinstance(module, nn.BatchNorm2d) for module in each.modules())
        outputs.append([features.key, features.r1, *memorized[0], *memorized[1], logits])
    assert norms == 1  # behind the sum of the memory encoder's first convolutions
    for before, after in zip(*outputs, strict=True):
        assert torch.allclose(before, after, rtol=1e-3, atol=1e-3 * float(before.abs().max()))
