"""`maskbank review`: the page of a run, made again."""

import argparse
from pathlib import Path

from maskbank.cli.options import Commands


def add_commands(commands: Commands) -> None:
    """Adds `review`."""
    review = commands.add_parser(
        "review",
        help="make the page to look at a run again",
        description="Makes one HTML file of a run of track or job: confidence over time, a player, the least sure "
        "frames. Both make it at their end; this is for a run that was stopped, or for a copy elsewhere.",
    )
    review.add_argument("run_folder", type=Path, metavar="RUN", help="--out of track, or the folder that job names")
    review.add_argument("--out", type=Path, metavar="FILE", help="the page (default: review.html in RUN)")
    review.set_defaults(run=_review)


def _review(options: argparse.Namespace) -> None:
    from maskbank.review.page import write_page

    print(f"Look at {write_page(options.run_folder, options.out)}.")
