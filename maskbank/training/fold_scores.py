"""What training on folds has found: a score of each held-out sequence, in a file, in tables, beside earlier ones."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from maskbank.files.atomic import atomic_write

FILE, REPORT = "folds.json", "folds.md"
Name = TypeVar("Name", str, int)


@dataclass(frozen=True)
class FoldScore:
    """How good weights that were trained without a sequence are on it."""

    sequence: str
    fold: int  # from 1
    seed: int  # of the training
    j_and_f: float  # percent


@dataclass
class FoldScores:
    """The scores of the folds of a source so far.

    Args:
        options: of the command line, as far as they have to do with the scores; all are JSON.
        sequences: the source's, by name; those of a fold follow from their order.
        scores: in the order in which they came.
    """

    options: dict[str, Any]
    sequences: list[str]
    scores: list[FoldScore]

    def has(self, sequence: str, seed: int) -> bool:
        """Whether a sequence was scored with the weights of a seed."""
        return any((each.sequence, each.seed) == (sequence, seed) for each in self.scores)

    def by_sequence(self) -> dict[str, float]:
        """J&F of each scored sequence, the mean over the seeds."""
        return _means([(each.sequence, each.j_and_f) for each in self.scores])

    def by_seed(self) -> dict[int, float]:
        """J&F of each seed, the mean over the sequences."""
        return _means([(each.seed, each.j_and_f) for each in self.scores])

    def summary(self) -> dict[str, float]:
        """Mean, median and standard deviation of J&F over the sequences; empty when none was scored."""
        values = list(self.by_sequence().values())
        if not values:
            return {}
        return {"mean": float(np.mean(values)), "median": float(np.median(values)), "std": _deviation(values)}

    def write(self, out: Path) -> None:
        """Writes folds.json and folds.md."""
        facts = {
            "options": self.options,
            "sequences": self.sequences,
            **self.summary(),
            "seeds": self.by_seed(),
            "scores": [asdict(each) for each in self.scores],
        }
        with atomic_write(out / FILE) as draft:
            draft.write_text(json.dumps(facts, indent=1) + "\n")
        with atomic_write(out / REPORT) as draft:
            draft.write_text(self.report() + "\n")

    def report(self) -> str:
        """Markdown: a row for each score, and what they come to."""
        given = ", ".join(f"{name} {_word(value)}" for name, value in self.options.items() if value not in (None, []))
        summary = self.summary()
        names = {"mean": "mean", "median": "median", "std": "standard deviation"}
        lines = [
            "J&F in percent of sequences that were held out from training, each tracked from its first frame; "
            f"sequences: {len(self.by_sequence())} of {len(self.sequences)}.",
            "",
            f"Trained with {given}.",
            "",
            "| sequence | fold | seed | J&F |",
            "| --- | --- | --- | --- |",
        ]
        by_name = sorted(self.scores, key=lambda each: (each.sequence, each.seed))
        lines += [f"| {each.sequence} | {each.fold} | {each.seed} | {each.j_and_f:.1f} |" for each in by_name]
        lines += ["", "| over the sequences | J&F |", "| --- | --- |"]
        lines += [f"| {name} | {summary[key]:.1f} |" for key, name in names.items() if key in summary]
        lines += [f"| mean of seed {seed} | {value:.1f} |" for seed, value in self.by_seed().items()]
        return "\n".join(lines)


def read_scores(out: Path) -> FoldScores:
    """The scores in the folder of earlier training on folds.

    Raises ValueError with one sentence when there are none that can be read.
    """
    path = out / FILE
    if not path.is_file():
        raise ValueError(f"{out} holds no {FILE}, so it is not the folder of earlier training on folds.")
    try:
        facts = json.loads(path.read_text())
        return FoldScores(facts["options"], facts["sequences"], [FoldScore(**each) for each in facts["scores"]])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged.") from error


@dataclass(frozen=True)
class Comparison:
    """J&F of sequences in an earlier run and in this one, each the mean over the seeds."""

    before: dict[str, float]
    now: dict[str, float]  # the same sequences

    @property
    def differences(self) -> dict[str, float]:
        """By sequence; above 0 where this run is better."""
        return {name: self.now[name] - self.before[name] for name in self.now}

    @property
    def mean(self) -> float:
        """The mean difference."""
        return float(np.mean(list(self.differences.values())))

    @property
    def standard_error(self) -> float:
        """Of the mean difference, from the spread of the paired differences."""
        return _deviation(list(self.differences.values())) / sqrt(len(self.now))

    @property
    def better(self) -> int:
        """How many sequences got better."""
        return sum(each > 0 for each in self.differences.values())

    @property
    def worse(self) -> int:
        """How many sequences got worse."""
        return sum(each < 0 for each in self.differences.values())


def check_comparable(earlier: FoldScores, options: dict[str, Any], sequences: list[str], folder: Path) -> None:
    """Raises ValueError with one sentence unless the earlier scores, of a folder, can be paired with others."""
    for name in ("--source", "--folds"):
        if earlier.options.get(name) != options[name]:
            raise ValueError(f"{folder} cannot be compared with: it had another {name}, {earlier.options.get(name)}.")
    if earlier.sequences != sequences:
        raise ValueError(f"{folder} cannot be compared with: {options['--source']} had other sequences then.")
    if len(earlier.by_sequence()) < 2:
        raise ValueError(f"{folder} cannot be compared with: it has fewer than two scored sequences.")


def compare(earlier: FoldScores, now: FoldScores) -> Comparison:
    """The sequences that were scored in both."""
    before, after = earlier.by_sequence(), now.by_sequence()
    both = sorted(before.keys() & after.keys())
    return Comparison({name: before[name] for name in both}, {name: after[name] for name in both})


def comparison_report(earlier: FoldScores, now: FoldScores, folder: Path) -> str:
    """Markdown: the paired differences against the earlier scores in a folder, and what they come to."""
    found = compare(earlier, now)
    names = list(dict.fromkeys([*earlier.options, *now.options]))
    pairs = [(name, earlier.options.get(name), now.options.get(name)) for name in names]
    changed = [f"{name} {_word(before)} → {_word(after)}" for name, before, after in pairs if before != after]
    same = len(found.now) - found.better - found.worse
    lines = [
        f"Against {folder}: {', '.join(changed) or 'with the same options'}; sequences in both: {len(found.now)}.",
        "",
        "| sequence | before | now | difference |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {name} | {found.before[name]:.1f} | {found.now[name]:.1f} | {difference:+.1f} |"
        for name, difference in found.differences.items()
    ]
    lines += [
        "",
        f"Mean difference {found.mean:+.2f}, standard error {found.standard_error:.2f}; "
        f"better {found.better}, worse {found.worse}, the same {same}.",
    ]
    return "\n".join(lines)


def _means(pairs: Sequence[tuple[Name, float]]) -> dict[Name, float]:
    """The mean of the values of each name, by name in order."""
    names = sorted({name for name, _ in pairs})
    return {name: float(np.mean([value for each, value in pairs if each == name])) for name in names}


def _deviation(values: list[float]) -> float:
    """The standard deviation of a sample; of one value 0."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _word(value: object) -> str:
    """An option's value as it is said in a report."""
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "by default" if value is None else str(value)
