"""`AfbUrr` as the tracker uses it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from maskbank.bank.entries import Entries
from maskbank.bank.feature_bank import FeatureBank
from maskbank.bank.memory import BankRequest
from maskbank.networks.afb_urr import AfbUrr, Bottleneck, Features, QueryEncoder
from maskbank.networks.aggregation import aggregate
from maskbank.networks.precision import fast_bfloat16
from maskbank.networks.search_area import SearchArea
from maskbank.networks.segmenter import Segmentation
from maskbank.networks.winograd import WinogradConv2d


class AfbUrrSegmenter:
    """`AfbUrr` behind the interface `Segmenter`: the background has the first bank, then each object its own.

    Args:
        network: with its weights.
        device: where it computes.
        exact: everything in float32; else convolutions in bfloat16 where that is fast.
    """

    def __init__(self, network: AfbUrr, device: torch.device, exact: bool = False):
        if fast_bfloat16(device) and not exact:
            network.precision = torch.bfloat16
        network = fold_batch_norm(network.eval()).requires_grad_(False)
        if device.type == "cpu" and network.precision == torch.float32:
            replace_convolutions(network)
        self.network: AfbUrr = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def encode(self, image: Tensor) -> Features:
        """See `Segmenter`."""
        return self.network.encode(image.contiguous(memory_format=torch.channels_last))

    def add_objects(self, banks: tuple[FeatureBank, ...], count: int) -> tuple[FeatureBank, ...]:
        """The background's bank, made for the first objects, then one for each object."""
        return (*(banks or (FeatureBank(),)), *(FeatureBank() for _ in range(count)))

    def memorize(
        self, features: Features, probabilities: Tensor, valid: Tensor, frame: int
    ) -> tuple[Entries | None, ...]:
        """What each class memorizes; the background only where all objects may."""
        background = (1 - probabilities.sum(0, keepdim=True)).clamp(min=0)
        encoded = self.network.memorize(features, torch.cat([background, probabilities]))
        may_memorize = [bool(valid.all()), *valid.tolist()]  # the background is what no object is: sure where all are
        return tuple(
            Entries.of_frame(keys, values, frame) if may else None
            for (keys, values), may in zip(encoded, may_memorize, strict=True)
        )

    def prev_mask(self, probabilities: Tensor) -> Tensor:
        """The network takes none."""
        return probabilities.new_empty(len(probabilities), 0, 0)

    def segment(
        self, features: Features, requests: Sequence[BankRequest], areas: Sequence[Sequence[SearchArea]], strict: bool
    ) -> list[Segmentation]:
        """Looks for each object everywhere.

        The network has no heads for presence and quality: presence is 1, quality how sure the mask's pixels are.
        """
        found = []
        for request, own in zip(requests, areas, strict=True):
            logits, usage = self.network.segment(features, request.memory.banks)
            logits = logits[1:] - logits[:1]
            probability = aggregate(logits[None])[0]
            mask = probability > 0.5
            sure = (probability * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)
            found.append(Segmentation(logits, torch.ones_like(sure), sure, sure, tuple(usage), tuple(own)))
        return found


def replace_convolutions(network: AfbUrr) -> None:
    """Puts faster ones in the place of those that take most of the time."""
    decoder = network.decoder
    parents = (network.keyval_r4, *decoder.RF3.modules(), *decoder.RF2.modules())
    slow = [(parent, name) for parent in parents for name, _ in parent.named_children()] + [(decoder, "convFM")]
    for parent, name in slow:
        child = getattr(parent, name)
        if isinstance(child, nn.Conv2d):
            setattr(parent, name, WinogradConv2d(child))


def fold_batch_norm(network: AfbUrr) -> AfbUrr:
    """Merges batch norms into the convolutions before them, in place: the same function, fewer passes.

    That behind the memory encoder's first convolutions, which are summed, stays.
    """
    for module in network.modules():
        pairs = {Bottleneck: (1, 2, 3), QueryEncoder: (1,)}.get(type(module), ())
        for number in pairs:
            convolution, norm = getattr(module, f"conv{number}"), getattr(module, f"bn{number}")
            setattr(module, f"conv{number}", nn.utils.fuse_conv_bn_eval(convolution, norm))
            setattr(module, f"bn{number}", nn.Identity())
        if isinstance(module, Bottleneck) and isinstance(module.downsample, nn.Sequential):
            module.downsample = nn.utils.fuse_conv_bn_eval(*module.downsample)
    return network
