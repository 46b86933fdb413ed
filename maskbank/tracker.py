"""The loop between network and bank: look at a frame, find the objects in it, remember it if it is worth it.

The tracker itself holds no job: all it knows of one is in a `Memory`, which a call never changes but replaces.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maskbank.bank import FeatureBank
from maskbank.images import resize_image, resize_mask, working_size
from maskbank.networks import Model
from maskbank.networks.lite import compete
from maskbank.networks.segmenter import Adaptation, Remembered, Segmentation, Segmenter

VISIBLE_FROM = 0.5  # presence below it: the object is gone
GONE_BELOW = 0.2  # presence below it: so surely gone that the frame may be memorized as one without the object
SURE_FROM = 0.6  # confidence from which a frame is worth remembering
HIDDEN_LOGIT = -30.0  # of an object that is gone: it takes part in no competition


@dataclass(frozen=True, eq=False)
class Memory:
    """All that is remembered of one job with n objects; an empty one is a job that has yet to be seeded."""

    banks: tuple[FeatureBank, ...] = ()
    hint: Tensor = field(default_factory=lambda: torch.zeros(0))  # (n, ...), from `Segmenter.hint`
    frames: int = 0  # looked at so far; the index of the next one
    memorized: int = 0  # index of the last frame that was memorized
    adaptation: Adaptation | None = None  # of the network, to what was outlined so far

    @property
    def objects(self) -> int:
        return len(self.hint)


@dataclass(frozen=True, eq=False)
class Frame:
    """One image, encoded once for all objects and jobs."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    features: Any
    working: tuple[int, int]  # height, width of the image as the network sees it

    @property
    def size(self) -> tuple[int, int]:
        """Height, width of the image."""
        return self.image.shape[:2]


@dataclass(frozen=True, eq=False)
class Tracked:
    """The answer for one object in one frame."""

    mask: np.ndarray  # (H, W) bool; empty if the object is not visible
    confidence: float  # 0 to 1: expected Jaccard index; for an object that is gone, how surely it is gone

    @property
    def visible(self) -> bool:
        return bool(self.mask.any())


# From an image, the masks outlined in it, and how the network was adapted to the job before, to how it is from now on.
Adapt = Callable[[np.ndarray, Sequence[np.ndarray], Adaptation | None], Adaptation]


class Tracker:
    """Tracks objects of any number of jobs.

    Args:
        model: how to track.
        segmenter: its network, with weights.
        device: where the network runs.
        short_side: of the working image, in pixels; None takes the model's.
        budget: entries per bank; None takes the policy's.
        adapt: adapts the network to a job whenever objects were outlined; None does not.
    """

    def __init__(
        self,
        model: Model,
        segmenter: Segmenter,
        device: torch.device,
        short_side: int | None = None,
        budget: int | None = None,
        adapt: Adapt | None = None,
    ):
        self.model = model
        self.segmenter = segmenter
        self.device = device
        self.short_side = short_side or model.short_side
        self.budget = budget
        self.adapt = adapt

    @torch.inference_mode()
    def look(self, image: np.ndarray) -> Frame:
        """Encodes an image, (H, W, 3) uint8 RGB."""
        working = working_size(*image.shape[:2], self.short_side, self.model.max_scale)
        pixels = torch.tensor(resize_image(image, *working))
        tensor = pixels.to(self.device).permute(2, 0, 1)[None].float() / 255
        return Frame(image, self.segmenter.encode(tensor), working)

    def seed(self, frame: Frame, memory: Memory, masks: dict[int, np.ndarray], guessed: Collection[int] = ()) -> Memory:
        """The memory after objects were outlined in a frame, see `track`."""
        return self.track(frame, [memory], [masks], guessed=[guessed])[0][0]

    @torch.inference_mode()
    def track(
        self,
        frame: Frame,
        memories: Sequence[Memory],
        seeds: Sequence[dict[int, np.ndarray]] | None = None,
        wanted: Sequence[Collection[int]] | None = None,
        guessed: Sequence[Collection[int]] | None = None,
    ) -> list[tuple[Memory, list[Tracked]]]:
        """Finds the objects of all jobs in a frame; they compete for its pixels.

        seeds: for each memory the objects that a person outlined in this frame, by number: (H, W) bool masks, which
        must not overlap. A number from `memory.objects` on is a new object; numbers have no gaps.
        wanted: for each memory the numbers of the objects that are asked for, seeds among them; None: all. The others
        are tracked as well, but compete within their own memory only: nobody may want them any more, because the
        object was outlined anew and is now one of another memory, from which they would take its pixels.
        guessed: for each memory the numbers of seeds whose masks are a guess, from a box; None: none. The network is
        not adapted to them, as that would fortify what is wrong with them.

        Returns for each memory the one to go on with, and its objects' answers in order (for a seed, its mask).
        Raises BankFullError when a bank has no room for one more seed frame.
        """
        seeds = seeds or [{} for _ in memories]
        counts = [m.objects + sum(k >= m.objects for k in s) for m, s in zip(memories, seeds, strict=True)]
        wanted = wanted or [range(count) for count in counts]
        guessed = guessed or [() for _ in memories]
        found = self._segment(frame, memories, wanted)
        logits = torch.cat([self._with_new(part.logits, count) for part, count in zip(found, counts, strict=True)])
        starts = np.cumsum([0, *counts])[:-1].tolist()  # of each job among the objects of all jobs
        outlined = {start + k: mask for start, own in zip(starts, seeds, strict=True) for k, mask in own.items()}
        logits[list(outlined)] = HIDDEN_LOGIT  # what a person said counts, not what the network finds
        everywhere = {start + k for start, own in zip(starts, wanted, strict=True) for k in own}

        answers = []
        contests: dict[tuple[int, ...], tuple[Tensor, np.ndarray]] = {}  # by who takes part: mostly one for all jobs
        for memory, part, own_seeds, guesses, start, count in zip(
            memories, found, seeds, guessed, starts, counts, strict=True
        ):
            own = range(start, start + count)
            rivals = tuple(sorted(everywhere.union(own)))
            if rivals not in contests:
                given = {position: outlined[i] for position, i in enumerate(rivals) if i in outlined}
                contest = logits[list(rivals)]
                contests[rivals] = self._probabilities(frame, contest, given), owners(frame.size, contest, given)
            probabilities, owner = contests[rivals]
            positions = [rivals.index(i) for i in own]
            masks = [owner == position for position in positions]
            tracked = [
                Tracked(mask, 1.0 if k in own_seeds else _confidence(part, k, mask)) for k, mask in enumerate(masks)
            ]
            memory = self._remember(frame, memory, part, probabilities[positions], tracked, own_seeds)
            exact = [mask for k, mask in own_seeds.items() if k not in guesses]
            if exact and self.adapt:
                memory = replace(memory, adaptation=self.adapt(frame.image, exact, memory.adaptation))
            answers.append((memory, tracked))
        return answers

    def _segment(
        self, frame: Frame, memories: Sequence[Memory], wanted: Sequence[Collection[int]]
    ) -> list[Segmentation]:
        """What the network finds of each memory's objects; those that are gone get no pixel.

        The network finds all jobs' objects at once, but by themselves those of a job that it adapted to, or of one
        with objects that nobody may want.
        """
        known = [i for i, memory in enumerate(memories) if memory.objects]
        alone = [i for i in known if not set(range(memories[i].objects)).issubset(wanted[i])]
        found: dict[int, Segmentation] = {}
        for group in ([i for i in known if i not in alone], *([i] for i in alone)):
            if group:
                jobs = [Remembered(memories[i].banks, memories[i].hint, memories[i].adaptation) for i in group]
                found |= zip(group, self.segmenter.segment(frame.features, jobs), strict=True)
        none = torch.zeros(0, device=self.device)
        nothing = Segmentation(torch.zeros(0, *frame.working, device=self.device), none, none, ())
        result = []
        for i in range(len(memories)):
            part = found.get(i, nothing)
            gone = (part.presence < VISIBLE_FROM)[:, None, None]
            result.append(replace(part, logits=part.logits.masked_fill(gone, HIDDEN_LOGIT)))
        return result

    def _with_new(self, logits: Tensor, count: int) -> Tensor:
        new = logits.new_full((count - len(logits), *logits.shape[1:]), HIDDEN_LOGIT)
        return torch.cat([logits, new])

    def _probabilities(self, frame: Frame, logits: Tensor, outlined: dict[int, np.ndarray]) -> Tensor:
        """(n, h, w) at the working size; where a person outlined an object there is no doubt."""
        probabilities = compete(logits[None])[0]
        if outlined:
            given = {
                k: torch.from_numpy(resize_mask(mask, *frame.working)).to(self.device) for k, mask in outlined.items()
            }
            probabilities = probabilities * (1 - sum(given.values())).clamp(min=0)
            for k, mask in given.items():
                probabilities[k] = mask
        return probabilities

    def _remember(
        self,
        frame: Frame,
        memory: Memory,
        found: Segmentation,
        probabilities: Tensor,
        tracked: list[Tracked],
        seeds: dict[int, np.ndarray],
    ) -> Memory:
        banks, now, memorized = memory.banks, memory.frames, memory.memorized
        due = now - memorized >= self.model.memorize_every
        if seeds or due:
            # Use counts only here: on the frames between, banks stay as they are and cost a store nothing.
            banks = tuple(bank.count_use(use) for bank, use in zip(banks, found.use, strict=True))
            joining = len(tracked) - memory.objects
            if joining:
                banks = self.segmenter.join(banks, joining)
            if seeds:
                learns = torch.tensor([k in seeds for k in range(len(tracked))])
            else:
                learns = torch.tensor([self._worth_learning(found, k, t) for k, t in enumerate(tracked)])
            entries = self.segmenter.memorize(frame.features, probabilities, learns, now)
            policy = self.model.policy(self.budget, len(tracked) + 1)
            learn = policy.seed if seeds else policy.memorize
            banks = tuple(bank if new is None else learn(bank, new) for bank, new in zip(banks, entries, strict=True))
            memorized = now
        return Memory(banks, self.segmenter.hint(probabilities), now + 1, memorized, memory.adaptation)

    def _worth_learning(self, found: Segmentation, k: int, tracked: Tracked) -> bool:
        if not self.model.only_sure:
            return True
        return tracked.confidence >= SURE_FROM if tracked.visible else float(found.presence[k]) < GONE_BELOW


def owners(size: tuple[int, int], logits: Tensor, outlined: dict[int, np.ndarray]) -> np.ndarray:
    """(H, W) int32, whose each pixel is: the number of the best of n objects, -1 where it is the background.

    One object at a time, so that a 4K frame with many objects does not take gigabytes.
    """
    best = torch.zeros(size, device=logits.device)  # the background's logit
    ids = torch.full(size, -1, dtype=torch.int32, device=logits.device)
    for k, logit in enumerate(logits):
        if k in outlined or float(logit.max()) <= 0:
            continue
        full = logit
        if tuple(logit.shape) != tuple(size):
            full = F.interpolate(logit[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
        wins = full > best
        best, ids = torch.where(wins, full, best), ids.masked_fill(wins, k)
    owner = ids.cpu().numpy()
    for k, mask in outlined.items():
        owner[mask] = k
    return owner


def _confidence(found: Segmentation, k: int, mask: np.ndarray) -> float:
    presence = float(found.presence[k])
    return presence * float(found.quality[k]) if mask.any() else 1 - presence
