"""The tracker on a batch of training clips: what it finds, and its loss."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from maskbank.networks.aggregation import aggregate
from maskbank.networks.lite import Lite, LiteDecoded, LiteFeatures, full_size, to_prev_mask
from maskbank.networks.precision import fast_bfloat16
from maskbank.tuning.clip_memory import ClipMemory
from maskbank.tuning.losses import frame_loss

MEMORIZE = 0.75  # chance that a frame between seed and last is memorized, as the bank does not keep each one
PREV_MASK_DROP = 0.1  # chance that a clip goes without the previous mask, so that the bank alone must do


class UnrolledFrame(NamedTuple):
    """One frame of each clip of a batch: what the network finds in it, and what is there."""

    decoded: LiteDecoded
    novelty: Tensor  # (B, h·w), see `key_novelty`
    truth: Tensor  # (B, S, S) int64
    real: Tensor  # (B, n) bool, False for a slot without an object in this clip


def unroll(network: Lite, images: Tensor, ids: Tensor, objects: int) -> Iterator[UnrolledFrame]:
    """Tracks a batch of clips as the tracker would; yields a result for each frame after the seed.

    images: (B, T, 3, S, S) in [0, 1]; ids: (B, T, S, S) int64; objects: slots per clip, n.
    """
    batch, frames = images.shape[:2]
    all_features = network.encode(images.transpose(0, 1).flatten(0, 1))  # time first: a frame's batch is contiguous
    slots = torch.arange(1, objects + 1, device=ids.device).view(1, -1, 1, 1)
    seed = (ids[:, :1] == slots).float()
    real = seed.flatten(2).any(2)
    prev_mask_kept = (torch.rand(batch, 1, 1, 1, device=ids.device) > PREV_MASK_DROP).float()

    def features_at(t: int) -> LiteFeatures:
        now = slice(t * batch, (t + 1) * batch)
        parts = {name: getattr(all_features, name)[now] for name in ("key", "f16", "f8", "f4", "f2")}
        return LiteFeatures(**parts, size=all_features.size)

    first = features_at(0)
    memory = ClipMemory(first.key, network.value(first, seed))
    probability = seed
    for t in range(1, frames):
        features = features_at(t)
        readout, novelty = memory.read(features.key)
        decoded = network.decode(features, readout, to_prev_mask(probability) * prev_mask_kept)
        yield UnrolledFrame(decoded, novelty, ids[:, t], real)
        probability = aggregate(full_size(decoded.logits, images.shape[-2:]))
        if t + 1 < frames and torch.rand(()) < MEMORIZE:
            memory.memorize(features.key, network.value(features, probability))


class UnrolledLoss(nn.Module):
    """A batch of clips → its loss and the mean Jaccard index; a module, because that is what can be distributed."""

    def __init__(self, network: Lite):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, ids: Tensor, objects: int, hard_share: float) -> tuple[Tensor, Tensor]:
        """Tensors as in `unroll`; `hard_share` as in `frame_loss`."""
        losses, overlaps = [], []
        with torch.autocast(images.device.type, torch.bfloat16, enabled=fast_bfloat16(images.device)):
            for decoded, _, truth, real in unroll(self.network, images, ids, objects):
                with torch.autocast(images.device.type, enabled=False):
                    losses.append(frame_loss(decoded, truth, real, hard_share))
                overlaps.append(_jaccard(decoded.logits.detach(), truth, real))
        return torch.stack(losses).mean(), torch.stack(overlaps).mean()


@torch.no_grad()
def _jaccard(logits: Tensor, truth: Tensor, real: Tensor) -> Tensor:
    mask = aggregate(full_size(logits.float(), truth.shape[-2:])) > 0.5
    target = truth[:, None] == torch.arange(1, mask.shape[1] + 1, device=truth.device).view(1, -1, 1, 1)
    overlap, union = (mask & target).sum((2, 3)), (mask | target).sum((2, 3))
    return ((overlap + 1) / (union + 1))[real].mean()
