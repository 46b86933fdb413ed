"""`maskbank review`: the page of a run, made again."""

import argparse
from pathlib import Path

from maskbank.cli.options import Commands, refuse_unwritable


def add_commands(commands: Commands) -> None:
    """Adds `review`."""
    review = commands.add_parser(
        "review",
        help="make the page to look at a run again",
        description="Makes one HTML file of a run of track or job: confidence over time, a player, the least sure "
        "frames. Both make it at their end; this is for a run that was stopped, or for a copy elsewhere. Of a run of "
        "track that was killed, or whose disk was full, it completes annotations.json as well.",
    )
    review.add_argument("run_folder", type=Path, metavar="RUN", help="--out of track, or the folder that job names")
    review.add_argument("--out", type=Path, metavar="FILE", help="the page (default: review.html in RUN)")
    review.add_argument(
        "--frames", type=Path, metavar="FRAMES", help="folder of images, or video file, if the run's is elsewhere now"
    )
    review.set_defaults(run=_review, when_stopped="the page was not made")


def _review(options: argparse.Namespace) -> None:
    from maskbank.review.annotations import restore_annotations
    from maskbank.review.page import write_page

    if options.out:
        refuse_unwritable(options.out)
    restored = restore_annotations(options.run_folder)
    if restored:
        print(f"{restored} is complete now.")
    print(f"Look at {write_page(options.run_folder, options.out, options.frames)}.")
