"""The one interface behind which the networks track: look at a frame, memorize it, segment with banks."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from maskbank.bank import Entries, FeatureBank
from maskbank.networks.afb_urr import AfbUrr
from maskbank.networks.lite import (
    Decoder,
    Lite,
    compete,
    familiarity,
    full_size,
    recognition,
    similarity,
    to_hint,
)

# Places of a frame that read a bank at once on a CPU: what they compare, up to some 10 MB, is worked on while in its
# cache. All places at once take two to three times as long, and several times the memory.
READ_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class Adaptation:
    """What a network became for one job: weights that stand in for its own."""

    weights: Mapping[str, Tensor]  # by name in `LiteSegmenter.plain_decoder`


@dataclass(frozen=True, eq=False)
class Remembered:
    """What a network is given of one job: its banks, and where its n objects were in the frame before."""

    banks: tuple[FeatureBank, ...]
    hint: Tensor  # (n, ...), from `Segmenter.hint`
    adaptation: Adaptation | None = None


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The n objects of one job in one frame."""

    logits: Tensor  # (n, H, W) float32, each against the background, whose own logit is 0
    presence: Tensor  # (n,) probability that the object is in the frame
    quality: Tensor  # (n,) Jaccard index that the mask is expected to reach
    use: tuple[Tensor, ...]  # of each bank: what its use counters grow by, (N,)


class Segmenter(Protocol):
    """A network as the tracker uses it; images are (1, 3, H, W) RGB in [0, 1]."""

    def encode(self, image: Tensor) -> Any:
        """Looks at an image once; the result is handed to the other calls about that image."""

    def join(self, banks: tuple[FeatureBank, ...], objects: int) -> tuple[FeatureBank, ...]:
        """The banks of a job to which `objects` new objects come; () is a new job."""

    def memorize(self, features: Any, probabilities: Tensor, valid: Tensor, frame: int) -> tuple[Entries | None, ...]:
        """What each bank has to learn of an image, None for nothing.

        probabilities: (n, H, W); valid: (n,) bool, the objects that may learn; frame: the image's index.
        """

    def hint(self, probabilities: Tensor) -> Tensor:
        """What the network wants to know of a frame when it segments the next: (n, H, W) → (n, ...)."""

    def segment(self, features: Any, jobs: Sequence[Remembered]) -> list[Segmentation]:
        """Finds the objects of several jobs in one image."""


class LiteSegmenter:
    """`Lite` behind the interface: one bank per job, whose keys all objects share.

    Attributes:
        network: as it segments, its batch norms merged into convolutions.
        plain_decoder: as it was trained, with batch norms: what an adaptation starts from.
    """

    def __init__(self, network: Lite, device: torch.device):
        self.plain_decoder = copy.deepcopy(network.decoder).eval().requires_grad_(False).to(device)
        self._adapted: WeakKeyDictionary[Adaptation, Decoder] = WeakKeyDictionary()
        network = fold_batch_norm(network.eval()).requires_grad_(False)
        self.network = network.to(device, memory_format=torch.channels_last)
        self.device = device
        self.autocast = fast_bfloat16(device)

    def _fast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast)

    def encode(self, image: Tensor) -> Any:
        with self._fast():
            return self.network.encode(image.contiguous(memory_format=torch.channels_last))

    def join(self, banks: tuple[FeatureBank, ...], objects: int) -> tuple[FeatureBank, ...]:
        return (banks[0].add_objects(objects),) if banks else (FeatureBank(),)

    def memorize(self, features: Any, probabilities: Tensor, valid: Tensor, frame: int) -> tuple[Entries | None, ...]:
        if not valid.any():
            return (None,)
        with self._fast():
            values = self.network.value(features, probabilities[None])[0]
        return (Entries.of_frame(features.key[0].float(), values.float(), frame, valid),)

    def hint(self, probabilities: Tensor) -> Tensor:
        return (to_hint(probabilities) * 255).round() / 255  # a store keeps a byte each

    def segment(self, features: Any, jobs: Sequence[Remembered]) -> list[Segmentation]:
        found: dict[int, Segmentation] = {}
        for adaptation in {id(job.adaptation): job.adaptation for job in jobs}.values():
            alike = [i for i, job in enumerate(jobs) if job.adaptation is adaptation]
            found |= zip(alike, self._segment(features, [jobs[i] for i in alike], adaptation), strict=True)
        return [found[i] for i in range(len(jobs))]

    def _segment(
        self, features: Any, jobs: Sequence[Remembered], adaptation: Adaptation | None
    ) -> Iterator[Segmentation]:
        precision = torch.bfloat16 if self.autocast else torch.float32
        answers = (read(job.banks[0], features.key.float(), precision) for job in jobs)
        readouts, familiar, uses = zip(*answers, strict=True)
        grid = features.f4.shape[-2:]
        hint = torch.cat([F.adaptive_avg_pool2d(job.hint, grid) for job in jobs])  # a job's images may differ in size
        decoder = self._decoder(adaptation) if adaptation else self.network.decoder
        with self._fast():
            decoded = self.network.decode(features, torch.cat(readouts)[None], hint[None], decoder)
        logits = full_size(decoded.logits.float(), features.size)[0]
        counts = [len(job.hint) for job in jobs]
        recognised = recognition(torch.cat(familiar)[None], decoded.rough.float(), self.network.strange)[0]
        parts = (logits, decoded.presence[0].sigmoid() * recognised, decoded.quality[0].sigmoid())
        for *part, use in zip(*(tensor.split(counts) for tensor in parts), uses, strict=True):
            yield Segmentation(*part, (use,))

    def _decoder(self, adaptation: Adaptation) -> Decoder:
        if adaptation not in self._adapted:
            decoder = copy.deepcopy(self.plain_decoder)
            decoder.load_state_dict(dict(adaptation.weights), strict=False)  # the rest is not adapted
            self._adapted[adaptation] = fold_batch_norm(decoder).to(memory_format=torch.channels_last)
        return self._adapted[adaptation]


def read(bank: FeatureBank, query: Tensor, precision: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """What a bank answers to the query key of a frame.

    query: (1, 64, h·w); precision: of values and weights as they are multiplied, not of what the weights come from.
    Returns the read-out (n, 128, h·w), the familiarity (n, h·w), and the weight that each entry got, (N,), which is
    what its use counter grows by. Objects that may read the same entries share one softmax.
    """
    parts = bank.parts
    keys = torch.cat([part.keys for part in parts], 1)[None]
    values = torch.cat([part.values.to(precision) for part in parts], 2)
    patterns, pattern_of = torch.cat([part.valid for part in parts], 1).unique(dim=0, return_inverse=True)
    groups = []  # of objects that may read the same: which ones, what is hidden from them if anything, their values
    for number, readable in enumerate(patterns):
        readers = (pattern_of == number).nonzero()[:, 0]
        groups.append((readers, None if readable.all() else ~readable, values[readers].flatten(0, 1)))

    places = query.shape[2]
    readout = values.new_empty(*values.shape[:2], places)
    familiar = query.new_empty(len(values), places)
    use = query.new_zeros(keys.shape[2])
    at_once = READ_AT_ONCE if query.device.type == "cpu" else places
    for start in range(0, places, at_once):
        here = slice(start, start + at_once)
        scores = similarity(keys, query[..., here])
        for readers, hidden, own in groups:
            masked = scores if hidden is None else scores.masked_fill(hidden, -torch.inf)
            weights = masked[0].softmax(1)
            use += weights.sum(0) * (len(readers) / len(values))
            familiar[readers, here] = familiarity(masked, query[..., here])
            readout[readers, :, here] = (own @ weights.to(precision).T).unflatten(0, (len(readers), -1))
    return readout, familiar, use


class AfbUrrSegmenter:
    """`AfbUrr` behind the interface: the background has the first bank, then each object its own."""

    def __init__(self, network: AfbUrr, device: torch.device):
        self.network = network.eval().to(device)

    def encode(self, image: Tensor) -> Any:
        return self.network.encode(image)

    def join(self, banks: tuple[FeatureBank, ...], objects: int) -> tuple[FeatureBank, ...]:
        return (*(banks or (FeatureBank(),)), *(FeatureBank() for _ in range(objects)))

    def memorize(self, features: Any, probabilities: Tensor, valid: Tensor, frame: int) -> tuple[Entries | None, ...]:
        background = (1 - probabilities.sum(0, keepdim=True)).clamp(min=0)
        learnt = self.network.memorize(features, torch.cat([background, probabilities]))
        learns = [
            bool(valid.all()),
            *valid.tolist(),
        ]  # the background is what no object is: sure where all are
        return tuple(
            Entries.of_frame(keys, values, frame) if wanted else None
            for (keys, values), wanted in zip(learnt, learns, strict=True)
        )

    def hint(self, probabilities: Tensor) -> Tensor:
        """The network takes none."""
        return probabilities.new_empty(len(probabilities), 0, 0)

    def segment(self, features: Any, jobs: Sequence[Remembered]) -> list[Segmentation]:
        """The network has no heads for presence and quality: presence is 1, quality how sure the mask's pixels are."""
        found = []
        for job in jobs:
            logits, use = self.network.segment(features, job.banks)
            logits = logits[1:] - logits[:1]
            probability = compete(logits[None])[0]
            mask = probability > 0.5
            sure = (probability * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)
            found.append(Segmentation(logits, torch.ones_like(sure), sure, tuple(use)))
        return found


def fold_batch_norm(module: torch.nn.Module) -> torch.nn.Module:
    """Merges each batch norm into the convolution before it, in place: the same function, fewer passes."""
    for child in module.children():
        fold_batch_norm(child)
    if isinstance(module, torch.nn.Sequential):
        for i in range(len(module) - 1):
            if isinstance(module[i], torch.nn.Conv2d) and isinstance(module[i + 1], torch.nn.BatchNorm2d):
                module[i] = torch.nn.utils.fuse_conv_bn_eval(module[i], module[i + 1])
                module[i + 1] = torch.nn.Identity()
    return module


def fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is native there; without such instructions a CPU is faster in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capability = torch.cpu.get_capabilities()
    return bool(capability.get("avx512_bf16") or capability.get("amx_bf16"))
