"""What a worker says of itself: /, /healthz, /metrics and its log."""

import json
import re
import shutil
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support import RED_KOI, TURTLE, Function, mask_shape, request, true_mask

from maskbank.function.local import invoke, local_function


def get(function: Function, path: str) -> tuple[int, str, str]:
    status, content_type, body = invoke(function.handler, function.context, b"", "", path, "GET")
    return status, content_type, body.decode()


def metrics(function: Function) -> dict[str, float]:
    """Samples by name and labels."""
    status, content_type, text = get(function, "/metrics")
    assert (status, content_type.split(";")[0]) == (200, "text/plain")
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return {" ".join([sample.name, *sample.labels.values()]): sample.value for sample in samples}


@pytest.fixture
def worker(start: Callable[..., Function], tmp_path: Path) -> Function:
    return start(MASKBANK_SIZE=64, MASKBANK_STORE=f"file://{tmp_path}")


def test_a_new_worker_is_well_and_has_done_nothing(worker: Function) -> None:
    for path in ("/", "/healthz", ""):
        status, content_type, text = get(worker, path)
        assert (status, content_type) == (200, "application/json")
    report = json.loads(text)
    assert report["status"] == "ok" and report["model"] == "lite" and report["device"] == "cpu"
    assert re.fullmatch(r"[0-9a-f]{12}", report["weights"]) and report["store"].startswith("file:///")
    assert (report["frames"], report["p50_ms"], report["p95_ms"], report["store_cached_banks"]) == (0, None, None, 0)


def test_work_is_counted(worker: Function, frames: list[bytes]) -> None:
    shapes = [mask_shape(true_mask(0, object_id)) for object_id in (RED_KOI, TURTLE)]
    _, states = worker.ask(frames[0], shapes, [])
    worker.track(frames[1], states)
    assert worker.send({"image": None})[0] == 400
    assert worker.send(request(frames[0], [None], [{**states[0], "bank": "x" * 22}]))[0] == 410
    report = json.loads(get(worker, "/")[2])
    assert report["frames"] == 2 and report["store_cached_banks"] == 1
    assert 0 < report["p50_ms"] <= report["p95_ms"]
    samples = metrics(worker)
    assert samples["maskbank_frames_total"] == samples["maskbank_requests_total 200"] == 2
    assert samples["maskbank_requests_total 400"] == samples["maskbank_requests_total 410"] == 1
    assert samples["maskbank_objects_total"] == 4
    assert samples["maskbank_request_seconds_count"] == 2
    stages = [samples[f"maskbank_stage_seconds_total {stage}"] for stage in ("decode", "store", "track", "encode")]
    assert all(seconds > 0 for seconds in stages)
    assert sum(stages) == pytest.approx(samples["maskbank_request_seconds_sum"], rel=0.01)
    assert samples["maskbank_store_written_bytes"] == report["store_written_bytes"] > 1000
    assert samples["maskbank_store_cached_bytes"] == report["store_cached_bytes"] > 1000
    assert [name for name in samples if name.startswith("maskbank_info ") and " lite" in name]


def test_other_paths_are_not_found(worker: Function) -> None:
    assert get(worker, "/secret") == (404, "text/plain", "There is / (or /healthz) and /metrics to get.")


def test_over_http(no_settings: pytest.MonkeyPatch, frames: list[bytes]) -> None:
    with local_function() as url, urllib.request.urlopen(f"{url}/healthz") as reply:
        assert json.load(reply)["status"] == "ok"


def test_the_log_names_what_was_done_and_shows_no_pixel(
    worker: Function, frames: list[bytes], capfd: pytest.CaptureFixture
) -> None:
    lines: list[tuple[str, dict]] = []
    worker.context.logger.info_with = lambda message, **fields: lines.append((message, fields))
    _, states = worker.ask(frames[0], [mask_shape(true_mask(0, TURTLE))], [])
    worker.track(frames[1], states)
    assert [message for message, _ in lines] == ["Tracked", "Tracked"]
    fields = lines[1][1]
    assert set(fields) == {"request", "frames", "objects", "banks", "milliseconds"}
    assert fields["objects"] == 1 and fields["banks"] == [f"{states[0]['bank'][:6]}…@2"]
    assert set(fields["milliseconds"]) == {"decode", "store", "track", "encode"}
    assert states[0]["bank"] not in repr(lines) + "".join(capfd.readouterr())
    assert len(repr(lines[1])) < 300


def test_what_the_store_has_to_say_is_in_the_functions_log(
    start: Callable[..., Function], tmp_path: Path, frames: list[bytes]
) -> None:
    function = start(MASKBANK_SIZE=64, MASKBANK_STORE=f"file://{tmp_path}/banks")
    errors: list[str] = []
    function.context.logger.error = errors.append
    _, states = function.ask(frames[0], [mask_shape(true_mask(0, TURTLE))], [])
    shutil.rmtree(tmp_path / "banks")
    (tmp_path / "banks").write_text("in the way")
    assert function.track(frames[1], states)[1][0]["shared"] is False
    assert set(errors) == {f"The store cannot be used: {tmp_path}/banks: Not a directory"}
