"""The long run that simulates annotators: its law, and a short run of it against the real server and Redis."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
from annotators import predicted, workers_needed  # noqa: E402


def test_one_annotator_never_waits() -> None:
    utilisation, waiting = predicted(1, 1, service_s=1.0, idle_s=3.0)
    assert utilisation == pytest.approx(0.25) and waiting == pytest.approx(0)


def test_nobody_waits_where_each_has_a_worker() -> None:
    utilisation, waiting = predicted(4, 4, service_s=1.0, idle_s=3.0)
    assert utilisation == pytest.approx(0.25) and waiting == pytest.approx(0)


def test_two_at_one_worker() -> None:
    """With equal times, nobody is there in 1 of 5 moments, one in 2, both in 2; so 0.8 requests are done per second."""
    utilisation, waiting = predicted(2, 1, service_s=1.0, idle_s=1.0)
    assert utilisation == pytest.approx(0.8) and waiting == pytest.approx(2 / 0.8 - 2)


def test_far_too_many_wait_for_all_others() -> None:
    utilisation, waiting = predicted(500, 2, service_s=1.0, idle_s=10.0)
    assert utilisation == pytest.approx(1) and waiting == pytest.approx(500 / 2 - 11)


def test_workers_that_are_needed() -> None:
    assert workers_needed(100, rate=0.2, service_s=0.35, target=0.7) == pytest.approx(10)


def test_a_short_run(tmp_path: Path) -> None:
    command = [sys.executable, "tools/endure.py", "annotators", "--annotators", "3", "--workers", "1"]
    command += ["--size", "64", "--minutes", "0.1", "--think", "0.5", "--json", str(tmp_path / "rows.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    alone, together = json.loads((tmp_path / "rows.json").read_text())
    assert (alone["annotators"], together["annotators"]) == (1, 3)
    for row in (alone, together):
        assert row["requests"] > 0 and row["frames"] >= row["requests"] and row["failures"] == 0
        assert 0 < row["busy_share"] <= 1 and row["cpu_s"] > 0 and row["waiting"]["start"][0] > 0
    assert "| 3 | 1 | " in done.stdout and "Workers needed = annotators x" in done.stdout
