"""The command line: `maskbank track | evaluate | train`."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns 0, or 1 after one sentence on stderr, or 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stop by a process manager is like Ctrl-C
    try:
        options.run(options)
    except OSError as error:
        named = error.filename is not None and error.strerror
        print(f"maskbank: {error.filename}: {error.strerror}." if named else f"maskbank: {error}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"maskbank: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("maskbank: stopped; what was done so far is kept.", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="maskbank", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    track = commands.add_parser(
        "track",
        help="track objects through a video from one or more seed masks",
        description="Tracks objects through a folder of frames or a video file. Writes an indexed PNG mask per frame, "
        "a COCO JSON and an overlay video. Frames before the first seed stay empty.",
    )
    track.add_argument("frames", type=Path, help="folder of images, or video file")
    track.add_argument(
        "--seed",
        action="append",
        required=True,
        type=_seed,
        metavar="FRAME=MASK",
        help="frame index (from 0) and its indexed PNG mask; repeat it to correct objects or to add new ones",
    )
    track.add_argument("--out", type=Path, required=True, help="folder for the results")
    track.add_argument(
        "--video",
        choices=("webm", "mp4", "none"),
        default="webm",
        help="overlay video: webm plays in browsers, mp4 is quicker to write (default: %(default)s)",
    )
    _add_model_options(track)
    track.set_defaults(run=_track)

    evaluate = commands.add_parser(
        "evaluate",
        help="J and F on annotated sequences, beside two baselines",
        description="Tracks every annotated sequence through the function's handler, seeded on its first annotated "
        "frame, and scores it as DAVIS does, beside copying the seed and warping it with optical flow.",
    )
    evaluate.add_argument("data", type=Path, help="folder of sequences: .jpg frames with indexed .png masks beside")
    evaluate.add_argument("--out", type=Path, help="file for the Markdown table")
    _add_model_options(evaluate)
    evaluate.set_defaults(run=_evaluate)

    train = commands.add_parser(
        "train",
        help="train the bundled network",
        description="Trains the network `lite` on DATA/static and DATA/video. Stopped runs are resumed from --out.",
    )
    train.add_argument("--data", type=Path, required=True)
    train.add_argument("--out", type=Path, required=True, help="folder of the run: state, log and weights")
    train.add_argument("--minutes", type=_minutes, required=True, help="length of the whole run")
    train.add_argument("--stop-after", type=_minutes, metavar="MINUTES", help="leave earlier, to be resumed")
    train.add_argument(
        "--schedule",
        choices=("small", "short", "large"),
        default="small",
        help="small: CPU; short: CPU, from --init; large: GPU",
    )
    train.add_argument("--learning-rate", type=float, default=8e-4)
    train.add_argument("--init", type=Path, help="weights to start from")
    train.add_argument("--exclude", nargs="*", default=(), metavar="SOURCE", help="sources to leave out")
    train.add_argument("--seed", type=int, default=0)
    train.set_defaults(run=_train)
    return parser


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    """Command-line forms of the function's settings; what is not given comes from the environment."""
    group = parser.add_argument_group("model (default: the MASKBANK_* settings of the environment)")
    group.add_argument("--model", help="lite, afb-urr or afb-urr-paper")
    group.add_argument("--weights", help="checkpoint file")
    group.add_argument("--device", help="auto, cpu, cuda or cuda:N")
    group.add_argument("--size", help="short side of the working image in pixels")


def _apply_model_options(options: argparse.Namespace) -> None:
    for name in ("model", "weights", "device", "size"):
        if getattr(options, name) is not None:
            os.environ[f"MASKBANK_{name.upper()}"] = getattr(options, name)


def _seed(text: str) -> tuple[int, Path]:
    index, separator, path = text.partition("=")
    if not separator or not index.isdigit() or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form FRAME=MASK, such as 0=mask.png")
    return int(index), Path(path)


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes above 0")
    return minutes


def _track(options: argparse.Namespace) -> None:
    from maskbank.frames import open_frames, read_id_mask
    from maskbank.settings import build_tracker, read_settings
    from maskbank.tracking import track_to_folder

    _apply_model_options(options)
    frames = open_frames(options.frames)
    seeds = {}
    for index, path in options.seed:
        if index >= len(frames):
            raise ValueError(f"There is no frame {index} to seed: {options.frames} has {len(frames)} frames.")
        if index in seeds:
            raise ValueError(f"Frame {index} has two seed masks; put all its objects into one.")
        seeds[index] = read_id_mask(path)
    tracker, _ = build_tracker(read_settings(os.environ))
    track_to_folder(tracker, frames, seeds, options.out, None if options.video == "none" else options.video)


def _evaluate(options: argparse.Namespace) -> None:
    from maskbank.evaluation.evaluate import evaluate, report

    _apply_model_options(options)
    results = []
    try:
        for result in evaluate(options.data):
            results.append(result)
    finally:  # what was done before an interruption or a bad sequence is worth having
        if results:
            print(report(results))
            if options.out:
                options.out.write_text(report(results) + "\n")


def _train(options: argparse.Namespace) -> None:
    from maskbank.training.loop import train

    wanted = {k: v for k, v in vars(options).items() if k != "run"}
    wanted["exclude"] = tuple(options.exclude)
    print(train(**wanted))


if __name__ == "__main__":
    sys.exit(main())
