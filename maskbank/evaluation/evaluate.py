"""How good the tracker is on annotated sequences: J and F through the function's handler, beside two baselines."""

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from maskbank.evaluation.baselines import BASELINES
from maskbank.evaluation.measures import calibration_error, rank_correlation, worst_found
from maskbank.evaluation.sequences import (
    AnnotatedSequence,
    ConfidenceSample,
    SequenceScore,
    mean_score,
    read_sequences,
    score,
)
from maskbank.files.frames import read_image
from maskbank.function.client import Call, FunctionError, TrackingSession
from maskbank.function.local import invoke, start_worker
from maskbank.networks.outliner import Outliner
from maskbank.networks.overlaps import disjoint
from maskbank.shapes.conversion import mask_to_shape

TOGETHER, ALONE = "all objects together", "one object at a time"
FROM_BOXES = "all objects together, from boxes"


def handler_call(environment: Mapping[str, str]) -> Call:
    """The function's handler as CVAT would call it, in this process, with the settings of an environment."""
    in_memory = {"MASKBANK_STORE": "memory://"}  # nobody will ask for these banks again
    handler, context = start_worker({**environment, **in_memory}, logging.ERROR)

    def call(body: dict[str, Any]) -> dict[str, Any]:
        status, _, reply = invoke(handler, context, json.dumps(body).encode(), "application/json")
        if status != 200:
            raise FunctionError(status, reply.decode())
        parsed: dict[str, Any] = json.loads(reply)
        return parsed

    return call


def track_sequence(
    call: Call, sequence: AnnotatedSequence, objects: list[int], seed: np.ndarray
) -> Iterator[tuple[np.ndarray, list[dict[str, Any]]]]:
    """The id map of each frame, the seed's included, and the objects' states with it.

    seed: (H, W) uint8, the ids in the first frame.

    Raises ValueError with one sentence when the function refuses a frame or fails on it.
    """
    session, image = TrackingSession(call), sequence.images[0]
    try:
        session.start(image.read_bytes(), [seed == i for i in objects])
        yield np.where(np.isin(seed, objects), seed, 0), session.states
        for image in sequence.images[1:]:
            ids = np.zeros(seed.shape, np.uint8)
            for object_id, mask in zip(objects, session.track(image.read_bytes(), seed.shape), strict=True):
                ids[mask] = object_id
            yield ids, session.states
    except FunctionError as error:
        raise ValueError(f"The function refused {image.name} of the sequence {sequence.name}: {error}") from error


def seed_from_boxes(outliner: Outliner, sequence: AnnotatedSequence) -> np.ndarray:
    """The ids in the first frame as they are found in the boxes of its objects, (H, W) uint8."""
    image = read_image(sequence.images[0])
    found = {}
    for object_id in sequence.objects:
        box = mask_to_shape(sequence.seed == object_id, "rectangle")
        assert box is not None
        found[object_id] = outliner.object_of(box, image)
    ids = np.zeros_like(sequence.seed)
    for object_id, seed in disjoint(found.items()):
        ids[seed.mask] = object_id
    return ids


def evaluate(data: Path, environment: Mapping[str, str], outliner: Outliner | None = None) -> Iterator[SequenceScore]:
    """Scores every sequence below `data`, seeded on its first annotated frame, by the function and the baselines.

    outliner: tracks from boxes as well, with the masks that it finds in them.
    The last frame is left out as DAVIS does, unless only some frames are annotated.
    """
    call = handler_call(environment)
    for sequence in tqdm(read_sequences(data), unit="sequence", desc="evaluating"):
        objects = sequence.objects
        yield score(sequence, TOGETHER, objects, track_sequence(call, sequence, objects, sequence.seed))
        if outliner:
            seed = seed_from_boxes(outliner, sequence)
            yield score(sequence, FROM_BOXES, objects, track_sequence(call, sequence, objects, seed))
        if len(objects) > 1:
            alone = [score(sequence, ALONE, [i], track_sequence(call, sequence, [i], sequence.seed)) for i in objects]
            frames = {i: own for result in alone for i, own in result.frames.items()}
            seconds = sum(result.seconds_per_frame for result in alone)
            samples = tuple(sample for result in alone for sample in result.samples)
            yield SequenceScore(sequence.name, ALONE, frames, seconds, samples)
        for way, baseline in BASELINES.items():
            images = (read_image(path) for path in sequence.images)
            yield score(sequence, way, objects, ((ids, []) for ids in baseline(images, sequence.seed)))


def report(results: list[SequenceScore]) -> str:
    """Two Markdown tables: a row per sequence and way, then the means over each folder of sequences; and what is to be
    said of the confidence.

    A sequence with a single object counts in the mean of "one object at a time" too.
    """
    rows = [(r.sequence, r.way, [r]) for r in results]
    for folder in sorted({str(Path(r.sequence).parent) for r in results}):
        inside = [r for r in results if str(Path(r.sequence).parent) == folder]
        ways = {r.way for r in inside}
        for way in (w for w in (TOGETHER, FROM_BOXES, ALONE, *BASELINES) if w in ways):
            fallback = {r.sequence: r for r in inside if r.way == TOGETHER and way == ALONE}
            own = list((fallback | {r.sequence: r for r in inside if r.way == way}).values())
            if len(own) > 1:
                rows.append((f"**{folder}** ({len(own)})", way, own))
    headlines = ["| sequence | way | J | F | J&F | s/frame |", "| --- | --- | --- | --- | --- | --- |"]
    course = ["| sequence | way | J recall | J decay | F recall | F decay |", "| --- | --- | --- | --- | --- | --- |"]
    for name, way, own in rows:
        score, recall, decay = (mean_score([getattr(r, what) for r in own]) for what in ("mean", "recall", "decay"))
        seconds = float(np.mean([r.seconds_per_frame for r in own]))
        headlines.append(f"| {name} | {way} | {_percents(score.j, score.f, score.j_and_f)} | {seconds:.3f} |")
        course.append(f"| {name} | {way} | {_percents(recall.j, decay.j, recall.f, decay.f)} |")
    samples = [sample for r in results if r.way == TOGETHER for sample in r.samples]
    return "\n".join([*headlines, "", *course, *_about_confidence(samples)])


def _percents(*shares: float) -> str:
    return " | ".join(f"{100 * share:.1f}" for share in shares)


def _about_confidence(samples: list[ConfidenceSample]) -> list[str]:
    if len(samples) < 3:
        return []
    there = [sample.visible for sample in samples if sample.present]
    gone = [sample.visible for sample in samples if not sample.present]
    confidences, values = [sample.confidence for sample in samples], [sample.j for sample in samples]
    rho = rank_correlation(confidences, values)
    lines = ["", f"Confidence and J over {len(samples)} objects in frames: rank correlation {rho:.2f}."]
    found = 100 * worst_found(confidences, values)
    lines.append(f"Of the worst fifth by J, {found:.0f} % are in the fifth with the lowest confidence.")
    error = calibration_error(confidences, values)
    lines.append(f"Expected calibration error of the confidence (10 bins): {error:.3f}.")
    if gone:
        lines.append(f"Gone in {len(gone)} of them, and said to be gone in {100 - 100 * np.mean(gone):.1f} % of these.")
    if there:
        lines.append(f"There in {len(there)}, and said to be gone in {100 - 100 * np.mean(there):.1f} % of these.")
    return lines
