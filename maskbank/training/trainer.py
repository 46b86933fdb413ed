"""Training of the bundled network: clips in, weights out; may be stopped and resumed at any minute."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from maskbank.evaluation.sequences import read_sequences
from maskbank.networks.lite import Lite
from maskbank.networks.models import interactor_beside
from maskbank.networks.weights import fingerprint, fit_weights, in_half_precision, load_state_dict, save_weights
from maskbank.training import run_state
from maskbank.training.batches import Batch, ClipBatches
from maskbank.training.clips import ClipMaker, ClipRecipe
from maskbank.training.distributed import all_equal, join_processes
from maskbank.training.exports import load_data, named_data
from maskbank.training.novelty import calibrated_threshold
from maskbank.training.pretrained import load_pretrained, published_encoder
from maskbank.training.run import Run, RunOptions
from maskbank.training.schedules import SCHEDULES, LearningRate
from maskbank.training.sources import Source
from maskbank.training.validation import validate
from maskbank.tuning.unrolling import UnrolledLoss

HARD_PIXELS_FROM, HARD_PIXELS_TO = 1.0, 0.3  # share of pixels that count: at the start, and from HARD_BY on
HARD_BY = 0.3  # share of the training time
LEARNING_RATE, INIT_LEARNING_RATE = 6e-4, 3e-4  # from scratch, and for weights that know a lot already
WARM_UP_STEPS, WARM_UP_SHARE = 200, 0.1  # of the learning rate: whichever is over first
PRETRAINED_RATE = 0.1  # of the learning rate, for the encoder that comes from ImageNet
DEFAULT_BLEND = 0.5
VALIDATE_EVERY_MIN = 15.0
WEIGHTS = "lite.safetensors"  # in the folder of a run


class Trainer:
    """What the training of `Lite` adds to a run: its loss, and the weights that come of it.

    Args:
        run: the run.
        network: what it trains.
        device: where the network is.
        blend: see `train`.
    """

    def __init__(self, run: Run, network: Lite, device: torch.device, blend: float):
        self.run, self._network, self._device, self._blend = run, network, device, blend
        init = run.options.init
        self._interactor = interactor_beside(init).stem if init else None  # its terms are those of `init`
        self.initial = {name: value.clone() for name, value in run.average.state.items()} if init else None
        if run.resumed is not None:
            initial = run.resumed["initial"]
            self.initial = initial and {name: value.to(device) for name, value in initial.items()}
        self._model: nn.Module = UnrolledLoss(network)
        if dist.is_initialized():
            self._model = DistributedDataParallel(self._model)

    def begin(self) -> None:
        """Readies the network; batch norms keep the statistics of trained weights, which few images would spoil."""
        self._network.train()
        if self.initial is not None:
            for module in self._network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()

    def loss(self, batch: Batch, progress: float) -> tuple[Tensor, Tensor]:
        """The loss of a batch and its mean Jaccard index, when so much of the run is done, 0 to 1."""
        images, ids, objects = batch
        pixels = images.to(self._device, non_blocking=True).float() / 255
        truth = ids.to(self._device, non_blocking=True).long()
        hard = HARD_PIXELS_FROM + (HARD_PIXELS_TO - HARD_PIXELS_FROM) * min(progress / HARD_BY, 1)
        loss, jaccard = self._model(pixels, truth, objects, hard)
        return loss, jaccard

    def weights(self) -> dict[str, Tensor]:
        """The averaged weights, blended with those that the run started from."""
        average = self.run.average.state
        if self.initial is None:
            return average
        return {
            name: self.initial[name].lerp(value, self._blend) if value.is_floating_point() else value
            for name, value in average.items()
        }

    def save(self) -> None:
        """Writes the state of the run and its weights; a stop in the middle leaves the former files whole."""
        self.run.save_state(initial=self.initial)
        self.write_weights(self.weights())

    def write_weights(self, weights: dict[str, Tensor]) -> None:
        """Writes weights, as the result of the run."""
        save_weights(in_half_precision(weights), self.run.out / WEIGHTS, self._interactor)


class Validation:
    """How good the weights of a run are on sequences, logged; the time for it is not the run's own.

    Args:
        run: the run.
        weights: gives those to score, as they are by then.
        folder: holds the sequences.
        every_min: minutes between two validations.
    """

    def __init__(self, run: Run, weights: Callable[[], dict[str, Tensor]], folder: Path, every_min: float):
        self._run, self._weights, self.folder, self._every_s = run, weights, folder, every_min * 60
        self._scored = time.monotonic()

    def score(self, weights: dict[str, Tensor]) -> float:
        """The J&F of weights, in percent."""
        started = time.monotonic()
        j_and_f = validate(weights, self.folder)
        self._run.log_score(j_and_f)
        self._run.clock.pause(time.monotonic() - started)
        return j_and_f

    def score_if_due(self) -> None:
        """Scores the weights when the last time is long enough ago."""
        if time.monotonic() - self._scored > self._every_s:
            self.score(self._weights())
            self._scored = time.monotonic()


def train(
    data: Sequence[Path],
    out: Path,
    options: RunOptions,
    *,
    schedule: str | None = None,
    blend: float = DEFAULT_BLEND,
    val: Path | None = None,
    val_every: float = VALIDATE_EVERY_MIN,
) -> Path:
    """Trains `Lite` on `data` (see `load_data`) and writes `out`/lite.safetensors, log.csv and log.png.

    A run in `out` is resumed. An interruption leaves what was saved last, at most `run.SAVE_EVERY_S` seconds ago.

    Args:
        schedule: a name in `SCHEDULES`; None takes one that suits a start from scratch or, with `init`, from trained
            weights.
        blend: with `init`, the share of the trained weights in the result, the rest being those of `init`; a network
            half-way between the two forgets little (Wortsman et al., CVPR 2022, arXiv 2109.01903).
        val: a folder of sequences, on which the averaged weights are scored every `val_every` minutes and at the end,
            as are those of `init` at the start; the time for that does not count.

    Returns the path of the weights.

    Raises:
        ValueError: the data or `init` is unusable, or the learning rate too high; one sentence.
    """
    if not 0 < blend <= 1:
        raise ValueError(f"The share of the trained weights must be above 0 and at most 1, not {blend}.")
    schedule = schedule or ("short" if options.init else "small")
    stages = SCHEDULES[schedule]
    out.mkdir(parents=True, exist_ok=True)
    rank, device = join_processes()
    torch.manual_seed(options.seed)
    network = _new_network(options.init, resumes=run_state.begun(out))
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = Run(
        out,
        options,
        {"--schedule": schedule, **named_data(data, options.exclude)},
        network,
        _groups(network),
        LearningRate(options.highest_rate(LEARNING_RATE, INIT_LEARNING_RATE), WARM_UP_STEPS, WARM_UP_SHARE),
        rank=rank,
    )
    trainer = Trainer(run, network, device, blend)
    if val:
        read_sequences(val)  # a wrong folder is found out here, not after the first minutes
    stills, videos = load_data(data, options.exclude)
    for stage in stages:  # data that makes no clips is found out here, not in a worker
        ClipMaker(stills, videos, np.random.default_rng(options.seed)).clip(stage.recipe)
    trainer.begin()
    batches = run.begin(ClipBatches(stills, videos, stages, run.progress_at, (options.seed, run.first_step, rank)))
    validation = Validation(run, trainer.weights, val, val_every) if val else None
    if validation and run.log and options.init and not run.first_step:
        validation.score(trainer.weights())
    ended = run.train(batches, trainer.loss, trainer.save, validation.score_if_due if validation else None)
    if run.log:
        if ended:
            _finish(trainer, stills, videos, stages[-1].recipe, validation)
        run.log.plot()
    if not all_equal(fingerprint(nn.ParameterList(network.parameters()))):
        raise RuntimeError("The processes have trained different networks.")
    return out / WEIGHTS


def _finish(
    trainer: Trainer, stills: list[Source], videos: list[Source], recipe: ClipRecipe, validation: Validation | None
) -> None:
    """Writes the weights of a run that has ended, with their novelty threshold, and says how good they are."""
    run = trainer.run
    tqdm.write("Calibrating the novelty threshold of the trained weights.", file=sys.stderr)
    weights = trainer.weights()
    weights = weights | {"novelty_threshold": calibrated_threshold(weights, trainer.initial, stills, videos, recipe)}
    trainer.write_weights(weights)
    if validation and run.log:
        tqdm.write(verdict(run.log.initial_validation(), validation.score(weights), validation.folder))


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


def _groups(network: Lite) -> list[dict[str, Any]]:
    """The weights that are trained, with the share of the learning rate that they get; see `Run`."""
    pretrained = [p for p in network.encoder.parameters() if p.requires_grad]
    fresh = [p for name, p in network.named_parameters() if not name.startswith("encoder.")]
    return [{"params": fresh, "rate": 1.0}, {"params": pretrained, "rate": PRETRAINED_RATE}]
