"""How long do annotators wait? So many simulated ones at `maskbank serve` with a Redis, and the law that predicts it.

An annotator thinks, outlines one to three objects, and tracks them through 30 frames: in CVAT's tracker tab, with a
look at every frame; with the action of the plugin, frame after frame; or as `maskbank job` does, some frames in a
request. Some runs are cancelled, some corrected on a frame and tracked on. A request that finds the tracker busy is
repeated as the plugin repeats it.

Workers needed = annotators x requests per second of each x seconds per request / utilisation that is aimed at. What an
annotator alone does gives these numbers; from them follow the utilisation and the waiting with more annotators, as
those of N sources, each with one request at a time, before W servers ("machine repairman"). The table shows both beside
what was measured.
"""

import argparse
import json
import math
import os
import random
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from http.client import HTTPException
from pathlib import Path

import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from rig import Process, frame, free_port, objects_on, outlines, redis_server

from maskbank.function.client import FunctionError, http_call
from maskbank.jobs.retrying import RETRYABLE, BusyError, retried

RUN = 30  # frames
GIVE_UP_S = 300.0
TIMEOUT_S = 60.0  # CVAT's nginx waits so long
TAB_PAUSE_S = 1.0  # for a look at a frame
JOB_FRAMES = 16  # in a request of `maskbank job`
KINDS = ("start", "track", "correct", "propagate")
TARGET = 0.7  # utilisation: with more, waiting grows out of proportion


@dataclass
class Log:
    """What happened to the requests of all annotators; `seconds` are those that one waited, repetitions included."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    failures: list[str] = field(default_factory=list)  # after all repetitions
    repetitions: list[str] = field(default_factory=list)  # their reasons


class Annotator:
    """One simulated person; `work` goes on until it is `over`."""

    def __init__(self, url: str, log: Log, over: threading.Event, think_s: float, seed: int, token: str | None):
        self._calls = {path: http_call(url + path, TIMEOUT_S, token) for path in ("/", "/propagate")}
        self._log, self._over, self._think_s = log, over, think_s
        self._random = random.Random(seed)

    def work(self) -> None:
        while self._pause(self._think_s):
            try:
                self._cycle()
            except (FunctionError, ConnectionError) as error:
                self._log.failures.append(str(error))

    def _cycle(self) -> None:
        first = self._random.randrange(RUN)
        there = objects_on(first)
        objects = sorted(self._random.sample(there, self._random.randint(1, len(there))))
        body = {"image": frame(first), "shapes": outlines(first, objects), "states": []}
        states = self._ask("start", "/", body)["states"]
        way = self._random.choice(["tab", "action", "job"])
        length = RUN if self._random.random() > 0.2 else self._random.randrange(RUN)  # or cancelled
        states = self._track(way, range(first + 1, first + 1 + length), states)
        if self._random.random() < 0.5 and self._pause(self._think_s):
            at = self._random.randrange(first + 1, first + RUN)
            kept = [i for i in objects if i in objects_on(at)]
            seeds = dict(zip(kept, outlines(at, kept), strict=True))
            body = {"image": frame(at), "shapes": [seeds.get(i) for i in objects], "states": states}
            states = self._ask("correct", "/", body)["states"]
            self._track(way, range(at + 1, at + 11), states)

    def _track(self, way: str, indices: range, states: list) -> list:
        nothing = [None] * len(states)
        if way == "job":
            for at in range(0, len(indices), JOB_FRAMES):
                left = list(indices[at : at + JOB_FRAMES])
                while left and not self._over.is_set():
                    frames = [{"image": frame(index), "shapes": nothing} for index in left]
                    reply = self._ask("propagate", "/propagate", {"frames": frames, "states": states})
                    states, left = reply["states"], left[len(reply["frames"]) :]
            return states
        for index in indices:
            if not self._pause(TAB_PAUSE_S if way == "tab" else 0.0):
                break
            body = {"image": frame(index), "shapes": nothing, "states": states}
            states = self._ask("track", "/", body)["states"]
        return states

    def _pause(self, mean_s: float) -> bool:
        """Whether it is not over behind a pause of chance."""
        return not self._over.wait(self._random.expovariate(1 / mean_s) if mean_s else 0)

    def _ask(self, kind: str, path: str, body: dict) -> dict:
        started = time.monotonic()
        reply = retried(partial(self._once, path, body), GIVE_UP_S, self._log.repetitions.append)
        self._log.seconds[kind].append(time.monotonic() - started)
        return reply

    def _once(self, path: str, body: dict) -> dict:
        try:
            return self._calls[path](body)
        except FunctionError as error:
            if error.status in RETRYABLE:
                raise BusyError(str(error), error.retry_after_s) from error
            raise
        except (OSError, HTTPException) as error:
            raise ConnectionError(str(error)) from error


@dataclass(frozen=True)
class Row:
    """What was measured with so many annotators; times are in seconds."""

    annotators: int
    workers: int
    minutes: float
    requests: int
    frames: int
    failures: int  # after all repetitions
    repetitions: int
    busy_share: float  # of the workers' time: the utilisation
    cpu_s: float  # of the server and its workers
    service_s: float  # for which a request keeps a worker
    idle_s: float  # between an answer and the next request of the same annotator
    waiting: dict[str, tuple[float, float]]  # p50 and p95 by kind of request

    @property
    def rate(self) -> float:
        """Requests per second of each annotator."""
        return self.requests / self.annotators / (60 * self.minutes)


def predicted(annotators: int, workers: int, service_s: float, idle_s: float) -> tuple[float, float]:
    """The utilisation of the workers, and the mean seconds for which a request waits for one.

    Annotators and requests arrive by chance, and each annotator waits for the answer before the next request.
    """
    logarithms = [0.0]  # of how likely it is that so many requests are there, up to a factor
    for there in range(1, annotators + 1):
        arriving, leaving = (annotators - there + 1) / idle_s, min(there, workers) / service_s
        logarithms.append(logarithms[-1] + math.log(arriving / leaving))
    weights = [math.exp(each - max(logarithms)) for each in logarithms]
    busy = sum(min(there, workers) * weight for there, weight in enumerate(weights)) / sum(weights)
    return busy / workers, annotators * service_s / busy - idle_s - service_s


def workers_needed(annotators: int, rate: float, service_s: float, target: float = TARGET) -> float:
    """The formula: annotators x requests per second of each x seconds per request / utilisation that is aimed at."""
    return annotators * rate * service_s / target


@contextmanager
def server(workers: int, size: int, adapt_s: float) -> Iterator[Process]:
    """`maskbank serve` with a Redis of its own, both gone afterwards."""
    with redis_server() as redis:
        settings = {"MASKBANK_STORE": f"redis://127.0.0.1:{redis.port}/0", "MASKBANK_SIZE": str(size)}
        port = free_port()
        command = [sys.executable, "-m", "maskbank.cli", "serve", "--port", str(port), "--workers", str(workers)]
        serving = Process(command, port, settings | {"MASKBANK_ADAPT_SECONDS": f"{adapt_s:g}"})
        try:
            wait_until_served(f"http://127.0.0.1:{port}/")
            yield serving
        finally:
            serving.stop(signal.SIGTERM)


def wait_until_served(url: str) -> None:
    """The port is there before the workers are."""
    with urllib.request.urlopen(url, timeout=120):
        pass


def counted(port: int) -> dict[str, float]:
    """What the workers have counted so far, by name, over all labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as reply:
        families = text_string_to_metric_families(reply.read().decode())
    sums: dict[str, float] = {}
    for sample in (sample for family in families for sample in family.samples):
        sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return sums


def cpu_seconds(pid: int) -> float:
    """Of a process and those that it has started and that are alive."""
    total = 0.0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # gone meanwhile
            continue
        if int(stat.parent.name) == pid or int(fields[1]) == pid:
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def run(serving: Process, annotators: int, workers: int, minutes: float, think_s: float) -> Row:
    """Lets so many work for so long; those who wait for an answer then still get it."""
    log, over = Log(), threading.Event()
    url, token = f"http://127.0.0.1:{serving.port}", os.environ.get("MASKBANK_TOKEN")
    people = [Annotator(url, log, over, think_s, seed, token) for seed in range(annotators)]
    before, cpu_before = counted(serving.port), cpu_seconds(serving.process.pid)
    started = time.monotonic()
    with ThreadPoolExecutor(annotators) as pool:
        working = [pool.submit(person.work) for person in people]
        over.wait(60 * minutes)
        over.set()
        for each in working:
            each.result()
    elapsed = time.monotonic() - started
    after, cpu_after = counted(serving.port), cpu_seconds(serving.process.pid)
    grown = {name: value - before.get(name, 0.0) for name, value in after.items()}
    waited = [seconds for each in log.seconds.values() for seconds in each]
    busy_s = grown["maskbank_stage_seconds_total"]
    return Row(
        annotators=annotators,
        workers=workers,
        minutes=elapsed / 60,
        requests=len(waited),
        frames=int(grown["maskbank_frames_total"]),
        failures=len(log.failures),
        repetitions=len(log.repetitions),
        busy_share=busy_s / workers / elapsed,
        cpu_s=cpu_after - cpu_before,
        service_s=busy_s / max(1, len(waited)),
        idle_s=(annotators * elapsed - sum(waited)) / max(1, len(waited)),
        waiting={
            kind: tuple(np.percentile(seconds, (50, 95)).round(3).tolist())
            for kind, seconds in log.seconds.items()
            if seconds
        },
    )


def report(rows: list[Row]) -> str:
    """Two tables in Markdown; the first row is the annotator who is alone."""
    alone = rows[0]
    lines = [
        "| annotators | workers | requests | frames/s | frames per CPU second | utilisation | predicted | mean wait "
        "predicted, s | workers needed | repeated | failed |",
        "| --- " * 11 + "|",
    ]
    for row in rows:
        utilisation, wait = predicted(row.annotators, row.workers, alone.service_s, alone.idle_s)
        needed = workers_needed(row.annotators, alone.rate, alone.service_s)
        lines.append(
            f"| {row.annotators} | {row.workers} | {row.requests} | {row.frames / row.minutes / 60:.1f} "
            f"| {row.frames / row.cpu_s:.1f} | {row.busy_share:.0%} | {utilisation:.0%} | {wait:.2f} | {needed:.1f} "
            f"| {row.repetitions} | {row.failures} |"
        )
    lines += ["", "| annotators | " + " | ".join(f"{kind} p50 / p95, s" for kind in KINDS) + " |", "| --- " * 5 + "|"]
    for row in rows:
        cells = [" / ".join(f"{value:.2f}" for value in row.waiting.get(kind, ())) for kind in KINDS]
        lines.append(f"| {row.annotators} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Workers needed = annotators x {alone.rate:.3f} requests/s of each x {alone.service_s:.3f} s per request / "
        f"{TARGET:.0%}. Alone, an annotator lets {alone.idle_s:.1f} s pass between an answer and the next request.",
    ]
    return "\n".join(lines)


def add_options(options: argparse.ArgumentParser) -> None:
    """Of the run `annotators` of tools/endure.py."""
    options.description = __doc__
    options.formatter_class = argparse.RawDescriptionHelpFormatter
    options.add_argument("--annotators", type=_counts, default=[5, 20, 50], metavar="N,N,N")
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--size", type=int, default=64, help="short side of the working image")
    options.add_argument("--minutes", type=float, default=5.0, help="for each number of annotators, and for one alone")
    options.add_argument("--think", type=float, default=10.0, metavar="SECONDS", help="mean time between two runs")
    options.add_argument("--adapt", type=float, default=0.0, metavar="SECONDS", help="MASKBANK_ADAPT_SECONDS")
    options.add_argument("--json", type=Path, metavar="FILE", help="where to write all numbers")


def measure(options: argparse.Namespace) -> bool:
    """Prints the tables; returns whether no request failed."""
    rows: list[Row] = []
    with server(options.workers, options.size, options.adapt) as serving:
        for number in [1, *options.annotators]:
            rows.append(run(serving, number, options.workers, options.minutes, options.think))
            print(f"{number} annotators: {rows[-1].requests} requests, {rows[-1].failures} failed", file=sys.stderr)
    print(report(rows))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) | {"rate": row.rate} for row in rows], indent=1) + "\n")
    return not any(row.failures for row in rows)


def _counts(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]
