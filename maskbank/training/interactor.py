"""Training of the interactor: annotated images in, weights out; may be stopped and resumed at any minute."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskbank.networks.interactor import Interaction, Interactor
from maskbank.networks.lite import upsample2
from maskbank.networks.precision import fast_bfloat16
from maskbank.networks.weights import fit_weights, in_half_precision, load_state_dict, save_weights
from maskbank.training.distributed import refuse_several_processes
from maskbank.training.exports import load_data, named_data
from maskbank.training.pretrained import load_pretrained, published_encoder
from maskbank.training.prompts import PromptMaker
from maskbank.training.run import Run, RunOptions
from maskbank.training.schedules import LearningRate
from maskbank.training.sources import Source
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


def train_interactor(data: Sequence[Path], out: Path, options: RunOptions, *, batch: int = BATCH) -> Path:
    """Trains `Interactor` on `data` (see `load_data`) and writes `out`/interactor.safetensors, log.csv and log.png.

    A run in `out` is resumed. Every `HELD_OUT_EVERY`th image is left out, and measured when the run has ended.

    Args:
        batch: crops in each step.

    Returns the path of the weights.

    Raises:
        ValueError: the data or `init` is unusable, or the learning rate too high; one sentence.
    """
    refuse_several_processes("The interactor is")
    out.mkdir(parents=True, exist_ok=True)
    stills, videos = load_data(data, options.exclude)
    sources, held_out = split_sources([*stills, *videos])
    PromptMaker(sources, np.random.default_rng(options.seed)).crop()  # unusable data is found out here, not in a worker
    torch.manual_seed(options.seed)
    network = _new_network(options.init)
    run = Run(
        out,
        options,
        {"--batch": batch, **named_data(data, options.exclude)},
        network,
        _groups(network),
        LearningRate(options.highest_rate(LEARNING_RATE, INIT_LEARNING_RATE), WARM_UP_STEPS),
        CURVES,
    )
    path = out / "interactor.safetensors"

    def loss(crops: Batch, _: float) -> tuple[Tensor, Tensor]:
        images, prompts, masks = crops
        return _loss(_seen(network, images, prompts), masks)

    def save() -> None:
        run.save_state()
        save_weights(in_half_precision(run.average.state), path)

    network.train()
    batches = run.begin(PromptBatches(sources, (options.seed, run.first_step), batch))
    if run.train(batches, loss, save) and held_out:
        network.load_state_dict(run.average.state)
        run.log_score(100 * calibrate(network, held_out))
        save_weights(in_half_precision(network.state_dict()), path)
    if run.log:
        run.log.plot()
    return path


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


def _new_network(init: Path | None) -> Interactor:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = Interactor()
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if init:
        fit_weights(network, load_state_dict(init), str(init))
    else:
        load_pretrained(nn.ModuleList([network.encoder, network.to32]), published_encoder())
    return network


def _groups(network: Interactor) -> list[dict[str, Any]]:
    """All weights, with the share of the learning rate that they get; see `Run`."""
    pretrained = [*network.encoder.parameters(), *network.to32.parameters()]
    known = set(map(id, pretrained))
    fresh = [weight for weight in network.parameters() if id(weight) not in known]
    return [{"params": pretrained, "rate": PRETRAINED_RATE}, {"params": fresh, "rate": 1.0}]


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
