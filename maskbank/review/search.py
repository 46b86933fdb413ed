"""What `maskbank search` leaves: a ranking, masks, and one HTML page that needs neither a network nor a script."""

from __future__ import annotations

import base64
import csv
import html
from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from string import Template

import numpy as np

from maskbank.files.atomic import atomic_write, check_writable
from maskbank.files.masks import write_id_mask
from maskbank.files.rendering import overlay
from maskbank.review.page import policy_digest
from maskbank.review.pictures import small_jpeg
from maskbank.shapes.conversion import mask_to_shape
from maskbank.tracking.search import Match

RANKING, PAGE = "ranking.csv", "search.html"
COLUMNS = ["rank", "frame", "name", "score", "found", "left", "top", "right", "bottom"]
PICTURES = 48  # of the best frames, on the page
TOLD = 5  # of the best frames, in the summary

_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class RankedFrame:
    """A frame that was searched."""

    index: int
    name: str
    score: float
    found: bool
    box: tuple[float, ...]  # left, top, right, bottom of the mask; empty without one


class SearchResults:
    """Collects what is found frame by frame; at the end, or when the search is stopped, it writes what there is.

    What an earlier search left in the folder goes with the first frame.

    Args:
        out: the folder; None writes nothing.
        frames: what is searched, whose name is the page's title.
        references: images and masks of the object.

    Raises ValueError, one sentence, where the folder has masks or a ranking that no search left there, and OSError
    where nothing can be written in it.
    """

    def __init__(self, out: Path | None, frames: Path, references: Iterable[tuple[np.ndarray, np.ndarray]]):
        if out:
            _claim(out)
        self._out, self._title = out, frames.resolve().name
        self._ranking: list[RankedFrame] = []
        self._pictures: dict[int, str] = {}  # of the best frames so far, by index
        self._references = [_picture(image, mask) for image, mask in references] if out else []

    def add(self, index: int, name: str, image: np.ndarray, match: Match) -> None:
        """Ranks a frame, (H, W, 3) uint8 RGB, and writes the mask of one in which the object was found."""
        if not self._ranking:
            self._begin()
        box = mask_to_shape(match.mask, "rectangle")
        frame = RankedFrame(index, name, match.score, match.found, box.points if box else ())
        insort(self._ranking, frame, key=lambda each: -each.score)
        if self._out is None:
            return
        if frame in self._ranking[:PICTURES]:
            self._pictures[index] = _picture(image, match.mask)
            best = {each.index for each in self._ranking[:PICTURES]}
            self._pictures = {i: picture for i, picture in self._pictures.items() if i in best}
        if match.found:
            write_id_mask(self._out / "masks" / f"{Path(name).stem}.png", match.mask.astype(np.uint8))

    def __len__(self) -> int:
        """How many frames were searched."""
        return len(self._ranking)

    def summary(self) -> str:
        """What was found, for people."""
        best = ", ".join(f"{each.name} ({each.score:.2f})" for each in self._ranking[:TOLD])
        text = f"{self._facts()} Best: {best}."
        return text if self._out is None else f"{text}\nLook at {self._out / PAGE}."

    def __enter__(self) -> SearchResults:
        return self

    def __exit__(self, *_: object) -> None:
        if self._out is not None and self._ranking:
            self._write_ranking(self._out / RANKING)
            with atomic_write(self._out / PAGE) as draft:
                draft.write_text(self._page(), encoding="utf-8")

    def _begin(self) -> None:
        """Takes away what an earlier search left, and leaves what says, after a search that is killed, that it was
        one."""
        if self._out is None:
            return
        for old in (*self._out.glob("masks/*.png"), self._out / PAGE):
            old.unlink(missing_ok=True)
        self._write_ranking(self._out / RANKING)

    def _write_ranking(self, path: Path) -> None:
        with atomic_write(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for rank, each in enumerate(self._ranking, start=1):
                writer.writerow([rank, each.index, each.name, f"{each.score:.4f}", int(each.found), *each.box])

    def _facts(self) -> str:
        found = sum(each.found for each in self._ranking)
        return f"Found in {found} of {len(self._ranking)} frames."

    def _page(self) -> str:
        """All names in it are escaped: they may come from strangers."""
        shown = [(rank, each) for rank, each in enumerate(self._ranking, start=1) if each.index in self._pictures]
        parts: dict[bool, list[str]] = {True: [], False: []}
        for rank, each in shown:
            caption = f"{rank}. {each.name}, frame {each.index}, score {each.score:.2f}"
            parts[each.found].append(_figure(self._pictures[each.index], caption))
        style = "".join((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "search.css"))
        return Template((_HERE / "search.html").read_text(encoding="utf-8")).substitute(
            title=html.escape(self._title),
            facts=html.escape(f"{self._facts()} The best {len(shown)} are shown, all are in {RANKING}."),
            style=style,
            style_hash=policy_digest(style),
            references="".join(_figure(picture, "") for picture in self._references),
            found="".join(parts[True]) or "Nothing.",
            others="".join(parts[False]) or "Nothing.",
        )


def _claim(out: Path) -> None:
    """Makes the folder; see `SearchResults` for what is raised."""
    ranking = out / RANKING
    has_masks = any(out.glob("masks/*.png"))
    if not _is_of_a_search(ranking) and (has_masks or ranking.exists()):
        strange = "masks that do" if has_masks else f"a {RANKING} that does"
        raise ValueError(f"{out} has {strange} not come from an earlier search; choose another folder.")
    (out / "masks").mkdir(parents=True, exist_ok=True)
    check_writable(ranking)


def _is_of_a_search(ranking: Path) -> bool:
    """Whether a file is there that a `SearchResults` wrote."""
    try:
        return ranking.read_text(encoding="utf-8").splitlines()[0] == ",".join(COLUMNS)
    except (OSError, ValueError, IndexError):
        return False


def _picture(image: np.ndarray, mask: np.ndarray) -> str:
    """The image with the mask over it, as a data URI."""
    encoded = base64.b64encode(small_jpeg(overlay(image, mask.astype(np.uint8)))).decode("ascii")
    return f"data:image/jpeg;base64,{encoded}"


def _figure(picture: str, caption: str) -> str:
    said = html.escape(caption)
    return f'<figure><img src="{picture}" alt="{said}"><figcaption>{said}</figcaption></figure>'
