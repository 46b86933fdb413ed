"""`make bench`'s program, for a moment."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np

BENCH = Path(__file__).parents[1] / "tools" / "bench.py"


def test_one_configuration_is_measured_and_reported():
    command = [sys.executable, BENCH, "--measure", "lite", "4", "redis", "6", "2"]
    done = subprocess.run(
        command, env=os.environ | {"MASKBANK_SIZE": "64"}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    stages = [result[name] for name in ("decode", "encode", "segment")]
    assert all(0 < stage < result["p90"] for stage in stages) and result["memorize"] == 0  # frames 7 and 8
    assert sum(stages) + result["rest"] >= result["median"] * 0.5
    assert result["entries"] == [3 * 4 * 8]  # the seed, frames 3 and 6; 114 x 64 pixels make 8 x 4 entries
    assert 100 < result["peak_mib"] < 4000
    assert 100 < result["state_bytes"] <= 300
    assert 0 < result["store"] < result["p90"] and 0.5 < result["written_kib"] < 100

    report = runpy.run_path(str(BENCH))["report"]([result], 0.5)
    [row] = [line for line in report.splitlines() if line.startswith("| lite | 4 | redis |")]
    assert f"| {result['state_bytes']} |" in row
    assert "worked on at 114 x 64" in report and str(BENCH.parents[1]) not in report


def test_ten_outlines_are_disjoint():
    masks = runpy.run_path(str(BENCH))["outlines"](10)
    assert len(masks) == 10 and all(mask.shape == (480, 854) and mask.sum() > 500 for mask in masks)
    assert np.sum(masks, axis=0).max() == 1
