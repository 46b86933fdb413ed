"""Training of the interactor: annotated images in, weights out; may be stopped and resumed at any minute."""

import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from maskbank.networks.checkpoints import sha256
from maskbank.networks.interactor import Interaction, Interactor
from maskbank.networks.lite import upsample2
from maskbank.networks.precision import fast_bfloat16
from maskbank.networks.weights import fit_weights, in_half_precision, load_state_dict, save_weights
from maskbank.training import run_state
from maskbank.training.distributed import clip_workers
from maskbank.training.exports import load_data, named_data
from maskbank.training.log import TrainingLog
from maskbank.training.pretrained import load_pretrained, published_encoder
from maskbank.training.prompts import PromptMaker
from maskbank.training.schedules import Clock, cosine_decay
from maskbank.training.sources import Source
from maskbank.training.trainer import BAR, LOG_EVERY, SAVE_EVERY_S
from maskbank.tuning.losses import dice

BATCH = 16  # crops
LEARNING_RATE, INIT_LEARNING_RATE = 1e-3, 3e-4  # from scratch, and for weights that know a lot already
PRETRAINED_RATE = 0.3  # of the learning rate, for the encoder that comes from ImageNet
WARM_UP_STEPS = 100
HELD_OUT_EVERY = 40  # one image in so many is not trained on, but measured
HELD_OUT_CROPS = 384
LARGEST_SHIFT = 16.0  # of a logit
CURVES = {
    "loss": "loss",
    "jaccard": "mean J on training crops",
    "held_out_j": "mean J on held-out crops,\npercent",
}

Batch = tuple[Tensor, Tensor, Tensor]  # images (B, S, S, 3), prompts (B, 4, S, S), masks (B, S, S): uint8


class PromptBatches(torch.utils.data.IterableDataset[Batch]):
    """Batches without end; each worker draws its own."""

    def __init__(self, sources: list[Source], seed: tuple[int, ...], batch: int = BATCH):
        self.sources, self.seed, self.batch = sources, seed, batch

    def __iter__(self) -> Iterator[Batch]:
        worker = torch.utils.data.get_worker_info()
        maker = PromptMaker(self.sources, np.random.default_rng([*self.seed, worker.id if worker else 0]))
        while True:
            crops = [maker.crop() for _ in range(self.batch)]
            yield (
                torch.from_numpy(np.stack([crop.image for crop in crops])),
                torch.from_numpy(np.stack([crop.prompts for crop in crops])),
                torch.from_numpy(np.stack([crop.mask for crop in crops])),
            )


def train_interactor(
    data: Sequence[Path],
    out: Path,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    learning_rate: float | None = None,
    batch: int = BATCH,
    seed: int = 0,
    init: Path | None = None,
    exclude: tuple[str, ...] = (),
    stop_after: float | None = None,
) -> Path:
    """Trains `Interactor` on `data` (see `load_data`) and writes `out`/interactor.safetensors, log.csv and log.png.

    A run in `out` is resumed. Every `HELD_OUT_EVERY`th image is left out, and measured in the end.

    Args:
        minutes, steps: the length of the run.
        learning_rate: None takes one that suits a start from scratch or, with `init`, from trained weights.
        batch: crops in each step.
        seed: of all random numbers.
        init: weights to start from; None: an encoder that knows ImageNet.
        exclude: sources, or sequences of them, to leave out; as in `load_data`.
        stop_after: leave after so many minutes of this call, to be resumed.

    Returns the path of the weights. Raises ValueError with one sentence.
    """
    clock = Clock(minutes, steps)
    if learning_rate is None:
        learning_rate = INIT_LEARNING_RATE if init else LEARNING_RATE
    options = {
        "--init": sha256(init) if init else None,
        "--learning-rate": learning_rate,
        "--batch": batch,
        "--seed": seed,
        **named_data(data, exclude),
    }
    out.mkdir(parents=True, exist_ok=True)
    stills, videos = load_data(data, exclude)
    sources, held_out = split_sources([*stills, *videos])
    PromptMaker(sources, np.random.default_rng(seed)).crop()  # unusable data is found out here, not in a worker
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = Interactor().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if init:
        fit_weights(network, load_state_dict(init), str(init))
    else:
        load_pretrained(nn.ModuleList([network.encoder, network.to32]), published_encoder())
    pretrained = [*network.encoder.parameters(), *network.to32.parameters()]
    known = set(map(id, pretrained))
    groups = [
        {"params": pretrained, "rate": PRETRAINED_RATE},
        {"params": [weight for weight in network.parameters() if id(weight) not in known], "rate": 1.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, weight_decay=1e-3)
    average = run_state.WeightAverage(network)
    weights_path = out / "interactor.safetensors"
    state = run_state.RunState(out, options, network, optimizer, average, clock)
    if (out / run_state.FILE).exists():
        state.resume()

    def save() -> None:
        state.save()
        save_weights(in_half_precision(average.state), weights_path)

    cv2.setNumThreads(0)  # a pool of threads does not survive the fork of the workers
    loader = torch.utils.data.DataLoader(
        PromptBatches(sources, (seed, clock.step), batch),
        batch_size=None,
        num_workers=1 if steps else clip_workers(),  # with steps a run is repeatable
        prefetch_factor=4,
        multiprocessing_context="fork",  # the images are shared, not copied
    )
    batches = iter(loader)
    log = TrainingLog(out, clock.step, CURVES)
    network.train()
    clock.begin()
    leave_at = time.monotonic() + (stop_after or float("inf")) * 60
    saved = time.monotonic()
    with tqdm(total=1.0, initial=min(clock.progress(), 1.0), desc="training", bar_format=BAR) as bar:
        while (progress := clock.progress()) < 1 and time.monotonic() < leave_at:
            for group in optimizer.param_groups:
                warmth = min((clock.step + 1) / WARM_UP_STEPS, 1)
                group["lr"] = learning_rate * group["rate"] * warmth * cosine_decay(progress)
            images, prompts, masks = next(batches)
            loss, jaccard = _loss(_seen(network, images, prompts), masks)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if not nn.utils.clip_grad_norm_(network.parameters(), 3.0).isfinite():
                raise ValueError(
                    f"Training diverged at step {clock.step}: take a lower --learning-rate and a new --out."
                )
            optimizer.step()
            clock.step += 1
            average.update(network, clock.step)
            if clock.step % LOG_EVERY == 0:
                means = log.add(clock.step, clock.seconds, loss.item(), jaccard.item())
                bar.n = min(progress, 1.0)
                shown: dict[str, Any] = {name: f"{value:.3f}" for name, value in means.items()}
                bar.set_postfix(step=clock.step, **shown)
            if time.monotonic() - saved > SAVE_EVERY_S:
                save()
                saved = time.monotonic()
    save()
    if held_out:
        network.load_state_dict(average.state)
        log.add_validation(clock.step, clock.seconds, 100 * calibrate(network, held_out))
        save_weights(in_half_precision(network.state_dict()), weights_path)
    log.plot()
    return weights_path


def split_sources(sources: list[Source]) -> tuple[list[Source], list[Source]]:
    """What is trained on, and every `HELD_OUT_EVERY`th image or sequence of those that have so many."""
    trained = [Source(s.name, [item for n, item in enumerate(s.items, 1) if n % HELD_OUT_EVERY]) for s in sources]
    held_out = [Source(s.name, s.items[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]) for s in sources]
    return trained, [source for source in held_out if source.items]


@torch.no_grad()
def calibrate(network: Interactor, sources: list[Source]) -> float:
    """Brings the Jaccard index that the network expects of its masks to what they have on images it was not trained on.

    It learnt to judge masks of images that it knows, which are better. Returns the mean Jaccard index of
    `HELD_OUT_CROPS` crops, drawn as in training; always the same ones.
    """
    network.eval()
    batches = iter(PromptBatches(sources, (0,)))
    qualities, jaccards = [], []
    for images, prompts, masks in itertools.islice(batches, HELD_OUT_CROPS // BATCH):
        found = _seen(network, images, prompts)
        qualities.append(found.quality.float())
        jaccards.append(_jaccard(found, masks))
    quality, mean = torch.cat(qualities), float(torch.cat(jaccards).mean())
    low, high = -LARGEST_SHIFT, LARGEST_SHIFT
    while high - low > 1e-3:
        shift = (low + high) / 2
        if float((quality + shift).sigmoid().mean()) > mean:
            high = shift
        else:
            low = shift
    judge = network.quality[-1]
    assert isinstance(judge, nn.Linear)
    judge.bias.add_((low + high) / 2)
    return mean


def _seen(network: Interactor, images: Tensor, prompts: Tensor) -> Interaction:
    device = network.whole.weight.device
    pixels = images.to(device).permute(0, 3, 1, 2).float() / 255  # channels last already
    with torch.autocast(device.type, torch.bfloat16, enabled=fast_bfloat16(device)):
        found: Interaction = network(pixels, prompts.to(device).float() / 255)
    return found


def _loss(found: Interaction, masks: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of a batch and its mean Jaccard index; masks: (B, S, S) uint8."""
    target = masks[:, None].to(found.logits.device).float() / 255
    logits = upsample2(found.logits[:, None].float())
    jaccard = _jaccard(found, masks)
    quality = F.binary_cross_entropy_with_logits(found.quality.float(), jaccard)
    loss = F.binary_cross_entropy_with_logits(logits, target) + dice(logits.sigmoid(), target).mean() + 0.2 * quality
    return loss, jaccard.mean()


@torch.no_grad()
def _jaccard(found: Interaction, masks: Tensor) -> Tensor:
    """The Jaccard index of each mask of a batch, (B,); masks: (B, S, S) uint8."""
    mask = upsample2(found.logits[:, None].float())[:, 0] > 0
    truth = masks.to(mask.device) > 127
    overlap, union = ((mask & truth).sum((1, 2)), (mask | truth).sum((1, 2)))
    return (overlap + 1) / (union + 1)
