"""The loop of the paper: read the bank, segment, aggregate, memorize.

The tracker itself holds no job: all it knows of one is in a `Memory`, which a call never changes but replaces.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from maskbank.bank.memory import BankRequest, Memory, Seed, TunedDecoder
from maskbank.bank.policies import AdaptivePolicy
from maskbank.deadline import Deadline
from maskbank.files.images import pixel_digest, resize_image, resize_mask, working_size
from maskbank.networks.aggregation import HIDDEN_LOGIT
from maskbank.networks.models import Model
from maskbank.networks.precision import fast_bfloat16
from maskbank.networks.search_area import SearchArea
from maskbank.networks.segmenter import Segmentation, Segmenter
from maskbank.shapes.window import Window
from maskbank.tracking.aggregation import Aggregation, Region
from maskbank.tracking.search_area import (
    STRIDE,
    common_area,
    in_area,
    may_be_outside,
    pasted,
    search_areas,
    whole_area,
)
from maskbank.tracking.zoom import (
    choose_windows,
    coarser_windows,
    drifted_apart,
    memory_groups,
    moved_prev_mask,
    stretched_prev_mask,
)

PRESENCE_THRESHOLD = 0.5  # presence below it: the object is gone
ABSENCE_THRESHOLD = 0.2  # presence below it: so surely gone that the frame may be memorized as one without the object
# Sides of search areas in cells are multiples of this where a CPU computes in bfloat16: it builds programs of its own
# for each size that it comes across, which takes up to a fifth of the time of a frame, and keeps them.
BFLOAT16_SIDE_STEP = 2
MEMORIZE_CONFIDENCE = 0.6  # presence times quality from which a frame is worth memorizing


@dataclass(frozen=True, eq=False)
class View:
    """A frame, a window of it, or a search area in one of these, encoded once for all objects of all memories."""

    image: np.ndarray  # (H, W, 3) uint8 RGB, without regard to the search area
    features: Any  # of the network
    working: tuple[int, int]  # height, width of the image as the network sees it


@dataclass(eq=False)
class Frame:
    """One image, of which is encoded what is looked at: (H, W, 3) uint8 RGB."""

    image: np.ndarray
    views: dict[tuple[Window | None, SearchArea], View] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """See `pixel_digest`."""
        return pixel_digest(self.image)


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
        self._side_step = BFLOAT16_SIDE_STEP if fast_bfloat16(device) else 1

    @property
    def tune_s(self) -> float:
        """Seconds that tuning may take for a request."""
        return self.tune.seconds if self.tune else 0.0

    @torch.inference_mode()
    def view(self, frame: Frame, window: Window | None = None, area: SearchArea | None = None) -> View:
        """What the network sees of a frame, or of a window of it; of that, it may be only a search area."""
        image = window.cut(frame.image) if window else frame.image
        working = self._working_size(image.shape[:2])
        area = area or whole_area(working)
        if (window, area) not in frame.views:
            pixels = torch.from_numpy(resize_image(image, *working)).permute(2, 0, 1)
            tensor = area.cut(pixels, STRIDE)[None].to(self.device).float() / 255
            frame.views[window, area] = View(image, self.segmenter.encode(tensor), working)
        return frame.views[window, area]

    def _working_size(self, size: tuple[int, int]) -> tuple[int, int]:
        return working_size(*size, self.short_side, self.model.max_scale)

    @torch.inference_mode()
    def track(
        self, frame: Frame, requests: Sequence[BankRequest], tune_until: Deadline | None = None
    ) -> list[tuple[Memory, list[Prediction]]]:
        """Finds the objects of all requests in a frame, for whose pixels they compete.

        tune_until: when tuning has to end; None: when it has taken as long as it may.

        Returns for each request the memory to go on with, and its objects' predictions in order (of a seed, its mask).

        Raises:
            BankFullError: a bank has no room for one more seed frame.
        """
        size = frame.image.shape[:2]
        windows = self.windows(size, requests)
        requests = [self._seen_in(*each, size) for each in zip(windows, requests, strict=True)]
        segmentations = self._segment(frame, requests)
        aggregation = Aggregation(size, requests, [each.logits for each in segmentations])
        tune_until = tune_until or Deadline.within(self.tune_s)
        results = []
        for i, (request, segmentation) in enumerate(zip(requests, segmentations, strict=True)):
            probabilities, regions = aggregation.of(i)
            predictions = [_prediction(request, segmentation, number, each) for number, each in enumerate(regions)]
            memory = self._memorize(frame, request, segmentation, probabilities, predictions)
            if memory.window and request.seeds:
                memory = self._memorize_from_afar(frame, memory.window, request, memory, regions)
            results.append((self._tuned(frame, request, memory, tune_until), predictions))
        return results

    def memory_groups(self, size: tuple[int, int], seeds: Sequence[Seed]) -> list[int]:
        """Which of the new objects on an image of a size (height, width) are to share a memory; see `zoom`."""
        return memory_groups(size, self._working_size(size), seeds) if self.model.zooms else [0] * len(seeds)

    def drifted_apart(self, size: tuple[int, int], requests: Sequence[BankRequest]) -> list[list[list[int]]]:
        """Which objects of each request on an image of a size (height, width) are to have a memory of their own from
        now on: the numbers of those that stay together; see `zoom`."""
        if not self.model.zooms:
            return [[sorted(request.competitors)] for request in requests]
        return drifted_apart(size, self._working_size(size), [self._of_size(size, request) for request in requests])

    def windows(self, size: tuple[int, int], requests: Sequence[BankRequest]) -> list[Window | None]:
        """In which window of an image of a size (height, width) each request is tracked; see `zoom`."""
        if not self.model.zooms:
            return [None] * len(requests)
        return choose_windows(size, self._working_size(size), [self._of_size(size, request) for request in requests])

    def _of_size(self, size: tuple[int, int], request: BankRequest) -> BankRequest:
        """A request about a frame of a size: after another size it knows of no window, but of the whole frame, which
        is stretched to the new one."""
        memory = request.memory
        if memory.size in (None, size) or not (memory.objects and self.model.zooms):
            return request
        before, prev_mask = memory.size, memory.prev_mask
        if memory.window is not None:
            prev_mask = moved_prev_mask(prev_mask, memory.window, None, before, self._working_size(before))
        prev_mask = stretched_prev_mask(prev_mask, self._working_size(size))
        return replace(request, memory=replace(memory, prev_mask=prev_mask, window=None, size=size))

    def _seen_in(self, window: Window | None, request: BankRequest, size: tuple[int, int]) -> BankRequest:
        """A request about a frame of a size with its memory as it is in a window; seeds stay those of the frame.

        Where frames were and are seen in full, a previous mask of another size is the network's to stretch, which then
        looks in all of the frame.
        """
        if window is None and request.memory.window is None:
            return request
        request = self._of_size(size, request)
        memory = request.memory
        if memory.objects and memory.window != window:
            working = self._working_size((window.height, window.width) if window else size)
            prev_mask = moved_prev_mask(memory.prev_mask, memory.window, window, size, working)
            memory = replace(memory, prev_mask=prev_mask)
        return replace(request, memory=replace(memory, window=window))

    def _segment(self, frame: Frame, requests: Sequence[BankRequest]) -> list[Segmentation]:
        """What the network finds of each memory's objects in its window of a frame."""
        found: dict[int, Segmentation] = {}
        for window in dict.fromkeys(request.memory.window for request in requests):
            own = [i for i, request in enumerate(requests) if request.memory.window == window]
            segmentations = self._segment_together(frame, window, [requests[i] for i in own])
            found |= zip(own, segmentations, strict=True)
        return [found[i] for i in range(len(requests))]

    def _segment_together(
        self, frame: Frame, window: Window | None, requests: Sequence[BankRequest]
    ) -> list[Segmentation]:
        """What it finds in a frame, or a window of it.

        Each object is looked for in its search area, and again in all of the frame where that may not hold all of it.
        A frame that is to be memorized is encoded in full, and read in full, so that it is known what else in it
        resembles the outlined objects.
        """
        working = self._working_size((window.height, window.width) if window else frame.image.shape[:2])
        whole = whole_area(working)
        searches = self.model.searches and self.device.type == "cpu"  # a GPU gains nothing from that
        areas = [
            [area.widened(self._side_step, whole) for area in search_areas(request, working)]
            if searches
            else [whole] * request.memory.objects
            for request in requests
        ]
        found = self._segment_in(areas, working, frame, window, requests)
        areas = [list(segmentation.areas) for segmentation in found]
        wider = [
            [
                whole if may_be_outside(logits, prev_mask, area, working) else area
                for logits, prev_mask, area in zip(segmentation.logits, request.memory.prev_mask, own, strict=True)
            ]
            for request, segmentation, own in zip(requests, found, areas, strict=True)
        ]
        return found if wider == areas else self._segment_in(wider, working, frame, window, requests)

    def _segment_in(
        self,
        areas: Sequence[Sequence[SearchArea]],
        working: tuple[int, int],
        frame: Frame,
        window: Window | None,
        requests: Sequence[BankRequest],
    ) -> list[Segmentation]:
        """What is found of the objects in their areas; those that are gone get no pixel."""
        none = torch.zeros(0, device=self.device)
        nothing = Segmentation(torch.zeros(0, *working, device=self.device), none, none, none, (), ())
        if not any(areas):
            return [nothing] * len(requests)
        whole = whole_area(working)
        is_due = any(map(self._is_due, requests))
        common = whole
        if not is_due:
            common = common_area([area for own in areas for area in own], working).widened(self._side_step, whole)
        known = [request for request in requests if request.memory.objects]
        if common != whole:  # of which a previous mask may have another size, as the image before had
            known = [in_area(request, common) for request in known]
        features = self.view(frame, window, common).features
        relative = [[area.within(common) for area in own] for own in areas if own]
        found = iter(self.segmenter.segment(features, known, relative, strict=not is_due))
        segmentations = []
        for request in requests:
            segmentation = next(found) if request.memory.objects else nothing
            gone = (segmentation.presence < PRESENCE_THRESHOLD)[:, None, None]
            logits = pasted(segmentation.logits.masked_fill(gone, HIDDEN_LOGIT), common, working)
            looked_in = tuple(area.shifted(common.left, common.top) for area in segmentation.areas)
            segmentations.append(replace(segmentation, logits=logits, areas=looked_in))
        return segmentations

    def _is_due(self, request: BankRequest) -> bool:
        """Whether a frame is to be memorized, as far as the objects on it can be."""
        memory = request.memory
        return bool(request.seeds) or memory.frames - memory.last_memorized >= self.model.memorize_every

    def _memorize(
        self,
        frame: Frame,
        request: BankRequest,
        segmentation: Segmentation,
        probabilities: Tensor,
        predictions: Sequence[Prediction],
    ) -> Memory:
        """The memory after the frame, whose objects have these `probabilities`, (n, h, w)."""
        memory = request.memory
        banks, now, last_memorized = memory.banks, memory.frames, memory.last_memorized
        outlined = memory.outlined
        if self._is_due(request):
            # Usage counts only here: on the frames between, banks stay as they are and cost a store nothing.
            banks = tuple(bank.count_usage(usage) for bank, usage in zip(banks, segmentation.usage, strict=True))
            if request.objects > memory.objects:
                banks = self.segmenter.add_objects(banks, request.objects - memory.objects)
            if request.seeds:
                valid = [number in request.seeds for number in range(request.objects)]
            else:
                quality = zip(predictions, segmentation.presence.tolist(), segmentation.quality.tolist(), strict=True)
                valid = [self._worth_memorizing(*each) for each in quality]
            features = self.view(frame, memory.window).features
            entries = self.segmenter.memorize(features, probabilities, torch.tensor(valid), now)
            policy = self.model.policy(self.budget, request.objects + 1)
            add = policy.memorize
            if request.seeds:
                add = partial(policy.seed, again=[i for i, digest in outlined.items() if digest == frame.digest])
            banks = tuple(bank if new is None else add(bank, new) for bank, new in zip(banks, entries, strict=True))
            if request.seeds:
                held = {i for bank in banks for i in bank.seed_frames()}
                outlined = {i: digest for i, digest in {**outlined, now: frame.digest}.items() if i in held}
            last_memorized = now
        prev_mask = self.segmenter.prev_mask(probabilities)
        return replace(
            memory,
            banks=banks,
            prev_mask=prev_mask,
            frames=now + 1,
            last_memorized=last_memorized,
            size=frame.image.shape[:2],
            outlined=outlined,
        )

    def _memorize_from_afar(
        self, frame: Frame, window: Window, request: BankRequest, memory: Memory, regions: Sequence[Region]
    ) -> Memory:
        """The memory with the seeds of a window as they look from farther away, where they may have to be found.

        Where its banks have no room for all of that, first comes the farthest.
        """
        size = frame.image.shape[:2]
        valid = torch.tensor([number in request.seeds for number in range(request.objects)])
        policy = self.model.policy(self.budget, request.objects + 1)
        assert isinstance(policy, AdaptivePolicy), "the paper's bank knows no windows"
        banks = memory.banks
        coarser = coarser_windows(window, size, self._working_size(size))[::-1]
        views = [self.view(frame, each) for each in coarser]
        masks: list[list[Tensor]] = [[] for _ in views]
        for mask in (region.mask for region in regions):  # which may be large, and are made anew each time
            for own, each, view in zip(masks, coarser, views, strict=True):
                own.append(torch.from_numpy(resize_mask(each.cut(mask) if each else mask, *view.working)))
        for own, view in zip(masks, views, strict=True):
            probabilities = torch.stack(own).to(self.device)
            entries = self.segmenter.memorize(view.features, probabilities, valid, memory.frames - 1)
            banks = tuple(
                bank if new is None else policy.seed_again(bank, new) for bank, new in zip(banks, entries, strict=True)
            )
        finest = self._working_size(size)[0] / window.height
        return replace(memory, banks=banks, finest=max(memory.finest, finest))

    def _worth_memorizing(self, prediction: Prediction, presence: float, quality: float) -> bool:
        """By what the network says of the mask alone: a part that no outline shows has to be learnt."""
        if not self.model.confident_only:
            return True
        return presence * quality >= MEMORIZE_CONFIDENCE if prediction.visible else presence < ABSENCE_THRESHOLD

    def _tuned(self, frame: Frame, request: BankRequest, memory: Memory, until: Deadline) -> Memory:
        """The memory with a decoder tuned to its new seeds; not to boxes, as that would fortify what is wrong there."""
        exact = [seed.mask for seed in request.seeds.values() if seed.expected_j is None]
        if not exact or self.tune is None:
            return memory
        window = memory.window
        image = self.view(frame, window).image
        exact = [window.cut(mask) for mask in exact] if window else exact
        return replace(memory, tuned_decoder=self.tune(image, exact, memory.tuned_decoder, until))


def _prediction(request: BankRequest, segmentation: Segmentation, number: int, region: Region) -> Prediction:
    if number in request.seeds:
        return Prediction(region, 1.0)
    presence, expected_j = float(segmentation.presence[number]), float(segmentation.expected_j[number])
    return Prediction(region, presence * expected_j if region.visible else 1 - presence)
