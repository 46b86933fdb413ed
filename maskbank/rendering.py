"""Pictures for people: masks over images, contact sheets, videos."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

FILL_OPACITY = 0.5
FONT = cv2.FONT_HERSHEY_SIMPLEX
CODECS = {".webm": "VP80", ".mp4": "mp4v"}
"""Codec per file ending. The pinned OpenCV has no H.264 encoder, so: .webm plays in browsers and costs 15 to
50 ms of one core per 640 x 360 frame; .mp4 costs 2 ms and plays in video players, but in no browser. (VP9
would play everywhere, at 100 to 200 ms per frame: slower than the tracker.)"""


def davis_palette() -> list[int]:
    """The 256 colours of PASCAL VOC and DAVIS as 768 numbers R, G, B, R, … for `PIL.Image.putpalette`.

    The bits of an index are dealt out in turn to red, green and blue, from the highest bit of each down, so
    that near indices get distant colours: 0 black, 1 (128, 0, 0), 2 (0, 128, 0), 3 (128, 128, 0), …
    """
    palette = []
    for index in range(256):
        for channel in range(3):
            palette.append(sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8)))
    return palette


def bright_colours() -> np.ndarray:
    """The palette made bright enough to read on a photo, (256, 3) uint8 RGB; the hues stay."""
    colours = np.array(davis_palette(), float).reshape(256, 3) / 255
    return (255 * (0.14 + 0.86 * colours**0.35)).round().astype(np.uint8)


def overlay(image: np.ndarray, ids: np.ndarray, labels: Mapping[int, str] | None = None) -> np.ndarray:
    """The image with every object filled half-transparently and outlined; a new (H, W, 3) uint8 RGB array.

    image: (H, W, 3) uint8 RGB. ids: (H, W) uint8, 0 is background. labels: text per id, written at the
    object when it is visible. Without labels only the pixels of objects change.

    Raises ValueError when the sizes differ.
    """
    if image.shape != (*ids.shape, 3):
        raise ValueError(f"an id map of shape {ids.shape} does not fit an image of shape {image.shape}.")
    colours = bright_colours()
    paint = colours[ids]  # (H, W, 3)
    result = image.copy()
    filled = cv2.addWeighted(image, 1 - FILL_OPACITY, paint, FILL_OPACITY, 0)
    cv2.copyTo(filled, (ids > 0).astype(np.uint8), result)
    cv2.copyTo(paint, ((ids > 0) & _outline(ids)).astype(np.uint8), result)
    for object_id, text in (labels or {}).items():
        if (ids == object_id).any():
            _write_label(result, ids == object_id, text, colours[object_id])
    return result


def contact_sheet(
    images: Sequence[np.ndarray], columns: int, captions: Sequence[str] | None = None, gap: int = 6
) -> np.ndarray:
    """Images of one size in rows of `columns`, each with its caption, (H, W, 3) uint8 RGB on white.

    images: (h, w, 3) uint8 RGB. captions: one text per image; the position 0, 1, 2, … without.
    Raises ValueError when there is nothing to show or the sizes differ.
    """
    if not images or columns < 1:
        raise ValueError("a contact sheet needs at least one image and one column.")
    if any(image.shape != images[0].shape for image in images):
        raise ValueError("the images of a contact sheet must have one size.")
    captions = [str(i) for i in range(len(images))] if captions is None else captions
    height, width = images[0].shape[:2]
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        tile = image.copy()
        _write(tile, caption, (gap, gap), background=(0, 0, 0))
        y, x = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        sheet[y : y + height, x : x + width] = tile
    return sheet


class VideoWriter:
    """Writes RGB frames to a video file whose ending chooses the codec (`CODECS`): .webm for browsers.

        with VideoWriter("overlay.webm", fps=25) as video:
            video.write(image)

    The first frame sets the size (an odd side is grown by a pixel: the codecs need even ones). What was
    written can be played even if the block is left by an exception.
    """

    def __init__(self, path: str | Path, fps: float = 25.0) -> None:
        """Raises ValueError for another file ending or a frame rate that is not positive."""
        self.path, self.fps = Path(path), float(fps)
        if self.path.suffix.lower() not in CODECS:
            raise ValueError(f"{self.path}: a video must end in {' or '.join(CODECS)}.")
        if not 0 < self.fps < 1000:
            raise ValueError(f"{self.path}: the frame rate must be above 0 and below 1000, not {self.fps}.")
        self._shape: tuple[int, ...] | None = None
        self._writer: cv2.VideoWriter | None = None

    def write(self, image: np.ndarray) -> None:
        """Append one (H, W, 3) uint8 RGB frame.

        Raises OSError when the file cannot be opened, ValueError for a frame of another size than the first.
        """
        if self._writer is None:
            self._shape = image.shape
            self._writer = self._open(*(side + side % 2 for side in image.shape[1::-1]))
        if image.shape != self._shape:
            size, first = (f"{shape[1]} x {shape[0]}" for shape in (image.shape, self._shape))
            raise ValueError(f"{self.path}: a frame of {size} follows one of {first}, but a video has one size.")
        even = cv2.copyMakeBorder(image, 0, image.shape[0] % 2, 0, image.shape[1] % 2, cv2.BORDER_REPLICATE)
        self._writer.write(cv2.cvtColor(even, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, width: int, height: int) -> cv2.VideoWriter:
        codec = CODECS[self.path.suffix.lower()]
        with silent_stderr():
            fourcc = cv2.VideoWriter_fourcc(*codec)
            writer = cv2.VideoWriter(str(self.path), cv2.CAP_FFMPEG, fourcc, self.fps, (width, height))
        if not writer.isOpened():
            raise OSError(
                f"could not open {self.path} for a {width} x {height} video: the folder is missing or not "
                f"writable, or this OpenCV build has no {codec} encoder."
            )
        return writer


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Hide what native code prints: OpenCV remarks on every webm, whatever its tag, and has no switch."""
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def _outline(ids: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels near another id, as a line that is thicker on larger images."""
    width = max(1, round(min(ids.shape) / 240))
    size = 2 * width + 1
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    return cv2.dilate(ids, disk) != cv2.erode(ids, disk)


def _text_scale(image: np.ndarray) -> float:
    """Font scale for an image: about 1/25 of its short side high, never too small to read."""
    return max(0.4, min(image.shape[:2]) / 800)


def _write_label(image: np.ndarray, mask: np.ndarray, text: str, colour: np.ndarray) -> None:
    """Write `text` in place, above the box of the object's largest part where there is room, else inside its top."""
    _, _, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    x, y, width, _, _ = boxes[1 + boxes[1:, cv2.CC_STAT_AREA].argmax()]  # the first is the background
    (text_width, text_height), base = cv2.getTextSize(text, FONT, _text_scale(image), 1)
    left = int(np.clip(x + (width - text_width) / 2, 0, max(image.shape[1] - text_width - 6, 0)))
    _write(image, text, (left, max(y - text_height - base - 8, 0)), background=colour.tolist())


def _write(image: np.ndarray, text: str, corner: tuple[int, int], background: Sequence[int]) -> None:
    """Write `text` in place, black or white, on a filled box with its top left corner at `corner` (x, y)."""
    scale = _text_scale(image)
    (width, height), base = cv2.getTextSize(text, FONT, scale, 1)
    x, y = corner
    ink = (0, 0, 0) if np.dot(background, (0.30, 0.59, 0.11)) > 120 else (255, 255, 255)
    cv2.rectangle(image, (x, y), (x + width + 5, y + height + base + 3), tuple(background), cv2.FILLED)
    cv2.putText(image, text, (x + 3, y + height + 3), FONT, scale, ink, 1, cv2.LINE_AA)
