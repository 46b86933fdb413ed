"""What commands share: types of arguments, and the options that stand for settings of the function."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from maskbank.files.atomic import check_writable

if TYPE_CHECKING:
    from maskbank.files.frames import FrameSource

# What add_subparsers returns: argparse has no public name for it.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

KEPT = "what was done so far is kept"


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Command-line forms of the function's settings; what is not given comes from the environment."""
    group = parser.add_argument_group("model (default: the MASKBANK_* settings of the environment)")
    group.add_argument("--model", help="lite, afb-urr or afb-urr-paper")
    group.add_argument("--weights", help="checkpoint file")
    group.add_argument("--device", help="auto, cpu, cuda or cuda:N")
    group.add_argument("--size", help="short side of the working image in pixels")


def environment_with(options: argparse.Namespace) -> dict[str, str]:
    """The environment with the settings that were given as options. Raises SettingsError for settings that are not."""
    from maskbank.settings import refuse_unknown

    refuse_unknown(os.environ)
    given = {f"MASKBANK_{name.upper()}": getattr(options, name) for name in ("model", "weights", "device", "size")}
    return dict(os.environ) | {name: value for name, value in given.items() if value is not None}


def warn_of_damage(frames: "FrameSource") -> None:
    """Says at the end of a command that not all frames could be read; what was done with the others is good."""
    if frames.damage:
        print(f"maskbank: {frames.damage}", file=sys.stderr)


def refuse_unwritable(out: Path) -> None:
    """Raises ValueError, one sentence, where the file of an --out cannot be written: before all the work for it."""
    try:
        check_writable(out)
    except OSError as error:
        raise ValueError(f"--out {out} is no file that can be written: {error.strerror}.") from error


def as_minutes(text: str) -> float:
    """An argument as minutes above 0, which need not be whole."""
    return _above_0(text, "a number of minutes")


def as_learning_rate(text: str) -> float:
    """An argument as a learning rate above 0."""
    return _above_0(text, "a learning rate")


def _above_0(text: str, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not {what} above 0")
    return number


def as_count(text: str) -> int:
    """An argument as a whole number above 0."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
