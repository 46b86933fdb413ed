"""`make bench`'s program, for a moment."""

import json
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

BENCH = Path(__file__).parents[1] / "tools" / "bench.py"


@pytest.fixture(autouse=True)
def tools_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(BENCH.parent)


def test_one_configuration_is_measured_and_reported():
    command = [sys.executable, BENCH, "--measure", "lite", "4", "854x480", "redis", "6", "2"]
    done = subprocess.run(
        command, env=os.environ | {"MASKBANK_SIZE": "64"}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    stages = [result[name] for name in ("decode", "encode", "read-out", "decoder", "refinement", "aggregate", "shapes")]
    assert all(0 < stage < result["p90"] for stage in stages) and result["value"] == 0  # frames 7 and 8
    assert sum(stages) + result["rest"] >= result["median"] * 0.5
    assert set(result["gflop"]) == {"encode", "read-out", "decoder", "refinement", "value"}  # frames 9 to 14
    assert 0.001 < result["gflop"]["read-out"] < result["gflop"]["encode"] < 1
    assert result["entries"] == [3 * 4 * 8]  # the seed, frames 3 and 6; 114 x 64 pixels make 8 x 4 entries
    assert 100 < result["peak_mib"] < 4000
    assert 100 < result["state_bytes"] <= 300
    assert 0 < result["store"] < result["p90"] and 0.5 < result["written_kib"] < 100

    bench = runpy.run_path(str(BENCH))
    report = bench["report"]([result], 0.5)
    [row] = [line for line in report.splitlines() if line.startswith("| lite | 4 | 854 x 480 | redis |")]
    assert f"| {result['state_bytes']} |" in row
    assert "worked on at 114 x 64" in report and str(BENCH.parents[1]) not in report
    result |= {"encode": 20.0, "gflop": {"encode": 1.0}}
    split = bench["stages_report"]([result], {"convolution": 100e9, "matrices": 50e9})
    assert "| encode | 20.0 (1 GFLOP, 50 %) |" in split and f"| shapes | {result['shapes']:.1f} |" in split


def test_a_stage_counts_for_itself_only():
    from stages import StageTimer

    timer = StageTimer()
    parts = SimpleNamespace(inner=lambda: time.sleep(0.05), outer=lambda: (time.sleep(0.02), parts.inner()))
    timer.wrap(parts, "inner", "in")
    timer.wrap(parts, "outer", "out")
    parts.outer()
    parts.inner()
    assert timer.seconds["in"] >= 0.1 and 0.02 <= timer.seconds["out"] < 0.05


def test_a_long_run_and_annotators_over_http(monkeypatch):
    bench = runpy.run_path(str(BENCH))
    monkeypatch.setenv("MASKBANK_SIZE", "64")
    rows = bench["growth"](100)["rows"]
    assert [row["frame"] for row in rows] == [75, 123] and all(row["mean"] > 0 for row in rows)
    assert "| 75 |" in bench["growth_report"]({"rows": rows})
    found = bench["http"](2)
    assert found["clients"] == 2 and 0 < found["median"] <= found["p95"]
    assert found["per_second"] * found["median"] / 1000 < 2.5  # one worker, two who wait
    assert "| 2 |" in bench["http_report"]([found])


def test_ten_outlines_are_disjoint():
    masks = runpy.run_path(str(BENCH))["outlines"](10)
    assert len(masks) == 10 and all(mask.shape == (480, 854) and mask.sum() > 500 for mask in masks)
    assert np.sum(masks, axis=0).max() == 1
