"""What fine-tuning on a few outlined frames of a video gives for the rest of it.

    python tools/few_frames.py DATA OUT

For each annotated sequence below DATA: the network is trained on some of its frames, `maskbank train --init lite`, and
then tracks the sequence, as do the bundled weights. All are scored on the frames that were not trained on. OUT gets the
data and the runs; one that was stopped goes on when the command is repeated.
"""

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from maskbank.evaluation.measures import mean_j_and_f
from maskbank.evaluation.sequences import AnnotatedSequence, read_sequences
from maskbank.networks.models import BUNDLED_WEIGHTS
from maskbank.settings import Settings
from maskbank.tracking.loading import load_tracker
from maskbank.tracking.video import track_video
from maskbank.training.trainer import train


def outlined_frames(sequence: AnnotatedSequence, count: int) -> list[int]:
    """The first annotated frame and others at equal distances."""
    annotated = [i for i, truth in enumerate(sequence.truths) if truth is not None and truth.any()]
    return [annotated[i * len(annotated) // count] for i in range(count)]


def tuned(sequence: AnnotatedSequence, frames: list[int], folder: Path, minutes: float) -> Path:
    """The weights after training on these frames."""
    data = folder / "data" / "video" / "job" / "frames"
    data.mkdir(parents=True, exist_ok=True)
    for i in frames:
        for file in (sequence.images[i], sequence.images[i].with_suffix(".png")):
            shutil.copyfile(file, data / file.name)
    return train([folder / "data"], folder / "run", minutes=minutes, init=BUNDLED_WEIGHTS["lite"])


def j_and_f(sequence: AnnotatedSequence, seeds: list[int], weights: Path, left_out: list[int], adapt_s: float) -> float:
    """J&F in percent on all annotated frames that are not left out, tracked from seeds at some frames."""
    tracker, _ = load_tracker(Settings(weights=weights, adapt_seconds=adapt_s))
    images = (np.asarray(Image.open(path).convert("RGB")) for path in sequence.images)
    found = [frame.ids for frame in track_video(tracker, images, {i: sequence.truths[i] for i in seeds})]
    rest = [None if i in left_out[1:] else truth for i, truth in enumerate(sequence.truths)]  # the first never counts
    scores = mean_j_and_f(found, rest, sequence.objects, skip_last=False)
    return 100 * float(np.mean([score.j_and_f for score in scores.values()]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=4.0, help="of training (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=3, help="to train on (default: %(default)s)")
    parser.add_argument("--adapt", type=float, default=0.0, metavar="SECONDS", help="MASKBANK_ADAPT_SECONDS for both")
    options = parser.parse_args()
    columns = ["one frame, as bundled", "one frame, tuned", "all outlined, as bundled", "all outlined, tuned"]
    print(f"| sequence | {' | '.join(columns)} |\n|{' --- |' * (len(columns) + 1)}")
    rows = []
    for sequence in read_sequences(options.data):
        frames = outlined_frames(sequence, options.frames)
        weights = tuned(sequence, frames, options.out / Path(sequence.name).name, options.minutes)
        rows.append(
            [
                j_and_f(sequence, seeds, each, frames, options.adapt)
                for seeds in (frames[:1], frames)
                for each in (BUNDLED_WEIGHTS["lite"], weights)
            ]
        )
        print(f"| {sequence.name} | {' | '.join(f'{value:.1f}' for value in rows[-1])} |", flush=True)
    print(f"| **mean** | {' | '.join(f'{value:.1f}' for value in np.mean(rows, 0))} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
