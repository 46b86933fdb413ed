"""How fast and how large: time per frame, memory and state size of each model, through the real handler.

Plays CVAT with the sample clip's frames at 854 x 480, 1920 x 1080 and 3840 x 2160 and tracks 1, 3 and 10 objects; says
where the time of a frame goes, and what share of the machine's ceiling that is; tracks on for a thousand frames, and
serves 1 and 8 annotators over HTTP. Every configuration runs in a process of its own, so that peaks of memory do not
mix. Writes bench.md into the folder given by --out, and prints it.
"""

import argparse
import base64
import json
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import cv2
import numpy as np
import torch
from annotators import server
from safetensors.torch import save_file
from stages import STAGES, StageTimer, ceilings, time_stages
from torch.utils.flop_counter import FlopCounterMode

from maskbank.files.frames import open_frames
from maskbank.files.images import working_size
from maskbank.files.masks import read_id_mask
from maskbank.function.local import invoke, start_worker
from maskbank.networks.afb_urr import AfbUrr
from maskbank.shapes.rle import encode_rle

CLIP = Path(__file__).resolve().parents[1] / "samples" / "clip"
WIDTH, HEIGHT = 854, 480
DISC = 30  # pixels, the radius of an extra object in a frame of that size
# Model, objects, size, store, tracked frames that are not measured, and that are (None: as asked for).
CONFIGURATIONS = [
    ("lite", 1, "854x480", "memory", 26, None),  # memorizes every 3rd frame; after 25 its bank is as full as it gets
    ("lite", 1, "854x480", "file", 26, None),
    ("lite", 1, "854x480", "redis", 26, None),
    ("lite", 3, "854x480", "memory", 26, None),
    ("lite", 10, "854x480", "memory", 26, None),
    ("lite", 10, "854x480", "redis", 26, None),
    ("lite", 1, "1920x1080", "memory", 26, None),
    ("lite", 1, "3840x2160", "memory", 26, None),
    ("afb-urr", 1, "854x480", "memory", 1, 5),  # seconds a frame; 5 frames hold one that is memorized
    ("afb-urr-paper", 1, "854x480", "memory", 1, 5),
]
COUNTED = 6  # more frames of `lite`, on which operations are counted; two of them are memorized
GROWTH_WINDOW = 48  # frames
HTTP_FRAMES = 15
CLIENTS = (1, 8)
CPU_FLAGS = ("avx2", "avx512_f", "avx512_bf16", "amx_bf16", "amx_tile")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench_out"))
    parser.add_argument("--frames", type=int, default=42, help="to measure with lite (default: %(default)s)")
    parser.add_argument("--only", choices=sorted({c[0] for c in CONFIGURATIONS}), help="one model")
    parser.add_argument("--long", type=int, default=1000, help="frames of the long run (default: %(default)s; 0: none)")
    parser.add_argument("--no-http", action="store_true", help="do not serve annotators over HTTP")
    parser.add_argument("--measure", nargs=6, help=argparse.SUPPRESS)  # one configuration, in this process
    parser.add_argument("--grow", type=int, help=argparse.SUPPRESS)  # the long run, in this process
    options = parser.parse_args()
    if options.frames < 1:
        parser.error("--frames must be 1 or more")
    if options.measure:
        model, objects, size, store, warm_up, frames = options.measure
        with store_at(store) as url:
            environment = os.environ | {"MASKBANK_STORE": url}
            print(json.dumps(measure(environment, model, int(objects), size, store, int(warm_up), int(frames))))
        return
    if options.grow:
        print(json.dumps(growth(options.grow)))
        return
    load = os.getloadavg()[0]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        random_weights = Path(folder) / "random.safetensors"
        save_file(AfbUrr().state_dict(), random_weights)
        for model, objects, size, store, warm_up, frames in CONFIGURATIONS:
            if store == "redis" and not shutil.which("redis-server"):
                print("no redis-server here: left out", file=sys.stderr)
            elif options.only in (None, model):
                print(f"{model}, {objects} object(s), {size}, store {store} …", file=sys.stderr)
                weights = {} if model == "lite" else {"MASKBANK_WEIGHTS": str(random_weights)}
                configuration = (model, objects, size, store, warm_up, frames or options.frames)
                environment = os.environ | {"MASKBANK_MODEL": model} | weights
                results.append(in_own_process(["--measure", *map(str, configuration)], environment))
    sections = [report(results, load), stages_report(results, ceilings())]
    if options.long:
        print(f"{options.long} frames …", file=sys.stderr)
        sections.append(growth_report(in_own_process(["--grow", str(options.long)], dict(os.environ))))
    if not options.no_http and shutil.which("redis-server"):
        print("annotators over HTTP …", file=sys.stderr)
        sections.append(http_report([http(clients) for clients in CLIENTS]))
    text = "\n".join(sections)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "bench.md").write_text(text)
    print(text)


def in_own_process(arguments: list[str], environment: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit("This configuration failed; what it says is above.")
    return json.loads(done.stdout)


@contextmanager
def store_at(kind: str) -> Iterator[str]:
    """The address of an empty store."""
    if kind == "memory":
        yield "memory://"
        return
    with tempfile.TemporaryDirectory() as folder:
        if kind == "file":
            yield f"file://{folder}"
            return
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = ["redis-server", "--port", str(port), "--dir", folder, "--save", "", "--appendonly", "yes"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
            try:
                wait_for(port)
                yield f"redis://127.0.0.1:{port}/0"
            finally:
                server.terminate()


def wait_for(port: int) -> None:
    for _ in range(200):
        with closing(socket.socket()) as probe:
            if not probe.connect_ex(("127.0.0.1", port)):
                return
        sleep(0.05)
    sys.exit("redis-server does not start.")


def measure(
    environment: dict[str, str], model: str, objects: int, size: str, store: str, warm_up: int, frames: int
) -> dict[str, Any]:
    """Tracks `objects` through `warm_up` and then `frames` frames; what the latter took, in milliseconds.

    size: of the frames, as `WIDTHxHEIGHT`.
    """
    width, height = map(int, size.split("x"))
    run = Run(environment, objects, width, height)
    run.track(warm_up)
    written = -run.store.statistics().get("written_bytes", 0)
    timer = StageTimer()
    time_stages(timer, run.service)
    times, visible = run.track(frames)
    each = {stage: timer.seconds[stage] * 1000 / frames for stage in STAGES}
    written += run.store.statistics().get("written_bytes", 0)
    last = run.store.load(run.states[0]["bank"], run.states[0]["revision"], run.states[0]["digest"])
    entries = [len(bank) for bank in last.memory.banks]
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    timer.clear()
    counted = COUNTED if model == "lite" else frames
    with FlopCounterMode(display=False) as timer.counter:
        run.track(counted)
    tracker = run.service.tracker
    return {
        "model": model,
        "objects": objects,
        "size": size,
        "kept": store,
        "written_kib": written / frames / 1024,
        "median": float(np.median(times)),
        "p90": float(np.percentile(times, 90)),
        **each,
        "rest": float(np.mean(times)) - sum(each.values()),
        "gflop": {stage: flops / counted / 1e9 for stage, flops in timer.flops.items() if flops},
        "visible": float(np.mean(visible)),
        "entries": entries,
        "peak_mib": peak_mib,
        "state_bytes": max(len(json.dumps(state)) for state in run.states),
        "working": working_size(height, width, tracker.short_side, tracker.model.max_scale),
        "device": str(tracker.device),
    }


class Run:
    """A worker, and a client who tracks the sample clip there and back again.

    Args:
        environment: the worker's settings.
        objects, width, height: what is outlined on the first frame, and the size of the frames.
    """

    def __init__(self, environment: dict[str, str], objects: int, width: int = WIDTH, height: int = HEIGHT):
        self.images = encoded_frames(width, height)
        self.handler, self.context = start_worker(environment)
        self.service = self.context.user_data.model.service
        self.store = self.service.store
        tracker = self.service.tracker
        # The bank fills up, however sure the network is.
        tracker.model = replace(tracker.model, confident_only=False)
        self.shapes: list = [
            {"type": "mask", "points": encode_rle(resized_mask(mask, width, height))} for mask in outlines(objects)
        ]
        self.states: list = []
        self.position = 0
        self.track(1)

    def track(self, frames: int) -> tuple[list[float], list[int]]:
        """Milliseconds and visible objects of the next frames."""
        times, visible = [], []
        for _ in range(frames):
            there_and_back = self.position % (2 * len(self.images) - 2)
            image = self.images[min(there_and_back, 2 * len(self.images) - 2 - there_and_back)]
            sent = {"image": base64.b64encode(image).decode(), "shapes": self.shapes, "states": self.states}
            body = json.dumps(sent).encode()
            started = perf_counter()
            status, _, reply = invoke(self.handler, self.context, body, "application/json")
            times.append(1000 * (perf_counter() - started))
            if status != 200:
                sys.exit(f"{status}: {reply.decode()}")
            self.states, self.shapes = json.loads(reply)["states"], [None] * len(self.shapes)
            visible.append(sum(state["visible"] for state in self.states))
            self.position += 1
        return times, visible


def growth(frames: int) -> dict[str, Any]:
    """How time and memory grow over a long run in a folder: the mean of some frames, by the number of the last."""
    with store_at("file") as url:
        run = Run(os.environ | {"MASKBANK_STORE": url}, 1)
        run.track(26)
        rows = []
        while run.position < frames:
            times, _ = run.track(GROWTH_WINDOW)
            resident_mib = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
            rows.append({"frame": run.position, "mean": float(np.mean(times)), "resident_mib": resident_mib})
    return {"rows": rows}


def http(clients: int) -> dict[str, Any]:
    """So many annotators at once at `maskbank serve` with one worker, each tracking one object as fast as it can."""
    times: list[float] = []

    def annotate(url: str) -> None:
        states, shapes = [], [{"type": "mask", "points": encode_rle(outlines(1)[0])}]
        for index in range(HTTP_FRAMES):
            sent = {"image": base64.b64encode(images[index]).decode(), "shapes": shapes, "states": states}
            request = urllib.request.Request(url, json.dumps(sent).encode(), {"Content-Type": "application/json"})
            started = perf_counter()
            with urllib.request.urlopen(request, timeout=120) as reply:
                states, shapes = json.loads(reply.read())["states"], [None]
            times.append(1000 * (perf_counter() - started))

    images = encoded_frames(WIDTH, HEIGHT)
    with server(workers=1, size=HEIGHT, adapt_s=0) as serving:
        url = f"http://127.0.0.1:{serving.port}/"
        annotate(url)  # the first frames of a worker take longer
        times.clear()
        started = perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            for each in [pool.submit(annotate, url) for _ in range(clients)]:
                each.result()
        seconds = perf_counter() - started
    return {
        "clients": clients,
        "per_second": len(times) / seconds,
        "median": float(np.median(times)),
        "p95": float(np.percentile(times, 95)),
    }


def resized_mask(mask: np.ndarray, width: int, height: int) -> np.ndarray:
    return cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0


def encoded_frames(width: int, height: int) -> list[bytes]:
    encoded = []
    for image in open_frames(CLIP / "frames"):
        resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
        encoded.append(cv2.imencode(".jpg", cv2.cvtColor(resized, cv2.COLOR_RGB2BGR))[1].tobytes())
    return encoded


def outlines(objects: int) -> list[np.ndarray]:
    """Disjoint masks in the first frame, (H, W) bool: the turtle, the koi, then discs where there is most room."""
    ids = read_id_mask(CLIP / "masks" / "00000.png")
    ids = cv2.resize(ids, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST)
    masks = [ids == i for i in (3, 2, 1)]
    while len(masks) < objects:
        free = 1 - np.any(masks, axis=0).astype(np.uint8)
        room = cv2.distanceTransform(np.pad(free, 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
        y, x = np.unravel_index(room.argmax(), room.shape)
        disc = cv2.circle(np.zeros_like(free), (int(x), int(y)), min(DISC, int(room.max()) - 1), 1, cv2.FILLED)
        masks.append(disc > 0)
    return masks[:objects]


def report(results: list[dict[str, Any]], load: float) -> str:
    flags = [name for name in CPU_FLAGS if torch.cpu.get_capabilities().get(name)]
    facts = [
        f"{processor()}, {len(os.sched_getaffinity(0))} cores; {torch.get_num_threads()} threads; "
        f"{', '.join(flags) or 'no AVX2'}",
        f"PyTorch {torch.__version__}, Python {platform.python_version()}, device {results[0]['device']}",
        "worked on at " + " or ".join(sorted({"{1} x {0}".format(*r["working"]) for r in results})),
        f"load before the start {load:.1f}",
    ]
    rows = [
        {
            "model": r["model"],
            "objects": r["objects"],
            "frames": r["size"].replace("x", " x "),
            "kept in": r["kept"],
            "median": f"{r['median']:.0f}",
            "p90": f"{r['p90']:.0f}",
            "visible": f"{r['visible']:.1f}",
            "entries": " + ".join(map(str, r["entries"])),
            "peak MiB": f"{r['peak_mib']:.0f}",
            "state": r["state_bytes"],
            "KiB written": f"{r['written_kib']:.0f}",
        }
        for r in results
    ]
    notes = (
        "median and p90: milliseconds of a whole request, after warm-up. "
        "Every third frame (afb-urr: fifth) is memorized, sure or not, so that banks are full, and encoded in full; on "
        "the others lite looks only around its objects. visible: objects in the answers, on average. entries: of each "
        "bank at the end. peak: the process. state: bytes of the largest. KiB written: to the store, per frame. "
        "The afb-urr models run with random weights for a few frames: their banks are smaller or larger than real ones."
    )
    return "\n".join([*(f"* {fact}" for fact in facts), "", *table(rows), "", notes, ""])


def stages_report(results: list[dict[str, Any]], ceiling: dict[str, float]) -> str:
    """Where the time of a frame goes, a column for each configuration."""
    rows = []
    for stage in (*STAGES, "rest"):
        row = {"stage": stage}
        for r in results:
            gflop = r["gflop"].get(stage, 0.0)
            share = 100 * gflop * 1e12 / max(ceiling.values()) / (r[stage] or 1.0)
            done = f" ({gflop:.2g} GFLOP, {share:.0f} %)"
            name = f"{r['model']}, {r['objects']}, {r['size'].replace('x', ' x ')}, {r['kept']}"
            row[name] = f"{r[stage]:.1f}" + (done if gflop >= 0.01 else "")
        rows.append(row)
    notes = (
        "Milliseconds of a mean frame; billions of floating-point operations, and what share of the machine's ceiling "
        "it is to do them in that time. value: what the network makes of a memorized frame; bank: keeping that; "
        "shapes: masks in CVAT's words; rest: JSON, and the tracker's own work. The ceiling is the fastest of: "
    )
    measured = ", ".join(f"{name} {speed / 1e9:.0f} GFLOP/s" for name, speed in ceiling.items())
    return "\n".join(["## Where the time goes", "", *table(rows), "", notes + measured + ".", ""])


def growth_report(found: dict[str, Any]) -> str:
    chosen = [row for number, row in enumerate(found["rows"]) if number % max(len(found["rows"]) // 5, 1) == 0]
    rows = [
        {"frame": row["frame"], "milliseconds": f"{row['mean']:.0f}", "memory in MiB": f"{row['resident_mib']:.0f}"}
        for row in chosen
    ]
    title = f"## A long run: one object, kept in a folder, means of {GROWTH_WINDOW} frames"
    return "\n".join([title, "", *table(rows), ""])


def http_report(found: list[dict[str, Any]]) -> str:
    rows = [
        {
            "annotators": row["clients"],
            "frames per second": f"{row['per_second']:.1f}",
            "median": f"{row['median']:.0f}",
            "p95": f"{row['p95']:.0f}",
        }
        for row in found
    ]
    title = "## Over HTTP: one worker of `maskbank serve` with a Redis, one object each, no pause between frames"
    return "\n".join([title, "", *table(rows), ""])


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Lines of Markdown."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return [f"| {' | '.join(map(str, line))} |" for line in lines]


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


if __name__ == "__main__":
    main()
