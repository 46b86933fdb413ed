"""Entries of a feature bank: keys, values, and what the bank's policy needs to know of them.

An entry is one key (what a place of a frame looks like) and one value per object that shares the key (what the network
wants to know of the object there). Everything is immutable: operations return new entries that share unchanged tensors
with the old ones. Notation: N entries, K objects, Ck and Cv channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from maskbank.bank.quantization import dequantize, quantize

STEPS = {"keys": 31, "values": 15}  # on either side of zero: six bits for a number of a key, five of a value
KEPT_TYPES = {"keys": torch.float32, "values": torch.float16}  # in memory, where half precision is enough for five bits


@dataclass(frozen=True, eq=False)
class Entries:
    """Entries of a bank, side by side in plain tensors.

    Attributes:
        keys: (Ck, N) float.
        values: (K, Cv, N) float, in half precision once they are quantized; K objects share the keys.
        valid: (K, N) bool; whether object k may read the entry. False e.g. where the object joined later.
        frame: (N,) int64; the index of the frame an entry comes from.
        usage: (N,) float32; grows whenever a query reads the entry.
        coverage: (K, N) float32, 0 to 1: how much of the entry's place object k covers; None where that is not known.

    Raises:
        ValueError: the tensors do not fit together.
    """

    keys: Tensor
    values: Tensor
    valid: Tensor
    frame: Tensor
    usage: Tensor
    coverage: Tensor | None = None

    def __post_init__(self) -> None:
        n = self.keys.shape[-1] if self.keys.ndim == 2 else -1
        fits = self.values.ndim == 3 and self.values.shape[2] == n
        fits = fits and self.valid.shape == (self.values.shape[0], n)
        fits = fits and (self.coverage is None or self.coverage.shape == self.valid.shape)
        if not fits or self.frame.shape != (n,) or self.usage.shape != (n,):
            shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in self.tensors())
            raise ValueError(f"The tensors of bank entries do not fit together: {shapes}.")
        if (self.valid.dtype, self.frame.dtype, self.usage.dtype) != (torch.bool, torch.int64, torch.float32):
            dtypes = f"{self.valid.dtype}, {self.frame.dtype}, {self.usage.dtype}"
            raise ValueError(f"Valid, frame and usage must be bool, int64 and float32, not {dtypes}.")

    @classmethod
    def of_frame(
        cls, keys: Tensor, values: Tensor, frame: int, valid: Tensor | None = None, coverage: Tensor | None = None
    ) -> Entries:
        """Fresh entries of one frame, from what a network memorized.

        Args:
            keys: (Ck, N).
            values: (K, Cv, N).
            frame: index of the frame.
            valid: (K,) bool, which objects may read this frame; by default all.
            coverage: (K, N), see the attribute.
        """
        objects, n = values.shape[0], keys.shape[1]
        if valid is None:
            valid = torch.ones(objects, dtype=torch.bool)
        return cls(
            keys=keys,
            values=values,
            valid=valid.to(keys.device).unsqueeze(1).repeat(1, n),
            frame=torch.full((n,), frame, dtype=torch.int64, device=keys.device),
            usage=torch.zeros(n, device=keys.device),
            coverage=coverage,
        )

    def __len__(self) -> int:
        return self.keys.shape[1]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The names and tensors, in the order of the attributes."""
        named = ((field.name, getattr(self, field.name)) for field in fields(self))
        return ((name, tensor) for name, tensor in named if tensor is not None)

    def quantized(self) -> Entries:
        """As a store keeps them, so that a bank that was stored goes on exactly as one that was not.

        Keys and values are in steps of a size of each vector's own, see `quantize`, and contiguous: sums depend on the
        layout in their last bits. Coverage is in steps of 1/255.
        """

        def rounded(name: str) -> Tensor:
            tensor: Tensor = getattr(self, name)
            return dequantize(*quantize(tensor, STEPS[name], KEPT_TYPES[name])).to(KEPT_TYPES[name]).contiguous()

        coverage = None if self.coverage is None else (self.coverage * 255).round() / 255
        return replace(self, **{name: rounded(name) for name in STEPS}, coverage=coverage)

    def select(self, index: Tensor) -> Entries:
        """The entries at an index, (n,) int64 positions or (N,) bool."""
        return Entries(**{name: tensor[..., index] for name, tensor in self.tensors()})

    def concat(self, other: Entries) -> Entries:
        """These entries, then the other's; their coverage is known where that of both is.

        Raises:
            ValueError: the two differ in channels or in the number of objects.
        """
        if self.keys.shape[0] != other.keys.shape[0] or self.values.shape[:2] != other.values.shape[:2]:
            ours = f"keys {tuple(self.keys.shape)}, values {tuple(self.values.shape)}"
            others = f"keys {tuple(other.keys.shape)}, values {tuple(other.values.shape)}"
            raise ValueError(f"Entries of different kinds cannot be joined: {ours} with {others}.")
        theirs = dict(other.tensors())
        return Entries(**{name: torch.cat([ours, theirs[name]], -1) for name, ours in self.tensors() if name in theirs})

    def of_objects(self, numbers: Sequence[int]) -> Entries:
        """What some of the objects may read, in the order of their numbers."""
        index = torch.tensor(numbers, device=self.valid.device)
        own = replace(
            self,
            values=self.values[index],
            valid=self.valid[index],
            coverage=None if self.coverage is None else self.coverage[index],
        )
        readable = own.valid.any(0)
        return own if readable.all() else own.select(readable)

    def add_objects(self, count: int) -> Entries:
        """The same entries with `count` more objects, which may read none of them."""
        return replace(
            self,
            values=torch.cat([self.values, self.values.new_zeros(count, *self.values.shape[1:])]),
            valid=torch.cat([self.valid, self.valid.new_zeros(count, len(self))]),
            coverage=None
            if self.coverage is None
            else torch.cat([self.coverage, self.coverage.new_zeros(count, len(self))]),
        )
