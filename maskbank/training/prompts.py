"""Training samples of the interactor: an object of an image, and prompts as a person would give them."""

from dataclasses import dataclass

import cv2
import numpy as np

from maskbank.networks.prompts import CONTEXT, OUTSIDE, Box, CropWindow, Points, Prompts, window_around
from maskbank.training.sources import Source
from maskbank.tuning.clips import augment
from maskbank.tuning.samples import Sample

SMALLEST_OBJECT = 200  # pixels
MAX_TRIES = 1000
BOX_ONLY, BOX_AND_CLICKS = 0.7, 0.1  # chance of each; else clicks without a box
JITTER = 0.1  # of a box's size: how far each of its edges is off in half of the samples
WIDEST = 3.5  # a window around clicks, times the object's box
ONE_PART = 0.25  # chance that of an object in parts only one is meant


@dataclass(frozen=True)
class PromptedCrop:
    """One sample."""

    image: np.ndarray  # (S, S, 3) uint8, RGB
    prompts: np.ndarray  # (4, S, S) uint8
    mask: np.ndarray  # (S, S) uint8, 0 or 255


class PromptMaker:
    """Draws samples from sources; deterministic for a given random generator."""

    def __init__(self, sources: list[Source], random: np.random.Generator):
        self.sources, self.random = sources, random
        # Big sources count more, but less than by their size.
        sizes = np.array([sum(len(item) for item in source.items) ** 0.7 for source in sources])
        self.weights = sizes / sizes.sum()

    def crop(self) -> PromptedCrop:
        """A sample. Raises ValueError with one sentence when the data has no object that is large enough."""
        for _ in range(MAX_TRIES):
            source = self.sources[self.random.choice(len(self.sources), p=self.weights)]
            item = source.items[self.random.integers(len(source.items))]
            made = self._prompted(item[self.random.integers(len(item))])
            if made is not None:
                return made
        raise ValueError(f"The training data has no objects of {SMALLEST_OBJECT} pixels or more.")

    def _prompted(self, sample: Sample) -> PromptedCrop | None:
        random = self.random
        objects = sample.objects(0, 0.9)
        if not objects:
            return None
        image, mask = self._turned(sample.image, (sample.ids == random.choice(objects)).astype(np.uint8))
        if random.random() < ONE_PART:
            mask = self._one_part(mask)
        if mask.sum() < SMALLEST_OBJECT:
            return None
        box = tight_box(mask)
        kind = random.random()
        positive: Points = ()
        negative: Points = ()
        before = None
        if kind < BOX_ONLY + BOX_AND_CLICKS:
            prompt: Box | None = self._jittered(box, mask.shape) if random.random() < 0.5 else box
            window = window_around(prompt or box, CONTEXT * np.exp(random.normal(0, 0.05)))
        else:
            prompt, window = None, self._window_around_clicks(box)
        if kind >= BOX_ONLY:
            if prompt is not None or random.random() < 0.5:
                before = self._spoiled(mask)
            positive, negative = self._clicks(mask, before, window)
            if prompt is None and not positive:
                positive = self._places(mask, 1)
        prompts = Prompts(prompt, positive, negative, before).draw(window)
        crop, target = window.crop(image, OUTSIDE), window.crop(mask * np.uint8(255), 0)
        crop = augment(crop[None], random)[0]
        if random.random() < 0.5:
            crop, prompts, target = crop[:, ::-1], prompts[..., ::-1], target[:, ::-1]
        return PromptedCrop(*(np.ascontiguousarray(each) for each in (crop, prompts, target)))

    def _turned(self, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.random.random() < 0.6:
            return image, mask
        height, width = mask.shape
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), self.random.uniform(-25, 25), 1)
        return (
            cv2.warpAffine(image, turn, (width, height), borderMode=cv2.BORDER_REFLECT_101),
            cv2.warpAffine(mask, turn, (width, height), flags=cv2.INTER_NEAREST),
        )

    def _one_part(self, mask: np.ndarray) -> np.ndarray:
        count, parts, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        large = [n for n in range(1, count) if stats[n, cv2.CC_STAT_AREA] >= max(0.2 * mask.sum(), SMALLEST_OBJECT)]
        return (parts == self.random.choice(large)).astype(np.uint8) if large else mask

    def _jittered(self, box: Box, size: tuple[int, ...]) -> Box:
        """A box as drawn in haste."""
        left, top, right, bottom = box
        off = self.random.uniform(-JITTER, JITTER, 4) * ([right - left, bottom - top] * 2)
        left, top, right, bottom = (np.array(box) + off).tolist()
        left, top = max(left, 0), max(top, 0)
        return left, top, max(min(right, size[1]), left + 2), max(min(bottom, size[0]), top + 2)

    def _window_around_clicks(self, box: Box) -> CropWindow:
        """Without a box nobody knows where the object ends."""
        window = window_around(box, np.exp(self.random.uniform(np.log(CONTEXT), np.log(WIDEST))))
        room_x, room_y = window.width - (box[2] - box[0]), window.height - (box[3] - box[1])
        shift = self.random.uniform(-0.4, 0.4, 2) * (room_x, room_y)
        return CropWindow(window.left + round(shift[0]), window.top + round(shift[1]), window.width, window.height)

    def _spoiled(self, mask: np.ndarray) -> np.ndarray:
        """A mask that needs a correction: too thin or too fat, with a part missing and another one added."""
        random = self.random
        left, top, right, bottom = tight_box(mask)
        extent = max(right - left, bottom - top)
        side = max(int(extent * random.uniform(0, 0.08)), 1)
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
        spoiled = (cv2.erode if random.random() < 0.5 else cv2.dilate)(mask, kernel)
        for value in (0, 1):
            if random.random() < 0.7:
                place = (int(random.uniform(left, right)), int(random.uniform(top, bottom)))
                axes = tuple(max(int(extent * random.uniform(0.05, 0.35)), 1) for _ in range(2))
                cv2.ellipse(spoiled, place, axes, random.uniform(0, 180), 0, 360, value, -1)
        return np.asarray(spoiled)

    def _clicks(self, mask: np.ndarray, before: np.ndarray | None, window: CropWindow) -> tuple[Points, Points]:
        """Clicks where the mask before is wrong; without one, on the object and now and then beside it."""
        missing = mask if before is None else mask & (1 - before)
        rows = slice(max(window.top, 0), max(window.top + window.height, 0))
        columns = slice(max(window.left, 0), max(window.left + window.width, 0))
        wrong = np.zeros_like(mask)
        wrong[rows, columns] = (1 - mask)[rows, columns] if before is None else (before & (1 - mask))[rows, columns]
        positive = self._places(missing, int(self.random.integers(1, 4)))
        negative = self._places(wrong, int(self.random.integers(0, 3)))
        return positive, negative

    def _places(self, region: np.ndarray, count: int) -> Points:
        """Points in a region, mostly far from its edges, where people click."""
        distance = cv2.distanceTransform(region, cv2.DIST_L2, 3)
        if not distance.any():
            return ()
        weights = np.where(distance >= 0.3 * distance.max(), distance, 0).ravel().astype(np.float64)
        rows, columns = np.unravel_index(
            self.random.choice(weights.size, count, p=weights / weights.sum()), region.shape
        )
        return list(zip(columns + 0.5, rows + 0.5, strict=True))


def tight_box(mask: np.ndarray) -> Box:
    """The box of a mask (H, W) that is not empty."""
    left, top, width, height = cv2.boundingRect(mask)
    return left, top, left + width, top + height
