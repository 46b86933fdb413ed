"""How the workers of a container are, together: as JSON for people and probes, as Prometheus text for monitoring."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from threading import Timer
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from maskbank.service.timing import Timings
from maskbank.store.shared import BACKOFF_S
from maskbank.store.store import Store

FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # variable that names the folder in which workers count together, if they do
BUCKETS_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 30)
# What the workers' numbers of the store make together; those that are not listed count events, and are added for ever.
OVER_WORKERS = {
    "reachable": "livemin",
    "cached_banks": "livesum",
    "cached_bytes": "livesum",
    "stored_banks": "livemax",
    "stored_bytes": "livemax",
}


class Health:
    """Counts the requests of one worker.

    Where the environment names a folder (`FOLDER`) when prometheus_client is imported, the numbers lie there, and what
    is reported is of all workers that share the folder. Otherwise it is of this one.

    Args:
        description: model, weights, device, store and so on.
        store: whose statistics are reported.
    """

    def __init__(self, description: Mapping[str, object], store: Store):
        self.description = dict(description)
        self.store = store
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "maskbank_requests", "Requests by status of the answer", ("status",), registry=registry
        )
        self._frames = Counter("maskbank_frames", "Frames answered", registry=registry)
        self._objects = Counter("maskbank_objects", "Objects answered, over all frames", registry=registry)
        self._seconds = Histogram(
            "maskbank_request_seconds", "Time for an answered frame", buckets=BUCKETS_S, registry=registry
        )
        self._stages = Counter("maskbank_stage_seconds", "Time by stage of a request", ("stage",), registry=registry)
        self._store = {
            name: Gauge(
                f"maskbank_store_{name}",
                f"{name.replace('_', ' ').capitalize()} of the workers' store",
                registry=registry,
                multiprocess_mode=OVER_WORKERS.get(name, "sum"),  # type: ignore[arg-type]
            )
            for name in store.statistics()
        }
        self._will_look_again = False
        workers = Gauge("maskbank_workers", "Workers that are alive", registry=registry, multiprocess_mode="livesum")
        workers.set(1)
        about = {name: str(value) for name, value in self.description.items()}
        info = Gauge("maskbank_info", "What runs here", tuple(about), registry=registry, multiprocess_mode="livemax")
        info.labels(*about.values()).set(1)
        self._note_store()

    def answered(self, frames: int, objects: int, timings: Timings) -> None:
        """Counts a request that was answered: so many frames, with so many objects in each."""
        seconds = sum(timings.values()) / frames / 1000
        self._requests.labels(200).inc()
        self._frames.inc(frames)
        self._objects.inc(frames * objects)
        for _ in range(frames):
            self._seconds.observe(seconds)
        for stage, spent in timings.items():
            self._stages.labels(stage).inc(spent / 1000)
        self._note_store()

    def refused(self, status: int) -> None:
        """Counts a request that got another answer than shapes."""
        self._requests.labels(status).inc()
        self._note_store()

    def answer(self, path: str) -> tuple[int, str, str]:
        """See `answer_about`."""
        self._note_store()
        folder = os.environ.get(FOLDER)
        return answer_about(path, self.description, of_all_workers(Path(folder)) if folder else self.registry)

    def _note_store(self) -> None:
        statistics = self.store.statistics()
        for name, value in statistics.items():
            self._store[name].set(value)
        if not statistics.get("reachable", 1) and not self._will_look_again:
            # Others read these numbers, and nobody may ask this worker for anything once the store is back.
            self._will_look_again = True
            timer = Timer(BACKOFF_S + 0.1, self._look_again)
            timer.daemon = True
            timer.start()

    def _look_again(self) -> None:
        self._will_look_again = False
        self._note_store()


def of_all_workers(folder: Path) -> CollectorRegistry:
    """What all workers that count in a folder have counted, as long as they are alive where it is about now."""
    for file in folder.glob("gauge_live*_*.db"):
        pid = int(file.stem.rpartition("_")[2])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            with suppress(FileNotFoundError):  # another worker has noticed it as well
                mark_process_dead(pid, str(folder))
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))
    return registry


def answer_about(path: str, description: Mapping[str, object], counted: CollectorRegistry) -> tuple[int, str, str]:
    """Status, content type and body of the answer to a GET: `/` and `/healthz` as JSON, `/metrics` for Prometheus.

    It needs no token, for probes and Prometheus have none: nothing of it is about images, outlines or banks.
    """
    if path.rstrip("/") in ("", "/healthz"):
        return 200, "application/json", json.dumps(report(description, counted))
    if path == "/metrics":
        return 200, "text/plain; version=1.0.0; charset=utf-8", generate_latest(counted).decode()
    return 404, "text/plain", "There is / (or /healthz) and /metrics to get."


def report(description: Mapping[str, object], counted: CollectorRegistry) -> dict[str, Any]:
    """The numbers that an administrator looks for first; times per frame are estimates from the histogram."""
    samples = {(s.name, s.labels.get("le")): s.value for family in counted.collect() for s in family.samples}
    store = {
        name.removeprefix("maskbank_"): int(v) for (name, _), v in samples.items() if name.startswith("maskbank_store_")
    }
    buckets = {float(le): v for (name, le), v in samples.items() if name == "maskbank_request_seconds_bucket" and le}
    return {
        "status": "ok" if store.get("store_reachable", 1) else "store unreachable",
        **description,
        "workers": int(samples.get(("maskbank_workers", None), 0)),
        **store,
        "frames": int(samples.get(("maskbank_frames_total", None), 0)),
        "p50_ms": quantile_ms(buckets, 0.5),
        "p95_ms": quantile_ms(buckets, 0.95),
    }


def quantile_ms(buckets: Mapping[float, float], share: float) -> float | None:
    """Below how many milliseconds a share of the observations lies, from the numbers up to each bound in seconds.

    Between the bounds of a bucket it is interpolated; beyond the last one, it is that one. None: nothing was observed.
    """
    ordered = [(0.0, 0.0), *sorted(buckets.items())]
    wanted = share * ordered[-1][1]
    if not wanted:
        return None
    for (low, below), (high, upto) in pairwise(ordered):
        if upto >= wanted:
            seconds = low if high == float("inf") else low + (high - low) * (wanted - below) / (upto - below)
            return round(1000 * seconds, 1)
    raise AssertionError("The last bound has all observations.")
