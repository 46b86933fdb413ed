"""Frames of a folder of images or of a video file, in one interface."""

from __future__ import annotations

import itertools
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from maskbank.files.images import decode_image
from maskbank.files.video import silent_stderr

IMAGE_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
MAX_PIXELS = 64_000_000  # per frame; enough for 8K video and 60-megapixel photos
FOLDER_FPS = 25.0  # images carry no frame rate
MISCOUNTED = 5  # frames, by which the header of a video that is whole may be off
BLOCK_BYTES = 256 << 20  # of frames that are kept at once to go backwards through a video


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """An image file as (H, W, 3) uint8 RGB, see `decode_image`. Raises ValueError with one sentence."""
    try:
        return decode_image(path.read_bytes(), max_pixels)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


class FrameSource(ABC):
    """A sequence of frames on disk; iterate for (H, W, 3) uint8 RGB arrays, as often as needed.

    fps: frames per second, for playing them again.
    """

    fps: float

    @property
    def damage(self) -> str | None:
        """A sentence that says where reading stops too early; None where all can be read, or iteration raises instead.

        It names a file without its folder, since it is shown on pages that may be sent to others.
        """
        return None

    @abstractmethod
    def __len__(self) -> int:
        """Number of frames."""

    @abstractmethod
    def name(self, index: int) -> str:
        """File name of frame `index`, unique also without its ending, so a mask can be named after it."""

    @abstractmethod
    def __iter__(self) -> Iterator[np.ndarray]:
        """The frames, one at a time. Raises ValueError at one that cannot be read."""

    @abstractmethod
    def backwards(self, stop: int) -> Iterator[np.ndarray]:
        """The first `stop` frames, the last of them first. Raises as iteration does."""


class ImageFolder(FrameSource):
    """The images of a folder in natural order of their names (frame2 before frame10)."""

    fps = FOLDER_FPS

    def __init__(self, path: Path, max_pixels: int = MAX_PIXELS) -> None:
        self.path, self.max_pixels = path, max_pixels
        images = [entry for entry in path.iterdir() if entry.suffix.lower() in IMAGE_ENDINGS]
        images = [entry for entry in images if not entry.name.startswith(".")]
        for entry in images:
            if not entry.is_file():
                raise ValueError(f"{entry} is named like an image, but is no file.")
        self._names = sorted((entry.name for entry in images), key=natural_key)
        if not self._names:
            raise ValueError(f"{path} holds no images ({', '.join(sorted(IMAGE_ENDINGS))}).")
        stem, count = Counter(Path(name).stem for name in self._names).most_common(1)[0]
        if count > 1:  # often images and masks in one folder: which is the frame?
            raise ValueError(f"{path} holds {count} images named {stem}; frames need a folder of their own.")

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        """See `FrameSource`."""
        return self._names[index]

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(self._read, self._names)

    def backwards(self, stop: int) -> Iterator[np.ndarray]:
        """See `FrameSource`."""
        return map(self._read, reversed(self._names[:stop]))

    def _read(self, name: str) -> np.ndarray:
        return read_image(self.path / name, self.max_pixels)


class VideoFile(FrameSource):
    """A video file. Frames are turned upright as its header says; names follow CVAT's (frame_000000.png).

    It ends with the first frame that cannot be read, even where there are others behind it: their numbers would be
    wrong. `damage` says so.
    """

    def __init__(self, path: Path, max_pixels: int = MAX_PIXELS) -> None:
        self.path, self.max_pixels = path, max_pixels
        capture = self._open()
        fps = capture.get(cv2.CAP_PROP_FPS)
        capture.release()
        self.fps = fps if 0 < fps < 1000 else FOLDER_FPS

    @cached_property
    def _counts(self) -> tuple[int, int]:
        """Frames that can be decoded, counted, since headers are often wrong (cut or streamed files); and how many
        there should be by the header, of streamed files 0 or less."""
        capture, count, seconds = self._open(), 0, 0.0
        while capture.grab():
            count += 1
            seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        expected, fps = (capture.get(p) for p in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS))
        capture.release()
        if seconds > 0 and fps > 0:
            # A webm's number is its length times a rate that its frames may not have; so as many as they come, instead.
            expected = min(expected, expected / fps * (count - 1) / seconds)
        return count, round(expected)

    @property
    def damage(self) -> str | None:
        """See `FrameSource`."""
        count, expected = self._counts
        if expected - count <= MISCOUNTED:
            return None
        stopped = f"reading stopped at frame {count} of the {expected} that its header promises"
        return f"{self.path.name} may be damaged, cut off or trimmed: {stopped}."

    def __len__(self) -> int:
        return self._counts[0]

    def name(self, index: int) -> str:
        """As CVAT calls the frame; raises IndexError where there is none."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path} has {len(self)} frames, there is none with index {index}.")
        return f"frame_{index:06d}.png"

    def __iter__(self) -> Iterator[np.ndarray]:
        capture = self._open()
        try:
            while True:
                readable, frame = capture.read()
                if not readable:
                    return
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        finally:
            capture.release()

    def backwards(self, stop: int) -> Iterator[np.ndarray]:
        """See `FrameSource`. In blocks, each decoded from the start: not all videos can be entered at any frame."""
        block = max(BLOCK_BYTES // next(iter(self)).nbytes, 1)
        for start in range((stop - 1) // block * block, -1, -block):
            yield from reversed(list(itertools.islice(self, start, min(start + block, stop))))

    def _open(self) -> cv2.VideoCapture:
        # FFmpeg by name: by itself OpenCV would read "frame2.jpg" as a pattern for a sequence of images
        with silent_stderr():
            capture = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise ValueError(f"{self.path} is not a video that can be read.")
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        width, height = (capture.get(p) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if width * height > self.max_pixels:
            size = f"{width:.0f} x {height:.0f}"
            raise ValueError(f"{self.path} has frames of {size}, more than {self.max_pixels} pixels.")
        return capture


def open_frames(path: str | Path, max_pixels: int = MAX_PIXELS) -> FrameSource:
    """The frames at `path`: a folder of images or a video file.

    Raises ValueError, one sentence, when there is nothing there, no image in the folder, no frame in the
    video, or a frame has more than `max_pixels` pixels. A broken image raises when iteration reaches it.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path} does not exist.")
    if path.is_dir():
        return ImageFolder(path, max_pixels)
    video = VideoFile(path, max_pixels)
    if next(iter(video), None) is None:
        raise ValueError(f"{path} is a video without a readable frame.")
    return video


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sort key that compares runs of digits as numbers: frame2 < frame10 < frame10b.

    >>> sorted(["f10.png", "f9.png", "F1.png"], key=natural_key)
    ['F1.png', 'f9.png', 'f10.png']
    """
    parts = re.split(r"([0-9]+)", name.lower())
    # text at even places, digits at odd ones; the name itself at last, so that f1 and f01 have an order too
    return [(int(part), "") if i % 2 else (-1, part) for i, part in enumerate(parts)] + [(-1, name)]
