"""The demo: plays CVAT against the function on the sample clip, and shows what came out.

Starts the handler in a local HTTP server, outlines the objects on the first frame, lets the function track them, and
leaves masks, a COCO JSON, an overlay video, a contact sheet, a report and a page to look at the run in the folder
given by --out.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from maskbank.evaluation.measures import jaccard, mean_j_and_f
from maskbank.files.frames import open_frames
from maskbank.files.masks import read_id_mask
from maskbank.files.rendering import contact_sheet
from maskbank.files.results import ResultFolder
from maskbank.function.client import FunctionError, TrackingSession, http_call
from maskbank.function.local import local_function
from maskbank.review.page import write_page
from maskbank.review.record import RunRecord, facts_of, findings_of

CLIP = Path(__file__).resolve().parents[1] / "samples" / "clip"
SHEET_FRAMES = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo_out"))
    out = parser.parse_args().out

    environment = os.environ | {"MASKBANK_STORE": "memory://"}  # nobody will ask for this bank again
    frames = open_frames(CLIP / "frames")
    labels = {int(i): name for i, name in json.loads((CLIP / "labels.json").read_text()).items()}
    names = [frames.name(i) for i in range(len(frames))]
    truths = [read_id_mask(CLIP / "masks" / f"{Path(name).stem}.png") for name in names]
    found, drawn, seconds = [], [], []
    with (
        local_function(environment=environment) as url,
        ResultFolder(out, "webm", frames.fps, labels) as results,
        RunRecord(out, facts_of(CLIP / "frames", labels)) as record,
        tqdm(total=len(frames), unit="frame", desc=f"tracking {', '.join(labels.values())}") as bar,
    ):
        session = TrackingSession(http_call(url))
        for name, image, truth in zip(names, frames, truths, strict=True):
            encoded = (CLIP / "frames" / name).read_bytes()
            started = time.perf_counter()
            if not found:
                session.start(encoded, [truth == i for i in labels])
                ids = truth
            else:
                ids = np.zeros_like(truth)
                for object_id, mask in zip(labels, session.track(encoded, truth.shape), strict=True):
                    ids[mask] = object_id
            seconds.append(time.perf_counter() - started)
            confidence = {i: state["confidence"] for i, state in zip(labels, session.states, strict=True)}
            drawn.append(results.add(name, image, ids, confidence))
            seeded = [] if found else list(labels)
            record.add(len(found), name, ids.shape, findings_of(ids, labels, confidence, seeded))
            found.append(ids)
            bar.update()

    chosen = np.linspace(0, len(frames) - 1, SHEET_FRAMES).round().astype(int)
    sheet = contact_sheet([drawn[i] for i in chosen], 3, [f"frame {i}" for i in chosen])
    cv2.imwrite(str(out / "contact_sheet.png"), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    text = report(labels, found, truths, seconds)
    (out / "report.md").write_text(text)
    page = write_page(out)
    print(f"\n{text}\nLook at {page} in a browser, {out / 'contact_sheet.png'} and {out / 'overlay.webm'}.")


def report(labels: dict[int, str], found: list[np.ndarray], truths: list[np.ndarray], seconds: list[float]) -> str:
    """J and F of each object against the clip's known masks, and the time per frame, as Markdown."""
    scores = mean_j_and_f(found, truths, list(labels), skip_last=False)
    lines = ["| object | J | F | worst frame |", "| --- | --- | --- | --- |"]
    for object_id, name in labels.items():
        per_frame = [jaccard(f == object_id, t == object_id) for f, t in zip(found, truths, strict=True)]
        worst = int(np.argmin(per_frame))
        score = scores[object_id]
        lines.append(f"| {name} | {score.j:.3f} | {score.f:.3f} | {worst} (J {per_frame[worst]:.2f}) |")
    height, width = truths[0].shape
    lines += [
        "",
        f"{len(found)} frames of {width} x {height}, {len(labels)} objects: {np.median(seconds[1:]):.3f} s per frame "
        f"(median, the whole request over HTTP), {seconds[0]:.2f} s for the first.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError, FunctionError) as error:
        sys.exit(f"demo: {error}")
