"""`maskbank train`, `folds` and `train-interactor`: weights from annotated images and videos."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from maskbank.cli.options import Commands, as_count, as_learning_rate, as_minutes

if TYPE_CHECKING:  # what commands need is imported when they run
    from maskbank.training.run import RunOptions

SCHEDULES = ("small", "short", "light", "long", "stills", "large")
GOES_ON = "the same command goes on from what was saved last, two minutes ago at most"
EXCLUDE_HELP = "sources to leave out, or sequences of them: davis16_train/bear"


def add_commands(commands: Commands) -> None:
    """Adds `train`, `folds` and `train-interactor`."""
    _add_train(commands)
    _add_folds(commands)
    _add_train_interactor(commands)


def _add_train(commands: Commands) -> None:
    train = commands.add_parser(
        "train",
        help="train the bundled network",
        description="Trains the network `lite` on annotated images and videos. Stopped runs are resumed from --out.",
    )
    train.add_argument(
        "--data",
        type=Path,
        nargs="+",
        action="extend",
        required=True,
        help="folders with static/ and video/ below, or exports from CVAT with their images (zip or folder): CVAT for "
        "video 1.1, CVAT for images 1.1, COCO 1.0",
    )
    train.add_argument(
        "--out", type=Path, help="folder of the run: state, log and weights (default: runs/ and the name of the data)"
    )
    length = train.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=as_minutes, help="length of the whole run")
    length.add_argument("--steps", type=as_count, help="length in steps instead, which makes the run repeatable")
    train.add_argument(
        "--stop-after", type=as_minutes, metavar="MINUTES", help="leave after so long; repeat the command to resume"
    )
    train.add_argument(
        "--schedule",
        choices=SCHEDULES,
        help="on a CPU, small: from scratch; short, light, long: from --init; on a GPU, stills: from scratch; large: "
        "from --init (default: small, or with --init short)",
    )
    train.add_argument(
        "--learning-rate", type=as_learning_rate, help="at its highest (default: 6e-4, or with --init 3e-4)"
    )
    train.add_argument("--init", help="weights to start from: lite or lite-open (the bundled ones) or a file")
    train.add_argument(
        "--blend",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="with --init: share of the newly trained weights in the result, above 0, up to 1; the lower it is, the "
        "more of what the initial weights knew is kept (default: %(default)s)",
    )
    train.add_argument("--exclude", nargs="*", action="extend", default=[], metavar="SOURCE", help=EXCLUDE_HELP)
    train.add_argument("--val", type=Path, metavar="SEQUENCES", help="folder as for evaluate, to measure J&F on")
    train.add_argument(
        "--val-every", type=as_minutes, default=15.0, metavar="MINUTES", help="how often (default: %(default)s)"
    )
    train.add_argument("--seed", type=int, default=0, help="of all random numbers (default: %(default)s)")
    train.set_defaults(run=_train, extra="train", when_stopped=GOES_ON)


def _add_folds(commands: Commands) -> None:
    folds = commands.add_parser(
        "folds",
        help="score a way to train on sequences that it has not seen",
        description="Holds out the sequences of a source in turns, fold by fold: trains the network `lite` on all "
        "other data for a few steps, and scores it on them. Writes folds.md and folds.json to --out after each "
        "sequence; what is there already is not done again.",
    )
    folds.add_argument(
        "--data",
        type=Path,
        nargs="+",
        action="extend",
        required=True,
        help="as for train; one has video/SOURCE/<sequence>/",
    )
    folds.add_argument("--source", required=True, help="whose sequences are held out")
    folds.add_argument("--out", type=Path, required=True, help="folder of the trainings and their scores")
    folds.add_argument("--folds", type=_folds, default=3, metavar="N", help="how many (default: %(default)s)")
    folds.add_argument("--steps", type=as_count, default=300, help="of each training (default: %(default)s)")
    folds.add_argument(
        "--seeds", type=as_count, default=1, metavar="N", help="trainings of each fold (default: %(default)s)"
    )
    folds.add_argument("--schedule", choices=SCHEDULES, help="as for train")
    folds.add_argument("--learning-rate", type=as_learning_rate, help="as for train")
    folds.add_argument(
        "--init", help="as for train, but scores say little where these weights were trained on the source, as lite was"
    )
    folds.add_argument("--blend", type=float, default=0.5, metavar="SHARE", help="as for train")
    folds.add_argument("--exclude", nargs="*", action="extend", default=[], metavar="SOURCE", help=EXCLUDE_HELP)
    folds.add_argument("--compare", type=Path, metavar="OUT", help="--out of an earlier run to compare the scores with")
    folds.set_defaults(run=_train_on_folds, extra="train")


def _add_train_interactor(commands: Commands) -> None:
    interactor = commands.add_parser(
        "train-interactor",
        help="train the network that finds objects in boxes",
        description="Trains the network `interactor` on annotated images and videos; each object of each of them is a "
        "sample. Stopped runs are resumed from --out.",
    )
    interactor.add_argument("--data", type=Path, nargs="+", action="extend", required=True, help="as for train")
    interactor.add_argument("--out", type=Path, required=True, help="folder of the run: state, log and weights")
    how_long = interactor.add_mutually_exclusive_group(required=True)
    how_long.add_argument("--minutes", type=as_minutes, help="length of the whole run")
    how_long.add_argument("--steps", type=as_count, help="length in steps instead")
    interactor.add_argument(
        "--stop-after", type=as_minutes, metavar="MINUTES", help="leave after so long; repeat the command to resume"
    )
    interactor.add_argument(
        "--learning-rate", type=as_learning_rate, help="at its highest (default: 1e-3, or with --init 3e-4)"
    )
    interactor.add_argument(
        "--batch", type=as_count, default=16, metavar="N", help="crops in each step; 64 on a GPU (default: %(default)s)"
    )
    interactor.add_argument("--init", type=Path, metavar="FILE", help="weights to start from (default: ImageNet's)")
    interactor.add_argument("--exclude", nargs="*", action="extend", default=[], metavar="SOURCE", help=EXCLUDE_HELP)
    interactor.add_argument("--seed", type=int, default=0, help="of all random numbers (default: %(default)s)")
    interactor.set_defaults(run=_train_interactor, extra="train", when_stopped=GOES_ON)


def _folds(text: str) -> int:
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of folds from 2")
    return int(text)


def _train(options: argparse.Namespace) -> None:
    from maskbank.training.trainer import train

    print(
        train(
            options.data,
            options.out or Path("runs") / options.data[0].resolve().name.removesuffix(".zip"),
            _run_options(options, _initial_weights(options.init)),
            schedule=options.schedule,
            blend=options.blend,
            val=options.val,
            val_every=options.val_every,
        )
    )


def _train_on_folds(options: argparse.Namespace) -> None:
    from maskbank.training.folds import train_on_folds

    chosen = {name: value for name, value in vars(options).items() if name not in ("run", "extra", "when_stopped")}
    chosen |= {"init": _initial_weights(options.init), "exclude": tuple(options.exclude)}
    print(train_on_folds(**chosen))


def _train_interactor(options: argparse.Namespace) -> None:
    from maskbank.training.interactor import train_interactor

    print(train_interactor(options.data, options.out, _run_options(options, options.init), batch=options.batch))


def _run_options(options: argparse.Namespace, init: Path | None) -> "RunOptions":
    from maskbank.training.run import RunOptions

    return RunOptions(
        minutes=options.minutes,
        steps=options.steps,
        learning_rate=options.learning_rate,
        seed=options.seed,
        init=init,
        exclude=tuple(options.exclude),
        stop_after=options.stop_after,
    )


def _initial_weights(name: str | None) -> Path | None:
    from maskbank.networks.models import BUNDLED_WEIGHTS

    return None if name is None else BUNDLED_WEIGHTS.get(name) or Path(name)
