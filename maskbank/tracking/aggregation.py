"""Soft aggregation of the objects of several memories in one frame: each pixel goes to one object or the background."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maskbank.bank.memory import BankRequest, Seed
from maskbank.files.images import resize_mask
from maskbank.networks.aggregation import HIDDEN_LOGIT, aggregate
from maskbank.shapes.window import Window

Object = tuple[int, int]  # the position of its request, and its number there


@dataclass(frozen=True, eq=False)
class Region:
    """The pixels of an object, in a map that all objects of a frame share: a mask of each would take gigabytes.

    Attributes:
        numbers: (H, W), whose each pixel is.
        number: the object's.
    """

    numbers: np.ndarray
    number: int

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool, made anew."""
        mask: np.ndarray = self.numbers == self.number
        return mask

    @cached_property
    def visible(self) -> bool:
        """Whether there is any."""
        return bool(self.mask.any())


class Aggregation:
    """Who gets which pixel; where a person outlined an object there is no doubt.

    Args:
        size: height and width of the image.
        window: the part of it that requests and logits are about; None: all of it.
        requests: whose objects compete: with all that are requested, and those that are not within their own memory.
        logits: for each request those of its memory's objects, (n, h, w), against the background.
    """

    def __init__(
        self,
        size: tuple[int, int],
        window: Window | None,
        requests: Sequence[BankRequest],
        logits: Sequence[Tensor],
    ):
        self._size, self._window = size, window
        self._requests = requests
        self._seeds = {(i, k): seed for i, request in enumerate(requests) for k, seed in request.seeds.items()}
        hidden = logits[0].new_full(logits[0].shape[1:], HIDDEN_LOGIT)
        self._logits = {
            (i, k): hidden if (i, k) in self._seeds else logits[i][k]
            for i, request in enumerate(requests)
            for k in range(request.objects)
        }
        self._outcomes: dict[tuple[Object, ...], tuple[Tensor, np.ndarray]] = {}  # mostly one for all requests

    def of(self, i: int) -> tuple[Tensor, list[Region]]:
        """The probabilities, (n, h, w), and the regions of all objects of request `i`."""
        own = [(i, number) for number in range(self._requests[i].objects)]
        requested = {(j, number) for j, request in enumerate(self._requests) for number in request.competitors}
        rivals = tuple(sorted(requested.union(own)))
        if rivals not in self._outcomes:
            logits = torch.stack([self._logits[each] for each in rivals])
            seeds = {position: self._seeds[each] for position, each in enumerate(rivals) if each in self._seeds}
            self._outcomes[rivals] = probabilities_of(logits, seeds), self._object_map(logits, seeds)
        probabilities, objects = self._outcomes[rivals]
        positions = [rivals.index(each) for each in own]
        return probabilities[positions], [Region(objects, position) for position in positions]

    def _object_map(self, logits: Tensor, seeds: Mapping[int, Seed]) -> np.ndarray:
        """See `object_map`; of the whole image."""
        if self._window is None:
            return object_map(self._size, logits, seeds)
        objects = np.full(self._size, -1, np.int16)
        self._window.cut(objects)[:] = object_map((self._window.height, self._window.width), logits, seeds)
        return objects


def probabilities_of(logits: Tensor, seeds: Mapping[int, Seed]) -> Tensor:
    """Class probabilities of n objects, (n, h, w), of which some were outlined: their seeds by object."""
    probabilities = aggregate(logits[None])[0]
    if seeds:
        height, width = logits.shape[1:]
        given = {
            k: torch.from_numpy(resize_mask(seed.mask, height, width)).to(logits.device) for k, seed in seeds.items()
        }
        outlined = torch.zeros_like(logits[0])
        for coverage in given.values():
            outlined += coverage
        probabilities = probabilities * (1 - outlined).clamp(min=0)
        for k, coverage in given.items():
            probabilities[k] = coverage
    return probabilities


def object_map(size: tuple[int, int], logits: Tensor, seeds: Mapping[int, Seed]) -> np.ndarray:
    """(H, W) int16, whose each pixel is: the number of the best of n objects, -1 where it is the background.

    One object at a time, so that a 4K frame with many objects does not take gigabytes.
    """
    best = torch.zeros(size, device=logits.device)  # the background's logit
    ids = torch.full(size, -1, dtype=torch.int16, device=logits.device)
    for k, logit in enumerate(logits):
        if k in seeds or float(logit.max()) <= 0:
            continue
        full = logit
        if tuple(logit.shape) != tuple(size):
            full = F.interpolate(logit[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
        ids.masked_fill_(full > best, k)
        torch.maximum(full, best, out=best)
    objects: np.ndarray = ids.cpu().numpy()
    for k, seed in seeds.items():
        objects[seed.mask] = k
    return objects
