"""Indexed PNG masks, whose palette index is the object's id."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

VOID = 255  # DAVIS, PASCAL VOC: "nobody knows"; nothing to track there
SOFT = 240  # of 255: what a lossy image makes of white


def read_id_mask(path: str | Path) -> np.ndarray:
    """Object ids (H, W) uint8 from a mask image; 0 is background.

    An indexed image (PNG mode P, as DAVIS has): the palette index is the object id; 255 means "void" and
    becomes background. A grey or black-and-white image: any non-zero pixel is object 1, 255 too. Raises
    ValueError, one sentence, for anything else, and for a grey image with areas of several values, as of ids.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path} does not exist.")
    try:
        with Image.open(path) as image:
            mode = image.mode
            pixels = np.asarray(image.getchannel("L") if mode == "LA" else image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not a mask image that can be read.") from error
    if mode == "P":
        return np.where(pixels == VOID, 0, pixels).astype(np.uint8)
    if mode in ("1", "L", "LA", "I", "F") or mode.startswith("I;16"):
        values = _flat_values(pixels)
        if len(values) > 1:
            shown = ", ".join(f"{value:g}" for value in values[:3])
            raise ValueError(
                f"{path} is a grey image with areas of several values ({shown}), and it is unclear whether they are "
                "objects; save an indexed PNG for several objects, black and white for one."
            )
        return np.where(pixels != 0, 1, 0).astype(np.uint8)
    raise ValueError(f"{path} is a colour image ({mode}); a mask is an indexed or a grey image.")


def _flat_values(pixels: np.ndarray) -> np.ndarray:
    """The values that a grey image (H, W) has in areas, not only along soft edges; 0 is none, all whites are one."""
    grey = pixels.astype(np.float32)
    block = np.ones((3, 3), np.uint8)
    values = np.unique(grey[(cv2.erode(grey, block) == cv2.dilate(grey, block)) & (grey != 0)])
    if pixels.dtype == np.uint8:
        values = np.unique(np.where(values >= SOFT, VOID, values))
    return values


def write_id_mask(path: str | Path, ids: np.ndarray) -> None:
    """Write (H, W) object ids as an indexed PNG with the DAVIS palette; `read_id_mask` reads it back.

    Raises ValueError when `ids` is not a map of whole numbers 0..254, OSError when writing fails.
    """
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer) or ids.size == 0:
        raise ValueError(f"an id map is a two-dimensional array of integers, not {ids.dtype} of {ids.shape}.")
    if ids.min() < 0 or ids.max() >= VOID:
        raise ValueError(f"object ids must lie in 0..{VOID - 1}, not {ids.min()}..{ids.max()}.")
    image = Image.fromarray(ids.astype(np.uint8))
    image.putpalette(davis_palette())  # makes it mode P
    image.save(path, format="PNG", optimize=True)


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
