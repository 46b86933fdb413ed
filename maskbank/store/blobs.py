"""Blobs: tensors in as few bytes as give the same bits back, behind a line with the format's version and a checksum.

A blob is a line, `maskbank <version> <sha256 of the rest>`, and a compressed safetensors file.
"""

import hashlib
import zlib
from collections.abc import Callable, Mapping

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from maskbank.bank.entries import KEPT_TYPES, STEPS
from maskbank.bank.quantization import dequantize, quantize
from maskbank.errors import ForeignVersionError

VERSION = 6
STEP = ".step"  # behind the name of a tensor that is there in whole steps: their sizes


class DamagedError(ValueError):
    """A blob is not what was written."""


def blob(tensors: Mapping[str, Tensor]) -> tuple[str, bytes]:
    """The name and the blob of tensors; the name is made of the content."""
    packed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        packed |= _in_steps(name, tensor.detach().cpu()) or {name: pack(tensor)}
    content = _entropy_coded(safetensors.torch.save(packed))
    digest = checksum(content)
    return f"p{digest[:40]}", with_header(content, digest)


def read_blob(content: bytes, device: torch.device) -> dict[str, Tensor]:
    """The tensors of a blob, from what is behind its header. Raises DamagedError."""
    try:
        packed = safetensors.torch.load(zlib.decompress(content))
    except (zlib.error, SafetensorError) as error:
        raise DamagedError("A blob in the store is damaged.") from error
    tensors = {}
    for name, tensor in packed.items():
        if name + STEP in packed:
            tensors[name] = dequantize(tensor, packed[name + STEP]).to(device, KEPT_TYPES[name])
        elif not name.endswith(STEP):
            tensors[name] = unpack(tensor).to(device)
    return tensors


def _in_steps(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """The steps of keys or values that were quantized, and their sizes; nothing for other tensors."""
    if tensor.dtype != KEPT_TYPES.get(name):
        return {}
    steps, step = quantize(tensor, STEPS[name], tensor.dtype)
    if not torch.equal(dequantize(steps, step), tensor.float()):
        return {}
    return {name: steps.contiguous(), name + STEP: step.contiguous()}


def _entropy_coded(content: bytes) -> bytes:
    """By Huffman's code alone: features repeat nothing, but small steps are more frequent than large ones."""
    compressor = zlib.compressobj(strategy=zlib.Z_HUFFMAN_ONLY)
    return compressor.compress(content) + compressor.flush()


def pack(tensor: Tensor) -> Tensor:
    """The same numbers in fewer bytes, where there is a way: half precision, or 255ths as bytes."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.float32:
        ways: list[Callable[[Tensor], Tensor]] = [lambda t: (t * 255).round().to(torch.uint8), Tensor.half]
        for smaller in ways:
            if torch.equal(unpack(smaller(tensor)), tensor):
                return smaller(tensor)
    return tensor


def unpack(tensor: Tensor) -> Tensor:
    """What `pack` was given."""
    if tensor.dtype == torch.uint8:
        return tensor.float() / 255
    return tensor.float() if tensor.dtype == torch.float16 else tensor


def checksum(content: bytes) -> str:
    """64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def with_header(content: bytes, digest: str) -> bytes:
    """Content behind the line that says its version and checksum."""
    return f"maskbank {VERSION} {digest}\n".encode() + content


def without_header(data: bytes) -> bytes:
    """The content behind its header. Raises DamagedError, or ForeignVersionError for another version's."""
    line, _, content = data.partition(b"\n")
    words = line.split(b" ")
    if len(words) != 3 or words[0] != b"maskbank":
        raise DamagedError("What is in the store was not written by MaskBank.")
    if words[1] != str(VERSION).encode():
        raise ForeignVersionError
    if words[2] != checksum(content).encode():
        raise DamagedError("A blob in the store is damaged: its checksum is wrong.")
    return content
