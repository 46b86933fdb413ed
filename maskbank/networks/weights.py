"""Weights: reading them from files safely, checking that they fit a network, telling them apart."""

import hashlib
import pickle
import re
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

# Training loops like to save their loss as a NumPy scalar beside the model. These constructors make numbers
# and nothing else; NumPy 1 wrote the first of them under another name.
NUMPY_SCALARS = [
    np._core.multiarray.scalar,
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32)),
]


class WeightsError(ValueError):
    """A weights file that cannot be used; the text is one sentence that says why."""


def load_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a weights file, on the CPU; nothing that a file contains is ever executed.

    Args:
        path: a `.pth` or `.pt` checkpoint, either a bare state dict or one under the key `model` as in
            AFB-URR's releases (`{"model": ..., "epoch": ..., "loss": ..., "seed": ...}`); or a
            `.safetensors` file.

    Raises:
        WeightsError: there is no such file, or it is not a usable checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"There is no weights file {path}.")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise WeightsError(f"The weights file {path} is damaged or not a safetensors file.") from error
    if path.suffix not in (".pth", ".pt"):
        raise WeightsError(f"The weights file {path} must end in .pth, .pt or .safetensors.")
    try:
        with torch.serialization.safe_globals(NUMPY_SCALARS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch names what it refused in the message only; without a name the file is no pickle of its kind.
        if refused := re.search(r"GLOBAL:? (\S+)", str(error)):
            raise WeightsError(
                f"The weights file {path} is refused because it holds more than tensors and numbers "
                f"({refused[1]}), which could run code."
            ) from error
        raise WeightsError(f"The weights file {path} is not a PyTorch checkpoint.") from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise WeightsError(f"The weights file {path} is damaged or not a PyTorch checkpoint.") from error
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"The weights file {path} holds no state dict, neither bare nor under 'model'.")
    return dict(state)


def fit_weights(network: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Copy weights into a network, after checking that they are exactly its own.

    Args:
        network: gets the weights; it is untouched if they do not fit.
        state: tensors by name, as from `load_state_dict`.
        source: what to call the weights in an error, e.g. the file's name.

    Raises:
        WeightsError: names or shapes differ from the network's, or values are not finite.
    """
    wanted = network.state_dict()
    missing = [name for name in wanted if name not in state]
    unexpected = [name for name in state if name not in wanted]
    problems = []
    if missing:
        problems.append(f"{len(missing)} of its {len(wanted)} tensors are missing ({first(missing)})")
    if unexpected:
        problems.append(f"{len(unexpected)} tensors are not its own ({first(unexpected)})")
    misfit = f"The weights {source} are not for {type(network).__name__}"
    if problems:
        raise WeightsError(f"{misfit}: {' and '.join(problems)}.")
    for name, tensor in wanted.items():
        got = state[name]
        if got.shape != tensor.shape:
            shapes = f"{tuple(got.shape)} instead of {tuple(tensor.shape)}"
            raise WeightsError(f"{misfit}: {name} has shape {shapes}.")
        if not got.isfinite().all():
            raise WeightsError(f"The weights {source} are damaged: {name} has values that are not finite.")
    network.load_state_dict(state)


def first(names: list[str]) -> str:
    """The first three names, for a sentence."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def fingerprint(network: nn.Module) -> str:
    """12 hex digits of a SHA-256 over the network's parameters and buffers, the same on any device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:12]
