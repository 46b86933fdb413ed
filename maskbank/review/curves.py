"""How an object's mask goes through a run: its area, and how much of it stays from frame to frame."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from pycocotools import mask as rle

from maskbank.review.record import RecordedFrame


def areas(frames: Sequence[RecordedFrame], slot: int) -> list[float | None]:
    """The share of each frame that an object covers, 0 where it is gone; None before its first seed."""
    found: list[float | None] = []
    for frame in frames:
        finding, mask = frame.findings[slot], _mask(frame, slot)
        pixels = int(rle.area(mask)) if mask else 0
        found.append(pixels / (frame.size[0] * frame.size[1]) if finding else None)
    return found


def overlaps(frames: Sequence[RecordedFrame], slot: int) -> list[float | None]:
    """The IoU of an object's mask with that of the frame before; None where one of them is not there.

    It falls where the mask jumps to something else or loses a part, and also with fast motion.
    """
    found: list[float | None] = [None]
    for before, frame in pairwise(frames):
        old, new = _mask(before, slot), _mask(frame, slot)
        if old and new and before.size == frame.size:
            [[overlap]] = rle.iou([new], [old], [False])
            found.append(float(overlap))
        else:
            found.append(None)
    return found


def _mask(frame: RecordedFrame, slot: int) -> Any:
    """As pycocotools wants it."""
    finding = frame.findings[slot]
    if finding is None or finding.mask is None:
        return None
    return {"size": list(frame.size), "counts": finding.mask.encode("ascii")}
