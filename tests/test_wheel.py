"""MaskBank installed from a wheel, as `pip install .` does it, away from the repository."""

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from support import CLIP, GOLDEN_KOI, RED_KOI, TURTLE

from maskbank import __version__
from maskbank.files.masks import read_id_mask
from maskbank.networks.models import BUNDLED_INTERACTORS, BUNDLED_WEIGHTS

ROOT = Path(__file__).resolve().parent.parent
FRAMES = 6

Run = Callable[..., str]


def succeed(command: list[str], folder: Path, **settings: str) -> str:
    """What a command prints that runs in a folder."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | settings
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    succeed([sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", str(folder), str(ROOT)], folder)
    [wheel] = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a program of an environment that has the wheel, in an empty folder: installed("python", "-c", ...).

    The libraries are those of the Python that runs the tests. A .pth file adds their folder as it is, without
    reading the .pth files in there, one of which makes the repository importable.
    """
    environment = tmp_path_factory.mktemp("environment")
    succeed([sys.executable, "-m", "venv", "--without-pip", str(environment)], environment)
    python = str(environment / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--python", python]
    succeed([*pip, "install", "--no-deps", "--no-index", str(wheel)], environment)
    [packages] = environment.glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    empty = tmp_path_factory.mktemp("empty")

    def run(program: str, *arguments: str, **settings: str) -> str:
        return succeed([str(environment / "bin" / program), *arguments], empty, **settings)

    imported = run("python", "-c", "import maskbank; print(maskbank.__file__)")
    assert Path(imported.strip()) == packages / "maskbank" / "__init__.py"
    return run


def test_the_wheel_holds_the_package_and_what_it_reads(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "maskbank").rglob("*.py")}
    weights = {"manifest.yaml", "MODEL_CARD.md", "LICENSE"} | {
        path.name for path in (*BUNDLED_WEIGHTS.values(), *BUNDLED_INTERACTORS.values())
    }
    configurations = {"function.yaml", "function-gpu.yaml", "interactor.yaml"}
    pages = {f"maskbank/review/{name}" for name in ("page.html", "page.css", "page.js", "search.html", "search.css")}
    assert names == modules | pages | {f"maskbank/weights/{name}" for name in weights} | {
        f"maskbank/{name}" for name in configurations
    }
    assert wheel.name == f"maskbank-{__version__}-py3-none-any.whl"


def test_the_wheel_says_that_the_weights_have_a_licence_of_their_own(wheel):
    with zipfile.ZipFile(wheel) as archive:
        [metadata] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        lines = archive.read(metadata).decode().splitlines()
    assert "License-Expression: MIT AND LicenseRef-MaskBank-Weights" in lines
    assert {"License-File: LICENSE", "License-File: weights/LICENSE"} <= set(lines)


def test_tracking(installed, tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    for index in range(FRAMES):
        name = f"{index:05d}.jpg"
        (frames / name).symlink_to(CLIP / "frames" / name)
    out = tmp_path / "out"
    seed = f"0={CLIP / 'masks' / '00000.png'}"
    installed(
        *["maskbank", "track", str(frames), "--seed", seed, "--out", str(out), "--video", "mp4"],
        MASKBANK_SIZE="64",
        MASKBANK_ADAPT_SECONDS="0",
    )
    masks = sorted((out / "masks").iterdir())
    assert [mask.name for mask in masks] == [f"{index:05d}.png" for index in range(FRAMES)]
    assert set(read_id_mask(masks[0]).flat) == {0, RED_KOI, GOLDEN_KOI, TURTLE}
    assert all(read_id_mask(mask).any() for mask in masks)


def test_weights(installed):
    lines = installed("maskbank", "weights", "list").splitlines()
    here = {line.split()[0] for line in lines if not line.split(maxsplit=1)[1].startswith("not here")}
    assert here == {*BUNDLED_WEIGHTS, *BUNDLED_INTERACTORS}


def test_the_functions_specification(installed):
    read = "import json, maskbank.function.spec as spec; print(json.dumps(spec.read_function_spec().metadata))"
    metadata = json.loads(installed("python", "-c", read))
    assert metadata == yaml.safe_load((ROOT / "function.yaml").read_text())["metadata"]
