"""How training goes on: stages with clips that grow, the learning rate, and the clock that says how far a run is."""

import time
from dataclasses import dataclass
from math import cos, inf, pi

import torch
import torch.distributed as dist

from maskbank.training.clips import ClipRecipe


@dataclass(frozen=True)
class Stage:
    """A part of a run."""

    until: float  # share of the training time
    recipe: ClipRecipe
    batch: int


SCHEDULES = {
    "small": (
        Stage(0.50, ClipRecipe(crop_size=224, frames=3, objects=2, video=0.40, max_gap=5), 6),
        Stage(1.00, ClipRecipe(crop_size=288, frames=4, objects=2, video=0.60, max_gap=6), 3),
    ),
    # To go on from trained weights (`--init`), for half an hour or so on a CPU.
    "short": (Stage(1.00, ClipRecipe(crop_size=256, frames=3, objects=2, video=0.40, max_gap=6), 5),),
    # The same, where the light changes hard in many clips.
    "light": (Stage(1.00, ClipRecipe(crop_size=256, frames=3, objects=2, video=0.40, max_gap=6, light=0.4), 5),),
    # For an hour or more.
    "long": (
        Stage(0.60, ClipRecipe(crop_size=288, frames=4, objects=2, video=0.60, max_gap=8), 3),
        Stage(1.00, ClipRecipe(crop_size=352, frames=4, objects=2, video=0.70, max_gap=8), 2),
    ),
    # For a GPU: first stills, from scratch, then with video, from what came of that (`--init`).
    "stills": (Stage(1.00, ClipRecipe(crop_size=256, frames=3, objects=3, video=0.0), 64),),
    "large": (
        Stage(0.60, ClipRecipe(crop_size=320, frames=4, objects=3, video=0.40, max_gap=6), 24),
        Stage(1.00, ClipRecipe(crop_size=384, frames=5, objects=3, video=0.40, max_gap=8), 12),
    ),
}


def stage_at(stages: tuple[Stage, ...], progress: float) -> Stage:
    """The stage that a run has reached; `progress`: 0 to 1."""
    return next(stage for stage in stages if progress < stage.until or stage is stages[-1])


@dataclass(frozen=True)
class LearningRate:
    """The learning rate over a run: it warms up to its highest, and falls to a hundredth of that as a cosine does."""

    highest: float
    warm_up_steps: int
    warm_up_share: float = inf  # of the run; the warm-up ends with the steps or the share, whichever is over first

    def at(self, step: int, progress: float, share: float) -> float:
        """What weights get in a step, whose group has such a share of the rate; `progress`: of the run, 0 to 1."""
        # Not with NumPy: its numbers in state.pt could not be read again.
        warmth = min(max((step + 1) / self.warm_up_steps, progress / self.warm_up_share), 1)
        return self.highest * share * warmth * cosine_decay(progress)


def cosine_decay(progress: float) -> float:
    """What is left of the learning rate, from 1 to 0.01, when so much of a run is done, 0 to 1."""
    return 0.01 + 0.99 * cos(progress * pi / 2) ** 2


@dataclass
class Clock:
    """How far a run is: by the minutes that were spent on it, or, to be repeatable, by its steps.

    In a distributed run the first process's clock counts.
    """

    minutes: float | None
    steps: int | None
    spent_s: float = 0.0  # in earlier calls
    step: int = 0

    def __post_init__(self) -> None:
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """That the run has taken."""
        return self.spent_s + time.monotonic() - self._started

    def begin(self) -> None:
        """Counts from now on: what came before, such as reading the data, was not training."""
        self._started = time.monotonic()

    def pause(self, seconds: float) -> None:
        """Leaves out time that was not spent on training."""
        self._started += seconds

    def progress(self) -> float:
        """The share of the run that is done, from 0 to 1."""
        progress = self.step / self.steps if self.steps else self.seconds / (60 * (self.minutes or 0.0))
        if dist.is_initialized():
            shared = torch.tensor(progress, dtype=torch.float64)
            dist.broadcast(shared, 0)
            progress = shared.item()
        return progress
