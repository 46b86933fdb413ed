"""`Lite` as the tracker uses it."""

import copy
from collections.abc import Iterator, Sequence
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from maskbank.bank.entries import Entries
from maskbank.bank.feature_bank import FeatureBank
from maskbank.bank.memory import BankRequest, Memory, TunedDecoder
from maskbank.bank.readout import read
from maskbank.networks.lite import (
    STRIDE,
    Decoder,
    Lite,
    LiteFeatures,
    full_size,
    pad_to_stride,
    similarity,
    to_prev_mask,
)
from maskbank.networks.novelty import familiar, found_places, key_novelty, object_novelty
from maskbank.networks.precision import fast_bfloat16
from maskbank.networks.search_area import SearchArea
from maskbank.networks.seed_recall import expected_jaccard
from maskbank.networks.segmenter import Segmentation

Network = TypeVar("Network", bound=torch.nn.Module)


# A share of the places in its search area that the outlines would call the object: with more such places outside, it is
# looked for in all of the frame.
ELSEWHERE = 0.1


class LiteSegmenter:
    """`Lite` behind the interface `Segmenter`: one bank per memory, whose keys all objects share.

    Attributes:
        network: as it segments, its batch norms merged into convolutions.
        trained_decoder: as it was trained, with batch norms: what tuning to a job starts from.
    """

    def __init__(self, network: Lite, device: torch.device):
        self.trained_decoder = copy.deepcopy(network.decoder).eval().requires_grad_(False).to(device)
        self._tuned: WeakKeyDictionary[TunedDecoder, Decoder] = WeakKeyDictionary()
        network = fold_batch_norm(network.eval()).requires_grad_(False)
        self.network: Lite = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device = device
        self.autocast = fast_bfloat16(device)

    def _fast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast)

    def encode(self, image: Tensor) -> LiteFeatures:
        """See `Segmenter`."""
        with self._fast():
            return self.network.encode(image.contiguous(memory_format=torch.channels_last))

    def add_objects(self, banks: tuple[FeatureBank, ...], count: int) -> tuple[FeatureBank, ...]:
        """One bank, whose entries new objects have no part in."""
        return (banks[0].add_objects(count),) if banks else (FeatureBank(),)

    def memorize(
        self, features: LiteFeatures, probabilities: Tensor, valid: Tensor, frame: int
    ) -> tuple[Entries | None, ...]:
        """One bank's entries, None where no object may memorize."""
        if not valid.any():
            return (None,)
        with self._fast():
            values = self.network.value(features, probabilities[None])[0]
        coverage = _coverage(probabilities).flatten(1)
        return (Entries.of_frame(features.key[0].float(), values.float(), frame, valid, coverage),)

    def prev_mask(self, probabilities: Tensor) -> Tensor:
        """The masks at 1/4: (n, H, W) → (n, 4h, 4w) in steps of 1/255."""
        return (to_prev_mask(probabilities) * 255).round() / 255  # a store keeps a byte each

    def appearance(self, features: LiteFeatures, probabilities: Tensor) -> Tensor:
        """What objects look like, whatever is around them: the mean feature in each mask, (n, H, W) → (n, 192).

        None of its numbers is negative; all are 0 for an empty mask.
        """
        covered = _coverage(probabilities).flatten(1)
        seen = features.f16[0].float().flatten(1)
        return covered @ seen.T / (covered.sum(1, keepdim=True) + 1e-2)

    def segment(
        self,
        features: LiteFeatures,
        requests: Sequence[BankRequest],
        areas: Sequence[Sequence[SearchArea]],
        strict: bool,
    ) -> list[Segmentation]:
        """Memories share a pass of the decoder, which lets their objects compete.

        By itself goes one with a tuned decoder, or with objects that are not requested: others must not yield to them.
        """
        batches: dict[tuple[int, int], list[int]] = {}
        for i, request in enumerate(requests):
            passed_alone = i if request.has_unrequested else -1
            batches.setdefault((id(request.memory.tuned_decoder), passed_alone), []).append(i)
        found: dict[int, Segmentation] = {}
        for batch in batches.values():
            memories = [requests[i].memory for i in batch]
            found |= zip(batch, self._segment(features, memories, [areas[i] for i in batch], strict), strict=True)
        return [found[i] for i in range(len(requests))]

    def _segment(
        self, features: LiteFeatures, memories: Sequence[Memory], areas: Sequence[Sequence[SearchArea]], strict: bool
    ) -> Iterator[Segmentation]:
        """Of memories with the same decoder."""
        query, threshold = features.key.float(), self.network.novelty_threshold
        precision = torch.bfloat16 if self.autocast else torch.float32
        by_area = self.device.type == "cpu"  # a GPU is faster with all objects, everywhere, at once
        grid = features.f16.shape[-2:]
        wanted = [_places(own, grid) if by_area and strict else None for own in areas]
        readouts = [
            read(memory.banks[0], query, similarity, total_weight, precision, places)
            for memory, places in zip(memories, wanted, strict=True)
        ]
        if not strict:
            areas = [_widened(own, each.seed_labels, grid) for own, each in zip(areas, readouts, strict=True)]
        # The images of a job may differ in size.
        height, width = features.f4.shape[-2:]
        prev_mask = torch.cat([F.adaptive_avg_pool2d(memory.prev_mask, (height, width)) for memory in memories])[None]
        with self._fast():
            values = torch.cat([readout.values for readout in readouts])[None]
            every = [area for own in areas for area in own] if by_area else None
            decoded = self.network.decode(features, values, prev_mask, every, self._decoder(memories[0]))
        logits = full_size(decoded.logits.float(), features.size)[0]
        novelty = key_novelty(torch.cat([readout.best_similarity for readout in readouts]), query)
        found = found_places(decoded.coarse.float())
        score = object_novelty(novelty[None], found)[0]
        presence = decoded.presence[0].sigmoid() * familiar(score, threshold)
        parts = (logits, presence, decoded.quality[0].sigmoid(), found[0])
        split = (part.split([memory.objects for memory in memories]) for part in parts)
        for own_logits, own_presence, quality, own_found, readout, own in zip(*split, readouts, areas, strict=True):
            labels = readout.seed_labels
            expected_j = quality if labels is None else expected_jaccard(quality, own_found, labels.unflatten(1, grid))
            yield Segmentation(own_logits, own_presence, quality, expected_j, (readout.usage,), tuple(own))

    def _decoder(self, memory: Memory) -> Decoder:
        tuned = memory.tuned_decoder
        if tuned is None:
            return self.network.decoder
        if tuned not in self._tuned:
            decoder = copy.deepcopy(self.trained_decoder)
            decoder.load_state_dict(dict(tuned.weights), strict=False)  # the rest was not tuned
            folded = fold_batch_norm(decoder)
            self._tuned[tuned] = folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self._tuned[tuned]


def _coverage(probabilities: Tensor) -> Tensor:
    """How much of the place of each key objects cover: (n, H, W) → (n, h, w)."""
    return F.avg_pool2d(pad_to_stride(probabilities), STRIDE)


def _places(areas: Sequence[SearchArea], grid: torch.Size) -> Tensor:
    """The queries in the area of each of n objects: (n, h·w) bool, for a grid of (h, w)."""
    places = torch.zeros(len(areas), *grid, dtype=torch.bool)
    for own, area in zip(places, areas, strict=True):
        area.cut(own, 1).fill_(True)
    return places.flatten(1)


def _widened(areas: Sequence[SearchArea], seed_labels: Tensor | None, grid: torch.Size) -> list[SearchArea]:
    """All of a grid (h, w) for the objects of which much seems to be outside of their area, by the outlined frames.

    seed_labels: (n, h·w), see `Readout`; where it is not known what objects covered, they may be anywhere.
    """
    whole = SearchArea(0, 0, grid[1], grid[0])
    widened = []
    for k, (area, places) in enumerate(zip(areas, _places(areas, grid), strict=True)):
        if area != whole and seed_labels is not None:
            labelled = seed_labels[k] > 0.5
            inside, everywhere = int((labelled & places).sum()), int(labelled.sum())
            if everywhere - inside <= ELSEWHERE * inside:
                widened.append(area)
                continue
        widened.append(whole)
    return widened


def total_weight(weights: Tensor) -> Tensor:
    """What all queries together take of each entry: (M, N) → (N,)."""
    return weights.sum(0)


def fold_batch_norm(module: Network) -> Network:
    """Merges each batch norm into the convolution before it, in place: the same function, fewer passes."""
    for child in module.children():
        fold_batch_norm(child)
    if isinstance(module, torch.nn.Sequential):
        for i in range(len(module) - 1):
            convolution, norm = module[i], module[i + 1]
            if isinstance(convolution, torch.nn.Conv2d) and isinstance(norm, torch.nn.BatchNorm2d):
                module[i] = torch.nn.utils.fuse_conv_bn_eval(convolution, norm)
                module[i + 1] = torch.nn.Identity()
    return module
