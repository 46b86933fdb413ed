"""The tracker's function for the browser: prints where it listens and the clip's true masks; runs until stdin ends."""

import json
import sys
from pathlib import Path

from maskbank.files.masks import read_id_mask
from maskbank.function.local import local_function
from maskbank.shapes.rle import encode_rle

CLIP = Path(__file__).resolve().parents[5] / "samples" / "clip"


def true_masks(frame: int) -> dict[int, list[int]]:
    """CVAT's points of the mask of each object that a frame shows, by its id."""
    ids = read_id_mask(CLIP / "masks" / f"{frame:05d}.png")
    return {int(number): encode_rle(ids == number) for number in set(ids.ravel().tolist()) - {0}}


with local_function() as url:
    masks = [true_masks(frame) for frame in range(int(sys.argv[1]))]
    print(json.dumps({"url": url, "masks": masks}), flush=True)
    sys.stdin.read()
