"""Objects that compete for pixels: soft aggregation, and where its outcome is in doubt."""

import torch
from torch import Tensor

HIDDEN_LOGIT = -30.0  # of an object that is gone or that a person outlined: it takes part in no competition
# Refinement counts only where it can move a pixel; below this the gate is exactly 0 and nothing is computed.
MIN_UNCERTAINTY = 0.02


def aggregate(logits: Tensor) -> Tensor:
    """Class probabilities of objects that compete with each other and the background (soft aggregation, as in STM).

    logits: (B, n, H, W), each against the background, whose own logit is 0. Returns (B, n, H, W).
    """
    return with_background(logits).softmax(1)[:, 1:]


def with_background(logits: Tensor) -> Tensor:
    """(B, n, H, W) logits against the background → (B, 1 + n, H, W) with the background's 0 in front."""
    return torch.cat([torch.zeros_like(logits[:, :1]), logits], 1)


def uncertainty(logits: Tensor) -> Tensor:
    """How much each object's pixel is in dispute: (B, n, H, W) logits → (B, n, H, W) in [0, 1].

    exp(1 - best / second best) as in AFB-URR (eq. 7), counted for the objects that are one of the two; exactly 0
    below `MIN_UNCERTAINTY`.
    """
    scores = with_background(logits)
    top, classes = scores.topk(2, dim=1)
    u = torch.exp(1 - torch.exp((top[:, :1] - top[:, 1:]).clamp(max=10)))  # ratio of two softmax scores
    objects = torch.arange(1, scores.shape[1], device=logits.device).view(1, -1, 1, 1)
    in_dispute = (classes[:, :1] == objects) | (classes[:, 1:] == objects)
    return u * in_dispute * (u > MIN_UNCERTAINTY)
