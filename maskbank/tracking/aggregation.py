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
from maskbank.tracking.zoom import moved_logits

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
        requests: whose objects compete: with all that are requested, and those that are not within their own memory.
            What is known of a memory's objects is seen in the memory's window; seeds are of the whole image.
        logits: for each request those of its memory's objects, (n, h, w), against the background.
    """

    def __init__(self, size: tuple[int, int], requests: Sequence[BankRequest], logits: Sequence[Tensor]):
        self._size, self._requests = size, requests
        self._windows = [request.memory.window for request in requests]
        self._seeds = {(i, k): seed for i, request in enumerate(requests) for k, seed in request.seeds.items()}
        self._logits = {
            (i, k): own.new_full(own.shape[1:], HIDDEN_LOGIT) if (i, k) in self._seeds else own[k]
            for i, (request, own) in enumerate(zip(requests, logits, strict=True))
            for k in range(request.objects)
        }
        # Mostly one for all requests.
        self._probabilities: dict[tuple[Window | None, tuple[Object, ...]], Tensor] = {}
        self._maps: dict[tuple[Object, ...], np.ndarray] = {}

    def of(self, i: int) -> tuple[Tensor, list[Region]]:
        """The probabilities, (n, h, w), in its window, and the regions, in the image, of all objects of request `i`."""
        own = [(i, number) for number in range(self._requests[i].objects)]
        requested = {(j, number) for j, request in enumerate(self._requests) for number in request.competitors}
        rivals, window = tuple(sorted(requested.union(own))), self._windows[i]
        if rivals not in self._maps:
            self._maps[rivals] = self._object_map(rivals)
        seen = tuple(each for each in rivals if _overlap(self._windows[each[0]], window))
        if (window, seen) not in self._probabilities:
            self._probabilities[window, seen] = self._probabilities_in(window, seen)
        probabilities = self._probabilities[window, seen][[seen.index(each) for each in own]]
        return probabilities, [Region(self._maps[rivals], rivals.index(each)) for each in own]

    def _object_map(self, rivals: Sequence[Object]) -> np.ndarray:
        windows = [self._windows[i] for i, _ in rivals]
        seeds = {position: self._seeds[each] for position, each in enumerate(rivals) if each in self._seeds}
        return object_map(self._size, [self._logits[each] for each in rivals], windows, seeds)

    def _probabilities_in(self, window: Window | None, rivals: Sequence[Object]) -> Tensor:
        """Of objects some of which were seen in other windows: (n, h, w)."""
        shape = next(self._logits[each].shape for each in rivals if self._windows[each[0]] == window)
        logits = torch.stack(
            [
                self._logits[each]
                if self._windows[each[0]] == window
                else moved_logits(self._logits[each], self._windows[each[0]], window, self._size, shape)
                for each in rivals
            ]
        )
        outlined = {}
        for position, each in enumerate(rivals):
            if each in self._seeds:
                mask = self._seeds[each].mask
                outlined[position] = window.cut(mask) if window else mask
        return probabilities_of(logits, outlined)


def _overlap(one: Window | None, other: Window | None) -> bool:
    return one is None or other is None or one.overlaps(other)


def probabilities_of(logits: Tensor, outlined: Mapping[int, np.ndarray]) -> Tensor:
    """Class probabilities of n objects, (n, h, w), of which some were outlined: their masks, (H, W) bool, by object."""
    probabilities = aggregate(logits[None])[0]
    if outlined:
        height, width = logits.shape[1:]
        given = {
            k: torch.from_numpy(resize_mask(mask, height, width)).to(logits.device) for k, mask in outlined.items()
        }
        covered = torch.zeros_like(logits[0])
        for coverage in given.values():
            covered += coverage
        probabilities = probabilities * (1 - covered).clamp(min=0)
        for k, coverage in given.items():
            probabilities[k] = coverage
    return probabilities


def object_map(
    size: tuple[int, int], logits: Sequence[Tensor], windows: Sequence[Window | None], seeds: Mapping[int, Seed]
) -> np.ndarray:
    """(H, W) int16, whose each pixel is: the number of the best of n objects, -1 where it is the background.

    One object at a time, so that a 4K frame with many objects does not take gigabytes.

    Args:
        size: height and width of the image.
        logits: of each object, (h, w).
        windows: of each object, the part of the image that its logits are of; None: all of it.
        seeds: what was outlined of the image, by object.
    """
    device = logits[0].device
    best = torch.zeros(size, device=device)  # the background's logit
    ids = torch.full(size, -1, dtype=torch.int16, device=device)
    for k, (logit, window) in enumerate(zip(logits, windows, strict=True)):
        if k in seeds or float(logit.max()) <= 0:
            continue
        best_there, ids_there = (window.cut(best), window.cut(ids)) if window else (best, ids)
        full = logit
        if logit.shape != best_there.shape:
            full = F.interpolate(logit[None, None], size=best_there.shape, mode="bilinear", align_corners=False)[0, 0]
        ids_there.masked_fill_(full > best_there, k)
        torch.maximum(full, best_there, out=best_there)
    objects: np.ndarray = ids.cpu().numpy()
    for k, seed in seeds.items():
        objects[seed.mask] = k
    return objects
