"""Training of the bundled network: clips in, weights out; may be stopped and resumed at any minute."""

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from maskbank.evaluation.sequences import read_sequences
from maskbank.networks.checkpoints import sha256
from maskbank.networks.lite import Lite
from maskbank.networks.models import interactor_beside
from maskbank.networks.weights import fingerprint, fit_weights, in_half_precision, load_state_dict, save_weights
from maskbank.training import run_state
from maskbank.training.batches import Batch, ClipBatches
from maskbank.training.clips import ClipMaker
from maskbank.training.distributed import all_equal, any_process, clip_workers, join_processes
from maskbank.training.exports import load_data, named_data
from maskbank.training.log import TrainingLog
from maskbank.training.novelty import calibrated_threshold
from maskbank.training.pretrained import load_pretrained, published_encoder
from maskbank.training.schedules import SCHEDULES, Clock, cosine_decay
from maskbank.training.validation import validate
from maskbank.tuning.unrolling import UnrolledLoss

SAVE_EVERY_S = 120
LOG_EVERY = 20  # steps
BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
HARD_PIXELS_FROM, HARD_PIXELS_TO = 1.0, 0.3  # share of pixels that count: at the start, and from HARD_BY on
HARD_BY = 0.3  # share of the training time
LEARNING_RATE, INIT_LEARNING_RATE = 6e-4, 3e-4  # from scratch, and for weights that know a lot already
WARM_UP_STEPS, WARM_UP_SHARE = 200, 0.1  # of the learning rate: whichever is over first
PRETRAINED_RATE = 0.1  # of the learning rate, for the encoder that comes from ImageNet
DEFAULT_BLEND = 0.5
VALIDATE_EVERY_MIN = 15.0


class Trainer:
    """One run: the network, what goes with it, and its folder.

    Args:
        out: the folder; a run whose state is there is resumed.
        clock: how long the run is.
        schedule: a name in `SCHEDULES`.
        learning_rate: of all but the pretrained encoder.
        seed: of clips and new weights.
        init: weights to start from; None: an encoder that knows ImageNet.
        blend: see `train`.
        data: what names the data, in a run that may be resumed only with the same.
    """

    def __init__(
        self,
        out: Path,
        clock: Clock,
        schedule: str,
        learning_rate: float,
        seed: int,
        init: Path | None,
        blend: float,
        data: Mapping[str, object],
    ):
        self.rank, self.device = join_processes()
        self.out, self.clock, self.blend, self.seed = out, clock, blend, seed
        self._interactor = interactor_beside(init).stem if init else None  # its terms are those of `init`
        self.stages = SCHEDULES[schedule]
        self.learning_rate = learning_rate
        options = {
            "--init": sha256(init) if init else None,
            "--schedule": schedule,
            "--learning-rate": learning_rate,
            "--seed": seed,
            **data,
        }
        torch.manual_seed(seed)
        resumes = (out / run_state.FILE).exists()
        self.network = _new_network(init, resumes).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = _new_optimizer(self.network, learning_rate)
        self.average = run_state.WeightAverage(self.network)
        self.initial = {name: value.clone() for name, value in self.average.state.items()} if init else None
        self._state = run_state.RunState(out, options, self.network, self.optimizer, self.average, clock)
        if resumes:
            initial = self._state.resume()["initial"]
            self.initial = initial and {name: value.to(self.device) for name, value in initial.items()}
        self.first_step = clock.step
        if not all_equal(clock.step):
            raise ValueError(
                f"The processes take up different runs: the folder {out} must be one that all of them see."
            )
        self.model: nn.Module = UnrolledLoss(self.network)
        if dist.is_initialized():
            self.model = DistributedDataParallel(self.model)

    def start(self) -> None:
        """Begins to train; batch norms keep the statistics of trained weights, which few images would spoil."""
        torch.manual_seed(self.seed + 1000 * self.rank + self.clock.step)
        self.network.train()
        if self.initial is not None:
            for module in self.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()

    def step(self, batch: Batch, progress: float) -> tuple[Tensor, Tensor]:
        """Trains on a batch; returns its loss and its mean Jaccard index.

        Raises ValueError when the loss is not finite any more; nothing of the batch is kept then.
        """
        images, ids, objects = batch
        for group in self.optimizer.param_groups:  # not with NumPy: its numbers in state.pt could not be read again
            warmth = min(max((self.clock.step + 1) / WARM_UP_STEPS, progress / WARM_UP_SHARE), 1)
            group["lr"] = self.learning_rate * group["rate"] * warmth * cosine_decay(progress)
        pixels = images.to(self.device, non_blocking=True).float() / 255
        truth = ids.to(self.device, non_blocking=True).long()
        hard = HARD_PIXELS_FROM + (HARD_PIXELS_TO - HARD_PIXELS_FROM) * min(progress / HARD_BY, 1)
        loss, jaccard = self.model(pixels, truth, objects, hard)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if not nn.utils.clip_grad_norm_(self.network.parameters(), 3.0).isfinite():
            raise ValueError(
                f"Training diverged at step {self.clock.step}: take a lower --learning-rate and a new --out."
            )
        self.optimizer.step()
        self.clock.step += 1
        self.average.update(self.network, self.clock.step)
        return loss, jaccard

    def weights(self) -> dict[str, Tensor]:
        """The averaged weights, blended with those that the run started from."""
        if self.initial is None:
            return self.average.state
        return {
            name: self.initial[name].lerp(value, self.blend) if value.is_floating_point() else value
            for name, value in self.average.state.items()
        }

    def save(self) -> None:
        """Writes the state of the run and its weights; a stop in the middle leaves the former files whole."""
        self._state.save(initial=self.initial)
        self.write_weights(self.weights())

    def write_weights(self, weights: dict[str, Tensor]) -> Path:
        """Writes weights; returns the path."""
        path = self.out / "lite.safetensors"
        save_weights(in_half_precision(weights), path, self._interactor)
        return path


def train(
    data: Sequence[Path],
    out: Path,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    schedule: str | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
    init: Path | None = None,
    blend: float = DEFAULT_BLEND,
    exclude: tuple[str, ...] = (),
    val: Path | None = None,
    val_every: float = VALIDATE_EVERY_MIN,
    stop_after: float | None = None,
) -> Path:
    """Trains `Lite` on `data` (see `load_data`) and writes `out`/lite.safetensors, log.csv and log.png.

    A run in `out` is resumed. An interruption leaves what was saved last, at most `SAVE_EVERY_S` seconds ago.

    Args:
        minutes, steps: the length of the run. With steps it is repeatable, unless it is stopped in between: the same
            seed gives the same weights on the same kind of CPU.
        schedule, learning_rate: None takes those that suit a start from scratch or, with `init`, from trained weights.
        blend: with `init`, the share of the trained weights in the result, the rest being those of `init`; a network
            half-way between the two forgets little (Wortsman et al., CVPR 2022, arXiv 2109.01903).
        exclude: sources, or sequences of them, to leave out; as in `load_data`.
        val: a folder of sequences, on which the averaged weights are scored every `val_every` minutes and at the end,
            as are those of `init` at the start; the time for that does not count.
        stop_after: leave after so many minutes of this call, to be resumed.

    Returns the path of the weights.

    Raises:
        ValueError: the data or `init` is unusable, or the learning rate too high; one sentence.
    """
    if not 0 < blend <= 1:
        raise ValueError(f"The share of the trained weights must be above 0 and at most 1, not {blend}.")
    clock = Clock(minutes, steps)
    out.mkdir(parents=True, exist_ok=True)
    schedule = schedule or ("short" if init else "small")
    if learning_rate is None:
        learning_rate = INIT_LEARNING_RATE if init else LEARNING_RATE
    trainer = Trainer(out, clock, schedule, learning_rate, seed, init, blend, named_data(data, exclude))
    if val:
        read_sequences(val)  # a wrong folder is found out here, not after the first minutes
    stills, videos = load_data(data, exclude)
    for stage in trainer.stages:  # data that makes no clips is found out here, not in a worker
        ClipMaker(stills, videos, np.random.default_rng(seed)).clip(stage.recipe)
    reached = multiprocessing.Value("d", clock.progress())

    def progress_at(number: int) -> float:
        """As in `ClipBatches`; batches are made ahead of time, so to be repeatable the clock must not matter."""
        return (trainer.first_step + number) / steps if steps else reached.value

    cv2.setNumThreads(0)  # a pool of threads does not survive the fork of the workers
    batches = _batches(
        ClipBatches(stills, videos, trainer.stages, progress_at, (seed, clock.step, trainer.rank)),
        workers=1 if steps else clip_workers(),
    )
    trainer.start()
    clock.begin()
    log = TrainingLog(out, clock.step) if trainer.rank == 0 else None
    leave_at = time.monotonic() + (stop_after or float("inf")) * 60
    saved = validated = time.monotonic()
    if log and val and init and not clock.step:
        _validate(trainer, log, trainer.weights(), val)
    with tqdm(
        total=1.0, initial=min(clock.progress(), 1.0), disable=log is None, desc="training", bar_format=BAR
    ) as bar:
        while (progress := clock.progress()) < 1 and not any_process(time.monotonic() > leave_at):
            reached.value = progress
            loss, jaccard = trainer.step(next(batches), progress)
            now = time.monotonic()
            if log is None:
                continue
            if clock.step % LOG_EVERY == 0:
                means = log.add(clock.step, clock.seconds, loss.item(), jaccard.item())
                bar.n = min(progress, 1.0)
                shown: dict[str, Any] = {name: f"{value:.3f}" for name, value in means.items()}
                bar.set_postfix(step=clock.step, **shown)
            if now - saved > SAVE_EVERY_S:
                trainer.save()
                log.plot()
                saved = now
            if val and now - validated > val_every * 60:
                _validate(trainer, log, trainer.weights(), val)
                validated = time.monotonic()
    ended = clock.progress() >= 1
    if log:
        trainer.save()
        if ended:
            _finish(
                trainer,
                log,
                lambda weights: calibrated_threshold(
                    weights, trainer.initial, stills, videos, trainer.stages[-1].recipe
                ),
                val,
            )
        log.plot()
    if not all_equal(fingerprint(nn.ParameterList(trainer.network.parameters()))):
        raise RuntimeError("The processes have trained different networks.")
    return out / "lite.safetensors"


def _batches(dataset: ClipBatches, workers: int) -> Iterator[Batch]:
    return iter(
        torch.utils.data.DataLoader(
            dataset,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=3,
            multiprocessing_context="fork",  # the images are shared, not copied
        )
    )


def _finish(
    trainer: Trainer, log: TrainingLog, calibrate: Callable[[dict[str, Tensor]], Tensor], val: Path | None
) -> None:
    """Writes the weights of a run that has ended, with their novelty threshold, and says how good they are."""
    if trainer.clock.step == trainer.first_step:
        tqdm.write(
            f"The run in {trainer.out} had ended: nothing was trained. New data needs a new --out.", file=sys.stderr
        )
    tqdm.write("Calibrating the novelty threshold of the trained weights.", file=sys.stderr)
    weights = trainer.weights()
    weights = weights | {"novelty_threshold": calibrate(weights)}
    trainer.write_weights(weights)
    if val:
        tqdm.write(verdict(log.initial_validation(), _validate(trainer, log, weights, val), val))


def _validate(trainer: Trainer, log: TrainingLog, weights: dict[str, Tensor], val: Path) -> float:
    """The J&F of weights; the time for it is not the run's own."""
    started = time.monotonic()
    j_and_f = validate(weights, val)
    log.add_validation(trainer.clock.step, trainer.clock.seconds, j_and_f)
    trainer.clock.pause(time.monotonic() - started)
    return j_and_f


def verdict(before: float | None, after: float, val: Path) -> str:
    """What to tell of a run: its J&F in percent, beside that of the weights that it started from, if there were any."""
    if before is None:
        return f"J&F on {val}: {after:.1f}."
    worse = " Training has made them worse: keep the old ones." if after < before - 1 else ""
    return f"J&F on {val}: {after:.1f}, with the weights it started from {before:.1f}.{worse}"


def _new_network(init: Path | None, resumes: bool) -> Lite:
    network = Lite()
    if init and not resumes:  # which gets the weights of its run
        fit_weights(network, load_state_dict(init), str(init))
    elif not resumes:
        load_pretrained(network.encoder, published_encoder())
    # What the first layers see is the same in any image; leaving them as they are saves a fifth of each step.
    for layers in (network.encoder.stem, network.encoder.to2, network.encoder.to4):
        layers.requires_grad_(False)
    return network


def _new_optimizer(network: Lite, learning_rate: float) -> torch.optim.Optimizer:
    """Its groups have a `rate`, the share of the learning rate that they get."""
    pretrained = [p for p in network.encoder.parameters() if p.requires_grad]
    fresh = [p for name, p in network.named_parameters() if not name.startswith("encoder.")]
    groups = [{"params": fresh, "rate": 1.0}, {"params": pretrained, "rate": PRETRAINED_RATE}]
    return torch.optim.AdamW(groups, lr=learning_rate, weight_decay=1e-3)
