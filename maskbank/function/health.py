"""How a worker is: as JSON for people and probes, as Prometheus text for monitoring."""

from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from maskbank.service.timing import Timings
from maskbank.store.store import Store

LATENCIES = 1000  # of the last answered frames, for the percentiles
BUCKETS_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 30)

Metric = TypeVar("Metric")


class Health:
    """Counts the requests of one worker; other workers of the function have numbers of their own.

    Args:
        description: model, weights, device, store and so on.
        store: whose statistics are reported.
    """

    def __init__(self, description: Mapping[str, object], store: Store):
        self.description = dict(description)
        self.store = store
        self.registry = CollectorRegistry()
        self.latencies_ms: deque[float] = deque(maxlen=LATENCIES)

        def metric(
            kind: Callable[..., Metric], name: str, about: str, labels: tuple[str, ...] = (), **more: Any
        ) -> Metric:
            return kind(f"maskbank_{name}", about, labels, registry=self.registry, **more)

        self._requests = metric(Counter, "requests", "Requests by status of the answer", ("status",))
        self._frames = metric(Counter, "frames", "Frames answered")
        self._objects = metric(Counter, "objects", "Objects answered, over all frames")
        self._seconds = metric(Histogram, "request_seconds", "Time for an answered frame", buckets=BUCKETS_S)
        self._stages = metric(Counter, "stage_seconds", "Time by stage of a request", ("stage",))
        statistics = store.statistics()
        for name in statistics:
            gauge = metric(Gauge, f"store_{name}", f"{name.replace('_', ' ').capitalize()} of this worker's store")
            gauge.set_function(partial(self._statistic, name))
        about = {name: str(value) for name, value in self.description.items()}
        metric(Gauge, "info", "What runs here", tuple(about)).labels(*about.values()).set(1)

    def _statistic(self, name: str) -> int:
        return self.store.statistics()[name]

    def answered(self, frames: int, objects: int, timings: Timings) -> None:
        """Counts a request that was answered: so many frames, with so many objects in each."""
        milliseconds = sum(timings.values()) / frames
        self.latencies_ms.extend([milliseconds] * frames)
        self._requests.labels(200).inc()
        self._frames.inc(frames)
        self._objects.inc(frames * objects)
        for _ in range(frames):
            self._seconds.observe(milliseconds / 1000)
        for stage, spent in timings.items():
            self._stages.labels(stage).inc(spent / 1000)

    def refused(self, status: int) -> None:
        """Counts a request that got another answer than shapes."""
        self._requests.labels(status).inc()

    def report(self) -> dict[str, object]:
        """For `GET /` and `GET /healthz`."""
        statistics = self.store.statistics()
        p50, p95 = np.percentile(self.latencies_ms, (50, 95)).round(1).tolist() if self.latencies_ms else (None, None)
        return {
            "status": "ok" if statistics.get("reachable", 1) else "store unreachable",
            **self.description,
            **{f"store_{name}": value for name, value in statistics.items()},
            "frames": int(self.registry.get_sample_value("maskbank_frames_total") or 0),
            "p50_ms": p50,
            "p95_ms": p95,
        }

    def metrics(self) -> str:
        """For `GET /metrics`."""
        return generate_latest(self.registry).decode()
