"""Training on folds: each sequence of a source is scored with weights that never saw it, to decide how to train."""

import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from maskbank.evaluation.sequences import read_sequences
from maskbank.networks.checkpoints import sha256
from maskbank.settings import Settings
from maskbank.tracking.loading import load_tracker
from maskbank.training.distributed import join_processes, refuse_several_processes
from maskbank.training.fold_scores import (
    FILE,
    REPORT,
    FoldScore,
    FoldScores,
    check_comparable,
    comparison_report,
    read_scores,
)
from maskbank.training.run import RunOptions
from maskbank.training.trainer import DEFAULT_BLEND, train
from maskbank.training.validation import j_and_f


def train_on_folds(
    data: Sequence[Path],
    source: str,
    out: Path,
    folds: int = 3,
    steps: int = 300,
    seeds: int = 1,
    schedule: str | None = None,
    learning_rate: float | None = None,
    init: Path | None = None,
    blend: float = DEFAULT_BLEND,
    exclude: tuple[str, ...] = (),
    compare: Path | None = None,
) -> str:
    """Trains once for each fold of a source's sequences and seed, and scores the fold's sequences; returns a report.

    `out` gets folds.json and folds.md, after each sequence, and a folder for each training. What is there already is
    not done again.

    Args:
        data: as for `train`; the source is in one of them, `data`/video/`source`/<sequence>.
        folds: every so-many-th sequence by name is held out together; the others, and all other data, are trained on.
        seeds: trainings of each fold; more of them can be asked for later.
        steps, learning_rate, init, exclude: as in `RunOptions`.
        schedule, blend: as for `train`.
        compare: the `out` of an earlier call, whose scores these are then compared with.

    Raises:
        ValueError: as `train`, and when the folds are impossible, or others than those in `out` or `compare`; one
            sentence.
    """
    refuse_several_processes("Folds are")
    folder = source_folder(data, source)
    sequences = [each.name for each in read_sequences(folder) if (folder / each.name).parent == folder]
    if not 2 <= folds <= len(sequences):
        raise ValueError(f"{folder} has {len(sequences)} annotated sequences, which cannot be {folds} folds.")
    options = {
        "--source": source,
        "--folds": folds,
        "--steps": steps,
        "--schedule": schedule,
        "--learning-rate": learning_rate,
        "--init": sha256(init)[:12] if init else None,
        "--blend": blend if init else None,
        "--exclude": sorted(exclude),
        "--data": [path.resolve().name for path in data],
    }
    earlier = read_scores(compare) if compare else None
    if earlier and compare:
        check_comparable(earlier, options, sequences, compare)
    results = FoldScores(options, sequences, [])
    if (out / FILE).exists():
        begun = read_scores(out)
        if begun.scores or any(out.glob("seed-*/*")):  # else an option was wrong, and may be put right
            _check_unchanged(begun, options, sequences, out)
            results = begun
    out.mkdir(parents=True, exist_ok=True)
    results.write(out)  # before any training, so that a run's folder is never one of other options
    for seed in range(seeds):
        for fold in range(1, folds + 1):
            own = sequences[fold - 1 :: folds]
            missing = [name for name in own if not results.has(name, seed)]
            if not missing:
                continue
            tqdm.write(f"Seed {seed}, fold {fold} of {folds}: without {', '.join(own)}.", file=sys.stderr)
            run = out / f"seed-{seed}-fold-{fold}"
            left_out = (*exclude, *(f"{source}/{name}" for name in own))
            weights = run / "lite.safetensors"
            if not _has_ended(run):
                asked = RunOptions(steps=steps, learning_rate=learning_rate, seed=seed, init=init, exclude=left_out)
                train(data, run, asked, schedule=schedule, blend=blend)
                (run / "state.pt").unlink()
            tracker, _ = load_tracker(Settings(weights=weights, device=str(join_processes()[1])))
            for name in missing:
                sequence = read_sequences(folder / name)[0]
                results.scores.append(FoldScore(name, fold, seed, j_and_f(tracker, sequence)))
                results.write(out)
    report = results.report()
    if earlier and compare:
        report += "\n\n" + comparison_report(earlier, results, compare)
        (out / REPORT).write_text(report + "\n")
    return report


def source_folder(data: Sequence[Path], source: str) -> Path:
    """The folder of a source's sequences, in one of several folders of data.

    Raises ValueError with one sentence unless exactly one of them has it.
    """
    found = [folder for path in data if (folder := path / "video" / source).is_dir()]
    if not found:
        raise ValueError(f"There is no video/{source}/ in {', '.join(map(str, data))}.")
    if len(found) > 1:
        raise ValueError(f"Which sequences to hold out is not clear: {' and '.join(map(str, found))} are there.")
    return found[0]


def _has_ended(run: Path) -> bool:
    """Whether a fold's training has: only then is its state removed, which takes ten times as much as its weights."""
    return (run / "lite.safetensors").exists() and not (run / "state.pt").exists()


def _check_unchanged(results: FoldScores, options: dict[str, object], sequences: list[str], out: Path) -> None:
    """Raises ValueError with one sentence unless the results in a folder were begun alike."""
    changed = [name for name, value in options.items() if results.options.get(name) != value]
    if results.sequences != sequences:
        changed.append("set of sequences")
    if changed:
        raise ValueError(f"The folds in {out} began with another {changed[0]}: repeat that, or take another --out.")
