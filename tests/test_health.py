"""What a worker says of itself: /, /healthz, /metrics and its log."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support import RED_KOI, TURTLE, Function, mask_shape, request, true_mask

from maskbank.function.handler import init_context
from maskbank.function.health import Health, quantile_ms, report
from maskbank.function.local import invoke, local_function
from maskbank.function.siblings import count_workers, shared_folder
from maskbank.function.threads import cores, share_of_cores
from maskbank.service import heap


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
    assert report["workers"] == 1


def test_a_store_that_is_back_is_not_reported_as_away(monkeypatch) -> None:
    """Also where nobody asks this worker, as others read what it has counted."""
    monkeypatch.setattr("maskbank.function.health.BACKOFF_S", 0.05)
    reachable = [1]

    class Away:
        def statistics(self) -> dict[str, int]:
            return {"reachable": reachable[0]}

    health = Health({"model": "lite"}, Away())
    reachable[0] = 0
    health.refused(503)
    assert report({}, health.registry)["status"] == "store unreachable"
    time.sleep(0.4)  # still away
    assert report({}, health.registry)["status"] == "store unreachable"
    reachable[0] = 1
    until = time.monotonic() + 20
    while report({}, health.registry)["status"] != "ok" and time.monotonic() < until:
        time.sleep(0.05)
    assert report({}, health.registry)["status"] == "ok"


STAGES = ("store", "decode", "outline", "track", "encode")


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
    stages = [samples[f"maskbank_stage_seconds_total {stage}"] for stage in STAGES]
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
    assert set(fields["milliseconds"]) == set(STAGES)
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


# ---- several workers under Nuclio ----

ROOT = Path(__file__).parents[1]
WORKER = """
import json, logging, sys
import nuclio_sdk, nuclio_sdk.logger
import main
context = nuclio_sdk.Context(logger=nuclio_sdk.logger.Logger(logging.ERROR, "function"))
main.init_context(context)
print("ready", flush=True)
for line in sys.stdin:
    method, path, body = json.loads(line)
    response = main.handler(context, nuclio_sdk.Event(body=body, path=path, method=method, _id="1"))
    print(json.dumps([response.status_code, response.body]), flush=True)
"""


class NuclioWorker:
    """A process that does what Nuclio's wrapper does, as a child of this one, its processor."""

    def __init__(self, temporary: Path, **settings: object):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PROMETHEUS_")}
        environment |= {name: str(value) for name, value in settings.items()} | {"TMPDIR": str(temporary)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER], cwd=ROOT, env=environment, stdin=-1, stdout=-1, text=True
        )

    def wait_until_ready(self) -> "NuclioWorker":
        assert self.process.stdout.readline() == "ready\n"
        return self

    def send(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        self.process.stdin.write(json.dumps([method, path, body]) + "\n")
        self.process.stdin.flush()
        status, body = json.loads(self.process.stdout.readline())
        return status, body

    def report(self) -> dict:
        return json.loads(self.send("GET", "/")[1])

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def test_any_worker_answers_for_all(tmp_path: Path, frames: list[bytes]) -> None:
    """Also for one that Nuclio has stopped: what it has done stays counted."""
    temporary, stale = tmp_path / "tmp", tmp_path / "tmp" / "maskbank-workers-1-1"
    stale.mkdir(parents=True)  # of a container that was restarted
    settings = {"MASKBANK_SIZE": 64, "MASKBANK_STORE": f"file://{tmp_path}/banks", "OMP_NUM_THREADS": 1}
    workers = [NuclioWorker(temporary, **settings) for _ in range(2)]
    try:
        first, second = [worker.wait_until_ready() for worker in workers]
        assert not stale.exists() and len(list(temporary.glob("maskbank-workers-*"))) == 1
        start = request(frames[0], [mask_shape(true_mask(0, TURTLE))], [])
        status, reply = first.send("POST", "/", start)
        assert status == 200
        assert second.send("POST", "/", request(frames[1], [None], json.loads(reply)["states"]))[0] == 200
        assert second.send("POST", "/", {"image": None})[0] == 400
        one, other = first.report(), second.report()
        assert one == other
        assert (one["workers"], one["frames"], one["store_cached_banks"], one["store_reachable"]) == (2, 2, 2, 1)
        assert 0 < one["p50_ms"] <= one["p95_ms"]
        text = first.send("GET", "/metrics")[1]
        values = [line for line in text.splitlines() if not line.startswith("#")]
        assert 'maskbank_requests_total{status="200"} 2.0' in values
        assert 'maskbank_requests_total{status="400"} 1.0' in values
        assert len([line for line in values if line.startswith("maskbank_info{")]) == 1
        assert not [line for line in values if "pid=" in line]
        first.end()
        left = second.report()
        assert (left["workers"], left["frames"], left["store_cached_banks"]) == (1, 2, 1)
        assert left["store_written_bytes"] == one["store_written_bytes"]
    finally:
        for worker in workers:
            worker.end()


def test_percentiles_from_a_histogram() -> None:
    inf = float("inf")
    assert quantile_ms({0.1: 0, inf: 0}, 0.5) is None
    assert quantile_ms({0.1: 0, 0.2: 10, inf: 10}, 0.5) == 150
    assert quantile_ms({0.1: 5, 0.2: 10, inf: 10}, 0.95) == 190
    assert quantile_ms({0.1: 1, 0.2: 2, inf: 100}, 0.95) == 200  # all that is known: beyond the last bound


# ---- threads ----


@pytest.fixture
def cgroup(tmp_path: Path) -> Callable[..., int]:
    """The cores in a cgroup that is told by the files of the kernel."""

    def cgroup(membership: str, **files: str) -> int:
        (tmp_path / "self").write_text(membership)
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_max", ".max").replace("cpu_cfs", "cpu.cfs")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return cores(tmp_path, tmp_path / "self")

    return cgroup


def test_cores_of_a_container(cgroup: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    assert cgroup("0::/\n") == 16
    assert cgroup("0::/\n", cpu_max="max 100000\n") == 16
    assert cgroup("0::/\n", cpu_max="400000 100000\n") == 4
    assert cgroup("0::/\n", cpu_max="250000 100000\n") == 2
    assert cgroup("0::/\n", cpu_max="20000 100000\n") == 1
    assert cgroup("0::/\n", cpu_max="6400000 100000\n") == 16


def test_the_quota_of_a_cgroup_around_counts(cgroup: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    assert cgroup("0::/a/b\n", a__b__cpu_max="max 100000", a__cpu_max="300000 100000") == 3


def test_cores_of_an_older_container(cgroup: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    membership = "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n0::/system.slice\n"
    assert cgroup(membership, cpu__cpu_cfs_quota_us="-1", cpu__cpu_cfs_period_us="100000") == 16
    assert cgroup(membership, cpu__cpu_cfs_quota_us="500000", cpu__cpu_cfs_period_us="100000") == 5


def test_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4})
    monkeypatch.setattr("maskbank.function.threads._quotas", lambda *_: [])
    assert [share_of_cores(workers) for workers in (1, 2, 5, 8)] == [5, 2, 1, 1]


def test_threads_are_set_unless_the_environment_does() -> None:
    """In a process of its own: the number is the process's."""
    program = (
        "import os, cv2, torch\nfrom maskbank.function.threads import limit_threads\n"
        "os.sched_getaffinity = lambda _: set(range(6))\n"
        "import maskbank.function.threads as threads\n"
        "threads._quotas = lambda *_: []\n"
        "print(limit_threads(2, {'OMP_NUM_THREADS': ' '}), torch.get_num_threads(), cv2.getNumThreads())\n"
        "torch.set_num_threads(1)\nprint(limit_threads(2, {'OMP_NUM_THREADS': '1'}))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["3", "3", "3", "1"], done.stderr


def test_nuclio_says_how_many_workers_there_are(tmp_path: Path) -> None:
    configuration = tmp_path / "processor.yaml"
    for triggers, expected in (
        ("{web: {kind: http, numWorkers: 4}}", 4),  # as Nuclio 1.14 writes it
        ("{web: {kind: http, maxWorkers: 3}}", 3),  # as Nuclio 1.13 writes it
        ("{web: {kind: http, numWorkers: 2, maxWorkers: 1}, tick: {kind: cron}}", 3),
        ("{web: {kind: http, numWorkers: 0}}", 1),
        ("{}", 1),
    ):
        configuration.write_text(f"metadata: {{name: maskbank}}\nspec: {{triggers: {triggers}}}\n")
        assert count_workers(configuration) == expected, triggers
    configuration.write_text("metadata: {name: maskbank}\n")
    assert count_workers(configuration) == 1
    assert count_workers(tmp_path / "none.yaml") == 1


def test_folders_of_others_do_not_stop_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("maskbank-workers-old", "maskbank-workers-", "maskbank-workers-999999999-1", "maskbank-other"):
        (tmp_path / name).mkdir()
    own = shared_folder()
    assert own.is_dir() and {folder.name for folder in tmp_path.iterdir()} == {own.name, "maskbank-other"}


# ---- the token ----


@pytest.fixture
def guarded(no_settings: pytest.MonkeyPatch, tmp_path: Path) -> Function:
    """A worker that asks for a token."""
    import nuclio_sdk

    from maskbank.function.handler import handler

    logger = nuclio_sdk.logger.Logger(0, "function")
    context = nuclio_sdk.Context(logger=logger)
    settings = {
        "MASKBANK_DEVICE": "cpu",
        "MASKBANK_SIZE": "64",
        "MASKBANK_STORE": "memory://",
        "MASKBANK_TOKEN": "s3cret",
    }
    init_context(context, os.environ | settings)
    return Function(handler, context)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 401),
        ({"X-MaskBank-Token": "wrong"}, 401),
        ({"X-MaskBank-Token": ""}, 401),
        ({"X-MaskBank-Token": "s3cret\u00e9"}, 401),
        ({"X-MaskBank-Token": "s3cret"}, 200),
        ({"X-Maskbank-Token": "s3cret"}, 200),  # as Go writes headers
    ],
)
def test_a_token(
    guarded: Function, frames: list[bytes], headers: dict, expected: int, capfd: pytest.CaptureFixture
) -> None:
    body = json.dumps(request(frames[0], [mask_shape(true_mask(0, TURTLE))], [])).encode()
    status, _, reply = invoke(guarded.handler, guarded.context, body, "application/json", headers=headers)
    assert status == expected
    if status == 401:
        assert reply == b"The tracker wants its token in the header X-MaskBank-Token."
    assert get(guarded, "/healthz")[0] == get(guarded, "/metrics")[0] == 200  # probes have none
    assert "s3cret" not in "".join(capfd.readouterr()) + get(guarded, "/metrics")[2] + get(guarded, "/")[2]


def test_free_memory_goes_back_to_the_system() -> None:
    """Small blocks that stay between large ones that go: the heap cannot shrink by itself."""
    program = """
import os
from maskbank.service.heap import keep_freed_memory, trim_heap
keep_freed_memory({})
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
blocks = [bytearray(100_000) for _ in range(3000)]
stays = blocks[::50]
before = resident()
del blocks
trim_heap()
print(before - resident())
"""
    assert float(_printed_by(program)) > 200


ENTRIES = {
    "command": "from maskbank.cli import main; main(['weights', 'info', 'lite'])",
    "worker": "from maskbank.function.local import start_worker; start_worker()",
    "agent": "from agent.maskbank_agent import TrackingFunction; TrackingFunction()",
}


@pytest.mark.parametrize(
    ("entry", "allocator", "kept"),
    [
        ("", {}, False),
        (ENTRIES["command"], {}, True),
        (ENTRIES["worker"], {}, True),
        (ENTRIES["agent"], {}, True),
        (ENTRIES["worker"], {"MALLOC_MMAP_THRESHOLD_": "1000000"}, False),
    ],
)
def test_the_pages_of_large_tensors_are_kept_for_the_next_ones(
    entry: str, allocator: dict[str, str], kept: bool
) -> None:
    """Twenty tensors of 10,240 pages, one after the other; what the environment says of the allocator counts."""
    program = f"""
{entry}
import resource
import torch
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
for _ in range(20):
    torch.ones(10 << 20)
print(faults() - before)
"""
    assert (int(_printed_by(program, **allocator).split()[-1]) < 100_000) == kept


@pytest.mark.parametrize(
    ("most", "accepted"),
    [
        (1 << 40, [(-3, 1 << 30), (-1, 1 << 29)]),
        (1 << 25, [(-3, 1 << 25), (-1, 1 << 29)]),  # as older versions of glibc
        (0, []),  # another C library
    ],
)
def test_what_the_c_library_refuses_leaves_no_half_of_it(
    most: int, accepted: list[tuple[int, int]], monkeypatch
) -> None:
    done = []

    def mallopt(option: int, value: int) -> int:
        if option == -3 and value > most:
            return 0
        done.append((option, value))
        return 1

    monkeypatch.setattr(heap, "_of_libc", {"mallopt": mallopt}.__getitem__)
    heap.keep_freed_memory({})
    assert done == accepted
    heap.keep_freed_memory({"MALLOC_TRIM_THRESHOLD_": "1"})
    assert done == accepted


def _printed_by(program: str, **environment: str) -> str:
    """By a Python of its own, in which nothing says yet what its allocator does."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=kept | environment, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout
