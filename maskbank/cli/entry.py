"""From a command line to the function that runs it, and from what stops it to one sentence and an exit code."""

import argparse
import errno
import os
import signal
import sys
from collections.abc import Sequence

from maskbank.cli import evaluate, find, job, review, serve, track, train, weights
from maskbank.cli.options import KEPT
from maskbank.service.heap import keep_freed_memory
from maskbank.store import commands as store_commands

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
ABOUT = "Tracks objects through videos and CVAT jobs; trains, measures and serves the tracker."


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns 0, or 1 after one sentence on stderr, or 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    keep_freed_memory(os.environ)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stop by a process manager is like Ctrl-C
    try:
        options.run(options)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        print(f"maskbank: this command needs {package}: pip install -e '.[{options.extra}]'", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"maskbank: {_said_of(error, options)}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"maskbank: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"maskbank: stopped; {options.when_stopped}.", file=sys.stderr)
        return 130
    return 0


def _said_of(error: OSError, options: argparse.Namespace) -> str:
    """A sentence; `when_full` of the options is for commands that keep less on a full disk than after Ctrl-C."""
    if error.errno in DISK_FULL:
        folder = getattr(options, "out", None) or error.filename
        disk = f"The disk that holds {folder}" if folder else "The disk"
        return f"{disk} is full; {getattr(options, 'when_full', options.when_stopped)}."
    return f"{error.filename}: {error.strerror}." if error.filename is not None and error.strerror else str(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="maskbank", description=ABOUT)
    parser.set_defaults(extra="cli", when_stopped=KEPT)  # the extra of pyproject.toml that most commands need
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in (track, job, review, find, evaluate, train, serve, weights):
        group.add_commands(commands)
    about = store_commands.DESCRIPTION
    store_commands.add_actions(
        commands.add_parser("store", help="show and purge the banks of a store", description=about)
    )
    return parser
