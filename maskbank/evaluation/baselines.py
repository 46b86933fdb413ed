"""What needs no network: the two baselines a tracker must beat clearly.

Both have one interface: frames and the seed mask in, one id map per frame out, the seed itself for the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import cv2
import numpy as np

Baseline = Callable[[Iterable[np.ndarray], np.ndarray], Iterator[np.ndarray]]
"""(frames, each (H, W, 3) uint8 RGB; seed, (H, W) uint8 ids) → (H, W) uint8 ids per frame."""


def copy_seed(frames: Iterable[np.ndarray], seed: np.ndarray) -> Iterator[np.ndarray]:
    """Answer the seed for every frame: what a video without motion would score."""
    for _ in frames:
        yield seed.copy()


def warp_with_flow(frames: Iterable[np.ndarray], seed: np.ndarray) -> Iterator[np.ndarray]:
    """Carry the id map from frame to frame along DIS optical flow (Kroeger et al., ECCV 2016).

    The flow runs from the new frame back to the previous one, so every new pixel asks where it came from and
    the warped map has no holes; it takes the nearest id, and background where it came from outside the image.
    """
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    y, x = np.mgrid[: seed.shape[0], : seed.shape[1]].astype(np.float32)
    ids, previous = seed, None
    for frame in frames:
        if frame.shape[:2] != seed.shape:
            raise ValueError(f"a frame of {frame.shape[:2]} does not fit the seed mask of {seed.shape}.")
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        if previous is not None:
            flow = dis.calc(grey, previous, None)  # type: ignore[call-overload]  # (H, W, 2) pixels
            ids = cv2.remap(ids, x + flow[..., 0], y + flow[..., 1], cv2.INTER_NEAREST)
        previous = grey
        yield ids.copy()


BASELINES: dict[str, Baseline] = {"copy": copy_seed, "flow": warp_with_flow}
