"""The images of a request: while one is tracked, the next is decoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import numpy as np


class DecodedAhead:
    """Images by their position in a request, as `decode` makes them; to be asked for in this order, once each.

    Args:
        encoded: the files.
        decode: makes an image of one. What it raises is raised where that image is asked for.
    """

    def __init__(self, encoded: Sequence[bytes], decode: Callable[[bytes], np.ndarray]):
        self._encoded, self._decode = encoded, decode
        self._pool = ThreadPoolExecutor(1)
        self._next: dict[int, Future[np.ndarray]] = {}

    def __enter__(self) -> DecodedAhead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def image(self, position: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB."""
        image = self._next.pop(position, None) or self._begun(position)
        self._next = {position + 1: self._begun(position + 1)} if position + 1 < len(self._encoded) else {}
        return image.result()

    def _begun(self, position: int) -> Future[np.ndarray]:
        return self._pool.submit(self._decode, self._encoded[position])
