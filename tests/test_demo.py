"""`make demo`'s program, as a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools.coco import COCO
from support import CLIP

from maskbank.files.frames import open_frames
from maskbank.files.masks import read_id_mask

ROOT = Path(__file__).parents[1]


def demo(out: Path, **settings: str) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "tools" / "demo.py", "--out", out]
    return subprocess.run(
        command, env=os.environ | settings, cwd=out.parent, capture_output=True, text=True, timeout=300
    )


def test_demo_leaves_everything_it_promises(tmp_path):
    out = tmp_path / "demo_out"
    done = demo(out, MASKBANK_SIZE="128")
    assert done.returncode == 0, done.stderr
    assert "60/60" in done.stderr and "Traceback" not in done.stderr  # the progress bar
    names = {
        "masks",
        "annotations.json",
        "overlay.webm",
        "contact_sheet.png",
        "report.md",
        "review.jsonl",
        "review.html",
    }
    assert {path.name for path in out.iterdir()} == names

    masks = sorted((out / "masks").iterdir())
    assert [path.name for path in masks] == [f"{i:05d}.png" for i in range(60)]
    ids = [read_id_mask(path) for path in masks]
    assert all(mask.shape == (360, 640) and mask.max() <= 3 for mask in ids)
    np.testing.assert_array_equal(ids[0], read_id_mask(CLIP / "masks" / "00000.png"))
    assert (ids[1] != ids[0]).any()

    labels = list(json.loads((CLIP / "labels.json").read_text()).values())
    coco = COCO(str(out / "annotations.json"))
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == labels
    assert len(coco.getImgIds()) == 60
    assert len(coco.getAnnIds()) == sum(len(np.unique(mask)) - 1 for mask in ids)

    assert len(list(open_frames(out / "overlay.webm"))) == 60
    with Image.open(out / "contact_sheet.png") as sheet:
        sheet.load()
        assert sheet.mode == "RGB" and sheet.width > 3 * 640 and sheet.height > 4 * 360

    report = (out / "report.md").read_text()
    assert report in done.stdout
    assert f"Look at {out / 'review.html'} in a browser" in done.stdout
    rows = [line.split(" | ") for line in report.splitlines() if line.startswith("|")][2:]
    assert [row[0].removeprefix("| ") for row in rows] == labels
    assert all(0 <= float(row[1]) <= 1 and 0 <= float(row[2]) <= 1 for row in rows)
    assert "60 frames of 640 x 360, 3 objects:" in report and "s per frame" in report


def test_demo_with_a_wrong_setting_gives_one_sentence(tmp_path):
    done = demo(tmp_path / "out", MASKBANK_SIZE="huge")
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("demo: MASKBANK_SIZE is 'huge', but must be a whole number")
