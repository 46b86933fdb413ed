"""Weights: reading them from files safely, checking that they fit a network, telling them apart."""

import hashlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from maskbank.files.atomic import atomic_write

# Training loops like to save their loss as a NumPy scalar beside the model. These constructors make numbers
# and nothing else; NumPy 1 wrote the first of them under another name.
NUMPY_SCALAR = np._core.multiarray.scalar  # type: ignore[attr-defined]
NUMPY_SCALARS = [
    NUMPY_SCALAR,
    (NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32)),
]


# Parameters of `Lite` as weights files before version 0.2 call them: the start of a name, and what replaces it.
FORMER_NAMES = {
    "decoder.hint16.": "decoder.prev_mask16.",
    "decoder.hint4.": "decoder.prev_mask4.",
    "decoder.rough.": "decoder.coarse.",
    "decoder.judge.": "decoder.quality_head.",
}
INTERACTOR = "interactor"  # a field of a file's metadata; deploy.sh reads it as well
FORMER_THRESHOLD = "strange"  # the same as `novelty_threshold` with the other sign


class WeightsError(ValueError):
    """A weights file that cannot be used; the text is one sentence that says why."""


def load_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a weights file, on the CPU, by the names of today; nothing in a file is ever executed.

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
            return with_current_names(load_file(path))
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
    return with_current_names(state)


def with_current_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors; where `FORMER_NAMES` has a name's start, under the name of today."""
    renamed = dict(state)
    if FORMER_THRESHOLD in renamed:
        renamed["novelty_threshold"] = -renamed.pop(FORMER_THRESHOLD)
    for name in state:
        for former, current in FORMER_NAMES.items():
            if name.startswith(former):
                renamed[current + name.removeprefix(former)] = renamed.pop(name)
    return renamed


def in_half_precision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as they are shipped, on the CPU: half as many bytes, and no difference in what is tracked."""
    return {name: (t.half() if t.is_floating_point() else t).cpu().contiguous() for name, t in state.items()}


def save_weights(state: Mapping[str, Tensor], path: Path, interactor: str | None = None) -> None:
    """Writes tensors as a .safetensors file; nobody ever finds half of it.

    interactor: see `interactor_named_in`.
    """
    with atomic_write(path) as draft:
        save_file(dict(state), draft, {INTERACTOR: interactor} if interactor else None)
        draft.chmod(0o644)  # safetensors makes files for their owner only


def interactor_named_in(path: Path) -> str | None:
    """The bundled interactor whose terms are those of a tracker's weights, if their file names one."""
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get(INTERACTOR)
    except SafetensorError:  # whoever reads its tensors says so
        return None


def fit_weights(network: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Copy weights into a network, after checking that they are exactly its own.

    Args:
        network: gets the weights; it is untouched if they do not fit.
        state: tensors by name, as from `load_state_dict`.
        source: what to call the weights in an error, e.g. the file's name.

    Raises:
        WeightsError: names or shapes differ from the network's, or values are not finite.
    """
    own = network.state_dict()
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    problems = []
    if missing:
        problems.append(f"{len(missing)} of its {len(own)} tensors are missing ({first(missing)})")
    if unexpected:
        problems.append(f"{len(unexpected)} tensors are not its own ({first(unexpected)})")
    misfit = f"The weights {source} are not for {type(network).__name__}"
    if problems:
        raise WeightsError(f"{misfit}: {' and '.join(problems)}.")
    for name, tensor in own.items():
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
