"""The command line: `maskbank track | job | review | search | propose | evaluate | train | folds | serve | …`."""

import argparse
import importlib
import itertools
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from maskbank.resources import WEIGHTS_FOLDER
from maskbank.store.commands import DESCRIPTION, add_actions

if TYPE_CHECKING:  # what commands need is imported when they run
    from maskbank.jobs.cvat import Cvat
    from maskbank.jobs.function import Propagate
    from maskbank.jobs.plan import Tune
    from maskbank.settings import Settings

T = TypeVar("T")

KEPT = "what was done so far is kept"
SCHEDULES = ("small", "short", "long", "stills", "large")
EXCLUDE_HELP = "sources to leave out, or sequences of them: davis16_train/bear"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns 0, or 1 after one sentence on stderr, or 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stop by a process manager is like Ctrl-C
    try:
        options.run(options)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        print(f"maskbank: this command needs {package}: pip install -e '.[{options.extra}]'", file=sys.stderr)
        return 1
    except OSError as error:
        named = error.filename is not None and error.strerror
        print(f"maskbank: {error.filename}: {error.strerror}." if named else f"maskbank: {error}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"maskbank: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"maskbank: stopped; {options.when_stopped}.", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="maskbank", description=__doc__)
    parser.set_defaults(extra="cli", when_stopped=KEPT)  # the extra of pyproject.toml that most commands need
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

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
    _add_model_options(track)
    track.set_defaults(run=_track)

    _add_job(commands.add_parser("job", help="track what is outlined in a CVAT job or task through all its frames"))

    review = commands.add_parser(
        "review",
        help="make the page to look at a run again",
        description="Makes one HTML file of a run of track or job: confidence over time, a player, the least sure "
        "frames. Both make it at their end; this is for a run that was stopped, or for a copy elsewhere.",
    )
    review.add_argument("run_folder", type=Path, metavar="RUN", help="--out of track, or the folder that job names")
    review.add_argument("--out", type=Path, metavar="FILE", help="the page (default: review.html in RUN)")
    review.set_defaults(run=_review)

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
    _add_model_options(search)
    search.set_defaults(run=_search)

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
    _add_model_options(propose)
    propose.set_defaults(run=_propose, when_stopped="nothing is proposed")

    evaluate = commands.add_parser(
        "evaluate",
        help="J and F on annotated sequences, beside two baselines",
        description="Tracks every annotated sequence through the function's handler, seeded on its first annotated "
        "frame, and scores it as DAVIS does, beside copying the seed and warping it with optical flow.",
    )
    evaluate.add_argument("data", type=Path, help="folder of sequences: .jpg frames with indexed .png masks beside")
    evaluate.add_argument("--out", type=Path, help="file for the Markdown table")
    evaluate.add_argument(
        "--boxes", action="store_true", help="also find the objects in their boxes, and track what is found there"
    )
    instead = evaluate.add_mutually_exclusive_group()
    instead.add_argument(
        "--search",
        action="store_true",
        help="instead, search for each object in frames of all sequences, as maskbank search does",
    )
    instead.add_argument(
        "--propose", action="store_true", help="instead, see whether maskbank propose finds what is annotated"
    )
    instead.add_argument(
        "--effort",
        type=Path,
        metavar="FOLDER",
        help="instead, J&F over all frames after 1, 2, 3, 5 and 8 outlined frames, tracked in both directions, by how "
        "these are chosen: effort.md, effort.json and effort.png in this folder",
    )
    _add_model_options(evaluate)
    evaluate.set_defaults(run=_evaluate)

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
    length.add_argument("--minutes", type=_minutes, help="length of the whole run")
    length.add_argument("--steps", type=_steps, help="length in steps instead, which makes the run repeatable")
    train.add_argument(
        "--stop-after", type=_minutes, metavar="MINUTES", help="leave after so long; repeat the command to resume"
    )
    train.add_argument(
        "--schedule",
        choices=SCHEDULES,
        help="on a CPU, small: from scratch; short, long: from --init; on a GPU, stills: from scratch; large: from "
        "--init (default: small, or with --init short)",
    )
    train.add_argument("--learning-rate", type=float, help="at its highest (default: 6e-4, or with --init 3e-4)")
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
        "--val-every", type=_minutes, default=15.0, metavar="MINUTES", help="how often (default: %(default)s)"
    )
    train.add_argument("--seed", type=int, default=0, help="of all random numbers (default: %(default)s)")
    train.set_defaults(run=_train, extra="train")

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
    folds.add_argument("--steps", type=_steps, default=300, help="of each training (default: %(default)s)")
    folds.add_argument(
        "--seeds", type=_count, default=1, metavar="N", help="trainings of each fold (default: %(default)s)"
    )
    folds.add_argument("--schedule", choices=SCHEDULES, help="as for train")
    folds.add_argument("--learning-rate", type=float, help="as for train")
    folds.add_argument(
        "--init", help="as for train, but scores say little where these weights were trained on the source, as lite was"
    )
    folds.add_argument("--blend", type=float, default=0.5, metavar="SHARE", help="as for train")
    folds.add_argument("--exclude", nargs="*", action="extend", default=[], metavar="SOURCE", help=EXCLUDE_HELP)
    folds.add_argument("--compare", type=Path, metavar="OUT", help="--out of an earlier run to compare the scores with")
    folds.set_defaults(run=_train_on_folds, extra="train")

    interactor = commands.add_parser(
        "train-interactor",
        help="train the network that finds objects in boxes",
        description="Trains the network `interactor` on annotated images and videos; each object of each of them is a "
        "sample. Stopped runs are resumed from --out.",
    )
    interactor.add_argument("--data", type=Path, nargs="+", action="extend", required=True, help="as for train")
    interactor.add_argument("--out", type=Path, required=True, help="folder of the run: state, log and weights")
    how_long = interactor.add_mutually_exclusive_group(required=True)
    how_long.add_argument("--minutes", type=_minutes, help="length of the whole run")
    how_long.add_argument("--steps", type=_steps, help="length in steps instead")
    interactor.add_argument(
        "--stop-after", type=_minutes, metavar="MINUTES", help="leave after so long; repeat the command to resume"
    )
    interactor.add_argument("--learning-rate", type=float, help="at its highest (default: 1e-3, or with --init 3e-4)")
    interactor.add_argument(
        "--batch", type=_count, default=16, metavar="N", help="crops in each step; 64 on a GPU (default: %(default)s)"
    )
    interactor.add_argument("--init", type=Path, metavar="FILE", help="weights to start from (default: ImageNet's)")
    interactor.add_argument("--exclude", nargs="*", action="extend", default=[], metavar="SOURCE", help=EXCLUDE_HELP)
    interactor.add_argument("--seed", type=int, default=0, help="of all random numbers (default: %(default)s)")
    interactor.set_defaults(run=_train_interactor, extra="train")

    serve = commands.add_parser(
        "serve",
        help="answer CVAT without Nuclio and Docker",
        description="Runs the function as a server that CVAT takes for Nuclio. Without a token, anyone who can reach "
        "the port can use it, so keep it on a private network.",
    )
    serve.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    serve.add_argument("--port", type=_port, default=8070, help="0 takes a free one (default: %(default)s)")
    serve.add_argument(
        "--workers",
        type=_count,
        metavar="N",
        help="processes, each with the network in memory and its share of the cores (default: one for two cores, but "
        "two on a machine with two, and at most eight)",
    )
    serve.add_argument(
        "--token",
        help="secret that requests must have in the header X-MaskBank-Token; other users of this machine see it here, "
        "so rather set MASKBANK_TOKEN (CVAT sends none: a proxy between CVAT and this server has to add it)",
    )
    serve.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name by which clients call this server; its addresses, localhost, host.docker.internal and this "
        "machine's name need not be given",
    )
    _add_model_options(serve)
    serve.set_defaults(run=_serve, extra="serve")

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

    store = commands.add_parser("store", help="show and purge the banks of a store", description=DESCRIPTION)
    add_actions(store)
    return parser


def _add_job(job: argparse.ArgumentParser) -> None:
    job.description = (
        "Tracks every object that is outlined in a CVAT job, on one frame or several, forward and backward through all "
        "its frames, and uploads the result. What people drew stays as it is. A run that was stopped goes on from "
        "where it was; a finished one that is repeated does nothing."
    )
    server = job.add_argument_group("server (as for cvat-cli; an access token is read from CVAT_ACCESS_TOKEN)")
    server.add_argument("--server-host", metavar="URL", help="CVAT's address (default: that of the saved profile)")
    server.add_argument("--auth", metavar="USER[:PASS]", help="the password may also be in PASS, or is asked for")
    server.add_argument("--profile", metavar="NAME", help="a profile that cvat-cli saved")
    server.add_argument("--organization", "--org", metavar="SLUG", help="short name of the organization")
    server.add_argument("--insecure", action="store_true", help="do not check the server's certificate")
    which = job.add_mutually_exclusive_group(required=True)
    which.add_argument("--job", type=int, metavar="ID", help="the job to annotate")
    which.add_argument("--task", type=int, metavar="ID", help="the task whose jobs to annotate, one after the other")
    job.add_argument(
        "--as",
        dest="form",
        choices=("mask", "polygon", "track"),
        help="what to upload: masks of all objects; polygons where masks were drawn (boxes and ellipses stay as they "
        "are); or a CVAT track per object, of polygons where masks were drawn; default: the types that were drawn",
    )
    job.add_argument(
        "--labels",
        type=_names,
        nargs="+",
        default=(),
        metavar="NAME",
        help="labels to track (with --from-job: to search for; with --propose: the one that proposals get), with "
        "commas or spaces between them (default: all); a name with a space goes in quotes",
    )
    start = job.add_mutually_exclusive_group()
    start.add_argument(
        "--propose",
        action="store_true",
        help="instead, where nothing is outlined yet: outline what moves, on one frame, for a person to correct",
    )
    start.add_argument(
        "--from-job",
        type=int,
        metavar="ID",
        help="instead, where nothing is outlined yet: find what is outlined in this job, and outline it for a person "
        "to correct",
    )
    job.add_argument("--dry-run", action="store_true", help="track, and say what would be uploaded")
    job.add_argument(
        "--replace",
        action="store_true",
        help="first delete the automatic annotations of these labels, such as an earlier run left",
    )
    job.add_argument(
        "--around",
        type=int,
        nargs="+",
        default=(),
        metavar="FRAME",
        help="after corrections on these frames: track only what is outlined there, each object from its outline "
        "before to its outline after, and replace its automatic shapes there; nothing else is touched",
    )
    job.add_argument("--work", type=Path, metavar="FOLDER", help="what was tracked is kept here (default: a cache)")
    job.add_argument(
        "--function-url",
        metavar="URL",
        help="track with a deployed function, and with the token in MASKBANK_TOKEN if it wants one (default: on this "
        "machine)",
    )
    job.add_argument(
        "--tune",
        type=_minutes,
        metavar="MINUTES",
        help="first train the network on what is outlined in the job, on this machine: outline two or more frames, and "
        "give it five to fifteen minutes",
    )
    _add_model_options(job)
    job.set_defaults(run=_job, extra="job")


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    """Command-line forms of the function's settings; what is not given comes from the environment."""
    group = parser.add_argument_group("model (default: the MASKBANK_* settings of the environment)")
    group.add_argument("--model", help="lite, afb-urr or afb-urr-paper")
    group.add_argument("--weights", help="checkpoint file")
    group.add_argument("--device", help="auto, cpu, cuda or cuda:N")
    group.add_argument("--size", help="short side of the working image in pixels")


def _environment(options: argparse.Namespace) -> dict[str, str]:
    """The environment with the settings that were given as options. Raises SettingsError for settings that are not."""
    from maskbank.settings import refuse_unknown

    refuse_unknown(os.environ)
    given = {f"MASKBANK_{name.upper()}": getattr(options, name) for name in ("model", "weights", "device", "size")}
    return dict(os.environ) | {name: value for name, value in given.items() if value is not None}


def _seed(text: str) -> tuple[int, Path]:
    index, separator, path = text.partition("=")
    if not separator or not index.isdigit() or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form FRAME=MASK, such as 0=mask.png")
    return int(index), Path(path)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name for name in map(str.strip, text.split(",")) if name)
    if not names:
        raise argparse.ArgumentTypeError(f"there is no name in {text!r}")
    return names


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes above 0")
    return minutes


def _steps(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of steps above 0")
    return int(text)


def _folds(text: str) -> int:
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of folds from 2")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


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
            raise ValueError(f"There is no frame {index} to seed: {options.frames} has {len(frames)} frames.")
        if index in seeds:
            raise ValueError(f"Frame {index} has two seed masks; put all its objects into one.")
        seeds[index] = read_id_mask(path)
    tracker, _ = load_tracker(read_settings(_environment(options)))
    video = None if options.video == "none" else options.video
    objects = sorted({int(i) for seed in seeds.values() for i in np.unique(seed) if i})
    facts = facts_of(options.frames, {i: f"object {i}" for i in objects})
    options.when_stopped = "no frame was finished"
    with (
        ResultFolder(options.out, video, frames.fps) as results,
        tqdm(total=frames_to_track(len(frames), seeds), unit="frame", desc="tracking") as bar,
    ):
        tracked_frames = track_clip(tracker, frames, seeds, bar.update)
        first = next(tracked_frames)  # until there is a frame, the record of an earlier run stays
        options.when_stopped = KEPT
        with RunRecord(options.out, facts) as record:
            for index, tracked in enumerate(itertools.chain([first], tracked_frames)):
                seeded = np.unique(seeds[index]).tolist() if index in seeds else []
                findings = findings_of(tracked.ids, objects, tracked.confidence, seeded)
                with interruptions_held_back():  # both have the frame, or neither
                    results.add(frames.name(index), tracked.image, tracked.ids, tracked.confidence)
                    record.add(index, frames.name(index), tracked.ids.shape, findings)
    print(f"Look at {write_page(options.out)}.")
    if options.suggest:
        print(what_to_outline_next(*read_record(options.out)))


def _review(options: argparse.Namespace) -> None:
    from maskbank.review.page import write_page

    print(f"Look at {write_page(options.run_folder, options.out)}.")


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
    tracker, _ = load_tracker(read_settings(_environment(options)))
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
    print(results.summary())


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
    frames = open_frames(options.frames)
    settings = read_settings(_environment(options))
    tracker, _ = load_tracker(settings)
    looked_at = frames_to_look_at(len(frames))
    needed = set(frames_to_read(looked_at, len(frames)))
    read = ((index, image) for index, image in enumerate(frames) if index in needed)
    found = propose(read, looked_at, tracker, load_outliner(settings.interactor, tracker.device))
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


def _job(options: argparse.Namespace) -> None:
    import platformdirs
    import torch

    from maskbank.jobs.annotate import annotate
    from maskbank.jobs.cvat import Login, connect
    from maskbank.jobs.function import deployed, identity_of, in_this_process
    from maskbank.jobs.plan import AnnotateOptions
    from maskbank.jobs.retrying import RETRY_S, Waiting, retried
    from maskbank.networks.outliner import load_outliner
    from maskbank.settings import read_settings, read_token

    environment = _environment(options)
    settings = read_settings(environment)
    labels = list(itertools.chain.from_iterable(options.labels))
    login = Login(options.server_host, options.auth, options.profile, options.organization, options.insecure)
    starting = "--propose" if options.propose else "--from-job" if options.from_job is not None else None
    if options.tune and (options.function_url or starting or settings.model != "lite"):
        raise ValueError(
            "Tuning trains the model lite on this machine: not with --function-url, --propose, --from-job or another "
            "--model."
        )
    if starting:
        if options.function_url or options.form or options.replace or options.around or options.work:
            raise ValueError(
                f"{starting} works on this machine, and has no use for --function-url, --as, --replace, --around "
                "and --work."
            )
        with connect(login) as cvat:
            _start_jobs(options, settings, cvat, labels)
        return
    if options.function_url:
        if any((options.model, options.weights, options.device, options.size)):
            raise ValueError("--model, --weights, --device and --size are for this machine, not for --function-url.")
        propagate = deployed(options.function_url, read_token(os.environ))
        identity = partial(identity_of, options.function_url)
        tracker = f"{options.function_url} {retried(identity, RETRY_S, Waiting('the tracker').tell)}"
    else:
        propagate = in_this_process(environment)
        tracker = _identity(settings)
    tune = None
    if options.tune:
        options.extra = "job,train"  # of which training needs the other half
        tune = _tuning(options.tune, settings, environment)
        tracker += f" tuned {options.tune}"
    work = options.work or platformdirs.user_cache_path("maskbank")
    if options.around and (options.form == "track" or options.task is not None):
        raise ValueError("--around is for one job, and no part of a track is replaced: not with --task or --as track.")
    how = AnnotateOptions(options.form, labels, options.dry_run, options.replace, work, tracker, tune, options.around)
    with connect(login) as cvat:
        jobs = [options.job] if options.task is None else cvat.jobs_of_task(options.task)
        annotate(cvat, jobs, propagate, load_outliner(settings.interactor, torch.device("cpu")).object_of, how)


def _identity(settings: "Settings") -> str:
    """Names what `maskbank job` tracks with on this machine; other weights under the same path are something else."""
    from maskbank.networks.checkpoints import sha256
    from maskbank.networks.models import MODELS

    weights = settings.weights or MODELS[settings.model].weights
    files = [path and path.exists() and sha256(path) for path in (weights, settings.interactor)]
    return " ".join(map(str, (settings.model, *files, settings.short_side, settings.budget, settings.adapt_seconds)))


def _start_jobs(options: argparse.Namespace, settings: "Settings", cvat: "Cvat", labels: Sequence[str]) -> None:
    """`maskbank job --propose` and `--from-job`; of a task, jobs in which something is outlined are passed over."""
    from maskbank.jobs.drafts import AlreadyOutlined
    from maskbank.jobs.from_job import objects_of_job, start_from
    from maskbank.jobs.propose import propose_in_job
    from maskbank.networks.outliner import load_outliner
    from maskbank.tracking.loading import load_tracker

    tracker, _ = load_tracker(settings)
    outliner = load_outliner(settings.interactor, tracker.device)
    wanted = [] if options.propose else objects_of_job(cvat, options.from_job, tracker, outliner.object_of, labels)
    jobs = [options.job] if options.task is None else cvat.jobs_of_task(options.task)
    if not jobs:
        raise ValueError(f"Task {options.task} has no annotation jobs.")
    for job in jobs:
        try:
            if options.propose:
                print(propose_in_job(cvat, job, tracker, outliner, labels, options.dry_run))
            else:
                print(start_from(wanted, cvat, job, options.dry_run))
        except AlreadyOutlined as error:
            if options.task is None:
                raise
            print(error)


def _tuning(minutes: float, settings: "Settings", environment: dict[str, str]) -> "Tune":
    """`maskbank job --tune`: training on a job's own frames, then the function with these weights in this process."""
    from maskbank.jobs.function import in_this_process
    from maskbank.networks.models import BUNDLED_WEIGHTS
    from maskbank.training.trainer import train

    def tune(data: Path, run: Path) -> "Propagate":
        init = settings.weights or BUNDLED_WEIGHTS["lite"]
        weights = train([data], run, minutes=minutes, init=init, blend=1.0)  # they serve this job only: let them forget
        chosen = {"MASKBANK_WEIGHTS": str(weights), "MASKBANK_INTERACTOR_WEIGHTS": str(settings.interactor)}
        return in_this_process(environment | chosen)

    return tune


def _evaluate(options: argparse.Namespace) -> None:
    if options.effort:
        _evaluate_effort(options)
        return
    if options.boxes and (options.search or options.propose):
        raise ValueError("--boxes says how well objects are tracked from boxes; --search and --propose do not track.")
    if options.out and (options.out.is_dir() or not options.out.absolute().parent.is_dir()):
        raise ValueError(f"--out {options.out} is no file that can be written.")  # before hours of work

    import torch

    from maskbank.evaluation.boxes import box_report, score_boxes
    from maskbank.evaluation.evaluate import evaluate, report
    from maskbank.evaluation.proposals import evaluate_proposals, proposal_report
    from maskbank.evaluation.search import evaluate_search, search_report
    from maskbank.evaluation.sequences import read_sequences
    from maskbank.networks.outliner import load_outliner
    from maskbank.settings import read_settings
    from maskbank.tracking.loading import load_tracker

    environment = _environment(options)
    settings = read_settings(environment)
    if options.search:
        found = evaluate_search(load_tracker(settings)[0], read_sequences(options.data))
        _report_on(found, search_report, options.out)
        return
    if options.propose:
        tracker, _ = load_tracker(settings)
        seeker = load_outliner(settings.interactor, tracker.device)
        _report_on(evaluate_proposals(tracker, seeker, read_sequences(options.data)), proposal_report, options.out)
        return
    outliner = load_outliner(settings.interactor, torch.device(settings.device)) if options.boxes else None
    tables = []
    if outliner:
        tables.append(box_report([score_boxes(outliner, sequence) for sequence in read_sequences(options.data)]))
    _report_on(
        evaluate(options.data, environment, outliner),
        lambda results: "\n\n".join([*tables, report(results)]),
        options.out,
    )


def _report_on(results: Iterable[T], report: Callable[[list[T]], str], out: Path | None) -> None:
    """Reports what is measured; what was done before an interruption or a bad sequence is worth having, too."""
    done = []
    try:
        for result in results:
            done.append(result)
    finally:
        if done:
            table = report(done)
            print(table)
            if out:
                out.write_text(table + "\n")


def _evaluate_effort(options: argparse.Namespace) -> None:
    options.extra = "train"
    importlib.import_module("matplotlib")  # before anything is measured: the curves are drawn at the end
    from maskbank.evaluation.effort import EffortCurve, effort_curves, effort_report, write_curves
    from maskbank.settings import read_settings
    from maskbank.tracking.loading import load_tracker

    if options.boxes or options.out:
        raise ValueError("--effort has a folder of its own for what it measures, and knows neither --out nor --boxes.")
    tracker, _ = load_tracker(read_settings(_environment(options)))
    options.effort.mkdir(parents=True, exist_ok=True)
    curves: list[EffortCurve] = []
    try:
        for sequence in effort_curves(tracker, options.data):
            curves += sequence
    finally:  # whole sequences only, so that the policies are compared on the same ones
        if curves:
            report = effort_report(curves)
            print(report)
            (options.effort / "effort.md").write_text(report + "\n")
            write_curves(curves, options.effort / "effort.json", options.effort / "effort.png")


def _train(options: argparse.Namespace) -> None:
    from maskbank.training.trainer import train

    chosen = _chosen(options)
    chosen["out"] = options.out or Path("runs") / options.data[0].resolve().name.removesuffix(".zip")
    chosen["init"] = _initial_weights(options.init)
    print(train(**chosen))


def _train_on_folds(options: argparse.Namespace) -> None:
    from maskbank.training.folds import train_on_folds

    chosen = _chosen(options)
    chosen["init"] = _initial_weights(options.init)
    print(train_on_folds(**chosen))


def _chosen(options: argparse.Namespace) -> dict[str, Any]:
    """The options of a training, by the names of its function's arguments."""
    own = {name: value for name, value in vars(options).items() if name not in ("run", "extra", "when_stopped")}
    return own | {"exclude": tuple(options.exclude)}


def _initial_weights(name: str | None) -> Path | None:
    from maskbank.networks.models import BUNDLED_WEIGHTS

    return None if name is None else BUNDLED_WEIGHTS.get(name) or Path(name)


def _train_interactor(options: argparse.Namespace) -> None:
    from maskbank.training.interactor import train_interactor

    print(train_interactor(**_chosen(options)))


def _serve(options: argparse.Namespace) -> None:
    from maskbank.serving.server import serve

    if options.token == "":
        raise ValueError("The token is empty, so anybody could use the function: give one, or leave out --token.")
    environment = _environment(options) | ({"MASKBANK_TOKEN": options.token} if options.token else {})
    serve(options.host, options.port, options.workers, environment, options.allow_host)


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


if __name__ == "__main__":
    sys.exit(main())
