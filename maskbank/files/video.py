"""Video files for people to look at."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

CODECS = {".webm": "VP80", ".mp4": "mp4v"}
"""Codec per file ending. The pinned OpenCV has no H.264 encoder, so: .webm plays in browsers and costs 15 to
50 ms of one core per 640 x 360 frame; .mp4 costs 2 ms and plays in video players, but in no browser. (VP9
would play everywhere, at 100 to 200 ms per frame: slower than the tracker.)"""

# FFmpeg prints lines for programmers about every damaged frame. OpenCV passes this on to it when the first video is
# opened; -8 is AV_LOG_QUIET. (To turn stderr away while frames are read would hide what other threads write, too.)
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


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
        self._shape: tuple[int, ...] = ()
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
            fourcc = cv2.VideoWriter.fourcc(*codec)
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
