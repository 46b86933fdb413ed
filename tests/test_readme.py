"""The README's Python example runs, on the first frames of the clip."""

import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_python_example_writes_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    for kind in ("frames", "masks"):
        folder = tmp_path / "samples" / "clip" / kind
        folder.mkdir(parents=True)
        for path in sorted((ROOT / "samples" / "clip" / kind).iterdir())[:5]:
            shutil.copy(path, folder)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert len(list((tmp_path / "results" / "masks").glob("*.png"))) == 5
