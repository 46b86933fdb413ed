"""Vectors in few bits: what a bank keeps, and a store writes, of keys and values."""

import torch
from torch import Tensor

SMALLEST_HALF_STEP, LARGEST_HALF_STEP = 2.0**-14, 2.0**12  # half precision has all of its bits from 2^-14 to 2^16


def quantize(vectors: Tensor, steps: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Vectors in whole steps of a size of their own: (..., C, N) float to (..., C, N) int8 and (..., 1, N) bfloat16.

    Quantizing what `dequantize` returns gives the same again: a vector's largest number is always `steps` steps.

    Args:
        steps: from zero to the largest number of a vector, at most 127; in half precision at most 15.
        dtype: float32 or float16, in which the products must be exact.
    """
    step = (vectors.abs().amax(-2, keepdim=True).float() / steps).bfloat16()
    if dtype == torch.float16:  # has 11 bits: four of the steps, seven of their size
        bits = step.clamp(max=LARGEST_HALF_STEP).view(torch.int16)
        step = torch.where(step >= SMALLEST_HALF_STEP, (bits + (bits & 1)).view(torch.bfloat16), 0)
    size = torch.where(step > 0, step, 1).float()
    return (vectors.float() / size).round().clamp(-steps, steps).to(torch.int8), step


def dequantize(steps: Tensor, step: Tensor) -> Tensor:
    """The float32 vectors behind what `quantize` returns; a product of so few bits is exact."""
    return steps.float() * step.float()
