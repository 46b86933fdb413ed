"""What training asks of a clip's masks, and of the presence and quality that are predicted with them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from maskbank.networks.aggregation import aggregate, with_background
from maskbank.networks.lite import LiteDecoded, full_size

PRESENT_PIXELS = 16  # fewer are "not visible"
EDGE_WEIGHT = 2.0  # of pixels near an outline: half of what DAVIS measures is there, and most of an annotator's work
EDGE_PIXELS = 2  # to either side


def frame_loss(decoded: LiteDecoded, truth: Tensor, real: Tensor, hard_share: float) -> Tensor:
    """Loss of one frame of a batch.

    truth: (B, S, S) int64 class per pixel (0 background, 1..n objects); real: (B, n) bool, False for a slot without
    an object in this clip; hard_share: the share of each frame's hardest pixels that counts (bootstrapped
    cross-entropy, as in STCN), those near an outline counting more. Coarse and refined masks both learn; presence and
    quality learn to predict how good they are.
    """
    logits = full_size(decoded.logits.float(), truth.shape[-2:])
    truth4 = truth[:, 1::4, 1::4]
    coarse = decoded.coarse.float()[..., : truth4.shape[1], : truth4.shape[2]]
    objects = torch.arange(1, logits.shape[1] + 1, device=truth.device).view(1, -1, 1, 1)
    target = (truth[:, None] == objects).float()  # (B, n, S, S)
    probability = aggregate(logits)
    return (
        hard_cross_entropy(logits, truth, hard_share)
        + 0.5 * hard_cross_entropy(coarse, truth4, hard_share)
        + dice(probability, target)[real].mean()
        + 0.2 * quality_loss(decoded, probability.detach(), target, real)
    )


def hard_cross_entropy(logits: Tensor, truth: Tensor, hard_share: float) -> Tensor:
    """Over the hardest pixels; logits: (B, n, S, S) against the background; the rest as in `frame_loss`."""
    per_pixel = F.cross_entropy(with_background(logits), truth, reduction="none")
    per_pixel = (per_pixel * edge_weights(truth)).flatten(1)
    return per_pixel.topk(max(int(per_pixel.shape[1] * hard_share), 1), 1, sorted=False)[0].mean()


def edge_weights(truth: Tensor) -> Tensor:
    """(B, S, S) classes → (B, S, S) weights: more where another class is near, with a mean of 1."""
    classes, window = truth[:, None].float(), 2 * EDGE_PIXELS + 1
    highest = F.max_pool2d(classes, window, 1, EDGE_PIXELS)
    lowest = -F.max_pool2d(-classes, window, 1, EDGE_PIXELS)
    weights = 1 + (EDGE_WEIGHT - 1) * (highest != lowest)[:, 0]
    return weights / weights.mean((1, 2), keepdim=True)


def dice(probability: Tensor, target: Tensor) -> Tensor:
    """(B, n, S, S) twice → (B, n), 0 where they are the same."""
    overlap, total = (probability * target).sum((2, 3)), (probability + target).sum((2, 3))
    return 1 - (2 * overlap + 1) / (total + 1)


def quality_loss(decoded: LiteDecoded, probability: Tensor, target: Tensor, real: Tensor) -> Tensor:
    """How well the quality head predicts presence and Jaccard index; probability, target: (B, n, S, S)."""
    present = target.sum((2, 3)) >= PRESENT_PIXELS
    mask = probability > 0.5
    overlap = (mask * target).sum((2, 3))
    jaccard = overlap / (mask.float() + target - mask * target).sum((2, 3)).clamp(min=1)
    presence = F.binary_cross_entropy_with_logits(decoded.presence.float(), present.float(), reduction="none")
    quality = F.binary_cross_entropy_with_logits(decoded.quality.float(), jaccard, reduction="none")
    counted = real & present
    return presence[real].mean() + (quality * counted).sum() / counted.sum().clamp(min=1)
