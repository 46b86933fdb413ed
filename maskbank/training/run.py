"""A run of training, of any network: its steps, its log and its folder; may be stopped and resumed at any minute."""

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import torch
from torch import Tensor, nn
from tqdm import tqdm

from maskbank.networks.checkpoints import sha256
from maskbank.training import run_state
from maskbank.training.distributed import all_equal, any_process, clip_workers
from maskbank.training.log import CURVES, TrainingLog
from maskbank.training.schedules import Clock, LearningRate

SAVE_EVERY_S = 120
LOG_EVERY = 20  # steps
BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
WEIGHT_DECAY = 1e-3
LARGEST_GRADIENT = 3.0  # norm, above which gradients are clipped
PREFETCHED = 3  # batches of each worker

B = TypeVar("B")  # a batch


@dataclass(frozen=True)
class RunOptions:
    """What can be asked of every run of training.

    Args:
        minutes, steps: its length, in one of the two. With steps it is repeatable, unless it is stopped in between: the
            same seed gives the same weights on the same kind of CPU.
        learning_rate: at its highest; None takes one that suits a start from scratch or, with `init`, from trained
            weights.
        seed: of all random numbers.
        init: weights to start from; None: an encoder that knows ImageNet.
        exclude: sources, or sequences of them, to leave out; as in `load_data`.
        stop_after: leave after so many minutes of this call, to be resumed.

    Raises:
        ValueError: it has no length, or two; one sentence.
    """

    minutes: float | None = None
    steps: int | None = None
    learning_rate: float | None = None
    seed: int = 0
    init: Path | None = None
    exclude: tuple[str, ...] = ()
    stop_after: float | None = None

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise ValueError("A run has a length in minutes or in steps, and only one of the two.")

    def highest_rate(self, from_scratch: float, from_weights: float) -> float:
        """The learning rate that was asked for, or the one of the two that suits the start."""
        if self.learning_rate is not None:
            return self.learning_rate
        return from_weights if self.init else from_scratch


class Run:
    """A run: the network and what goes with it, how far it is, and its folder.

    Args:
        out: the folder, which exists; a run whose state is there is resumed.
        options: what was asked for.
        own_options: what was asked for besides, and the data, by the names of the command line; with others the run
            cannot be resumed.
        network: what is trained, on its device.
        groups: of the network's weights: `params`, and their `rate`, which is a share of the learning rate.
        learning_rate: over the run.
        curves: what the log shows; as in `log.CURVES`.
        rank: of this process; only the first one keeps a log and saves.

    Raises:
        ValueError: what is in the folder cannot be gone on with; one sentence.
    """

    def __init__(
        self,
        out: Path,
        options: RunOptions,
        own_options: Mapping[str, object],
        network: nn.Module,
        groups: list[dict[str, Any]],
        learning_rate: LearningRate,
        curves: Mapping[str, str] = CURVES,
        rank: int = 0,
    ):
        self.out, self.options = out, options
        self.clock = Clock(options.minutes, options.steps)
        self.average = run_state.WeightAverage(network)
        self.log: TrainingLog | None = None
        self._network, self._learning_rate, self._curves, self._rank = network, learning_rate, curves, rank
        self._optimizer = torch.optim.AdamW(groups, lr=learning_rate.highest, weight_decay=WEIGHT_DECAY)
        began_with = {
            "--init": sha256(options.init) if options.init else None,
            "--learning-rate": learning_rate.highest,
            "--seed": options.seed,
            **own_options,
        }
        self._state = run_state.RunState(out, began_with, network, self._optimizer, self.average, self.clock)
        self.resumed = self._state.resume() if run_state.begun(out) else None  # what `save_state` was given besides
        self.first_step = self.clock.step
        if not all_equal(self.clock.step):
            raise ValueError(
                f"The processes take up different runs: the folder {out} must be one that all of them see."
            )
        self._reached = multiprocessing.Value("d", self.clock.progress())

    def progress_at(self, number: int) -> float:
        """The share of the run, from 0 to 1, that is done at a worker's batch of this number in this call.

        Batches are made ahead of time, so for a run to be repeatable the clock must not matter.
        """
        return (self.first_step + number) / self.options.steps if self.options.steps else self._reached.value

    def begin(self, dataset: torch.utils.data.IterableDataset[B]) -> Iterator[B]:
        """Starts the log, the random numbers, the clock and the processes that make batches; returns these."""
        cv2.setNumThreads(0)  # a pool of threads does not survive the fork of the workers
        batches = iter(
            torch.utils.data.DataLoader(
                dataset,
                batch_size=None,
                num_workers=1 if self.options.steps else clip_workers(),  # with steps a run is repeatable
                prefetch_factor=PREFETCHED,
                multiprocessing_context="fork",  # the images are shared, not copied
            )
        )
        torch.manual_seed(self.options.seed + 1000 * self._rank + self.clock.step)
        self.clock.begin()
        self.log = TrainingLog(self.out, self.clock.step, self._curves) if self._rank == 0 else None
        self._leave_at = time.monotonic() + (self.options.stop_after or float("inf")) * 60
        return batches

    def train(
        self,
        batches: Iterator[B],
        loss: Callable[[B, float], tuple[Tensor, Tensor]],
        save: Callable[[], None],
        after_step: Callable[[], None] | None = None,
    ) -> bool:
        """Trains until the run ends or is to be left; returns whether it has ended. Where it had before, it says so.

        Args:
            batches: from `begin`.
            loss: from a batch and the share of the run that is done, 0 to 1, to the loss and the mean Jaccard index.
            save: saves what the folder is to have; every `SAVE_EVERY_S` seconds and at the end, in the first process.
            after_step: what else there is to do after each step, in the first process.

        Raises:
            ValueError: the loss is not finite any more; one sentence. Nothing of that batch is kept.
        """
        saved = time.monotonic()
        start = min(self.clock.progress(), 1.0)
        with tqdm(total=1.0, initial=start, disable=self.log is None, desc="training", bar_format=BAR) as bar:
            while (progress := self.clock.progress()) < 1 and not any_process(time.monotonic() > self._leave_at):
                self._reached.value = progress
                value, jaccard = loss(next(batches), progress)
                self._learn(value, progress)
                if self.log is None:
                    continue
                if self.clock.step % LOG_EVERY == 0:
                    means = self.log.add(self.clock.step, self.clock.seconds, value.item(), jaccard.item())
                    bar.n = min(progress, 1.0)
                    shown: dict[str, Any] = {name: f"{mean:.3f}" for name, mean in means.items()}
                    bar.set_postfix(step=self.clock.step, **shown)
                if time.monotonic() - saved > SAVE_EVERY_S:
                    save()
                    self.log.plot()
                    saved = time.monotonic()
                if after_step:
                    after_step()
        ended = self.clock.progress() >= 1
        if self.log:
            save()
            if ended and self.clock.step == self.first_step:
                text = f"The run in {self.out} had ended: nothing was trained. New data needs a new --out."
                tqdm.write(text, file=sys.stderr)
        return ended

    def log_score(self, score: float) -> None:
        """Logs how good the network is at this step, in percent."""
        if self.log:
            self.log.add_validation(self.clock.step, self.clock.seconds, score)

    def save_state(self, **more: dict[str, Tensor] | None) -> None:
        """Writes the state of the run, and more with it; a stop in the middle leaves the former file whole."""
        self._state.save(**more)

    def _learn(self, loss: Tensor, progress: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate.at(self.clock.step, progress, group["rate"])
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if not nn.utils.clip_grad_norm_(self._network.parameters(), LARGEST_GRADIENT).isfinite():
            raise ValueError(
                f"Training diverged at step {self.clock.step}: take a lower --learning-rate and a new --out."
            )
        self._optimizer.step()
        self.clock.step += 1
        self.average.update(self._network, self.clock.step)
