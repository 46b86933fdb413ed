"""How good the tracker is on annotated sequences: J and F through the function's handler, beside two baselines."""

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from maskbank.cvat_client import Call, FunctionError, TrackingSession
from maskbank.evaluation.baselines import BASELINES
from maskbank.evaluation.measures import Score, mean_j_and_f
from maskbank.frames import read_id_mask
from maskbank.local_function import invoke, start_worker

TOGETHER, ALONE = "all objects together", "one object at a time"


@dataclass(frozen=True)
class Sequence:
    """An annotated sequence: frames from the first annotated one on."""

    name: str
    images: list[Path]
    truths: list[np.ndarray | None]  # (H, W) uint8 ids; None: not annotated

    @property
    def objects(self) -> list[int]:
        return [int(i) for i in np.unique(self.truths[0]) if i]


def read_sequences(data: Path) -> list[Sequence]:
    """All sequences below `data`: folders of .jpg frames with .png masks beside at least two of them.

    Raises ValueError with one sentence when there is none.
    """
    sequences = []
    for folder in sorted({path.parent for path in data.rglob("*.jpg")}):
        images = sorted(folder.glob("*.jpg"))
        masks = [image.with_suffix(".png") for image in images]
        truths = [read_id_mask(mask) if mask.exists() else None for mask in masks]
        annotated = [i for i, truth in enumerate(truths) if truth is not None]
        if len(annotated) >= 2 and truths[annotated[0]].any():
            first = annotated[0]
            sequences.append(Sequence(str(folder.relative_to(data)), images[first:], truths[first:]))
    if not sequences:
        raise ValueError(f"{data} holds no folder of .jpg frames with .png masks beside two or more of them.")
    return sequences


def handler_call(log_level: int = logging.ERROR) -> Call:
    """The function's handler as CVAT would call it, in this process."""
    handler, context = start_worker(log_level)

    def call(body: dict) -> dict:
        status, _, reply = invoke(handler, context, json.dumps(body).encode(), "application/json")
        if status != 200:
            raise FunctionError(f"{status}: {reply.decode()}")
        return json.loads(reply)

    return call


def track_sequence(call: Call, sequence: Sequence, objects: list[int]) -> Iterator[tuple[np.ndarray, list[dict]]]:
    """The id map of each frame, the seed's included, and the objects' states with it.

    Raises ValueError with one sentence when the function refuses a frame or fails on it.
    """
    session = TrackingSession(call)
    seed = sequence.truths[0]
    try:
        session.start(sequence.images[0].read_bytes(), [seed == i for i in objects])
        yield np.where(np.isin(seed, objects), seed, 0), session.states
        for image in sequence.images[1:]:
            ids = np.zeros(seed.shape, np.uint8)
            for object_id, mask in zip(objects, session.track(image.read_bytes(), seed.shape), strict=True):
                ids[mask] = object_id
            yield ids, session.states
    except FunctionError as error:
        raise ValueError(f"The function refused the sequence {sequence.name}: {error}") from error


@dataclass(frozen=True)
class Result:
    """Mean scores of one way to track one sequence."""

    sequence: str
    way: str
    scores: dict[int, Score]
    seconds_per_frame: float

    @property
    def mean(self) -> Score:
        return Score(*(float(np.mean([getattr(s, k) for s in self.scores.values()])) for k in ("j", "f")))


def evaluate(data: Path) -> Iterator[Result]:
    """Scores every sequence below `data`, seeded on its first annotated frame, by the function and the baselines.

    The last frame is left out as DAVIS does, unless only some frames are annotated.
    """
    call = handler_call()
    for sequence in tqdm(read_sequences(data), unit="sequence", desc="evaluating"):
        objects = sequence.objects
        yield score(sequence, TOGETHER, objects, (ids for ids, _ in track_sequence(call, sequence, objects)))
        if len(objects) > 1:
            alone = [
                score(sequence, ALONE, [i], (ids for ids, _ in track_sequence(call, sequence, [i]))) for i in objects
            ]
            scores = {i: own for result in alone for i, own in result.scores.items()}
            yield Result(sequence.name, ALONE, scores, sum(result.seconds_per_frame for result in alone))
        for way, baseline in BASELINES.items():
            images = (np.asarray(Image.open(path).convert("RGB")) for path in sequence.images)
            yield score(sequence, way, objects, baseline(images, sequence.truths[0]))


def score(sequence: Sequence, way: str, objects: list[int], masks: Iterator[np.ndarray]) -> Result:
    """The scores of the id maps that one way to track a sequence gives; takes the time that it needs for them."""
    started = time.perf_counter()
    found = list(masks)
    seconds = (time.perf_counter() - started) / len(found)
    skip_last = len(found) > 2 and all(truth is not None for truth in sequence.truths)
    return Result(sequence.name, way, mean_j_and_f(found, sequence.truths, objects, skip_last), seconds)


def report(results: list[Result]) -> str:
    """A Markdown table: a row per sequence and way, then the means over each folder of sequences.

    A sequence with a single object counts in the mean of "one object at a time" too.
    """
    lines = ["| sequence | way | J | F | J&F | s/frame |", "| --- | --- | --- | --- | --- | --- |"]

    def row(name: str, way: str, score: Score, seconds: float) -> str:
        j, f, both = (f"{100 * value:.1f}" for value in (score.j, score.f, score.j_and_f))
        return f"| {name} | {way} | {j} | {f} | {both} | {seconds:.3f} |"

    lines += [row(r.sequence, r.way, r.mean, r.seconds_per_frame) for r in results]
    for folder in sorted({str(Path(r.sequence).parent) for r in results}):
        inside = [r for r in results if str(Path(r.sequence).parent) == folder]
        ways = {r.way for r in inside}
        for way in (w for w in (TOGETHER, ALONE, *BASELINES) if w in ways):
            fallback = {r.sequence: r for r in inside if r.way == TOGETHER and way == ALONE}
            own = list((fallback | {r.sequence: r for r in inside if r.way == way}).values())
            if len(own) > 1:
                mean = Score(float(np.mean([r.mean.j for r in own])), float(np.mean([r.mean.f for r in own])))
                seconds = float(np.mean([r.seconds_per_frame for r in own]))
                lines.append(row(f"**{folder}** ({len(own)})", way, mean, seconds))
    return "\n".join(lines)
