"""Makes sequences in which the objects are small in a large frame, to see how well they are tracked.

    python tools/small_objects.py DATA OUT [--side 40] [--height 1080]
    maskbank evaluate OUT/small
    maskbank evaluate OUT/crop

Of each annotated sequence below DATA it makes two: its objects cut out, shrunk to SIDE x SIDE pixels or so, and pasted
over the frames of another sequence, which they cross; and a native crop of that, of half the height, which holds all of
their way. Where small objects are tracked as well as large ones, both score the same. A third, OUT/apart, has beside
them those of the next sequence, half of the frame away; in a fourth, OUT/parting, these begin side by side.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from maskbank.evaluation.sequences import AnnotatedSequence, read_sequences
from maskbank.files.masks import write_id_mask

LENGTH = 40  # frames at most
WAY = 0.2  # of the frame's height, which objects go from left to right beside their own motion
SIDE_BY_SIDE = 0.15  # of half the frame's width are objects apart in the first frame that are to part
EDGE = 3  # pixels over which a cut-out fades into what it is pasted on


def cut_out(
    sequence: AnnotatedSequence, number: int, scale: float, place: tuple[float, float], size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """A frame's objects, shrunk, on black: an image (*size, 3) uint8 RGB and ids (*size) uint8.

    place: x and y of where the middle of the first frame's objects would be.
    """
    rows, columns = np.nonzero(sequence.seed)
    matrix = np.array([[1, 0, place[0] - scale * columns.mean()], [0, 1, place[1] - scale * rows.mean()]])
    image, truth = np.asarray(Image.open(sequence.images[number]).convert("RGB")), sequence.truths[number]
    # First to the area-averaged small size: warping alone would leave out most pixels.
    shrunk = (max(round(truth.shape[1] * scale), 1), max(round(truth.shape[0] * scale), 1))
    height, width = size
    pasted = cv2.warpAffine(cv2.resize(image, shrunk, interpolation=cv2.INTER_AREA), matrix, (width, height))
    ids = cv2.resize(truth, shrunk, interpolation=cv2.INTER_NEAREST)
    return pasted, cv2.warpAffine(ids, matrix, (width, height), flags=cv2.INTER_NEAREST)


def small(
    sequences: Sequence[AnnotatedSequence], other: AnnotatedSequence, side: int, height: int, apart: float = 1.0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Frames (height, width, 3) uint8 RGB with the objects of all sequences side by side, and ids (height, width).

    apart: how far the sequences' objects are from each other in the first frame, of how far they are in the end.
    """
    size = height, height * 16 // 9
    first_ids = np.cumsum([0, *(max(each.objects) for each in sequences)])
    for number in range(min(LENGTH, *(len(each.images) for each in sequences))):
        background = Image.open(other.images[number % len(other.images)]).convert("RGB").resize(size[::-1])
        image, ids = np.asarray(background), np.zeros(size, np.uint8)
        for position, sequence in enumerate(sequences):
            area = np.median([(truth > 0).sum() for truth in sequence.truths[:LENGTH]])
            spread = apart + (1 - apart) * number / LENGTH
            x = size[1] * (0.5 + spread * ((position + 0.5) / len(sequences) - 0.5))
            x += WAY * height * (number / LENGTH - 0.5)
            pasted, own = cut_out(sequence, number, side / np.sqrt(area), (x, height / 2), size)
            alpha = cv2.GaussianBlur((own > 0).astype(np.float32), (EDGE, EDGE), 0)[..., None]
            image = (image * (1 - alpha) + pasted * alpha).astype(np.uint8)
            ids = np.where(own > 0, own + first_ids[position], ids).astype(np.uint8)
        yield image, ids


def write(out: Path, name: str, frames: list[tuple]) -> None:
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    for number, (image, ids) in enumerate(frames):
        Image.fromarray(image).save(folder / f"{number:05d}.jpg", quality=95)
        write_id_mask(folder / f"{number:05d}.png", ids)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--side", type=int, default=40)
    parser.add_argument("--height", type=int, default=1080)
    chosen = parser.parse_args()
    sequences = [each for each in read_sequences(chosen.data) if all(truth is not None for truth in each.truths)]
    for sequence, other in zip(sequences, sequences[1:] + sequences[:1], strict=True):
        frames = list(small([sequence], other, chosen.side, chosen.height))
        height, width = frames[0][1].shape
        top, left = height // 4, width // 4
        part = np.s_[top : top + height // 2, left : left + width // 2]
        name = sequence.name.replace("/", "_")
        if any((ids > 0).sum() != (ids[part] > 0).sum() for _, ids in frames) or not frames[0][1].any():
            print(f"{name}: the objects move too far for a crop.", file=sys.stderr)
            continue
        write(chosen.out / "small", name, frames)
        write(chosen.out / "crop", name, [(image[part], ids[part]) for image, ids in frames])
        pair = [sequence, other]
        write(chosen.out / "apart", name, list(small(pair, other, chosen.side, chosen.height)))
        write(chosen.out / "parting", name, list(small(pair, other, chosen.side, chosen.height, SIDE_BY_SIDE)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
