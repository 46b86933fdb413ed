"""What tracking leaves in a folder: masks, a COCO JSON, an overlay video."""

import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from maskbank.files.coco import CocoWriter, is_of_a_run
from maskbank.files.masks import write_id_mask
from maskbank.files.rendering import letterboxed, overlay
from maskbank.files.video import CODECS, VideoWriter

ANNOTATIONS = "annotations.json"


class ResultFolder:
    """Writes masks/NAME.png, annotations.json and overlay.* as frames come; whole up to the last frame added.

    An interruption comes before or after a frame, never in the middle of one. Without any frame there is no
    annotations.json, and one of an earlier run stays. In the video all frames have the size of the first.

    Args:
        out: the folder; made if needed.
        video: the ending of the overlay video; None for none.
        fps: of that video.
        labels: names of objects by id.

    What an earlier run left there goes with the first frame. Raises ValueError, one sentence, where the folder has
    masks or annotations that no run left there.
    """

    def __init__(self, out: str | Path, video: str | None, fps: float, labels: Mapping[int, str] | None = None):
        self.out = out = Path(out)
        if not is_of_a_run(out / ANNOTATIONS) and (any(out.glob("masks/*.png")) or (out / ANNOTATIONS).exists()):
            raise ValueError(
                f"{out} has masks or annotations that do not come from an earlier run; choose another folder."
            )
        (out / "masks").mkdir(parents=True, exist_ok=True)
        self._coco = CocoWriter(labels)
        self._labels = labels or {}
        self._closing = ExitStack()
        self._size: tuple[int, int] | None = None  # of the video's frames
        self._is_empty = False
        self._video = self._closing.enter_context(VideoWriter(out / f"overlay.{video}", fps)) if video else None

    def add(self, name: str, image: np.ndarray, ids: np.ndarray, confidence: Mapping[int, float]) -> np.ndarray:
        """Writes the result of the frame file `name`; returns the overlay, (H, W, 3) uint8 RGB."""
        labels = {i: f"{self._labels.get(i, i)} {value:.2f}" for i, value in confidence.items()}
        drawn = overlay(image, ids, labels)
        with interruptions_held_back():
            if not self._is_empty:  # what an earlier run left would lie among what this one makes
                for old in (*self.out.glob("masks/*.png"), *(self.out / f"overlay{ending}" for ending in CODECS)):
                    old.unlink(missing_ok=True)
                self._coco.save(self.out / ANNOTATIONS)  # which says, after a run that is killed, that it was one
                self._is_empty = True
            if self._video:
                self._size = self._size or image.shape[:2]
                self._video.write(letterboxed(drawn, *self._size))
            write_id_mask(self.out / "masks" / f"{Path(name).stem}.png", ids)
            self._coco.add(name, ids)
        return drawn

    def __enter__(self) -> "ResultFolder":
        return self

    def __exit__(self, *_: object) -> None:
        with interruptions_held_back():
            self._closing.close()
            if len(self._coco):
                self._coco.save(self.out / ANNOTATIONS)


@contextmanager
def interruptions_held_back() -> Iterator[None]:
    """Lets a block finish before Ctrl-C or SIGTERM has its effect; for the main thread."""
    held: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, lambda number, _: held.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])
