"""Long and rough runs of the function on the sample clip: time, memory, faults, many jobs, broken requests.

    python tools/endure.py soak    one job for thousands of frames: is the time and the memory of a frame flat?
    python tools/endure.py faults  kills workers and restarts Redis while jobs are tracked: is anything lost or wrong?
    python tools/endure.py jobs    many jobs at once, any worker for any frame: does any get another's masks?
    python tools/endure.py fuzz    thousands of broken requests: does any get a 5xx or kill the worker?
    python tools/endure.py annotators   how long do so many annotators wait, and does any request fail in the end?
    python tools/endure.py attacks small requests that would cost much: does any take over 3 s of CPU or 1 GiB?

Each prints its numbers and exits with 1 when something is lost or wrong. `faults`, `jobs` and `annotators` start a
redis-server.
"""

import argparse
import base64
import http.client
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import annotators
import numpy as np
import torch
from PIL import Image
from rig import Process, frame, free_port, objects_on, outlines, redis_server
from tqdm import tqdm

from maskbank.evaluation.evaluate import handler_call
from maskbank.function.client import Call
from maskbank.function.local import invoke, local_function, start_worker
from maskbank.shapes.rle import encode_rle

os.environ["MASKBANK_ADAPT_SECONDS"] = "0"  # what depends on the time would differ between runs
GIVE_UP_S = 120  # on one frame
FLAT = 1.05  # growth of the memory that counts as none: glibc takes it in steps of tens of MiB


@contextmanager
def redis_and_workers(workers: int, size: int) -> Iterator[tuple[Process, list[Process]]]:
    started: list[Process] = []
    with redis_server() as redis:
        settings = {
            "MASKBANK_STORE": f"redis://127.0.0.1:{redis.port}/0",
            "MASKBANK_SIZE": str(size),
            "OMP_NUM_THREADS": "1",
        }
        try:
            for _ in range(workers):
                port = free_port()
                started.append(Process([sys.executable, __file__, "worker", "--port", str(port)], port, settings))
            yield redis, started
        finally:
            for process in started:
                process.stop(signal.SIGKILL)


def track_job(number: int, length: int, call: Call) -> list[list]:
    """The masks of one job of its own: its first frame and its objects depend on its number."""
    first = 7 * number % 50
    objects = [i for i in [[2], [3], [1, 3], [2, 3], [1, 2, 3]][number % 5] if i in objects_on(first)]
    reply = call({"image": frame(first), "shapes": outlines(first, objects), "states": []})
    found = [reply["shapes"]]
    for index in range(first + 1, first + length):
        shapes = [None] * len(objects)
        reply = call({"image": frame(index), "shapes": shapes, "states": reply["states"]})
        found.append(reply["shapes"])
    return found


def in_this_process(size: int) -> Call:
    torch.set_num_threads(1)  # as the workers: another number of threads adds up in another order
    return handler_call(os.environ | {"MASKBANK_SIZE": str(size), "OMP_NUM_THREADS": "1"})


class Balancer:
    """Sends each request to any worker, and again to any other when that one dies or asks for patience."""

    def __init__(self, workers: list[Process]):
        self.workers = workers
        self.repeated = 0

    def __call__(self, body: dict) -> dict:
        data = json.dumps(body).encode()
        retrying = time.monotonic() + GIVE_UP_S
        while True:
            url = f"http://127.0.0.1:{random.choice(self.workers).port}/"
            request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=60) as reply:
                    return json.load(reply)
            except urllib.error.HTTPError as error:
                if error.code != 503 or time.monotonic() > retrying:
                    raise RuntimeError(f"{error.code}: {error.read().decode()}") from error
            except (OSError, ValueError, http.client.HTTPException) as error:  # it died before or while it answered
                if time.monotonic() > retrying:
                    raise RuntimeError(f"no answer: {error}") from error
            self.repeated += 1
            time.sleep(0.05)


def compare(jobs: int, length: int, size: int, workers: int, kills: int, restarts: int) -> bool:
    """Jobs in parallel against the same jobs alone; `kills` of workers and `restarts` of Redis meanwhile."""
    print(f"{jobs} jobs of {length} frames, {workers} workers, one Redis, short side {size}", flush=True)
    alone = in_this_process(size)
    expected = [track_job(number, length, alone) for number in tqdm(range(jobs), desc="each alone")]
    done: dict[int, list | str] = {}
    with redis_and_workers(workers, size) as (redis, processes):
        call = Balancer(processes)
        stop = threading.Event()
        harm = {"kills": 0, "restarts": 0}

        def disturb() -> None:
            while not stop.is_set() and (harm["kills"] < kills or harm["restarts"] < restarts):
                time.sleep(random.uniform(0.0, 0.6))
                if harm["restarts"] * kills < harm["kills"] * restarts:
                    redis.stop()
                    time.sleep(random.uniform(0, 1))
                    redis.start()
                    harm["restarts"] += 1
                else:
                    victim = random.choice(processes)
                    victim.stop(signal.SIGKILL)
                    victim.start()
                    harm["kills"] += 1

        def run(number: int) -> None:
            while number not in done or (disturbing.is_alive() and harm["kills"] < kills):  # until enough harm was done
                try:
                    masks: list | str = track_job(number, length, call)
                except RuntimeError as error:
                    masks = str(error)
                previous = done.get(number, expected[number])
                done[number] = masks if previous == expected[number] else previous  # a fault stays one
                bar.update()
                bar.set_postfix(harm)

        disturbing = threading.Thread(target=disturb)
        with tqdm(desc="all together", unit="job") as bar, ThreadPoolExecutor(jobs) as pool:
            disturbing.start()
            list(pool.map(run, range(jobs)))
            runs = bar.n
        stop.set()
        disturbing.join()
    if harm != {"kills": kills, "restarts": restarts} and kills:
        print(f"the disturbance broke off: {harm}")
        return False
    lost = [number for number, masks in done.items() if isinstance(masks, str)]
    wrong = [number for number, masks in done.items() if number not in lost and masks != expected[number]]
    print(f"{harm['kills']} workers killed, {harm['restarts']} restarts of Redis, {call.repeated} requests repeated")
    print(f"{runs} runs of {jobs} jobs: {len(lost)} lost, {len(wrong)} with other masks than alone")
    for number in lost:
        print(f"job {number}: {done[number]}")
    for number in wrong:
        pairs = zip(done[number], expected[number], strict=True)
        first = next(index for index, (one, other) in enumerate(pairs) if one != other)
        print(f"job {number}: other masks from its frame {first} on")
    return not lost and not wrong


def soak(frames: int, objects: int, size: int, every: int) -> bool:
    """One job through an endless clip."""
    folder = tempfile.mkdtemp()
    environment = os.environ | {"MASKBANK_STORE": f"file://{folder}", "MASKBANK_SIZE": str(size)}
    handler, context = start_worker(environment)
    print(f"one job, {objects} objects, short side {size}, store in a folder")
    print("| frame | RSS MiB | median ms of the frames before | store MiB | bank entries |")
    print("| --- | --- | --- | --- | --- |")
    ids = [1, 2, 3][:objects]
    body = {"image": frame(0), "shapes": outlines(0, ids), "states": []}
    medians, rss, times = {}, {}, []
    for index in range(1, frames + 1):
        started = time.perf_counter()
        status, _, reply = invoke(handler, context, json.dumps(body).encode(), "application/json")
        times.append(1000 * (time.perf_counter() - started))
        if status != 200:
            print(reply.decode())
            return False
        states = json.loads(reply)["states"]
        body = {"image": frame(index), "shapes": [None] * len(ids), "states": states}
        if index % every == 0:
            medians[index] = float(np.median(times))
            kept = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
            revision = context.user_data.model.service.store.load(
                states[0]["bank"], states[0]["revision"], states[0]["digest"]
            )
            entries = sum(len(bank) for bank in revision.memory.banks)
            rss[index] = rss_mib()
            print(f"| {index} | {rss[index]} | {medians[index]:.0f} | {kept / 2**20:.1f} | {entries} |", flush=True)
            times = []
    shutil.rmtree(folder)
    if frames < 3 * every:
        return True
    slower, larger = (values[max(values)] / values[2 * every] for values in (medians, rss))
    print(f"last {every} frames against frames {every} to {2 * every}: {slower:.2f} x the time, {larger:.2f} x the RSS")
    return slower <= 1.1 and larger <= FLAT


def rss_mib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


def fuzz(requests: int, seed: int) -> bool:
    """Good requests with one to three things broken; every hundredth is whole and must succeed.

    Some broken ones are still good, and start new banks: the cache of those is not counted as growth.
    """
    rng = random.Random(seed)
    folder = tempfile.TemporaryDirectory()
    environment = os.environ | {
        "MASKBANK_STORE": f"file://{folder.name}",
        "MASKBANK_SIZE": "64",
        "MASKBANK_CACHE_MB": "64",
    }
    handler, context = start_worker(environment)

    def post(body: bytes) -> tuple[int, bytes]:
        status, _, reply = invoke(handler, context, body, "application/json")
        return status, reply

    def cached_mib() -> int:
        return context.user_data.model.service.store.statistics()["cached_bytes"] >> 20

    good = {"image": frame(0), "shapes": outlines(0, [1, 2]), "states": []}
    states = json.loads(post(json.dumps(good).encode())[1])["states"]
    track = {"image": frame(1), "shapes": [None, None], "states": states}
    correct = {"image": frame(1), "shapes": outlines(1, [1, 2]), "states": states}
    counts: dict[int, int] = {}
    before = (0, 0)
    for number in tqdm(range(requests), unit="request"):
        body = json.loads(json.dumps(rng.choice([good, track, correct])))
        whole = number % 100 == 99
        data = json.dumps(body).encode() if whole else broken(body, rng)
        status, reply = post(data)
        counts[status] = counts.get(status, 0) + 1
        if status >= 500 or (whole and status != 200):
            print(f"request {number}: {status} {reply[:300].decode()}\n{data[-1000:]!r}")
            return False
        if number == requests // 10:
            before = rss_mib(), cached_mib()
    print(f"{requests} requests: " + ", ".join(f"{count} x {status}" for status, count in sorted(counts.items())))
    after = rss_mib(), cached_mib()
    for moment, (rss, cached) in (("after a tenth of them", before), ("at the end", after)):
        print(f"{moment}: RSS {rss} MiB, {cached} MiB of it cached banks")
    return after[0] - after[1] <= FLAT * (before[0] - before[1])


# ---- attacks ----

CPU_S, EXTRA_MIB = 3, 1024  # that a request may cost at most


def photo(width: int, height: int, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (90, 80, 70)).save(buffer, kind, **options)
    return buffer.getvalue()


def asked(image: bytes, shapes: list[dict], states: Sequence[Any] = ()) -> bytes:
    return json.dumps({"image": base64.b64encode(image).decode(), "shapes": shapes, "states": [*states]}).encode()


def animation(frames: int, kind: str) -> bytes:
    pictures = [Image.new("RGB", (3840, 2160), (shade, 80, 70)) for shade in range(frames)]
    buffer = io.BytesIO()
    pictures[0].save(buffer, kind, save_all=True, append_images=pictures[1:])
    return buffer.getvalue()


def polygon(points: np.ndarray) -> dict:
    return {"type": "polygon", "points": points.ravel().tolist()}


def repeated_scan(times: int) -> bytes:
    data = photo(8000, 5000, progressive=True)
    start, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return asked(data[:end] + data[start:end] * times + data[end:], [BOX])


def zigzag(points: int, width: int, height: int) -> dict:
    order = np.arange(points)
    return polygon(np.stack([order % 2 * width, order / points * height], 1))


def comb(width: int, height: int) -> dict:
    """Every other column, joined at the top: hardly a mask has a longer outline, or more runs."""
    mask = np.zeros((height, width), bool)
    mask[:, ::2] = mask[0] = True
    return {"type": "mask", "points": encode_rle(mask)}


def banks(count: int, call: Call) -> bytes:
    """A correction of each of many banks."""
    image = photo(1920, 1080)
    states = [call(json.loads(asked(image, [square])))["states"][0] for square in squares(count)]
    return asked(image, squares(count), states)


def squares(count: int) -> list[dict]:
    corners = np.array([(0, 0), (60, 0), (60, 60), (0, 60)])
    return [polygon(corners + (64 * (i % 10), 64 * (i // 10))) for i in range(count)]


BOX = {"type": "rectangle", "points": [20, 20, 60, 60]}
ATTACKS: dict[str, Callable[[Call], bytes]] = {
    "an ordinary frame": lambda _: asked(photo(1920, 1080), [BOX]),
    "40 megapixels": lambda _: asked(photo(8000, 5000), [BOX]),
    "a progressive scan 12 times": lambda _: repeated_scan(12),
    "a progressive scan 2000 times": lambda _: repeated_scan(2000),
    "a line of 1 000 000 x 40 pixels": lambda _: asked(photo(1_000_000, 40, "PNG"), [zigzag(1000, 1_000_000, 40)]),
    "a zigzag of 250 points in 4K": lambda _: asked(photo(3840, 2160), [zigzag(250, 3840, 2160)]),
    "28 zigzags of 250 points in 4K": lambda _: asked(photo(3840, 2160), [zigzag(250, 3840, 2160)] * 28),
    "a zigzag of 10 000 points in 4K": lambda _: asked(photo(3840, 2160), [zigzag(10_000, 3840, 2160)]),
    "28 objects in 4K": lambda _: asked(photo(3840, 2160), squares(28)),
    "6 objects on 40 megapixels": lambda _: asked(photo(8000, 5000), squares(6)),
    "50 objects on 40 megapixels": lambda _: asked(photo(8000, 5000), squares(50)),
    "a comb of 700 teeth as a mask": lambda _: asked(photo(1400, 1400), [comb(1400, 1400)]),
    "a correction of each of 8 banks": lambda call: banks(8, call),
    "a correction of each of 50 banks": lambda call: banks(50, call),
    "a line of 8 x 40 000 pixels": lambda _: asked(photo(8, 40_000, "PNG"), [BOX | {"points": [1, 20, 6, 60]}]),
    "a box over 60 000 x 600 pixels": lambda _: asked(photo(60_000, 600), [BOX | {"points": [9, 9, 59_990, 590]}]),
    "40 megapixels of WebP": lambda _: asked(photo(8000, 5000, "WEBP"), [BOX]),
    "40 megapixels of GIF": lambda _: asked(photo(8000, 5000, "GIF"), [BOX]),
    "a WebP of 60 frames in 4K": lambda _: asked(animation(60, "WEBP"), [BOX]),
    "a GIF of 60 frames in 4K": lambda _: asked(animation(60, "GIF"), [BOX]),
    "nested JSON": lambda _: b"[" * (8 << 20) + b"]" * (8 << 20),
    "lists in 16 MiB of JSON": lambda _: b"[" + b"[]," * (5 << 20) + b"[]]",
}


def attack(name: str) -> None:
    """One of them, in this process; prints what it cost as JSON."""
    environment = os.environ | {"MASKBANK_STORE": "memory://", "MASKBANK_SIZE": "64"}
    handler, context = start_worker(environment)
    invoke(handler, context, asked(photo(64, 64), [BOX]), "application/json")  # what only the first request costs

    def call(body: dict[str, Any]) -> dict[str, Any]:
        return json.loads(invoke(handler, context, json.dumps(body).encode(), "application/json")[2])

    body = ATTACKS[name](call)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before, cpu = rss_mib(), time.process_time()
    status, _, reply = invoke(handler, context, body, "application/json")
    cpu = time.process_time() - cpu
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    cost = {"bytes": len(body), "cpu": cpu, "mib": (int(peak.split()[1]) >> 10) - before, "status": status}
    print(json.dumps(cost | {"sentence": reply.decode() if status != 200 else ""}))


def attacks() -> bool:
    """All, each in a process of its own."""
    good = True
    print("| attack | bytes | s of CPU | more MiB | status | sentence |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in ATTACKS:
        command = [sys.executable, __file__, "attack", name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode:
            print(f"| {name} | the worker died: {done.stderr[-300:]!r} |")
            good = False
            continue
        cost = json.loads(done.stdout.splitlines()[-1])
        row = f"{cost['bytes']} | {cost['cpu']:.2f} | {cost['mib']} | {cost['status']} | {cost['sentence']}"
        print(f"| {name} | {row} |", flush=True)
        good &= cost["cpu"] <= CPU_S and cost["mib"] <= EXTRA_MIB and cost["status"] < 500
    return good


ODD = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 1e308, -1e308, float("nan"), float("inf")),
    *("", "x", "\0", "A" * 5000, "mask", "polygon", "rectangle", "ellipse"),
    *([], {}, [[]], [None], [1, 2, 3, 4], [0] * 6, {"type": "mask"}),
]


def broken(body: dict, rng: random.Random) -> bytes:
    """The body with something else in one to three places, or with damaged bytes."""
    for _ in range(rng.randint(1, 3)):
        places = list(walk(body))
        parent, key = rng.choice(places[: rng.randint(1, len(places))])
        what = rng.random()
        if what < 0.15:
            del parent[key]
        elif what < 0.25 and isinstance(parent, list):
            parent.insert(key, parent[key])
        elif what < 0.5 and isinstance(parent[key], int | float) and not isinstance(parent[key], bool):
            parent[key] += rng.choice([-1, 1, 0.5, 1000, -1000, 1e9])
        elif what < 0.6 and isinstance(parent[key], str) and parent[key]:
            at = rng.randrange(len(parent[key]))
            parent[key] = parent[key][:at] + rng.choice(["", "A", "=", "\u20ac", " "]) + parent[key][at + 1 :]
        else:
            parent[key] = json.loads(json.dumps(rng.choice(ODD)))
        if not isinstance(body, dict) or not body:
            break
    data = json.dumps(body).encode()
    if rng.random() < 0.05:
        data = data[: rng.randrange(len(data))] if rng.random() < 0.5 else bytes(rng.randrange(256) for _ in range(50))
    return data


def walk(node: Any) -> Iterator[tuple[Any, Any]]:
    """All places in a JSON value; of a long list of numbers only a few."""
    keys = list(node) if isinstance(node, dict) else range(len(node))
    if isinstance(node, list) and len(node) > 12:
        keys = [*range(4), *range(len(node) - 6, len(node))]
    for key in keys:
        yield node, key
        if isinstance(node[key], dict | list):
            yield from walk(node[key])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    runs = parser.add_subparsers(dest="run", required=True)
    options = runs.add_parser("soak")
    options.add_argument("--frames", type=int, default=5000)
    options.add_argument("--objects", type=int, default=3, choices=(1, 2, 3))
    options.add_argument("--size", type=int, default=480)
    options.add_argument("--every", type=int, default=500)
    options = runs.add_parser("faults")
    options.add_argument("--jobs", type=int, default=10)
    options.add_argument("--frames", type=int, default=40)
    options.add_argument("--workers", type=int, default=3)
    options.add_argument("--kills", type=int, default=200)
    options.add_argument("--restarts", type=int, default=20)
    options.add_argument("--size", type=int, default=96)
    options = runs.add_parser("jobs")
    options.add_argument("--jobs", type=int, default=50)
    options.add_argument("--frames", type=int, default=30)
    options.add_argument("--workers", type=int, default=3)
    options.add_argument("--size", type=int, default=96)
    options = runs.add_parser("fuzz")
    options.add_argument("--requests", type=int, default=20_000)
    options.add_argument("--seed", type=int, default=0)
    annotators.add_options(runs.add_parser("annotators"))
    runs.add_parser("attacks")
    runs.add_parser("attack", help="for this tool's own use").add_argument("name", choices=ATTACKS)
    options = runs.add_parser("worker", help="for this tool's own use")
    options.add_argument("--port", type=int)
    chosen = parser.parse_args()
    if chosen.run == "worker":
        with local_function(chosen.port):
            threading.Event().wait()
    if chosen.run == "annotators":
        return not annotators.measure(chosen)
    if chosen.run == "attack":
        attack(chosen.name)
        return 0
    if chosen.run == "attacks":
        return not attacks()
    if chosen.run == "soak":
        return not soak(chosen.frames, chosen.objects, chosen.size, chosen.every)
    if chosen.run == "fuzz":
        return not fuzz(chosen.requests, chosen.seed)
    kills, restarts = (chosen.kills, chosen.restarts) if chosen.run == "faults" else (0, 0)
    return not compare(chosen.jobs, chosen.frames, chosen.size, chosen.workers, kills, restarts)


if __name__ == "__main__":
    sys.exit(main())
