"""The annotations of a run that was killed, made again from its record."""

import json
from pathlib import Path

import numpy as np

from maskbank.files.coco import CocoWriter, is_of_a_run
from maskbank.files.results import ANNOTATIONS
from maskbank.review.record import RecordedFrame, decode_mask, read_record


def restore_annotations(run: Path) -> Path | None:
    """Writes the COCO JSON of a run that ended before it could; returns its path, None where nothing is missing.

    The file is as the run itself would have written it. Folders without one, as of jobs, get none.

    Raises ValueError, one sentence, where there is no record.
    """
    path = run / ANNOTATIONS
    if not is_of_a_run(path):
        return None
    facts, frames = read_record(run)
    if len(json.loads(path.read_bytes()).get("images", [])) >= len(frames):
        return None
    coco = CocoWriter()
    for frame in frames:
        coco.add(frame.name, _ids(frame, list(facts.objects)))
    coco.save(path)
    return path


def _ids(frame: RecordedFrame, objects: list[int]) -> np.ndarray:
    """(H, W) uint8, the ids of the objects of a frame."""
    ids = np.zeros(frame.size, np.uint8)
    for object_id, finding in zip(objects, frame.findings, strict=True):
        if finding and finding.mask:
            ids[decode_mask(finding.mask, frame.size)] = object_id
    return ids
