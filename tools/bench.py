"""How fast and how large: time per frame, memory and state size of each model, through the real handler.

Plays CVAT with the sample clip's frames at 854 x 480 and tracks 1, 3 and 10 objects. Every configuration runs in a
process of its own, so that peaks of memory do not mix. Writes bench.md into the folder given by --out, and prints it.
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
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import cv2
import numpy as np
import torch
from safetensors.torch import save_file

from maskbank.files.frames import open_frames
from maskbank.files.images import working_size
from maskbank.files.masks import read_id_mask
from maskbank.function.health import Health
from maskbank.function.local import invoke, start_worker
from maskbank.networks.afb_urr import AfbUrr
from maskbank.service import service
from maskbank.shapes.rle import encode_rle

CLIP = Path(__file__).resolve().parents[1] / "samples" / "clip"
WIDTH, HEIGHT = 854, 480
DISC = 30  # pixels, the radius of an extra object
CONFIGURATIONS = [  # model, objects, store, tracked frames that are not measured, and that are (None: as asked for)
    ("lite", 1, "memory", 25, None),  # memorizes every 3rd frame; after 25 its bank is as full as it gets
    ("lite", 1, "file", 25, None),
    ("lite", 1, "redis", 25, None),
    ("lite", 3, "memory", 25, None),
    ("lite", 10, "memory", 25, None),
    ("lite", 10, "redis", 25, None),
    ("afb-urr", 1, "memory", 1, 6),  # seconds a frame; 6 frames hold one that is memorized, two at times
    ("afb-urr-paper", 1, "memory", 1, 6),
]
STAGES = ("decode", "encode", "segment", "memorize", "store")
CPU_FLAGS = ("avx2", "avx512_f", "avx512_bf16", "amx_bf16", "amx_tile")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench_out"))
    parser.add_argument("--frames", type=int, default=40, help="to measure with lite (default: %(default)s)")
    parser.add_argument("--only", choices=sorted({c[0] for c in CONFIGURATIONS}), help="one model")
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)  # one configuration, in this process
    options = parser.parse_args()
    if options.frames < 1:
        parser.error("--frames must be 1 or more")
    if options.measure:
        model, objects, store, warm_up, frames = options.measure
        with store_at(store) as url:
            environment = os.environ | {"MASKBANK_STORE": url}
            print(json.dumps(measure(environment, model, int(objects), store, int(warm_up), int(frames))))
        return
    load = os.getloadavg()[0]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        random_weights = Path(folder) / "random.safetensors"
        save_file(AfbUrr().state_dict(), random_weights)
        for model, objects, store, warm_up, frames in CONFIGURATIONS:
            if store == "redis" and not shutil.which("redis-server"):
                print("no redis-server here: left out", file=sys.stderr)
            elif options.only in (None, model):
                print(f"{model}, {objects} object(s), store {store} …", file=sys.stderr)
                weights = {} if model == "lite" else {"MASKBANK_WEIGHTS": str(random_weights)}
                configuration = (model, objects, store, warm_up, frames or options.frames)
                results.append(in_own_process(configuration, os.environ | {"MASKBANK_MODEL": model} | weights))
    text = report(results, load)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "bench.md").write_text(text)
    print(text)


def in_own_process(configuration: tuple, environment: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", *map(str, configuration)]
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
    environment: dict[str, str], model: str, objects: int, store: str, warm_up: int, frames: int
) -> dict[str, Any]:
    """Tracks `objects` through `warm_up` and then `frames` frames; what the latter took, in milliseconds."""
    images = encoded_frames()
    handler, context = start_worker(environment)
    tracker = context.user_data.model.service.tracker
    tracker.model = replace(tracker.model, confident_only=False)  # the bank fills up, however sure the network is
    health, kept = context.user_data.model.health, context.user_data.model.service.store
    stages: Counter[str] = Counter()
    time_calls(service, "decode_image", stages, "decode")
    time_calls(tracker, "view", stages, "encode")
    time_calls(tracker.segmenter, "segment", stages, "segment")
    time_calls(tracker.segmenter, "memorize", stages, "memorize")

    shapes: list = [{"type": "mask", "points": encode_rle(mask)} for mask in outlines(objects)]
    states: list = []
    times, visible = [], []
    for index in range(1 + warm_up + frames):
        if index == 1 + warm_up:
            stages.clear()
            times.clear()
            store_s, written = -stage_seconds(health, "store"), -kept.statistics().get("written_bytes", 0)
        there_and_back = index % (2 * len(images) - 2)
        image = images[min(there_and_back, 2 * len(images) - 2 - there_and_back)]
        body = json.dumps({"image": base64.b64encode(image).decode(), "shapes": shapes, "states": states}).encode()
        started = perf_counter()
        status, _, reply = invoke(handler, context, body, "application/json")
        times.append(1000 * (perf_counter() - started))
        if status != 200:
            sys.exit(f"{status}: {reply.decode()}")
        states, shapes = json.loads(reply)["states"], [None] * objects
        visible.append(sum(state["visible"] for state in states))
    last = context.user_data.model.service.store.load(states[0]["bank"], states[0]["revision"], states[0]["digest"])
    stages["store"] = store_s + stage_seconds(health, "store")
    written += kept.statistics().get("written_bytes", 0)
    each = {stage: stages[stage] * 1000 / frames for stage in STAGES}
    return {
        "model": model,
        "objects": objects,
        "kept": store,
        "written_kib": written / frames / 1024,
        "median": float(np.median(times)),
        "p90": float(np.percentile(times, 90)),
        **each,
        "rest": float(np.mean(times)) - sum(each.values()),
        "visible": float(np.mean(visible[-frames:])),
        "entries": [len(bank) for bank in last.memory.banks],
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,  # KiB on Linux
        "state_bytes": max(len(json.dumps(state)) for state in states),
        "working": working_size(HEIGHT, WIDTH, tracker.short_side, tracker.model.max_scale),
        "device": str(tracker.device),
    }


def stage_seconds(health: Health, stage: str) -> float:
    return health.registry.get_sample_value("maskbank_stage_seconds_total", {"stage": stage})


def time_calls(owner: Any, name: str, stages: Counter[str], stage: str) -> None:
    """Replaces a function by one that also adds its seconds to a stage."""
    function = getattr(owner, name)

    def timed(*arguments: Any) -> Any:
        started = perf_counter()
        try:
            return function(*arguments)
        finally:
            stages[stage] += perf_counter() - started

    setattr(owner, name, timed)


def encoded_frames() -> list[bytes]:
    encoded = []
    for image in open_frames(CLIP / "frames"):
        resized = cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
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
    height, width = results[0]["working"]
    facts = [
        f"{processor()}, {len(os.sched_getaffinity(0))} cores; {torch.get_num_threads()} threads; "
        f"{', '.join(flags) or 'no AVX2'}",
        f"PyTorch {torch.__version__}, Python {platform.python_version()}, device {results[0]['device']}",
        f"frames of {WIDTH} x {HEIGHT}, worked on at {width} x {height}",
        f"MALLOC_MMAP_THRESHOLD_ {os.environ.get('MALLOC_MMAP_THRESHOLD_', 'not set')} (see function.yaml), "
        f"load before the start {load:.1f}",
    ]
    titles = ("model", "objects", "kept in", "median", "p90", *STAGES, "rest", "visible", "entries")
    titles = (*titles, "peak MiB", "state", "KiB written")
    rows = [titles, ["---"] * len(titles)]
    for r in results:
        times = [f"{r[name]:.0f}" for name in ("median", "p90", *STAGES, "rest")]
        entries = " + ".join(map(str, r["entries"]))
        row = [r["model"], r["objects"], r["kept"], *times, f"{r['visible']:.1f}", entries, f"{r['peak_mib']:.0f}"]
        rows.append([*row, r["state_bytes"], f"{r['written_kib']:.0f}"])
    table = [f"| {' | '.join(map(str, row))} |" for row in rows]
    notes = (
        "median and p90: milliseconds of a whole request, after warm-up. The stages are means over the same requests; "
        "rest is competing for pixels, bank upkeep, masks and JSON. visible: objects in the answers, on average. "
        "Every frame that is due is memorized, sure or not, so that banks are full; entries: of each bank at the end. "
        "peak: the process. state: bytes of the largest. KiB written: to the store, per frame. "
        "The afb-urr models run with random weights for a few frames: their banks are smaller or larger than real ones."
    )
    return "\n".join([*(f"* {fact}" for fact in facts), "", *table, "", notes, ""])


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


if __name__ == "__main__":
    main()
