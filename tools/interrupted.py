"""Makes sequences in which the objects are gone for a while, to see whether that is noticed.

    python tools/interrupted.py DATA OUT
    maskbank evaluate OUT

Each annotated sequence below DATA is interrupted in its middle by frames of another, as by a cut in a film.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from maskbank.evaluation.sequences import Sequence, read_sequences
from maskbank.frames import write_id_mask

KEPT, GONE = 15, 10  # frames on either side of an interruption, and in it


def interrupt(sequence: Sequence, other: Sequence, out: Path) -> None:
    """Writes up to `KEPT` frames of `sequence`, `GONE` of `other`, and up to `KEPT` more of `sequence`."""
    out.mkdir(parents=True)
    size = Image.open(sequence.images[0]).size
    own = [
        (Image.open(image), truth)
        for image, truth in list(zip(sequence.images, sequence.truths, strict=True))[: 2 * KEPT]
    ]
    nothing = np.zeros(size[::-1], np.uint8)
    foreign = [(Image.open(image).resize(size), nothing) for image in other.images[:GONE]]
    middle = len(own) // 2
    for number, (image, truth) in enumerate([*own[:middle], *foreign, *own[middle:]]):
        image.convert("RGB").save(out / f"{number:05d}.jpg", quality=95)
        if truth is not None:
            write_id_mask(out / f"{number:05d}.png", truth)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path, help="a new folder")
    options = parser.parse_args()
    sequences = read_sequences(options.data)
    for number, sequence in enumerate(sequences):
        interrupt(sequence, sequences[number - 1], options.out / sequence.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
