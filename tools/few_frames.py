"""What fine-tuning on the outlined frames of a video gives for all of it, as `maskbank job --tune` does.

    python tools/few_frames.py DATA OUT --frames 5 --steps 300

For each annotated sequence below DATA, frames are outlined as `suggest` says; the network is trained on them (`maskbank
train --init lite`), and tracks the sequence from them, as do the bundled weights. OUT gets the data and the runs; one
that was stopped goes on when the command is repeated. Settings are those of the environment, as MASKBANK_SIZE.
"""

import argparse
import itertools
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from maskbank.evaluation.effort import EffortClip, Outlined, suggested
from maskbank.evaluation.sequences import AnnotatedSequence, read_sequences
from maskbank.networks.models import BUNDLED_WEIGHTS
from maskbank.settings import Settings, read_settings
from maskbank.tracking.loading import load_tracker
from maskbank.training.run import RunOptions
from maskbank.training.trainer import train


def clip_of(sequence: AnnotatedSequence, settings: Settings, weights: Path) -> EffortClip:
    """The sequence, tracked with these weights."""
    return EffortClip(load_tracker(replace(settings, weights=weights))[0], sequence)


def tuned(sequence: AnnotatedSequence, frames: Outlined, folder: Path, init: Path, options: argparse.Namespace) -> Path:
    """The weights after training on these frames."""
    kind = "video/job" if len(frames) > 1 else "static"
    data = folder / "data" / kind / "outlined"
    data.mkdir(parents=True, exist_ok=True)
    for i in frames:
        for file in (sequence.images[i], sequence.images[i].with_suffix(".png")):
            shutil.copyfile(file, data / file.name)
    run = RunOptions(minutes=None if options.steps else options.minutes, steps=options.steps, init=init)
    return train([folder / "data"], folder / "run", run, blend=options.blend)


def run_folder(options: argparse.Namespace, sequence: AnnotatedSequence) -> Path:
    """Of one training: with other options it is another one."""
    length = f"{options.steps}-steps" if options.steps else f"{options.minutes:g}-minutes"
    chosen = f"{options.init}-{options.frames}-frames-{length}-{options.blend:g}"
    return Path(options.out) / chosen / sequence.name.replace("/", "_")


def j_and_f(clip: EffortClip, outlined: Outlined) -> list[float]:
    """J&F in percent over all annotated frames, and over those that are not outlined."""
    scores = clip.outcome(outlined).scores
    others = [frame for frame in scores if frame not in outlined]
    return [100 * float(np.mean([scores[frame].j_and_f for frame in frames])) for frames in (scores, others)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--frames", type=int, default=5, help="to outline at most (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=5.0, help="of training (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="of training, instead of minutes")
    parser.add_argument("--blend", type=float, default=1.0, help="share of the trained weights (default: %(default)s)")
    parser.add_argument("--init", default="lite", choices=sorted(BUNDLED_WEIGHTS), help="(default: %(default)s)")
    options = parser.parse_args()
    settings, init = read_settings(dict(os.environ)), BUNDLED_WEIGHTS[options.init]
    columns = ["outlined", "all frames, as bundled", "tuned", "frames not outlined, as bundled", "tuned"]
    print(f"| sequence | {' | '.join(columns)} |\n|{' --- |' * (len(columns) + 1)}")
    rows = []
    for sequence in read_sequences(options.data):
        clip = clip_of(sequence, settings, init)
        *_, outlined = itertools.islice(suggested(clip), options.frames)
        before = j_and_f(clip, outlined)
        weights = tuned(sequence, outlined, run_folder(options, sequence), init, options)
        after = j_and_f(clip_of(sequence, settings, weights), outlined)
        rows.append([len(outlined), before[0], after[0], before[1], after[1]])
        print(f"| {sequence.name} | {' | '.join(f'{value:.1f}' for value in rows[-1])} |", flush=True)
    print(f"| **mean** | {' | '.join(f'{value:.1f}' for value in np.mean(rows, 0))} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
