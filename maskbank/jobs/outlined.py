"""The frames of a job on which people outlined something, as training reads them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from maskbank.errors import RequestError
from maskbank.files.images import decode_image
from maskbank.files.masks import VOID, write_id_mask
from maskbank.jobs.objects import JobObject
from maskbank.jobs.sweeps import MAX_PIXELS, ImageOf, ObjectOf, outlined_object
from maskbank.networks.overlaps import disjoint

JPEG_QUALITY = 95


def write_outlined(folder: Path, objects: Sequence[JobObject], image_of: ImageOf, object_of: ObjectOf) -> None:
    """Writes the frames with their masks below a folder that `maskbank train --data` takes.

    Frames on which a person said of every object what is to be seen make a sequence, the others are stills: an object
    that was not outlined on them must not be taken for one that is gone.

    Raises ValueError with one sentence for images and outlines that cannot be used.
    """
    objects = objects[: VOID - 1]  # as many as a mask can number
    frames = sorted({frame for drawn in objects for frame in drawn.seeds})
    complete = [f for f in frames if all(f in drawn.seeds or f in drawn.absent for drawn in objects)]
    for frame in frames:
        kind = "video/job" if frame in complete and len(complete) > 1 else "static"
        path = folder / kind / "outlined" / f"{frame:06d}.jpg"
        if path.with_suffix(".png").exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            pixels = decode_image(image_of(frame), MAX_PIXELS)
        except RequestError as error:
            raise ValueError(f"Frame {frame}: {error}") from error
        ids = np.zeros(pixels.shape[:2], np.uint8)
        found = (
            (number, outlined_object(drawn, frame, pixels, object_of))
            for number, drawn in enumerate(objects, 1)
            if frame in drawn.seeds
        )
        for number, seed in disjoint(found):
            ids[seed.mask] = number
        Image.fromarray(pixels).save(path, quality=JPEG_QUALITY)
        write_id_mask(path.with_suffix(".png"), ids)
