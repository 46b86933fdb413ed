"""Batches of clips, made by processes of their own beside the one that trains."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from maskbank.training.clips import ClipMaker
from maskbank.training.schedules import Stage, stage_at
from maskbank.training.sources import Source

Batch = tuple[Tensor, Tensor, int]  # images (B, T, 3, S, S) uint8, ids (B, T, S, S) uint8, objects per clip


class ClipBatches(torch.utils.data.IterableDataset[Batch]):
    """Batches of clips for the stage that training has reached; each worker draws its own.

    progress_at: from the number of a worker's batch to the share of the training that is done by then.
    """

    def __init__(
        self,
        stills: list[Source],
        videos: list[Source],
        stages: tuple[Stage, ...],
        progress_at: Callable[[int], float],
        seed: tuple[int, ...],
    ):
        self.stills, self.videos, self.stages = stills, videos, stages
        self.progress_at, self.seed = progress_at, seed

    def __iter__(self) -> Iterator[Batch]:
        worker = torch.utils.data.get_worker_info()
        assert worker is not None
        maker = ClipMaker(self.stills, self.videos, np.random.default_rng([*self.seed, worker.id]))
        for number in itertools.count():
            stage = stage_at(self.stages, self.progress_at(number))
            # Few objects make quick steps: as often one as two.
            recipe = replace(stage.recipe, objects=int(maker.random.integers(1, stage.recipe.objects + 1)))
            clips = [maker.clip(recipe) for _ in range(stage.batch)]
            images = torch.from_numpy(np.stack([c.images for c in clips]))
            yield images, torch.from_numpy(np.stack([c.ids for c in clips])), recipe.objects
