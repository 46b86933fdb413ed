"""`maskbank search` and `propose`: objects in frames on which nobody has outlined them."""

import argparse
import shlex
import sys
from pathlib import Path

from maskbank.cli.options import KEPT, Commands, add_model_options, environment_with, warn_of_damage


def add_commands(commands: Commands) -> None:
    """Adds `search` and `propose`."""
    _add_search(commands)
    _add_propose(commands)


def _add_search(commands: Commands) -> None:
    search = commands.add_parser(
        "search",
        help="find an object of an image in other images or a video",
        description="Ranks the frames by how likely the object is there, each by itself, and shows where. With --out "
        "it writes ranking.csv, an indexed PNG mask of each frame where the object was found, and a page to look at.",
    )
    search.add_argument(
        "--reference",
        action="append",
        required=True,
        nargs=2,
        type=Path,
        metavar=("IMAGE", "MASK"),
        help="an image of the object and a mask that shows nothing else; repeat it for more views of the same object",
    )
    search.add_argument(
        "--in", dest="frames", type=Path, required=True, metavar="FRAMES", help="folder of images, or video file"
    )
    search.add_argument("--out", type=Path, help="folder for the results (default: only say what was found)")
    add_model_options(search)
    search.set_defaults(run=_search, when_stopped="no frame was searched")


def _add_propose(commands: Commands) -> None:
    propose = commands.add_parser(
        "propose",
        help="suggest which objects of a clip to track, and the frame to outline them on",
        description="Looks for the objects of a clip that move against the background and come up again in other "
        "frames. Writes an indexed PNG mask of them to correct and to track from, and a picture.",
    )
    propose.add_argument("frames", type=Path, metavar="CLIP", help="folder of images, or video file")
    propose.add_argument(
        "--out", type=Path, default=Path("proposal"), help="folder for mask and picture (default: %(default)s)"
    )
    add_model_options(propose)
    propose.set_defaults(run=_propose, when_stopped="nothing is proposed")


def _search(options: argparse.Namespace) -> None:
    import numpy as np
    from tqdm import tqdm

    from maskbank.errors import RequestError
    from maskbank.files.frames import MAX_PIXELS, open_frames
    from maskbank.files.images import decode_image
    from maskbank.files.masks import read_id_mask
    from maskbank.review.search import SearchResults
    from maskbank.settings import read_settings
    from maskbank.tracking.loading import load_tracker
    from maskbank.tracking.search import Searcher
    from maskbank.tracking.tracker import Frame

    frames = open_frames(options.frames)
    references = []
    for image, mask in options.reference:
        ids = read_id_mask(mask)
        if len(np.unique(ids[ids > 0])) > 1:
            raise ValueError(f"{mask} shows several objects; a reference shows the one that is searched for.")
        try:
            references.append((decode_image(image.read_bytes(), MAX_PIXELS), ids > 0))
        except RequestError as error:
            raise ValueError(f"{image}: {error}") from error
    tracker, _ = load_tracker(read_settings(environment_with(options)))
    searcher = Searcher(tracker, references)
    with (
        SearchResults(options.out, options.frames, references) as results,
        tqdm(total=len(frames), unit="frame", desc="searching") as bar,
    ):
        images = iter(frames)
        for index in range(len(frames)):
            bar.update()
            try:
                image = next(images, None)
            except ValueError as error:
                tqdm.write(f"Left out: {error}", file=sys.stderr)
                continue
            if image is None:  # a video that ends before its last frame
                break
            results.add(index, frames.name(index), image, searcher.find(Frame(image)))
            options.when_stopped = KEPT if options.out else "nothing is kept without --out"
            options.when_full = "the masks that were written are kept"
    if not len(results):
        raise ValueError(f"No image in {options.frames} can be read, so nothing was searched.")
    print(results.summary())
    warn_of_damage(frames)


def _propose(options: argparse.Namespace) -> None:
    from PIL import Image

    from maskbank.files.frames import open_frames
    from maskbank.files.masks import write_id_mask
    from maskbank.files.rendering import overlay
    from maskbank.networks.outliner import load_outliner
    from maskbank.proposals.propose import frames_to_look_at, frames_to_read, propose
    from maskbank.settings import read_settings
    from maskbank.tracking.loading import load_tracker

    if any(options.out.glob("*.png")):
        raise ValueError(f"{options.out} has a mask already, which somebody may have corrected; choose another --out.")
    if options.out.exists() and not options.out.is_dir():
        raise ValueError(f"--out {options.out} is not a folder.")
    frames = open_frames(options.frames)
    settings = read_settings(environment_with(options))
    tracker, _ = load_tracker(settings)
    looked_at = frames_to_look_at(len(frames))
    needed = set(frames_to_read(looked_at, len(frames)))
    read = ((index, image) for index, image in enumerate(frames) if index in needed)
    found = propose(read, looked_at, tracker, load_outliner(settings.interactor, tracker.device))
    warn_of_damage(frames)
    if found is None:
        print("Nothing is proposed: nothing in this clip moves against its background.")
        return
    options.out.mkdir(parents=True, exist_ok=True)
    stem = Path(frames.name(found.frame)).stem
    mask, picture = options.out / f"{stem}.png", options.out / f"{stem}-overlay.jpg"
    write_id_mask(mask, found.ids)
    Image.fromarray(overlay(found.image, found.ids, {i: str(i) for i in range(1, found.count + 1)})).save(picture)
    print(f"{found.count} proposed on frame {found.frame} ({frames.name(found.frame)}). {found.how_sure}")
    track = ["maskbank", "track", str(options.frames), "--seed", f"{found.frame}={mask}", "--out", "results"]
    print(f"Look at {picture}, correct {mask}, then: {shlex.join(track)}")
