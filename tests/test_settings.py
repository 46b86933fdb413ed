"""Settings: every variable, and a sentence about every value that cannot be."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support import one_sentence

from maskbank import cli
from maskbank.function.local import start_worker
from maskbank.networks.weights import WeightsError
from maskbank.settings import NAMES, Settings, SettingsError, read_settings, refuse_unknown
from maskbank.tracking.loading import load_tracker
from model_handler import ModelHandler


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"no weights")
    return path


def test_everything_has_a_default() -> None:
    settings = read_settings({"XDG_STATE_HOME": "/state", "MASKBANK_DEVICE": "cpu"})
    assert settings == Settings(store="file:///state/maskbank")
    assert (settings.model, settings.weights) == ("lite", None)
    assert (settings.ttl_hours, settings.cache_mb) == (8, 2048)
    assert settings.max_pixels >= 7680 * 4320 and settings.max_objects == 50


def test_what_is_no_setting_is_refused(monkeypatch, capsys) -> None:
    """A misspelt token would protect nothing."""
    refuse_unknown({name: "x" for name in NAMES} | {"PATH": "/bin"})
    monkeypatch.setattr(os, "environ", os.environ | {"MASKBANK_TOKN": "secret"})
    assert cli.main(["serve", "--port", "0"]) == 1
    assert capsys.readouterr().err == "maskbank: There is no setting MASKBANK_TOKN.\n"
    for name in NAMES:
        bad = {"MASKBANK_DEVICE": "cpu", name: "no such thing \x00"}
        with pytest.raises(SettingsError, match=name):
            read_settings(bad)


def test_empty_counts_as_unset() -> None:
    names = ["MODEL", "WEIGHTS", "SIZE", "STORE", "BUDGET", "TTL_HOURS", "CACHE_MB", "MAX_PIXELS"]
    names += ["MAX_OBJECTS", "ADAPT_SECONDS", "TOKEN"]
    assert read_settings({f"MASKBANK_{name}": " " for name in names} | {"MASKBANK_DEVICE": "cpu"}) == read_settings(
        {"MASKBANK_DEVICE": "cpu"}
    )


@pytest.mark.parametrize(
    ("name", "value", "attribute", "expected"),
    [
        ("MODEL", "afb-urr", "model", "afb-urr"),
        ("MODEL", "afb-urr-paper", "model", "afb-urr-paper"),
        ("DEVICE", "cpu", "device", "cpu"),
        ("SIZE", " 240 ", "short_side", 240),
        ("STORE", "memory://", "store", "memory://"),
        ("BUDGET", "10000", "budget", 10_000),
        ("TTL_HOURS", "0.5", "ttl_hours", 0.5),
        ("CACHE_MB", "64", "cache_mb", 64),
        ("MAX_PIXELS", "1000000", "max_pixels", 1_000_000),
        ("MAX_OBJECTS", "1", "max_objects", 1),
        ("ADAPT_SECONDS", "0", "adapt_seconds", 0.0),
        ("TOKEN", "s3cret", "token", "s3cret"),
    ],
)
def test_variables(name: str, value: str, attribute: str, expected: object) -> None:
    settings = read_settings({"MASKBANK_DEVICE": "cpu", f"MASKBANK_{name}": value})
    assert getattr(settings, attribute) == expected
    assert type(getattr(settings, attribute)) is type(expected)


def test_weights_and_device(file: Path) -> None:
    assert read_settings({"MASKBANK_WEIGHTS": str(file)}).weights == file
    for unset in ({}, {"MASKBANK_DEVICE": "auto"}):
        assert read_settings(unset).device == ("cuda" if torch.cuda.is_available() else "cpu")


DEVICES = "auto, cpu, cuda or cuda:N."


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("MODEL", "heavy", "one of lite, afb-urr, afb-urr-paper."),
        ("MODEL", "LITE", "one of lite, afb-urr, afb-urr-paper."),
        ("DEVICE", "gpu", DEVICES),
        ("DEVICE", "cpu:0", DEVICES),
        ("DEVICE", "cpu:", DEVICES),
        ("DEVICE", "cuda:", DEVICES),
        ("DEVICE", "cuda:x", DEVICES),
        ("DEVICE", "cuda:²", DEVICES),
        ("DEVICE", "cuda:-1", DEVICES),
        ("SIZE", "63", "a whole number from 64 to 2160."),
        ("SIZE", "2161", "a whole number from 64 to 2160."),
        ("SIZE", "480p", "a whole number from 64 to 2160."),
        ("SIZE", "480.5", "a whole number from 64 to 2160."),
        ("BUDGET", "999", "a whole number from 1000 to 10000000."),
        ("BUDGET", "1e5", "a whole number from 1000 to 10000000."),
        ("TTL_HOURS", "0", "a number from 0.01 to 10000."),
        ("TTL_HOURS", "nan", "a number from 0.01 to 10000."),
        ("TTL_HOURS", "inf", "a number from 0.01 to 10000."),
        ("TTL_HOURS", "12h", "a number from 0.01 to 10000."),
        ("CACHE_MB", "63", "a whole number from 64 to 1000000."),
        ("CACHE_MB", "2GB", "a whole number from 64 to 1000000."),
        ("MAX_PIXELS", "0", "a whole number from 10000 to 170000000."),
        ("MAX_OBJECTS", "0", "a whole number from 1 to 1000."),
        ("MAX_OBJECTS", "-5", "a whole number from 1 to 1000."),
    ],
)
def test_wrong_values(name: str, value: str, allowed: str) -> None:
    with pytest.raises(SettingsError) as error:
        read_settings({f"MASKBANK_{name}": value})
    assert str(error.value) == f"MASKBANK_{name} is {value!r}, but must be {allowed}"
    assert one_sentence(str(error.value))


def test_a_weights_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(SettingsError) as error:
            read_settings({"MASKBANK_WEIGHTS": str(path)})
        assert str(error.value) == f"MASKBANK_WEIGHTS is {str(path)!r}, but there is no such file."


def test_a_gpu_on_which_pytorch_cannot_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a Volta with a build for newer cards: there is none here, so PyTorch's part is played."""

    def ones(*_: object, device: str) -> None:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nCompile with …")

    monkeypatch.setattr(torch.version, "cuda", "12.9")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", ones)
    for name in ("cuda", "auto"):
        with pytest.raises(SettingsError) as error:
            read_settings({"MASKBANK_DEVICE": name})
        assert str(error.value) == (
            f"MASKBANK_DEVICE is 'cuda', but PyTorch {torch.__version__} cannot compute there: "
            "CUDA error: no kernel image is available for execution on the device."
        )


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(SettingsError) as error:
        read_settings({"MASKBANK_DEVICE": "cuda:99"})
    reason = (
        f"PyTorch {torch.__version__} is built for CPUs only."
        if torch.version.cuda is None
        else f"PyTorch sees {torch.cuda.device_count()} CUDA devices here: check the driver, and that Docker or "
        "Kubernetes gives a GPU to this container."
    )
    assert str(error.value) == f"MASKBANK_DEVICE is 'cuda:99', but {reason}"


def test_a_bank_holds_at_least_one_outlined_frame() -> None:
    """Or not a single track could be started."""

    def refused(**values: int) -> str:
        with pytest.raises(SettingsError) as error:
            read_settings({f"MASKBANK_{name}": str(value) for name, value in values.items()})
        assert one_sentence(str(error.value))
        return str(error.value)

    assert refused(SIZE=2160) == "MASKBANK_SIZE is 2160, but must be smaller unless MASKBANK_BUDGET is at least 72900."
    sentence = refused(BUDGET=3599)  # 30 x 120 features of 1920 x 480 pixels
    assert sentence.startswith("MASKBANK_BUDGET is 3599, but must be at least 3600 ")
    assert refused(BUDGET=1000, SIZE=300).startswith("MASKBANK_BUDGET is 1000, but must be at least 1425 ")
    for good in ({"SIZE": 1080}, {"BUDGET": 3600}, {"BUDGET": 1000, "SIZE": 240}, {"SIZE": 2160, "BUDGET": 72_900}):
        read_settings({f"MASKBANK_{name}": str(value) for name, value in good.items()})
    read_settings({"MASKBANK_MODEL": "afb-urr-paper", "MASKBANK_SIZE": "2160"})  # the paper's budget is no limit


def test_settings_reach_what_they_are_for(tmp_path: Path) -> None:
    handler = ModelHandler(
        {
            "MASKBANK_DEVICE": "cpu",
            "MASKBANK_SIZE": "96",
            "MASKBANK_BUDGET": "5000",
            "MASKBANK_TTL_HOURS": "2",
            "MASKBANK_CACHE_MB": "100",
            "MASKBANK_STORE": f"file://{tmp_path}",
            "MASKBANK_MAX_PIXELS": "123456",
            "MASKBANK_MAX_OBJECTS": "7",
            "MASKBANK_ADAPT_SECONDS": "1.5",
        }
    )
    service = handler.service
    assert (service.max_pixels, service.max_objects) == (123456, 7)
    assert (service.store.cache.ttl_s, service.store.cache.max_bytes) == (7200, 100 << 20)
    assert (service.store.backend.ttl_s, service.store.backend.root) == (7200, tmp_path)
    assert (service.tracker.short_side, service.tracker.budget) == (96, 5000)
    assert service.tracker.device == torch.device("cpu")
    assert service.tracker.tune.seconds == 1.5
    assert {"model": "lite", "device": "cpu", "short_side": 96, "store": f"file://{tmp_path}"}.items() <= (
        handler.description.items()
    )
    assert len(handler.description["weights"]) == 12


# A worker that cannot work does not start.


def start(monkeypatch: pytest.MonkeyPatch, **settings: object) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(f"MASKBANK_{name}", str(value))
    start_worker()


def test_a_wrong_setting_stops_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"^MASKBANK_SIZE is 'tiny', but must be a whole number from 64 to 2160\.$"):
        start(monkeypatch, SIZE="tiny")


def test_wrong_weights_stop_the_worker(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    with pytest.raises(WeightsError) as error:
        start(monkeypatch, WEIGHTS=file)
    assert str(file) in str(error.value) and str(error.value).count(".") == str(file).count(".") + 1
    other = file.with_name("other.safetensors")
    save_file({"weight": torch.zeros(3)}, other)
    with pytest.raises(WeightsError, match=r"^The weights .* are not for Lite: .*\.$"):
        start(monkeypatch, WEIGHTS=other)


def test_the_paper_s_network_brings_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match=r"^The model afb-urr brings no weights: set MASKBANK_WEIGHTS to a "):
        start(monkeypatch, MODEL="afb-urr")
    with pytest.raises(WeightsError):
        load_tracker(Settings(model="afb-urr-paper"))


def test_a_token_is_shown_nowhere() -> None:
    assert "s3cret" not in repr(read_settings({"MASKBANK_DEVICE": "cpu", "MASKBANK_TOKEN": "s3cret"}))
    for token in ("two words s3cret", "s3cret\u00e9", "s3cret\n-e x"):
        with pytest.raises(SettingsError) as refused:
            read_settings({"MASKBANK_DEVICE": "cpu", "MASKBANK_TOKEN": token})
        assert "s3cret" not in str(refused.value)
