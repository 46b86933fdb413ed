"""Makes sequences in which the objects are gone for a while, to see whether that is noticed.

    python tools/interrupted.py DATA OUT
    maskbank evaluate OUT/cut
    maskbank evaluate OUT/away

Of each annotated sequence below DATA it makes two: one that frames of another sequence interrupt, as by a cut in a
film, and one seen through a narrow window that turns away from the objects, as a camera does, and comes back.
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from maskbank.evaluation.sequences import AnnotatedSequence, read_sequences
from maskbank.files.masks import write_id_mask

KEPT, GONE = 15, 10  # frames on either side of an interruption, and in it
TURN = 6  # frames that it takes to turn away, and to come back
WINDOW = 0.45  # of the frame's width

Frame = tuple[Image.Image, np.ndarray | None]


def frames_of(sequence: AnnotatedSequence, count: int) -> list[Frame]:
    pairs = zip(sequence.images[:count], sequence.truths[:count], strict=True)
    return [(Image.open(image).convert("RGB"), truth) for image, truth in pairs]


def cut(sequence: AnnotatedSequence, other: AnnotatedSequence) -> list[Frame]:
    """Up to `KEPT` frames of `sequence`, `GONE` of `other`, and up to `KEPT` more of `sequence`."""
    own = frames_of(sequence, 2 * KEPT)
    size = own[0][0].size
    nothing = np.zeros(size[::-1], np.uint8)
    foreign = [(image.resize(size), nothing) for image, _ in frames_of(other, GONE)]
    middle = len(own) // 2
    return [*own[:middle], *foreign, *own[middle:]]


def away(sequence: AnnotatedSequence) -> list[Frame]:
    """`sequence` through a window that stays with the objects, turns to the farther side and comes back."""
    own = frames_of(sequence, 2 * (KEPT + TURN) + GONE)
    columns = own[0][0].width
    width = int(columns * WINDOW)
    seen = np.nonzero(sequence.truths[0].any(0))[0]
    at = float(np.clip((seen[0] + seen[-1]) / 2 - width / 2, 0, columns - width))
    far = 0.0 if at > (columns - width) / 2 else float(columns - width)
    turns = np.interp(np.arange(len(own)), np.cumsum([KEPT, TURN, GONE, TURN]), [0.0, 1.0, 1.0, 0.0])
    windows = [round(at + turn * (far - at)) for turn in turns]
    return [
        (image.crop((left, 0, left + width, image.height)), None if truth is None else truth[:, left : left + width])
        for (image, truth), left in zip(own, windows, strict=True)
    ]


def write(frames: Iterable[Frame], out: Path) -> None:
    out.mkdir(parents=True)
    for number, (image, truth) in enumerate(frames):
        image.save(out / f"{number:05d}.jpg", quality=95)
        if truth is not None:
            write_id_mask(out / f"{number:05d}.png", truth)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path, help="a new folder")
    options = parser.parse_args()
    sequences = read_sequences(options.data)
    if len(sequences) < 2:
        parser.error("a sequence is interrupted by another one, so there have to be two")
    for number, sequence in enumerate(sequences):
        write(cut(sequence, sequences[number - 1]), options.out / "cut" / sequence.name)
        write(away(sequence), options.out / "away" / sequence.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
