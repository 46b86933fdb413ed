"""What a run found, frame by frame, kept in its folder: what its page is made from."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

RECORD = "review.jsonl"
PAGE = "review.html"


@dataclass(frozen=True)
class Finding:
    """What is known of an object on a frame.

    mask: COCO's compressed run lengths; None: the object is gone.
    confidence: 0 to 1; None: nobody said how sure it is.
    seed: a person outlined the object here.
    """

    mask: str | None
    confidence: float | None
    seed: bool


@dataclass(frozen=True)
class RecordedFrame:
    """A frame of a run.

    number: as people count the frames of this run.
    name: its file's in the run's frames.
    size: (height, width) of its masks.
    findings: in the order of the run's objects; None where nothing was asked about one, as before its first seed.
    """

    number: int
    name: str
    size: tuple[int, int]
    findings: tuple[Finding | None, ...]


@dataclass(frozen=True)
class RunFacts:
    """What is said once of a run.

    title: what was tracked.
    frames: where its images are, a folder or a video file; a relative path is one in the run's folder.
    objects: names by id, from 1, which chooses an object's colour.
    job_url: the page of its CVAT job, if it is one.
    """

    title: str
    frames: str
    objects: dict[int, str]
    job_url: str | None = None

    def __post_init__(self) -> None:
        # It becomes a link, and who looks at a run need not be who made it.
        if self.job_url is not None and not self.job_url.startswith(("http://", "https://")):
            raise ValueError(f"{self.job_url} is not the address of a CVAT job.")


class RunRecord:
    """Writes a run's record as its frames come; a run that is stopped leaves those before.

    The page of an earlier run in the same folder goes, since it shows what is there no more.
    """

    def __init__(self, folder: Path, facts: RunFacts):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PAGE).unlink(missing_ok=True)
        self._file = (folder / RECORD).open("w", encoding="utf-8")
        self._write(asdict(facts))

    def add(self, number: int, name: str, size: tuple[int, int], findings: Iterable[Finding | None]) -> None:
        """Keeps the next frame; see `RecordedFrame`."""
        known = [each and [each.mask, each.confidence, each.seed] for each in findings]
        self._write({"number": number, "name": name, "size": size, "findings": known})

    def _write(self, line: object) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def __enter__(self) -> RunRecord:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def read_record(folder: Path) -> tuple[RunFacts, list[RecordedFrame]]:
    """The record in a run's folder; without a last line that was cut off.

    Raises ValueError, one sentence, where there is none or nothing was tracked.
    """
    path = folder / RECORD
    if not path.is_file():
        raise ValueError(f"{folder} holds no run: there is no {RECORD} in it, as `maskbank track` and `job` leave.")
    head, *rest = path.read_text(encoding="utf-8").split("\n")[:-1] or [""]
    try:
        said = json.loads(head)
        objects = {int(i): name for i, name in said["objects"].items()}
        title, source = said["title"], said["frames"]
        frames = [_frame(json.loads(line)) for line in rest]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is not the record of a run.") from error
    facts = RunFacts(title, source, objects, said.get("job_url"))
    if not frames:
        raise ValueError(f"No frame of the run in {folder} was tracked, so there is nothing to show.")
    return facts, frames


def _frame(line: dict[str, Any]) -> RecordedFrame:
    height, width = line["size"]
    known = tuple(each and Finding(*each) for each in line["findings"])
    return RecordedFrame(line["number"], line["name"], (height, width), known)


def facts_of(frames: Path, objects: Mapping[int, str]) -> RunFacts:
    """What is said once of a run over a folder of images or a video file."""
    path = frames.resolve()
    # Two names, since the folder itself is often just "frames"; not the whole path, as the page may be sent to others.
    return RunFacts("/".join(path.parts[-2:]), str(path), dict(objects))


def findings_of(
    ids: np.ndarray, objects: Iterable[int], confidence: Mapping[int, float], seeded: Collection[int]
) -> list[Finding | None]:
    """The findings of objects in an id map (H, W); None for those that have no confidence yet."""
    return [
        Finding(encode_mask(ids == each), confidence[each], each in seeded) if each in confidence else None
        for each in objects
    ]


def encode_mask(mask: np.ndarray) -> str | None:
    """A mask (H, W) bool as COCO's compressed run lengths; None for an empty one."""
    if not mask.any():
        return None
    counts = rle.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    assert isinstance(counts, bytes)
    return counts.decode("ascii")


def decode_mask(counts: str, size: tuple[int, int]) -> np.ndarray:
    """The inverse of `encode_mask`, (H, W) bool."""
    return rle.decode({"size": list(size), "counts": counts.encode("ascii")}).astype(bool)
