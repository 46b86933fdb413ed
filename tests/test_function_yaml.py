"""The two configurations of the function are one but for the GPU; a setting's default is the same wherever it stands.

What CVAT, Nuclio and deploy.sh need of the two files is in test_deploy.py.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from maskbank.networks.models import MODELS
from maskbank.settings import Settings, read_settings

ROOT = Path(__file__).resolve().parent.parent
CONFIGURATIONS = ("function.yaml", "function-gpu.yaml")
ABSENT = "(absent)"

# Settings whose field in `Settings` has another name.
FIELDS = {"SIZE": "short_side"}
# Where the environment decides: what stands in the configurations and in docs/admins.md.
CHOSEN_AT_THE_START = {"DEVICE": ("auto", "auto"), "STORE": ("", "CVAT's Redis, else a folder")}


def content(configuration: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / configuration).read_text())


# ---- the two variants ----


def differences(cpu: Any, gpu: Any, place: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """The places at which two documents differ, with what stands there in each."""
    if isinstance(cpu, dict) and isinstance(gpu, dict):
        for key in cpu | gpu:
            yield from differences(cpu.get(key, ABSENT), gpu.get(key, ABSENT), f"{place}/{key}")
    elif isinstance(cpu, list) and isinstance(gpu, list) and len(cpu) == len(gpu):
        for index, pair in enumerate(zip(cpu, gpu, strict=True)):
            yield from differences(*pair, f"{place}/{index}")
    elif cpu != gpu:
        yield place, (cpu, gpu)


def test_the_variants_differ_in_nothing_but_the_gpu():
    cpu, gpu = map(content, CONFIGURATIONS)
    install = (
        "pip install --no-cache-dir --root-user-action=ignore"
        ' --index-url https://download.pytorch.org/whl/{} "$(grep ^torch== /opt/nuclio/requirements.txt)"'
    )
    driver = [
        {"kind": "ENV", "value": "NVIDIA_VISIBLE_DEVICES=all"},
        {"kind": "ENV", "value": "NVIDIA_DRIVER_CAPABILITIES=compute,utility"},
    ]
    own = gpu["spec"]["build"]["directives"]["preCopy"]
    assert own[:2] == driver
    gpu["spec"]["build"]["directives"]["preCopy"] = own[2:]
    device = gpu["spec"]["env"].pop()
    assert device == {"name": "MASKBANK_DEVICE", "value": "cuda"}, "or it would compute on a CPU without a word"
    assert dict(differences(cpu, gpu)) == {
        "/spec/build/image": ("cvat.maskbank:latest", "cvat.maskbank:latest-gpu"),
        "/spec/build/directives/postCopy/1/value": (install.format("cpu"), install.format("cu129")),
        "/spec/resources/requests/memory": ("2048Mi", "4096Mi"),
        "/spec/resources/limits/memory": ("8192Mi", "12288Mi"),
        "/spec/resources/limits/nvidia.com/gpu": (ABSENT, 1),
    }


# ---- the settings and their defaults ----


def known_settings() -> set[str]:
    """Every variable that maskbank/settings.py names."""
    return set(re.findall(r"\bMASKBANK_[A-Z_]*[A-Z]\b", (ROOT / "maskbank/settings.py").read_text()))


def in_configuration(configuration: str) -> dict[str, str]:
    """The settings in the comments of a configuration, with the default beside each."""
    lines = re.findall(r"^ +# - (\{name: MASKBANK_.*?\})", (ROOT / configuration).read_text(), re.MULTILINE)
    entries = [yaml.safe_load(line) for line in lines]
    assert len({entry["name"] for entry in entries}) == len(entries)
    return {entry["name"]: entry["value"] for entry in entries}


def in_table() -> dict[str, str]:
    """The table in docs/admins.md: the default of each variable, without the marks of code."""
    rows = re.findall(
        r"^\| `(MASKBANK_[A-Z_]+)` \| (.*?) \|", (ROOT / "docs/admins.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(dict(rows)) == len(rows)
    return {name: default.strip("`") for name, default in rows}


def default_of(name: str) -> object:
    """What `Settings` says of a variable."""
    short = name.removeprefix("MASKBANK_")
    return getattr(Settings(), FIELDS.get(short, short.lower()))


def written(default: object) -> str:
    """A default as one writes it into the environment."""
    if default is None:
        return ""
    return str(int(default)) if isinstance(default, float) and default.is_integer() else str(default)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_a_configuration_names_every_setting_with_its_default(configuration):
    named = in_configuration(configuration)
    assert set(named) == known_settings()
    for name, value in named.items():
        chosen = CHOSEN_AT_THE_START.get(name.removeprefix("MASKBANK_"))
        assert value == (chosen[0] if chosen else written(default_of(name))), name
    assert read_settings(named) == read_settings({})
    own = {v["name"]: v["value"] for v in content(configuration)["spec"]["env"] if v["name"].startswith("MASKBANK_")}
    assert own == ({"MASKBANK_DEVICE": "cuda"} if configuration == "function-gpu.yaml" else {})


def test_the_table_names_every_setting_with_its_default():
    lite = MODELS[Settings.model]
    of_the_model = {
        "WEIGHTS": "bundled",
        "INTERACTOR_WEIGHTS": "bundled",
        "SIZE": str(lite.short_side),
        "BUDGET": str(lite.policy(None, 2).budget),
    }
    without_default = of_the_model | {"TOKEN": "none"}
    table = in_table()
    assert set(table) == known_settings()
    for name, value in table.items():
        short = name.removeprefix("MASKBANK_")
        if short in CHOSEN_AT_THE_START:
            assert value == CHOSEN_AT_THE_START[short][1], name
        elif default_of(name) is None:
            assert value == without_default[short], name
        else:
            assert value == written(default_of(name)), name
