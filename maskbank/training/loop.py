"""Training of the bundled network: clips in, weights out; may be stopped and resumed at any minute."""

import csv
import multiprocessing
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from math import cos, pi
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from maskbank.networks.lite import Lite, LiteDecoded, LiteFeatures, compete, full_size, similarity, to_hint
from maskbank.networks.weights import fit_weights, load_state_dict
from maskbank.training.clips import ClipMaker, Recipe
from maskbank.training.data import Source, load_sources
from maskbank.training.losses import frame_loss

SAVE_EVERY_S = 120
LOG_EVERY = 20  # steps
HARD_PIXELS_FROM, HARD_PIXELS_TO = 1.0, 0.3  # share of pixels that count: at the start, and from HARD_BY on
HARD_BY = 0.3  # share of the training time
REMEMBER = 0.75  # chance that a frame between seed and last is memorized, as the bank does not keep each one
HINT_DROP = 0.1  # chance that a clip goes without the previous mask, so that the bank alone must do


@dataclass(frozen=True)
class Stage:
    until: float  # share of the training time
    recipe: Recipe
    batch: int


SCHEDULES = {
    "small": (
        Stage(0.20, Recipe(size=176, frames=3, objects=2, video=0.30, max_gap=4), 10),
        Stage(0.65, Recipe(size=224, frames=3, objects=2, video=0.45, max_gap=5), 6),
        Stage(1.00, Recipe(size=288, frames=4, objects=2, video=0.60, max_gap=6), 3),
    ),
    # To go on from trained weights (`--init`), for half an hour or so on a CPU.
    "short": (Stage(1.00, Recipe(size=256, frames=3, objects=2, video=0.60, max_gap=6), 5),),
    "large": (
        Stage(0.35, Recipe(size=256, frames=3, objects=3, video=0.3, max_gap=4), 48),
        Stage(0.75, Recipe(size=320, frames=4, objects=3, video=0.5, max_gap=6), 24),
        Stage(1.00, Recipe(size=384, frames=6, objects=3, video=0.65, max_gap=8), 12),
    ),
}


def unroll(network: Lite, images: Tensor, ids: Tensor, objects: int) -> Iterator[tuple[LiteDecoded, Tensor, Tensor]]:
    """Tracks a batch of clips as the tracker would; yields (decoded, truth, real) for each frame after the seed.

    images: (B, T, 3, S, S) in [0, 1]; ids: (B, T, S, S) int64; objects: slots per clip, n.
    """
    batch, frames = images.shape[:2]
    all_features = network.encode(images.transpose(0, 1).flatten(0, 1))  # time first: a frame's batch is one piece
    slots = torch.arange(1, objects + 1, device=ids.device).view(1, -1, 1, 1)
    seed = (ids[:, :1] == slots).float()
    real = seed.flatten(2).any(2)
    hint_kept = (torch.rand(batch, 1, 1, 1, device=ids.device) > HINT_DROP).float()

    def features_at(t: int) -> LiteFeatures:
        parts = [getattr(all_features, name)[t * batch : (t + 1) * batch] for name in ("key", "f16", "f8", "f4", "f2")]
        return LiteFeatures(*parts, all_features.size)

    first = features_at(0)
    keys, values = [first.key], [network.value(first, seed)]
    probability = seed
    for t in range(1, frames):
        features = features_at(t)
        weights = similarity(torch.cat(keys, 2), features.key).softmax(1)
        readout = torch.cat(values, 3).flatten(1, 2) @ weights
        readout = readout.unflatten(1, (objects, -1))
        decoded = network.decode(features, readout, to_hint(probability) * hint_kept)
        yield decoded, ids[:, t], real
        probability = compete(full_size(decoded.logits, images.shape[-2:]))
        if t + 1 < frames and torch.rand(()) < REMEMBER:
            keys.append(features.key)
            values.append(network.value(features, probability))


class ClipBatches(torch.utils.data.IterableDataset):
    """Batches of clips for the stage that training has reached; each worker draws its own."""

    def __init__(
        self,
        stills: list[Source],
        videos: list[Source],
        stages: tuple[Stage, ...],
        progress: multiprocessing.Value,
        seed: int,
    ):
        self.stills, self.videos, self.stages = stills, videos, stages
        self.progress, self.seed = progress, seed

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        maker = ClipMaker(self.stills, self.videos, np.random.default_rng([self.seed, worker.id]))
        while True:
            stage = stage_at(self.stages, self.progress.value)
            clips = [maker.clip(stage.recipe) for _ in range(stage.batch)]
            images = torch.from_numpy(np.stack([c.images for c in clips]))
            yield images, torch.from_numpy(np.stack([c.ids for c in clips])), stage.recipe.objects


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


def train(
    data: Path,
    out: Path,
    minutes: float,
    schedule: str = "small",
    learning_rate: float = 8e-4,
    seed: int = 0,
    init: Path | None = None,
    exclude: tuple[str, ...] = (),
    stop_after: float | None = None,
) -> Path:
    """Trains `Lite` on the folder `data` for `minutes` and writes `out`/lite.safetensors.

    Takes up the run in `out`/state.pt where there is one. `stop_after`: leave after so many minutes of this call, to be
    resumed. An interruption leaves what was saved last, at most `SAVE_EVERY_S` seconds ago. Returns the path of the
    weights. Raises ValueError with one sentence when the data or `init` is unusable.
    """
    out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    stages = SCHEDULES[schedule]
    torch.manual_seed(seed)
    network = Lite().to(device, memory_format=torch.channels_last)
    if init:
        fit_weights(network, load_state_dict(init), str(init))
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=1e-3)
    average = WeightAverage(network)
    step, spent = 0, 0.0
    state_path = out / "state.pt"
    if state_path.exists():
        state = torch.load(state_path, map_location=device, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        average.state = state["average"]
        step, spent = state["step"], state["spent_s"]

    cv2.setNumThreads(0)  # a pool of threads does not survive the fork of the workers below
    stills, videos = load_sources(data, exclude)
    for stage in stages:  # data that makes no clips is found out here, not in a worker
        ClipMaker(stills, videos, np.random.default_rng(seed)).clip(stage.recipe)
    progress = multiprocessing.Value("d", spent / (minutes * 60))
    workers = max((os.cpu_count() or 2) - 1, 1)
    batches = iter(
        torch.utils.data.DataLoader(
            ClipBatches(stills, videos, stages, progress, seed + step),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=3,
            multiprocessing_context="fork",  # the images are shared, not copied
        )
    )
    network.train()
    started, saved, shown = time.monotonic(), time.monotonic(), {}
    budget = min(minutes * 60 - spent, (stop_after or minutes) * 60)
    with tqdm(total=round(spent + budget), initial=round(spent), unit="s", desc="training") as bar:
        while (elapsed := time.monotonic() - started) < budget:
            share = (spent + elapsed) / (minutes * 60)
            progress.value = share
            for group in optimizer.param_groups:  # not with NumPy: its numbers in state.pt could not be read again
                group["lr"] = learning_rate * min(1, (step + 1) / 200) * (0.01 + 0.99 * cos(share * pi / 2) ** 2)
            images, ids, objects = next(batches)
            images = images.to(device, non_blocking=True).float() / 255
            ids = ids.to(device, non_blocking=True).long()
            hard = HARD_PIXELS_FROM + (HARD_PIXELS_TO - HARD_PIXELS_FROM) * min(share / HARD_BY, 1)
            losses, overlaps = [], []
            with torch.autocast(device.type, dtype=torch.bfloat16):
                for decoded, truth, real in unroll(network, images, ids, objects):
                    with torch.autocast(device.type, enabled=False):
                        losses.append(frame_loss(decoded, truth, real, hard))
                    overlaps.append(_jaccard(decoded.logits.detach(), truth, real))
            loss = torch.stack(losses).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 3.0)
            optimizer.step()
            step += 1
            average.update(network, step)
            if step % LOG_EVERY == 0:
                for name, value in (("loss", loss), ("jaccard", torch.stack(overlaps).mean())):
                    shown[name] = 0.9 * shown.get(name, value.item()) + 0.1 * value.item()
                bar.n = round(spent + elapsed)
                bar.set_postfix(step=step, **{k: f"{v:.3f}" for k, v in shown.items()})
                _log(out / "log.csv", step, spent + elapsed, shown)
            if time.monotonic() - saved > SAVE_EVERY_S:
                _save(out, network, optimizer, average, step, spent + time.monotonic() - started)
                saved = time.monotonic()
    _save(out, network, optimizer, average, step, spent + time.monotonic() - started)
    return out / "lite.safetensors"


@torch.no_grad()
def _jaccard(logits: Tensor, truth: Tensor, real: Tensor) -> Tensor:
    mask = compete(full_size(logits.float(), truth.shape[-2:])) > 0.5
    target = truth[:, None] == torch.arange(1, mask.shape[1] + 1, device=truth.device).view(1, -1, 1, 1)
    overlap, union = (mask & target).sum((2, 3)), (mask | target).sum((2, 3))
    return ((overlap + 1) / (union + 1))[real].mean()


def _log(path: Path, step: int, seconds: float, shown: dict[str, float]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["step", "seconds", *shown])
        writer.writerow([step, round(seconds), *(round(v, 4) for v in shown.values())])


def _save(
    out: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage,
    step: int,
    spent: float,
) -> None:
    """Writes state and averaged weights; a stop in the middle leaves the former files whole."""
    state = {
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average.state,
        "step": step,
        "spent_s": spent,
    }
    torch.save(state, out / "state.pt.tmp")
    os.replace(out / "state.pt.tmp", out / "state.pt")
    types = {k: v.dtype for k, v in network.state_dict().items()}
    weights = {k: v.to(types[k]).cpu().contiguous() for k, v in average.state.items()}
    save_file(weights, out / "lite.safetensors.tmp")
    os.replace(out / "lite.safetensors.tmp", out / "lite.safetensors")
