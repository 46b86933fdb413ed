"""`maskbank job`: objects of CVAT jobs, tracked from what is outlined there, or outlined in the first place."""

import argparse
import itertools
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from maskbank.cli.options import Commands, add_model_options, as_minutes, environment_with

if TYPE_CHECKING:  # what commands need is imported when they run
    from maskbank.jobs.cvat import Cvat
    from maskbank.jobs.function import Propagate
    from maskbank.jobs.plan import Tune
    from maskbank.settings import Settings


def add_commands(commands: Commands) -> None:
    """Adds `job`."""
    job = commands.add_parser("job", help="track what is outlined in a CVAT job or task through all its frames")
    job.description = (
        "Tracks every object that is outlined in a CVAT job, on one frame or several, forward and backward through all "
        "its frames, and uploads the result. What people drew stays as it is. A run that was stopped goes on from "
        "where it was; a finished one that is repeated does nothing."
    )
    server = job.add_argument_group("server (as for cvat-cli; an access token is read from CVAT_ACCESS_TOKEN)")
    server.add_argument(
        "--server-host",
        metavar="URL",
        help="CVAT's address (default: that of the saved profile, else http://localhost)",
    )
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
    job.add_argument(
        "--dry-run",
        action="store_true",
        help="track (or search), and say what would be uploaded and deleted; what was tracked is kept for the next run",
    )
    job.add_argument(
        "--replace",
        action="store_true",
        help="make all results anew: once the new ones are uploaded, all other automatic annotations of the labels "
        "that are tracked are deleted, those of other programs as well, and what earlier runs left of labels of which "
        "nothing is outlined any more; attributes that people filled in stay",
    )
    job.add_argument(
        "--around",
        type=int,
        nargs="+",
        default=(),
        metavar="FRAME",
        help="after corrections on these frames: track only what is outlined there, each object from its outline "
        "before to its outline after, and replace its automatic shapes there; nothing else is touched (for one job, "
        "and not for results that are tracks; objects of a label need a group each)",
    )
    job.add_argument(
        "--work",
        type=Path,
        metavar="FOLDER",
        help="what was tracked is kept here, and the pages of runs (default: maskbank in the user's folder for "
        "caches, on Linux ~/.cache/maskbank)",
    )
    job.add_argument(
        "--function-url",
        metavar="URL",
        help="track with a deployed function, and with the token in MASKBANK_TOKEN if it wants one (default: on this "
        "machine)",
    )
    job.add_argument(
        "--tune",
        type=as_minutes,
        metavar="MINUTES",
        help="first train the network on what is outlined in the job, on this machine: outline two or more frames, and "
        "give it five to fifteen minutes",
    )
    add_model_options(job)
    job.set_defaults(run=_job, extra="job")


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name for name in map(str.strip, text.split(",")) if name)
    if not names:
        raise argparse.ArgumentTypeError(f"there is no name in {text!r}")
    return names


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

    environment = environment_with(options)
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
        annotate(
            cvat,
            _job_ids(options, cvat),
            propagate,
            load_outliner(settings.interactor, torch.device("cpu")).object_of,
            how,
        )


def _identity(settings: "Settings") -> str:
    """Names what `maskbank job` tracks with on this machine; other weights under the same path are something else."""
    from maskbank.networks.checkpoints import sha256
    from maskbank.networks.models import MODELS

    weights = settings.weights or MODELS[settings.model].weights
    files = [path and path.exists() and sha256(path) for path in (weights, settings.interactor)]
    return " ".join(map(str, (settings.model, *files, settings.short_side, settings.budget, settings.adapt_seconds)))


def _start_jobs(options: argparse.Namespace, settings: "Settings", cvat: "Cvat", labels: Sequence[str]) -> None:
    """`maskbank job --propose` and `--from-job`; of a task, jobs in which something is outlined are passed over."""
    import platformdirs

    from maskbank.jobs.drafts import AlreadyOutlined
    from maskbank.jobs.from_job import objects_of_job, start_from
    from maskbank.jobs.propose import propose_in_job
    from maskbank.jobs.run_folder import job_folder
    from maskbank.jobs.several import for_each_job
    from maskbank.networks.outliner import load_outliner
    from maskbank.tracking.loading import load_tracker

    tracker, _ = load_tracker(settings)
    outliner = load_outliner(settings.interactor, tracker.device)
    wanted = [] if options.propose else objects_of_job(cvat, options.from_job, tracker, outliner.object_of, labels)

    def start(job: int) -> str:
        with job_folder(platformdirs.user_cache_path("maskbank"), cvat.host, job).alone():
            try:
                said = (
                    propose_in_job(cvat, job, tracker, outliner, labels, options.dry_run)
                    if options.propose
                    else start_from(wanted, cvat, job, options.dry_run)
                )
            except AlreadyOutlined as error:
                if options.task is None:
                    raise
                return str(error)
        options.when_stopped = "what was uploaded so far stays in CVAT"
        return said

    options.when_stopped = "what was found so far is not kept"
    for_each_job(_job_ids(options, cvat), start, "started")


def _job_ids(options: argparse.Namespace, cvat: "Cvat") -> list[int]:
    from maskbank.jobs.retrying import RETRY_S, Waiting, retried

    if options.task is None:
        return [options.job]
    return retried(partial(cvat.jobs_of_task, options.task), RETRY_S, Waiting("CVAT").tell)


def _tuning(minutes: float, settings: "Settings", environment: dict[str, str]) -> "Tune":
    """`maskbank job --tune`: training on a job's own frames, then the function with these weights in this process."""
    from maskbank.jobs.function import in_this_process
    from maskbank.networks.models import BUNDLED_WEIGHTS
    from maskbank.training.run import RunOptions
    from maskbank.training.trainer import train

    def tune(data: Path, run: Path) -> "Propagate":
        init = settings.weights or BUNDLED_WEIGHTS["lite"]
        options = RunOptions(minutes=minutes, init=init)
        weights = train([data], run, options, blend=1.0)  # they serve this job only: let them forget
        chosen = {"MASKBANK_WEIGHTS": str(weights), "MASKBANK_INTERACTOR_WEIGHTS": str(settings.interactor)}
        return in_this_process(environment | chosen)

    return tune
