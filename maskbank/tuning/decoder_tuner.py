"""Tuning the decoder to a job, for seconds, on the frames that a person outlined (online adaptation).

What OSVOS began (Caelles et al., CVPR 2017), in small: only the decoder learns. The encoder and the values stay as they
are, so that what a bank remembers keeps its meaning; and a job's decoder is small enough to be kept with its bank.
"""

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch.func import functional_call

from maskbank.bank.memory import TunedDecoder
from maskbank.deadline import Deadline
from maskbank.networks.lite import Lite
from maskbank.networks.lite_segmenter import LiteSegmenter
from maskbank.tuning.clips import moving_clip
from maskbank.tuning.samples import Sample, shrunk
from maskbank.tuning.unrolling import UnrolledLoss

STEPS = 30  # at most; more than that forgets what was learnt before
CROP_SIZE = 224  # pixels, square: of the clips, which show the outlined frame in motion
CLIP_FRAMES = 2  # a seed, and one frame to find it in
BATCH = 2
OBJECTS = 8  # of a step, at most: they learn to compete, but the time of a step must not grow without end
LEARNING_RATE = 4e-4
WARM_UP = 10  # steps
HARD_SHARE = 0.5  # of pixels that count
BLEND = 0.5  # share of the tuned weights in the result: what was known before helps where the object changes


class DecoderTuner:
    """Makes tuned decoders; `Tune` of the tracker.

    Args:
        segmenter: whose decoder is tuned; it is not changed.
        seconds: that tuning may take for a request, unless it has to be answered sooner.
    """

    def __init__(self, segmenter: LiteSegmenter, seconds: float):
        self.device = segmenter.device
        self.seconds = seconds
        network = Lite().eval()
        for name, part in segmenter.network.named_children():
            setattr(network, name, part)
        network.decoder = segmenter.trained_decoder
        self._loss = UnrolledLoss(network)
        # Not the quality head: on frames whose mask is known it would learn that all is well.
        self._own = {
            name: weight for name, weight in network.decoder.named_parameters() if not name.startswith("quality_head.")
        }

    def __call__(
        self, image: np.ndarray, masks: Sequence[np.ndarray], before: TunedDecoder | None, until: Deadline
    ) -> TunedDecoder | None:
        """What `before`, or the network's own decoder (None), becomes after an outlined frame.

        image: (H, W, 3) uint8 RGB; masks: of the objects, (H, W) bool; until: no step is begun that would not end by
        then, if it takes as long as the one before. The same input gives the same result, unless the time runs out;
        where there is none left, `before` stays.
        """
        if until.left_s <= 0:
            return before
        random = np.random.default_rng(0)
        sample = shrunk(Sample(image, id_map(masks)))
        with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng([]):
            torch.manual_seed(0)
            known = self._own if before is None else before.weights
            weights = {name: known[name].detach().clone().requires_grad_() for name in self._own}
            named = {f"network.decoder.{name}": weight for name, weight in weights.items()}
            optimizer = torch.optim.AdamW(weights.values(), lr=LEARNING_RATE, weight_decay=1e-3)
            for step in range(STEPS):
                started = time.monotonic()
                some = some_objects(sample, random)
                clips = [moving_clip(some, CROP_SIZE, CLIP_FRAMES, random) for _ in range(BATCH)]
                if not any(clip.ids[0].any() for clip in clips):
                    continue
                images, ids = (np.stack([getattr(clip, name) for clip in clips]) for name in ("images", "ids"))
                pixels = torch.from_numpy(images).to(self.device).float() / 255
                truth = torch.from_numpy(ids).to(self.device).long()
                loss, _ = functional_call(self._loss, named, (pixels, truth, int(some.ids.max()), HARD_SHARE))
                for group in optimizer.param_groups:
                    group["lr"] = LEARNING_RATE * min(1, (step + 1) / WARM_UP)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(weights.values(), 3.0)
                optimizer.step()
                if until.left_s < time.monotonic() - started:
                    break
            blended = {name: known[name].lerp(weight.detach(), BLEND) for name, weight in weights.items()}
            # In half precision, as a store keeps them: the worker that made them must not see others than the next.
            return TunedDecoder({name: weight.half().float() for name, weight in blended.items()})


def id_map(masks: Sequence[np.ndarray]) -> np.ndarray:
    """(H, W) uint8: 1..n where the masks are, 0 elsewhere; masks from the 256th on are left out."""
    ids = np.zeros(masks[0].shape, np.uint8)
    for number, mask in enumerate(masks[:255], 1):
        ids[mask] = number
    return ids


def some_objects(sample: Sample, random: np.random.Generator) -> Sample:
    """The sample with up to `OBJECTS` of its objects, the others being background."""
    ids = np.unique(sample.ids)
    objects = random.permutation(ids[ids > 0])[:OBJECTS]
    renumber = np.zeros(256, np.uint8)
    renumber[objects] = np.arange(1, len(objects) + 1)
    return Sample(sample.image, renumber[sample.ids])
