"""What one can do with a store: `maskbank store …`, and in the function's image `python -m maskbank.store …`."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # --help must not wait for torch
    from maskbank.store.backend import Backend


DESCRIPTION = "Shows and purges the feature banks that the function keeps between requests."
NEVER_S = 100 * 365 * 86400.0  # nothing expires because somebody looks at it


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns 0, or 1 after one sentence on stderr."""
    parser = argparse.ArgumentParser(prog="python -m maskbank.store", description=DESCRIPTION)
    add_actions(parser)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (OSError, ValueError) as error:
        print(f"maskbank.store: {error}", file=sys.stderr)
        return 1
    return 0


def add_actions(parser: argparse.ArgumentParser) -> None:
    """Gives a parser the actions on a store; each sets `run`, which takes the parsed options.

    `run` raises ValueError or OSError with one sentence.
    """
    parser.add_argument("--url", help="the store's address (default: as the function finds it, see MASKBANK_STORE)")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("ls", help="one line per bank: id, bytes, blobs, hours since its last use")
    listing.set_defaults(run=_ls)
    sums = actions.add_parser("stat", help="how many banks there are, and what they take")
    sums.set_defaults(run=_stat)
    purge = actions.add_parser("purge", help="remove banks; whoever still tracks with one has to start again")
    purge.add_argument("--older-than", type=_hours, required=True, metavar="HOURS", help="not used for so long; 0: all")
    purge.set_defaults(run=_purge)


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = -1.0
    if not 0 <= hours < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of hours, 0 or more")
    return hours


def _backend(options: argparse.Namespace) -> "Backend":
    from maskbank.store.opening import StoreUrlError, open_backend, redacted, store_url

    url = store_url(os.environ) if options.url is None else options.url
    try:
        backend = open_backend(url, NEVER_S)
    except StoreUrlError as error:
        raise ValueError(f"MASKBANK_STORE is {redacted(url)!r}, but {error}.") from error
    if backend is None:
        raise ValueError("memory:// keeps banks inside the function's process; only the function itself sees them.")
    return backend


def _ls(options: argparse.Namespace) -> None:
    for usage in _backend(options).usage():
        print(f"{usage.bank_id}  {usage.bytes:>12} bytes  {usage.blobs:>5} blobs  {usage.idle_s / 3600:7.2f} h idle")


def _stat(options: argparse.Namespace) -> None:
    usages = list(_backend(options).usage())
    total = sum(usage.bytes for usage in usages)
    print(f"{len(usages)} banks, {total} bytes", end="")
    print(f", unused for up to {max(usage.idle_s for usage in usages) / 3600:.2f} h" if usages else "")


def _purge(options: argparse.Namespace) -> None:
    backend = _backend(options)
    old = [usage for usage in backend.usage() if usage.idle_s >= options.older_than * 3600]
    for usage in old:
        backend.drop(usage.bank_id)
    print(f"{len(old)} banks removed, {sum(usage.bytes for usage in old)} bytes")
