"""Vectors in few bits: what a bank keeps, and a store writes, of keys and values."""

import torch
from torch import Tensor


def quantize(vectors: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Vectors in whole steps of a size of their own: (..., C, N) float to (..., C, N) int8 and (..., 1, N) bfloat16.

    Quantizing what `dequantize` returns gives the same again: a vector's largest number is always `steps` steps.

    Args:
        steps: from zero to the largest number of a vector, at most 127.
    """
    step = (vectors.abs().amax(-2, keepdim=True).float() / steps).bfloat16()
    size = torch.where(step > 0, step, 1).float()
    return (vectors.float() / size).round().to(torch.int8), step


def dequantize(steps: Tensor, step: Tensor) -> Tensor:
    """The float32 vectors behind what `quantize` returns; a product of so few bits is exact."""
    return steps.float() * step.float()
