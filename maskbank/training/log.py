"""The log of a training run: a CSV that can be resumed, and its curves."""

import csv
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

SMOOTHING = 0.9  # of the running means
CURVES = {  # what is logged: running means of two, and the score of a validation; and what is written beside the curve
    "loss": "loss (rises while it turns\nto the hardest pixels)",
    "jaccard": "mean J on training clips",
    "val_j_and_f": "J&F in validation, percent",
}


class TrainingLog:
    """log.csv and log.png in a run's folder.

    `loss` and `jaccard` are running means over the logged steps; the score of a validation, by default its mean J&F,
    has a row of its own.
    """

    def __init__(self, out: Path, step: int, curves: Mapping[str, str] = CURVES):
        """Takes up a run at `step`: what was logged after the state that it goes on from is forgotten.

        curves: as in `CURVES`; the last one is that of validations.
        """
        self._curves = curves
        self._fields = ("step", "seconds", *curves)
        self._score = self._fields[-1]
        self.path = out / "log.csv"
        self.picture = out / "log.png"
        self._shown: dict[str, float] = {}
        rows = [row for row in self._rows() if int(row["step"]) <= step] if self.path.exists() else []
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._fields, restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        for row in rows:
            if row["loss"]:
                self._shown = {name: float(row[name]) for name in ("loss", "jaccard")}

    def add(self, step: int, seconds: float, loss: float, jaccard: float) -> dict[str, float]:
        """Adds a row; returns the running means."""
        for name, value in (("loss", loss), ("jaccard", jaccard)):
            self._shown[name] = SMOOTHING * self._shown.get(name, value) + (1 - SMOOTHING) * value
        self._write(step, seconds, *(round(value, 4) for value in self._shown.values()), "")
        return self._shown

    def add_validation(self, step: int, seconds: float, score: float) -> None:
        """Notes a validation at a step: its score in percent."""
        self._write(step, seconds, "", "", round(score, 2))

    def initial_validation(self) -> float | None:
        """The score of the weights that the run started from, in percent; None when there was no validation then."""
        scores = (row[self._score] for row in self._rows() if row["step"] == "0")
        return next((float(score) for score in scores if score), None)

    def plot(self) -> None:
        """Draws the curves over the minutes of training, those that have points."""
        rows = self._rows()
        curves = {name: [(float(r["seconds"]) / 60, float(r[name])) for r in rows if r[name]] for name in self._curves}
        drawn = {name: points for name, points in curves.items() if points}
        if not drawn:
            return
        figure = Figure(figsize=(8, 3 * len(drawn)))
        axes = figure.subplots(len(drawn), 1, sharex=True, squeeze=False)[:, 0]
        for axis, (name, points) in zip(axes, drawn.items(), strict=True):
            axis.plot(*zip(*points, strict=True), marker="o" if len(points) < 50 else None)
            axis.set_ylabel(self._curves[name])
            axis.grid(alpha=0.3)
        axes[-1].set_xlabel("minutes")
        figure.tight_layout()
        figure.savefig(self.picture, dpi=100)

    def _rows(self) -> list[dict[str, str]]:
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def _write(self, step: int, seconds: float, *values: object) -> None:
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow([step, round(seconds), *values])
