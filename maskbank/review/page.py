"""The page of a run: one HTML file that needs no network."""

import base64
import hashlib
import html
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from maskbank.files.atomic import atomic_write
from maskbank.files.frames import FrameSource, open_frames
from maskbank.files.rendering import bright_colours
from maskbank.review.curves import areas, overlaps
from maskbank.review.marks import UNSURE_BELOW, evenly_spaced, least_sure, what_to_outline_next, worth_an_outline
from maskbank.review.pictures import Picture, make_pictures
from maskbank.review.record import PAGE, Finding, RecordedFrame, RunFacts, read_record

LEAST_SURE = 8  # frames to look at, and no more than a quarter of all
EVENLY_SPACED = 12
SUGGESTED = 3  # frames to outline: how much a fourth is worth depends on what the first three change

_HERE = Path(__file__).resolve().parent


def write_page(run: Path, out: Path | None = None, source: Path | None = None) -> Path:
    """Makes the page of the run in a folder; returns its path, by default `PAGE` in the run's folder.

    The same run gives the same bytes.

    Args:
        run: the folder.
        out: the page.
        source: where the run's frames are now, if they are no longer where they were.

    Raises ValueError with one sentence when there is no run, or its frames are not there.
    """
    facts, frames = read_record(run)
    if source is not None:
        facts = replace(facts, frames=str(source.resolve()))
    elif not (run / facts.frames).exists():
        raise ValueError(
            f"{run / facts.frames} does not exist; say with --frames where the frames of this run are now."
        )
    out = out or run / PAGE
    text = render(page_data(facts, frames, open_frames(run / facts.frames)))
    with atomic_write(out) as draft:
        draft.write_text(text, encoding="utf-8")
    return out


def page_data(facts: RunFacts, frames: Sequence[RecordedFrame], source: FrameSource) -> dict[str, Any]:
    """All that the page shows; lists are by position of the frames."""
    look = least_sure(frames, min(LEAST_SURE, max(1, len(frames) // 4)))
    even = evenly_spaced(len(frames), EVENLY_SPACED)
    pictures = make_pictures(frames, _images(frames, source), {*look, *even})
    if not pictures:
        raise ValueError(f"None of the frames of this run is in {facts.frames}; say with --frames where they are now.")
    return {
        "title": facts.title,
        "jobUrl": facts.job_url,
        "fps": round(source.fps, 3),
        "unsureBelow": UNSURE_BELOW,
        "numbers": [frame.number for frame in frames],
        "names": [frame.name for frame in frames],
        "objects": [
            {"name": name, "colour": _css_colour(object_id)} | _course(frames, slot)
            for slot, (object_id, name) in enumerate(facts.objects.items())
        ],
        "notice": source.damage,
        "next": what_to_outline_next(facts, frames),
        "suggested": [
            {"position": each.position, "slots": each.objects}
            for each in worth_an_outline(frames, len(facts.objects), SUGGESTED)
        ],
        "look": [i for i in look if i in pictures],
        "even": [i for i in even if i in pictures],
        "pictures": {i: _written(picture) for i, picture in pictures.items()},
    }


def render(data: dict[str, Any]) -> str:
    """The HTML of a page's data. Names in it may come from strangers: none of them is ever markup, and a policy lets
    the page run its own script only."""
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    written = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for special in "<>&\u2028\u2029":  # nothing in it ends the script element that holds it
        written = written.replace(special, f"\\u{ord(special):04x}")
    return Template((_HERE / "page.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(data["title"]),
        style=style,
        style_hash=policy_digest(style),
        script=script,
        script_hash=policy_digest(script),
        data=written,
    )


def _images(frames: Sequence[RecordedFrame], source: FrameSource) -> Iterator[tuple[int, np.ndarray]]:
    """The run's frames that are still there, by position."""
    position = {frame.name: i for i, frame in enumerate(frames)}
    for index, image in enumerate(source):
        if (i := position.pop(source.name(index), None)) is not None:
            yield i, image
        if not position:  # a run that was stopped has seen no more, and what follows may be what stopped it
            return


def _course(frames: Sequence[RecordedFrame], slot: int) -> dict[str, Any]:
    """An object through the run. state: one letter per frame, see `_state`."""
    findings = [frame.findings[slot] for frame in frames]
    return {
        "state": "".join(map(_state, findings)),
        "confidence": [_rounded(each.confidence if each else None, 3) for each in findings],
        "area": [_rounded(area, 6) for area in areas(frames, slot)],
        "overlap": [_rounded(overlap, 3) for overlap in overlaps(frames, slot)],
    }


def _state(finding: Finding | None) -> str:
    """Not begun, seed, visible or gone."""
    if finding is None:
        return "n"
    if finding.seed:
        return "s"
    return "v" if finding.mask else "g"


def _written(picture: Picture) -> dict[str, Any]:
    return {"image": picture.image, "size": picture.size, "masks": picture.masks}


def _css_colour(object_id: int) -> str:
    colours = bright_colours()[1:]  # the first is the background's; where there are more objects, they begin again
    return "#" + bytes(colours[(object_id - 1) % len(colours)].tolist()).hex()


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def policy_digest(text: str) -> str:
    """As a content security policy names what it allows."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
