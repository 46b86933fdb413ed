"""Training of the bundled network: clips in, weights out; may be stopped and resumed at any minute.

On several GPUs or machines under `torchrun`: every process draws its own clips, the gradients are averaged.
"""

import itertools
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from math import cos, pi
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from maskbank.checkpoints import sha256
from maskbank.evaluation.sequences import read_sequences
from maskbank.networks.lite import Lite
from maskbank.networks.weights import fingerprint, fit_weights, load_state_dict
from maskbank.training.clips import ClipMaker, Recipe
from maskbank.training.data import Source
from maskbank.training.exports import load_data
from maskbank.training.log import TrainingLog
from maskbank.training.pretrained import load_pretrained, published_encoder
from maskbank.training.strangeness import measure_strange
from maskbank.training.unrolling import UnrolledLoss
from maskbank.training.validation import validate

SAVE_EVERY_S = 120
LOG_EVERY = 20  # steps
BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
HARD_PIXELS_FROM, HARD_PIXELS_TO = 1.0, 0.3  # share of pixels that count: at the start, and from HARD_BY on
HARD_BY = 0.3  # share of the training time
LEARNING_RATE, INIT_LEARNING_RATE = 6e-4, 3e-4  # from scratch, and for weights that know a lot already
WARM_UP_STEPS, WARM_UP_SHARE = 200, 0.1  # of the learning rate: whichever is over first
PRETRAINED_RATE = 0.1  # of the learning rate, for the encoder that comes from ImageNet


@dataclass(frozen=True)
class Stage:
    until: float  # share of the training time
    recipe: Recipe
    batch: int


SCHEDULES = {
    "small": (
        Stage(0.50, Recipe(size=224, frames=3, objects=2, video=0.40, max_gap=5), 6),
        Stage(1.00, Recipe(size=288, frames=4, objects=2, video=0.60, max_gap=6), 3),
    ),
    # To go on from trained weights (`--init`), for half an hour or so on a CPU.
    "short": (Stage(1.00, Recipe(size=256, frames=3, objects=2, video=0.40, max_gap=6), 5),),
    # The same for an hour or more.
    "long": (
        Stage(0.60, Recipe(size=288, frames=4, objects=2, video=0.60, max_gap=8), 3),
        Stage(1.00, Recipe(size=352, frames=4, objects=2, video=0.70, max_gap=8), 2),
    ),
    "large": (
        Stage(0.35, Recipe(size=256, frames=3, objects=3, video=0.3, max_gap=4), 48),
        Stage(0.75, Recipe(size=320, frames=4, objects=3, video=0.5, max_gap=6), 24),
        Stage(1.00, Recipe(size=384, frames=6, objects=3, video=0.65, max_gap=8), 12),
    ),
}


class ClipBatches(torch.utils.data.IterableDataset):
    """Batches of clips for the stage that training has reached; each worker draws its own.

    share: from the number of a worker's batch to the share of the training that is done by then.
    """

    def __init__(
        self,
        stills: list[Source],
        videos: list[Source],
        stages: tuple[Stage, ...],
        share: Callable[[int], float],
        seed: tuple[int, ...],
    ):
        self.stills, self.videos, self.stages = stills, videos, stages
        self.share, self.seed = share, seed

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        maker = ClipMaker(self.stills, self.videos, np.random.default_rng([*self.seed, worker.id]))
        for number in itertools.count():
            stage = stage_at(self.stages, self.share(number))
            # Few objects make quick steps: as often one as two.
            recipe = replace(stage.recipe, objects=int(maker.random.integers(1, stage.recipe.objects + 1)))
            clips = [maker.clip(recipe) for _ in range(stage.batch)]
            images = torch.from_numpy(np.stack([c.images for c in clips]))
            yield images, torch.from_numpy(np.stack([c.ids for c in clips])), recipe.objects


def stage_at(stages: tuple[Stage, ...], progress: float) -> Stage:
    return next(stage for stage in stages if progress < stage.until or stage is stages[-1])


class WeightAverage:
    """Exponential moving average of a network's weights and batch-norm statistics."""

    DECAY = 0.999

    def __init__(self, network: nn.Module):
        self.state = {k: v.detach().clone().float() for k, v in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        decay = min(self.DECAY, (1 + step) / (20 + step))
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value.float(), 1 - decay)
            else:
                self.state[name].copy_(value)


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
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        return self.spent_s + time.monotonic() - self.started

    def pause(self, seconds: float) -> None:
        """Time that is not the run's own."""
        self.started += seconds

    def share(self) -> float:
        """Of the run, from 0 to 1."""
        share = self.step / self.steps if self.steps is not None else self.seconds / (self.minutes * 60)
        if dist.is_initialized():
            shared = torch.tensor(share, dtype=torch.float64)
            dist.broadcast(shared, 0)
            share = shared.item()
        return share


def train(
    data: Sequence[Path],
    out: Path,
    minutes: float | None = None,
    steps: int | None = None,
    schedule: str | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
    init: Path | None = None,
    take_over: float = 0.5,
    exclude: tuple[str, ...] = (),
    val: Path | None = None,
    val_every: float = 15.0,
    stop_after: float | None = None,
) -> Path:
    """Trains `Lite` on `data` (see `load_data`) and writes `out`/lite.safetensors, log.csv and log.png.

    schedule, learning_rate: None takes those that suit a start from scratch or, with `init`, from trained weights.
    take_over: with `init`, the share of what was learnt that goes into the result; a network half-way between the two
    forgets little (Wortsman et al., CVPR 2022, arXiv 2109.01903).
    Runs for `minutes`, or for so many `steps`, which is repeatable: the same seed gives the same weights on the same
    kind of CPU. Takes up the run in `out`/state.pt where there is one. `stop_after`: leave after so many minutes of
    this call, to be resumed. An interruption leaves what was saved last, at most `SAVE_EVERY_S` seconds ago.
    val: a folder of sequences, on which the averaged weights are scored every `val_every` minutes and at the end, as
    are those of `init` at the start; the time for that does not count. Returns the path of the weights. Raises
    ValueError with one sentence when the data or `init` is unusable, or the learning rate too high.
    """
    if (minutes is None) == (steps is None):
        raise ValueError("A run has a length in minutes or in steps, and only one of the two.")
    if not 0 < take_over <= 1:
        raise ValueError(f"The share that is taken over must be above 0 and at most 1, not {take_over}.")
    rank, device = _join_processes()
    first = rank == 0
    out.mkdir(parents=True, exist_ok=True)
    schedule = schedule or ("short" if init else "small")
    learning_rate = learning_rate or (INIT_LEARNING_RATE if init else LEARNING_RATE)
    stages = SCHEDULES[schedule]
    started_as = {
        "--init": sha256(init) if init else None,
        "--schedule": schedule,
        "--learning-rate": learning_rate,
        "--seed": seed,
    }
    torch.manual_seed(seed)
    network = _network(init, resumes=(out / "state.pt").exists()).to(device, memory_format=torch.channels_last)
    optimizer = _optimizer(network, learning_rate)
    average = WeightAverage(network)
    initial = {name: value.clone() for name, value in average.state.items()} if init else None
    clock = Clock(minutes, steps)
    if (out / "state.pt").exists():
        state = torch.load(out / "state.pt", map_location="cpu", weights_only=True)
        if "started_as" not in state:
            raise ValueError(f"The run in {out} is one of an earlier version: take another --out.")
        if changed := [name for name, value in started_as.items() if state["started_as"][name] != value]:
            raise ValueError(f"The run in {out} began with another {changed[0]}: repeat that, or take another --out.")
        fit_weights(network, state["network"], str(out / "state.pt"))
        optimizer.load_state_dict(state["optimizer"])
        average.state = {name: value.to(device) for name, value in state["average"].items()}
        if initial:
            initial = {name: value.to(device) for name, value in state["initial"].items()}
        clock.step, clock.spent_s = state["step"], state["spent_s"]
    if len(set(_from_all(clock.step))) > 1:
        raise ValueError(f"The processes take up different runs: the folder {out} must be one that all of them see.")
    model: nn.Module = UnrolledLoss(network)
    if dist.is_initialized():
        model = DistributedDataParallel(model)

    cv2.setNumThreads(0)  # a pool of threads does not survive the fork of the workers below
    if val:
        read_sequences(val)  # a wrong folder is found out here, not after the first minutes
    stills, videos = load_data(data, exclude)
    for stage in stages:  # data that makes no clips is found out here, not in a worker
        ClipMaker(stills, videos, np.random.default_rng(seed)).clip(stage.recipe)
    progress, first_step = multiprocessing.Value("d", clock.share()), clock.step

    def share_at(number: int) -> float:
        """As in `ClipBatches`; batches are made ahead of time, so to be repeatable the clock must not matter."""
        return (first_step + number) / steps if steps else progress.value

    batches = iter(
        torch.utils.data.DataLoader(
            ClipBatches(stills, videos, stages, share_at, (seed, clock.step, rank)),
            batch_size=None,
            num_workers=1 if steps else _clip_workers(),
            prefetch_factor=3,
            multiprocessing_context="fork",  # the images are shared, not copied
        )
    )
    torch.manual_seed(seed + 1000 * rank + clock.step)
    network.train()
    if initial is not None:
        _keep_statistics(network)
    log = TrainingLog(out, clock.step) if first else None
    leave_at = time.monotonic() + (stop_after or float("inf")) * 60
    saved = validated = time.monotonic()

    def result() -> dict[str, Tensor]:
        if initial is None:
            return average.state
        return {name: value.lerp(average.state[name], take_over) for name, value in initial.items()}

    def save() -> None:
        _save(out, network, optimizer, average, initial, clock, started_as)
        write_weights(result(), network, out / "lite.safetensors")

    def score(weights: dict[str, Tensor]) -> float:
        """Time that is not the run's own."""
        started = time.monotonic()
        j_and_f = validate(weights, val)
        log.add_validation(clock.step, clock.seconds, j_and_f)
        clock.pause(time.monotonic() - started)
        return j_and_f

    if first and val and init and not clock.step:
        score(result())
    with tqdm(total=1.0, initial=min(clock.share(), 1.0), disable=not first, desc="training", bar_format=BAR) as bar:
        while (share := clock.share()) < 1 and not _anyone(time.monotonic() > leave_at):
            progress.value = share
            for group in optimizer.param_groups:  # not with NumPy: its numbers in state.pt could not be read again
                decay = 0.01 + 0.99 * cos(share * pi / 2) ** 2
                warmth = min(max((clock.step + 1) / WARM_UP_STEPS, share / WARM_UP_SHARE), 1)
                group["lr"] = learning_rate * group["rate"] * warmth * decay
            images, ids, objects = next(batches)
            images = images.to(device, non_blocking=True).float() / 255
            ids = ids.to(device, non_blocking=True).long()
            hard = HARD_PIXELS_FROM + (HARD_PIXELS_TO - HARD_PIXELS_FROM) * min(share / HARD_BY, 1)
            loss, jaccard = model(images, ids, objects, hard)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if not nn.utils.clip_grad_norm_(network.parameters(), 3.0).isfinite():  # nothing of it may be kept
                raise ValueError(
                    f"Training went to infinity at step {clock.step}: take a lower --learning-rate and a new --out."
                )
            optimizer.step()
            clock.step += 1
            average.update(network, clock.step)
            now = time.monotonic()
            if first and clock.step % LOG_EVERY == 0:
                shown = log.add(clock.step, clock.seconds, loss.item(), jaccard.item())
                bar.n = min(share, 1.0)
                bar.set_postfix(step=clock.step, **{name: f"{value:.3f}" for name, value in shown.items()})
            if first and now - saved > SAVE_EVERY_S:
                save()
                log.plot()
                saved = now
            if first and val and now - validated > val_every * 60:
                score(result())
                validated = time.monotonic()
    ended = clock.share() >= 1
    if first:
        save()
        if ended:
            if clock.step == first_step:
                tqdm.write(
                    f"The run in {out} had ended: nothing was trained. New data needs a new --out.", file=sys.stderr
                )
            tqdm.write("Measuring what is strange to the trained weights.", file=sys.stderr)
            weights = result()
            weights = weights | {"strange": measure_strange(weights, initial, stills, videos, stages[-1].recipe)}
            write_weights(weights, network, out / "lite.safetensors")
            if val:
                tqdm.write(verdict(log.initial_validation(), score(weights), val))
        log.plot()
    if len(set(_from_all(fingerprint(nn.ParameterList(network.parameters()))))) > 1:
        raise RuntimeError("The processes have trained different networks.")
    return out / "lite.safetensors"


def verdict(before: float | None, after: float, val: Path) -> str:
    """What to tell of a run: its J&F in percent, beside that of the weights that it started from, if there were any."""
    if before is None:
        return f"J&F on {val}: {after:.1f}."
    worse = " Training has made them worse: keep the old ones." if after < before - 1 else ""
    return f"J&F on {val}: {after:.1f}, with the weights it started from {before:.1f}.{worse}"


def _network(init: Path | None, resumes: bool) -> Lite:
    network = Lite()
    if init and not resumes:  # which gets the weights of its run
        fit_weights(network, load_state_dict(init), str(init))
    elif not resumes:
        load_pretrained(network.encoder, published_encoder())
    # What the first layers see is the same in any image; leaving them as they are saves a fifth of each step.
    for layers in (network.encoder.stem, network.encoder.to2, network.encoder.to4):
        layers.requires_grad_(False)
    return network


def _keep_statistics(network: nn.Module) -> None:
    """Those of batch norms, which the few images of one job would spoil."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def _optimizer(network: Lite, learning_rate: float) -> torch.optim.Optimizer:
    """Its groups have a `rate`, the share of the learning rate that they get."""
    pretrained = [p for p in network.encoder.parameters() if p.requires_grad]
    fresh = [p for name, p in network.named_parameters() if not name.startswith("encoder.")]
    groups = [{"params": fresh, "rate": 1.0}, {"params": pretrained, "rate": PRETRAINED_RATE}]
    return torch.optim.AdamW(groups, lr=learning_rate, weight_decay=1e-3)


def _join_processes() -> tuple[int, torch.device]:
    """This process's rank and device; joins the others where `torchrun` started several."""
    cuda = torch.cuda.is_available()
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0, torch.device("cuda" if cuda else "cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        # Gloo beside NCCL: the clock's share lies on the CPU. Validation keeps the others waiting.
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=timedelta(hours=3))
    return dist.get_rank(), device


def _anyone(here: bool) -> bool:
    """Whether it is so in any process."""
    if not dist.is_initialized():
        return here
    there = torch.tensor(int(here))
    dist.all_reduce(there, dist.ReduceOp.MAX)
    return bool(there)


def _from_all(value: object) -> list[object]:
    """What each process says, in the order of their ranks."""
    if not dist.is_initialized():
        return [value]
    values: list[object] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def _clip_workers() -> int:
    """Processes that make clips, for this one of the processes that train on this machine."""
    cores = len(os.sched_getaffinity(0))
    return max(cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1, 1)


def _save(
    out: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage,
    initial: dict[str, Tensor] | None,
    clock: Clock,
    started_as: dict[str, str | float | None],
) -> None:
    """Writes the state of the run; a stop in the middle leaves the former file whole."""
    state = {
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average.state,
        "initial": initial,
        "step": clock.step,
        "spent_s": clock.seconds,
        "started_as": started_as,
    }
    torch.save(state, out / "state.pt.tmp")
    os.replace(out / "state.pt.tmp", out / "state.pt")


def write_weights(weights: dict[str, Tensor], network: nn.Module, path: Path) -> None:
    """Writes weights in the types of the network's; a stop in the middle leaves the former file whole."""
    types = {name: value.dtype for name, value in network.state_dict().items()}
    partial = path.with_suffix(".tmp")
    save_file({name: value.to(types[name]).cpu().contiguous() for name, value in weights.items()}, partial)
    os.chmod(partial, 0o644)  # safetensors makes files for their owner only
    os.replace(partial, path)
