"""The loop of the paper: read the bank, segment, aggregate, memorize.

The tracker itself holds no job: all it knows of one is in a `Memory`, which a call never changes but replaces.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from maskbank.bank.memory import BankRequest, Memory, TunedDecoder
from maskbank.deadline import Deadline
from maskbank.files.images import resize_image, working_size
from maskbank.networks.aggregation import HIDDEN_LOGIT
from maskbank.networks.models import Model
from maskbank.networks.segmenter import Segmentation, Segmenter
from maskbank.tracking.aggregation import Aggregation, Region

PRESENCE_THRESHOLD = 0.5  # presence below it: the object is gone
ABSENCE_THRESHOLD = 0.2  # presence below it: so surely gone that the frame may be memorized as one without the object
MEMORIZE_CONFIDENCE = 0.6  # confidence from which a frame is worth memorizing


@dataclass(frozen=True, eq=False)
class EncodedFrame:
    """One image, encoded once for all objects of all memories."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    features: Any  # of the network
    working: tuple[int, int]  # height, width of the image as the network sees it


@dataclass(frozen=True, eq=False)
class Prediction:
    """One object in one frame."""

    region: Region  # empty if the object is not visible
    confidence: float  # 0 to 1: expected Jaccard index; for an object that is gone, how surely it is gone

    @property
    def mask(self) -> np.ndarray:
        """Its pixels, (H, W) bool."""
        return self.region.mask

    @property
    def visible(self) -> bool:
        """Whether any pixel of it is."""
        return self.region.visible


class Tune(Protocol):
    """Tunes a decoder to a job."""

    seconds: float  # that it may take for all jobs of a request together

    def __call__(
        self, image: np.ndarray, masks: Sequence[np.ndarray], before: TunedDecoder | None, until: Deadline
    ) -> TunedDecoder | None:
        """The decoder that was tuned to the job `before`, if there is one, after a frame that was outlined.

        image: (H, W, 3) uint8 RGB; masks: (H, W) bool; until: what was tuned by then counts.
        """


class Tracker:
    """Tracks the objects of any number of memories.

    Args:
        model: how to track.
        segmenter: its network, with weights.
        device: where the network runs.
        short_side: of the working image, in pixels; None takes the model's.
        budget: entries per bank; None takes the policy's.
        tune: tunes the decoder to a job whenever objects are outlined; None does not.
    """

    def __init__(
        self,
        model: Model,
        segmenter: Segmenter,
        device: torch.device,
        short_side: int | None = None,
        budget: int | None = None,
        tune: Tune | None = None,
    ):
        self.model = model
        self.segmenter = segmenter
        self.device = device
        self.short_side = short_side or model.short_side
        self.budget = budget
        self.tune = tune

    @property
    def tune_s(self) -> float:
        """Seconds that tuning may take for a request."""
        return self.tune.seconds if self.tune else 0.0

    @torch.inference_mode()
    def encode(self, image: np.ndarray) -> EncodedFrame:
        """The features of an image, (H, W, 3) uint8 RGB."""
        height, width = image.shape[:2]
        working = working_size(height, width, self.short_side, self.model.max_scale)
        pixels = torch.tensor(resize_image(image, *working))
        tensor = pixels.to(self.device).permute(2, 0, 1)[None].float() / 255
        return EncodedFrame(image, self.segmenter.encode(tensor), working)

    @torch.inference_mode()
    def track(
        self, frame: EncodedFrame, requests: Sequence[BankRequest], tune_until: Deadline | None = None
    ) -> list[tuple[Memory, list[Prediction]]]:
        """Finds the objects of all requests in a frame, for whose pixels they compete.

        tune_until: when tuning has to end; None: when it has taken as long as it may.

        Returns for each request the memory to go on with, and its objects' predictions in order (of a seed, its mask).

        Raises:
            BankFullError: a bank has no room for one more seed frame.
        """
        segmentations = self._read_and_segment(frame, requests)
        aggregation = Aggregation(frame.image.shape[:2], requests, [each.logits for each in segmentations])
        tune_until = tune_until or Deadline.within(self.tune_s)
        results = []
        for i, (request, segmentation) in enumerate(zip(requests, segmentations, strict=True)):
            probabilities, regions = aggregation.of(i)
            predictions = [_prediction(request, segmentation, number, each) for number, each in enumerate(regions)]
            memory = self._memorize(frame, request, segmentation, probabilities, predictions)
            results.append((self._tuned(frame, request, memory, tune_until), predictions))
        return results

    def _read_and_segment(self, frame: EncodedFrame, requests: Sequence[BankRequest]) -> list[Segmentation]:
        """What the network finds of each memory's objects; those that are gone get no pixel."""
        known = [request for request in requests if request.memory.objects]
        found = iter(self.segmenter.segment(frame.features, known)) if known else iter(())
        none = torch.zeros(0, device=self.device)
        nothing = Segmentation(torch.zeros(0, *frame.working, device=self.device), none, none, ())
        segmentations = []
        for request in requests:
            segmentation = next(found) if request.memory.objects else nothing
            gone = (segmentation.presence < PRESENCE_THRESHOLD)[:, None, None]
            segmentations.append(replace(segmentation, logits=segmentation.logits.masked_fill(gone, HIDDEN_LOGIT)))
        return segmentations

    def _memorize(
        self,
        frame: EncodedFrame,
        request: BankRequest,
        segmentation: Segmentation,
        probabilities: Tensor,
        predictions: Sequence[Prediction],
    ) -> Memory:
        """The memory after the frame, whose objects have these `probabilities`, (n, h, w)."""
        memory = request.memory
        banks, now, last_memorized = memory.banks, memory.frames, memory.last_memorized
        if request.seeds or now - last_memorized >= self.model.memorize_every:
            # Usage counts only here: on the frames between, banks stay as they are and cost a store nothing.
            banks = tuple(bank.count_usage(usage) for bank, usage in zip(banks, segmentation.usage, strict=True))
            if request.objects > memory.objects:
                banks = self.segmenter.add_objects(banks, request.objects - memory.objects)
            if request.seeds:
                valid = [number in request.seeds for number in range(request.objects)]
            else:
                valid = [self._worth_memorizing(*each) for each in zip(predictions, segmentation.presence, strict=True)]
            entries = self.segmenter.memorize(frame.features, probabilities, torch.tensor(valid), now)
            policy = self.model.policy(self.budget, request.objects + 1)
            add = policy.seed if request.seeds else policy.memorize
            banks = tuple(bank if new is None else add(bank, new) for bank, new in zip(banks, entries, strict=True))
            last_memorized = now
        prev_mask = self.segmenter.prev_mask(probabilities)
        return Memory(banks, prev_mask, now + 1, last_memorized, memory.tuned_decoder)

    def _worth_memorizing(self, prediction: Prediction, presence: Tensor) -> bool:
        if not self.model.confident_only:
            return True
        if prediction.visible:
            return prediction.confidence >= MEMORIZE_CONFIDENCE
        return float(presence) < ABSENCE_THRESHOLD

    def _tuned(self, frame: EncodedFrame, request: BankRequest, memory: Memory, until: Deadline) -> Memory:
        """The memory with a decoder tuned to its new seeds; not to boxes, as that would fortify what is wrong there."""
        exact = [seed.mask for seed in request.seeds.values() if not seed.from_box]
        if not exact or self.tune is None:
            return memory
        return replace(memory, tuned_decoder=self.tune(frame.image, exact, memory.tuned_decoder, until))


def _prediction(request: BankRequest, segmentation: Segmentation, number: int, region: Region) -> Prediction:
    if number in request.seeds:
        return Prediction(region, 1.0)
    presence, quality = float(segmentation.presence[number]), float(segmentation.quality[number])
    return Prediction(region, presence * quality if region.visible else 1 - presence)
