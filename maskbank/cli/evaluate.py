"""`maskbank evaluate`: how good tracking, boxes, search and proposals are on annotated sequences."""

import argparse
import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from maskbank.cli.options import KEPT, Commands, add_model_options, environment_with, refuse_unwritable
from maskbank.files.atomic import check_writable

T = TypeVar("T")


def add_commands(commands: Commands) -> None:
    """Adds `evaluate`."""
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
        help="instead, J&F over all frames after 1, 2, 3, 4, 5 and 8 outlined frames, tracked in both directions, by "
        "how these are chosen: effort.md, effort.json and effort.png in this folder",
    )
    add_model_options(evaluate)
    evaluate.set_defaults(run=_evaluate, when_stopped="nothing was measured yet")


def _evaluate(options: argparse.Namespace) -> None:
    if options.effort:
        _evaluate_effort(options)
        return
    if options.boxes and (options.search or options.propose):
        raise ValueError("--boxes says how well objects are tracked from boxes; --search and --propose do not track.")
    if options.out:
        refuse_unwritable(options.out)

    import torch

    from maskbank.evaluation.boxes import box_report, score_boxes
    from maskbank.evaluation.evaluate import evaluate, report
    from maskbank.evaluation.proposals import evaluate_proposals, proposal_report
    from maskbank.evaluation.search import evaluate_search, search_report
    from maskbank.evaluation.sequences import read_sequences
    from maskbank.networks.outliner import load_outliner
    from maskbank.settings import read_settings
    from maskbank.tracking.loading import load_tracker

    environment = environment_with(options)
    settings = read_settings(environment)
    if options.search:
        found = evaluate_search(load_tracker(settings)[0], read_sequences(options.data))
        _report_on(found, search_report, options)
        return
    if options.propose:
        tracker, _ = load_tracker(settings)
        proposed = evaluate_proposals(
            tracker, load_outliner(settings.interactor, tracker.device), read_sequences(options.data)
        )
        _report_on(proposed, proposal_report, options)
        return
    outliner = load_outliner(settings.interactor, torch.device(settings.device)) if options.boxes else None
    tables = []
    if outliner:
        tables.append(box_report([score_boxes(outliner, sequence) for sequence in read_sequences(options.data)]))
    _report_on(
        evaluate(options.data, environment, outliner),
        lambda results: "\n\n".join([*tables, report(results)]),
        options,
    )


def _report_on(results: Iterable[T], report: Callable[[list[T]], str], options: argparse.Namespace) -> None:
    """Reports what is measured; what was done before an interruption or a bad sequence is worth having, too."""
    done = []
    try:
        for result in results:
            done.append(result)
            options.when_stopped = "what was measured so far is above"
    finally:
        if done:
            table = report(done)
            print(table)
            if options.out:
                options.out.write_text(table + "\n")


def _evaluate_effort(options: argparse.Namespace) -> None:
    options.extra = "train"
    importlib.import_module("matplotlib")  # before anything is measured: the curves are drawn at the end
    from maskbank.evaluation.effort import EffortCurve, effort_curves, effort_report, write_curves
    from maskbank.settings import read_settings
    from maskbank.tracking.loading import load_tracker

    if options.boxes or options.out:
        raise ValueError("--effort has a folder of its own for what it measures, and knows neither --out nor --boxes.")
    tracker, _ = load_tracker(read_settings(environment_with(options)))
    options.effort.mkdir(parents=True, exist_ok=True)
    check_writable(options.effort / "effort.md")
    curves: list[EffortCurve] = []
    try:
        for sequence in effort_curves(tracker, options.data):
            curves += sequence
            options.when_stopped = KEPT
    finally:  # whole sequences only, so that the policies are compared on the same ones
        if curves:
            report = effort_report(curves)
            print(report)
            (options.effort / "effort.md").write_text(report + "\n")
            write_curves(curves, options.effort / "effort.json", options.effort / "effort.png")
