"""`maskbank track`: objects through a video, from seed masks."""

import argparse
import itertools
from pathlib import Path

from maskbank.cli.options import KEPT, Commands, add_model_options, environment_with, warn_of_damage


def add_commands(commands: Commands) -> None:
    """Adds `track`."""
    track = commands.add_parser(
        "track",
        help="track objects through a video from one or more seed masks",
        description="Tracks objects through a folder of frames or a video file. Writes an indexed PNG mask per frame, "
        "a COCO JSON, an overlay video and a page to look at the run. A seed counts for the frames before it as well: "
        "up to the last one, frames are tracked in both directions, and written when both sweeps are done.",
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
    track.add_argument("--suggest", action="store_true", help="say at the end which frame to outline next, if any")
    add_model_options(track)
    track.set_defaults(run=_track, when_stopped="no frame was finished")


def _seed(text: str) -> tuple[int, Path]:
    index, separator, path = text.partition("=")
    if not separator or not index.isdigit() or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form FRAME=MASK, such as 0=mask.png")
    return int(index), Path(path)


def _track(options: argparse.Namespace) -> None:
    import numpy as np
    from tqdm import tqdm

    from maskbank.files.frames import open_frames
    from maskbank.files.masks import read_id_mask
    from maskbank.files.results import ResultFolder, interruptions_held_back
    from maskbank.review.marks import what_to_outline_next
    from maskbank.review.page import write_page
    from maskbank.review.record import RunRecord, facts_of, findings_of, read_record
    from maskbank.settings import read_settings
    from maskbank.tracking.clip import frames_to_track, track_clip
    from maskbank.tracking.loading import load_tracker

    frames = open_frames(options.frames)
    seeds = {}
    for index, path in options.seed:
        if index >= len(frames):
            readable = f"{options.frames} has {len(frames)} frames that can be read"
            raise ValueError(f"There is no frame {index} to seed: {readable}.")
        if index in seeds:
            raise ValueError(f"Frame {index} has two seed masks; put all its objects into one.")
        seeds[index] = read_id_mask(path)
    tracker, _ = load_tracker(read_settings(environment_with(options)))
    video = None if options.video == "none" else options.video
    objects = sorted({int(i) for seed in seeds.values() for i in np.unique(seed) if i})
    facts = facts_of(options.frames, {i: f"object {i}" for i in objects})
    with (
        ResultFolder(options.out, video, frames.fps) as results,
        tqdm(total=frames_to_track(len(frames), seeds), unit="frame", desc="tracking") as bar,
    ):
        tracked_frames = track_clip(tracker, frames, seeds, bar.update)
        first = next(tracked_frames)  # until there is a frame, the record of an earlier run stays
        with RunRecord(options.out, facts) as record:
            for index, tracked in enumerate(itertools.chain([first], tracked_frames)):
                seeded = np.unique(seeds[index]).tolist() if index in seeds else []
                findings = findings_of(tracked.ids, objects, tracked.confidence, seeded)
                with interruptions_held_back():  # both have the frame, or neither
                    results.add(frames.name(index), tracked.image, tracked.ids, tracked.confidence)
                    record.add(index, frames.name(index), tracked.ids.shape, findings)
                    options.when_stopped = KEPT
                    options.when_full = f"{KEPT}, and `maskbank review {options.out}` completes it once there is room"
    print(f"Look at {write_page(options.out)}.")
    warn_of_damage(frames)
    if options.suggest:
        print(what_to_outline_next(*read_record(options.out)))
