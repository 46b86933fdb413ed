"""Pictures for people: masks over images, contact sheets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from maskbank.files.masks import davis_palette

FILL_OPACITY = 0.5
FONT = cv2.FONT_HERSHEY_SIMPLEX


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


def letterboxed(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image (H, W, 3) uint8 in another size, black beside it or above and below where it has another shape."""
    if image.shape[:2] == (height, width):
        return image
    scale = min(height / image.shape[0], width / image.shape[1])
    small = cv2.resize(image, (max(int(image.shape[1] * scale), 1), max(int(image.shape[0] * scale), 1)))
    above, before = (height - small.shape[0]) // 2, (width - small.shape[1]) // 2
    below, after = height - small.shape[0] - above, width - small.shape[1] - before
    return cv2.copyMakeBorder(small, above, below, before, after, cv2.BORDER_CONSTANT)


def _outline(ids: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels near another id, as a line that is thicker on larger images."""
    width = max(1, round(min(ids.shape) / 240))
    size = 2 * width + 1
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    edge: np.ndarray = cv2.dilate(ids, disk) != cv2.erode(ids, disk)
    return edge


def _text_scale(image: np.ndarray) -> float:
    """Font scale for an image: about 1/25 of its short side high, never too small to read."""
    return float(max(0.4, min(image.shape[:2]) / 800))


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
