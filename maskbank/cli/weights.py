"""`maskbank weights`: what weights there are, whether they are whole, and how they get here."""

import argparse
import sys
from pathlib import Path

from maskbank.cli.options import Commands
from maskbank.resources import WEIGHTS_FOLDER


def add_commands(commands: Commands) -> None:
    """Adds `weights` and its actions."""
    weights = commands.add_parser(
        "weights",
        help="list, check, download and convert weights",
        description="Lists, checks, downloads and converts weights files; manifest.yaml names those that are known.",
    )
    weights.add_argument(
        "--folder",
        type=Path,
        default=WEIGHTS_FOLDER,
        help="folder of manifest.yaml and the weights (default: the bundled one)",
    )
    actions = weights.add_subparsers(required=True, metavar="ACTION")
    action = actions.add_parser("list", help="the known weights, and which of them are here")
    action.set_defaults(run=_weights_list)
    action = actions.add_parser("info", help="what is known of weights, and what their file holds")
    action.add_argument("name", help="a known name, or a file")
    action.set_defaults(run=_weights_info)
    action = actions.add_parser("verify", help="check that the files are intact, fit and are the right ones")
    action.add_argument("names", nargs="*", metavar="NAME", help="(default: all that are here)")
    action.set_defaults(run=_weights_verify)
    action = actions.add_parser("fetch", help="download weights, after showing their licence")
    action.add_argument("name")
    action.add_argument("--yes", action="store_true", help="accept the licence")
    action.set_defaults(run=_weights_fetch)
    action = actions.add_parser("convert", help="write a .pth checkpoint as safetensors")
    action.add_argument("source", type=Path)
    action.add_argument("target", type=Path)
    action.set_defaults(run=_weights_convert)


def _weights_list(options: argparse.Namespace) -> None:
    from maskbank.networks.checkpoints import read_manifest

    for checkpoint in read_manifest(options.folder).values():
        here = "here" if (options.folder / checkpoint.file).exists() else "not here"
        print(f"{checkpoint.name:<12} {here:<9} {checkpoint.about}; {checkpoint.licence}")


def _weights_info(options: argparse.Namespace) -> None:
    from maskbank.networks.checkpoints import find, inspect

    path = Path(options.name)
    if not path.is_file():
        checkpoint = find(options.name, options.folder)
        path = options.folder / checkpoint.file
        _print_facts({k: v for k, v in vars(checkpoint).items() if k not in ("sha256", "bytes") and v})
    if path.exists():
        _print_facts({"path": path, **inspect(path)})


def _weights_verify(options: argparse.Namespace) -> None:
    from maskbank.networks.checkpoints import find, read_manifest, verify

    known = read_manifest(options.folder).values()
    for checkpoint in [find(name, options.folder) for name in options.names] or [
        c for c in known if (options.folder / c.file).exists()
    ]:
        found = verify(checkpoint, options.folder)
        sure = "is the file it should be" if checkpoint.sha256 else "is whole (there is no checksum to compare)"
        print(f"{checkpoint.name} {sure}: {found['model']} {found['fingerprint']}")


def _weights_fetch(options: argparse.Namespace) -> None:
    from tqdm import tqdm

    from maskbank.networks.checkpoints import fetch, find, sha256

    checkpoint = find(options.name, options.folder)
    path = options.folder / checkpoint.file
    if path.exists() and checkpoint.sha256 == sha256(path):
        print(f"{path} is there already.")
        return
    print(f"{checkpoint.about}\nlicence: {checkpoint.licence}\nfrom: {checkpoint.home or checkpoint.url}")
    if checkpoint.sha256 is None:
        print("checksum: none is known, so this first download is trusted; a later one must be the same file")
    if not options.yes:
        if not sys.stdin.isatty():
            raise ValueError("To accept this licence without being asked, say --yes.")
        if input("Download it under this licence? [y/N] ").strip().lower() not in ("y", "yes"):
            raise ValueError("Nothing was downloaded.")
    with tqdm(unit="B", unit_scale=True, desc=checkpoint.file) as bar:

        def progress(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        fetch(checkpoint, options.folder, progress)
    print(f"{path}, SHA-256 {sha256(path)}")


def _weights_convert(options: argparse.Namespace) -> None:
    from maskbank.networks.checkpoints import convert

    _print_facts({"path": options.target, **convert(options.source, options.target)})


def _print_facts(facts: dict[str, object]) -> None:
    for name, value in facts.items():
        print(f"{name:<12} {value}")
