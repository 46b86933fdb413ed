"""Training clips: a few frames with known masks, made from stills or cut from video.

Stills become clips as in STM and its followers (random motion, deformation, colour; Oh et al. 2019), and objects
are cut out and pasted over other backgrounds so that every clip has several objects that compete, occlude each
other, leave and come back.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from maskbank.training.sources import Source
from maskbank.tuning.clips import Clip, affine, augment, bend_field, move_still, warp
from maskbank.tuning.samples import Sample, shares

SMALLEST_SEED = 0.004  # share of the frame an object must cover in the seed frame
LARGEST_SEED = 0.75
MAX_TRIES = 1000  # for one clip


@dataclass(frozen=True)
class ClipRecipe:
    """What clips look like; grows during training."""

    crop_size: int = 256  # pixels, square
    frames: int = 3
    objects: int = 2  # at most
    video: float = 0.4  # share of clips cut from video
    max_gap: int = 5  # stored frames between two frames of a video clip
    cut_away: float = 0.08  # chance that a clip shows something else for a while
    light: float = 0.0  # chance that the light changes hard from frame to frame; above 0, cut-outs also fade


class ClipMaker:
    """Draws clips from sources; deterministic for a given random generator."""

    def __init__(self, stills: list[Source], videos: list[Source], random: np.random.Generator):
        self.random = random
        self.stills, self.videos = stills, videos
        # Big sources count more, but less than by their size: 500 region masks must not drown 30 cows.
        self.still_weights = _weights([len(s.items) ** 0.7 for s in stills])
        self.video_weights = _weights([sum(len(v) ** 0.5 for v in s.items) for s in videos])

    def clip(self, recipe: ClipRecipe) -> Clip:
        """A clip whose seed frame shows at least one object of a usable size.

        Raises ValueError with one sentence when the data gives none: too short sequences, too small or large objects.
        """
        for _ in range(MAX_TRIES):
            from_video = self.videos and self.random.random() < recipe.video
            made = self._video_clip(recipe) if from_video else self._still_clip(recipe)
            if made is None:
                continue
            images, ids = made
            kept = [i for i, share in shares(ids[0]).items() if SMALLEST_SEED <= share <= LARGEST_SEED]
            if not kept:
                continue
            self.random.shuffle(kept)
            renumber = np.zeros(256, np.uint8)
            renumber[kept[: recipe.objects]] = np.arange(1, len(kept[: recipe.objects]) + 1)
            ids = renumber[ids]
            if self.random.random() < recipe.cut_away:
                self._cut_away(images, ids, recipe)
            if recipe.light and self.random.random() < recipe.light:
                images = change_light(images, self.random)
            images = augment(images, self.random)
            if self.random.random() < 0.5:
                images, ids = images[:, :, ::-1], ids[:, :, ::-1]
            return Clip(np.ascontiguousarray(images.transpose(0, 3, 1, 2)), np.ascontiguousarray(ids))
        raise ValueError(
            f"The training data gives no clip of {recipe.frames} frames: it needs images or longer sequences with "
            f"objects that cover {SMALLEST_SEED:.1%} to {LARGEST_SEED:.0%} of the frame."
        )

    # -- stills ------------------------------------------------------------------------------------------------

    def _still(self) -> Sample:
        source = self.stills[self.random.choice(len(self.stills), p=self.still_weights)]
        return source.items[self.random.integers(len(source.items))][0]

    def _still_clip(self, recipe: ClipRecipe) -> tuple[np.ndarray, np.ndarray]:
        """One still in motion, or a background in motion, with cut-outs that move over it.

        Without stills, a frame of a video in motion; what could be cut out of it may be the very object.
        """
        size, frames, rng = recipe.crop_size, recipe.frames, self.random
        if not self.stills:
            sequence = self._sequence()
            images, id_maps = move_still(sequence[rng.integers(len(sequence))], size, frames, rng)
            return np.stack(images), np.stack(id_maps)
        base = self._still()
        ids = base.ids if rng.random() < 0.45 else np.zeros_like(base.ids)
        images, id_maps = move_still(Sample(base.image, ids), size, frames, rng)
        pasted = int(rng.integers(0, 3)) if ids.any() else int(rng.integers(1, 4))
        for number in range(pasted):
            self._paste_cutout(images, id_maps, recipe, new_id=200 + number)
        return np.stack(images), np.stack(id_maps)

    def _paste_cutout(
        self, images: list[np.ndarray], id_maps: list[np.ndarray], recipe: ClipRecipe, new_id: int
    ) -> None:
        """Cuts an object out of a still and lets it move over the clip, in place; it may leave and come back."""
        rng, size = self.random, recipe.crop_size
        sample = self._still()
        objects = sample.objects(smallest=0.01)
        if not objects:
            return
        mask = np.uint8(255) * (sample.ids == rng.choice(objects))
        rows, columns = np.nonzero(mask)
        extent = max(np.ptp(rows), np.ptp(columns), 1)
        scale = size * np.exp(rng.uniform(np.log(0.2), np.log(0.75))) / extent
        flip = -1 if rng.random() < 0.5 else 1
        source = np.array([columns.mean(), rows.mean()])
        start = rng.uniform(0.1, 0.9, 2) * size
        step = rng.normal(0, 0.08, 2) * size
        degrees, turn, growth = rng.uniform(-25, 25), rng.normal(0, 8), rng.normal(0, 0.07)
        bend = rng.choice([0, 2, 4, 7])
        tint = np.float32(1 + rng.uniform(-0.15, 0.15, 3))
        fade = rng.normal(0, 0.1) if recipe.light else 0.0
        away = self._absence(len(images))
        for t in range(len(images)):
            if t in away:
                continue
            matrix = affine(
                scale * np.exp(growth * t),
                degrees + turn * t,
                rng.normal(0, 0.05),
                source,
                start + step * t + rng.normal(0, 0.012, 2) * size,
            )
            if flip < 0:
                matrix = np.array([[-1, 0, size], [0, 1, 0]]) @ np.vstack([matrix, [0, 0, 1]])
            field = bend_field(size, bend, rng)
            alpha = warp(mask, matrix, field, size, cv2.INTER_LINEAR, cv2.BORDER_CONSTANT)
            alpha = cv2.GaussianBlur(alpha, (3, 3), 0)
            left, top, width, height = cv2.boundingRect(alpha)
            if not width:
                continue
            appearance = warp(sample.image, matrix, field, size, cv2.INTER_LINEAR, cv2.BORDER_REFLECT_101)
            part = slice(top, top + height), slice(left, left + width)  # the rest stays as it is
            opacity = alpha[part][..., None].astype(np.float32) / 255
            tinted = np.minimum(appearance[part] * tint * np.float32(np.exp(fade * t)), 255)
            images[t][part] = images[t][part] * (1 - opacity) + tinted * opacity
            id_maps[t][alpha > 127] = new_id

    def _cut_away(self, images: np.ndarray, ids: np.ndarray, recipe: ClipRecipe) -> None:
        """Puts frames of another clip in the place of some after the seed, in place.

        Not where all data has one origin: the frames of one job may show the very object that is to be gone.
        """
        if len(self.stills) < 2 or len(ids) < 2:
            return
        other = self._still_clip(recipe)
        first = int(self.random.integers(1, len(ids)))
        stop = int(self.random.integers(first + 1, len(ids) + 1))
        images[first:stop], ids[first:stop] = other[0][first:stop], 0

    def _absence(self, frames: int) -> range:
        """The frames in which a cut-out is out of view: mostly none, sometimes a stretch after the seed."""
        if frames < 3 or self.random.random() < 0.75:
            return range(0)
        first = int(self.random.integers(1, frames))
        return range(first, int(self.random.integers(first + 1, frames + 1)))

    # -- video -------------------------------------------------------------------------------------------------

    def _sequence(self) -> list[Sample]:
        source = self.videos[self.random.choice(len(self.videos), p=self.video_weights)]
        lengths = _weights([len(v) ** 0.5 for v in source.items])
        return source.items[self.random.choice(len(source.items), p=lengths)]

    def _video_clip(self, recipe: ClipRecipe) -> tuple[np.ndarray, np.ndarray] | None:
        """Frames of a sequence in order or reversed, with random gaps, cropped around an object."""
        rng, size = self.random, recipe.crop_size
        sequence = self._sequence()
        # At most half of the sequence: where few frames were stored, they lie far apart.
        gap = min(recipe.max_gap, max(len(sequence) // (2 * (recipe.frames - 1)), 1))
        steps = rng.integers(1, gap + 1, recipe.frames - 1)
        if steps.sum() >= len(sequence):
            return None
        first = int(rng.integers(len(sequence) - steps.sum()))
        order = first + np.concatenate([[0], steps.cumsum()])
        if rng.random() < 0.5:
            order = order[::-1]
        samples = [sequence[i] for i in order]
        objects = samples[0].objects()
        if not objects:
            return None
        height, width = samples[0].ids.shape
        rows, columns = np.nonzero(samples[0].ids == rng.choice(objects))
        center = np.array([width, height]) / 2
        focus = np.array([columns.mean(), rows.mean()])
        place = center + (focus - center) * rng.uniform(0.3, 1.0)
        matrix = affine(
            max(size / width, size / height) * rng.uniform(0.95, 1.9),
            rng.uniform(-10, 10),
            rng.normal(0, 0.05),
            place,
            np.array([size, size]) * rng.uniform(0.4, 0.6, 2),
        )
        images = [warp(s.image, matrix, None, size, cv2.INTER_LINEAR, cv2.BORDER_REFLECT_101) for s in samples]
        id_maps = [warp(s.ids, matrix, None, size, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT) for s in samples]
        if self.stills and rng.random() < 0.35:
            self._paste_cutout(images, id_maps, recipe, new_id=200)
        return np.stack(images), np.stack(id_maps)


def change_light(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The light of frames (T, S, S, 3) uint8 turns into another, slowly or at once, as where something flies out of
    glare or into shade: brightness, colour, and a veil that is denser in parts of the frame."""
    count, size = images.shape[:2]
    turned = np.linspace(0, 1, count) if random.random() < 0.5 else np.arange(count) >= random.integers(1, count)
    share = turned.astype(np.float32)[:, None, None, None]
    if random.random() < 0.5:
        share = 1 - share

    def between(first: float | np.ndarray, last: float | np.ndarray) -> np.ndarray:
        """By frame, (T, 1, 1, 1 or 3)."""
        by_frame: np.ndarray = np.float32(first) * (1 - share) + np.float32(last) * share
        return by_frame

    gamma = np.exp(between(random.uniform(-0.3, 0.3), random.uniform(-0.6, 0.6)))
    balance = np.exp(between(random.uniform(-0.05, 0.05, 3), random.uniform(-0.2, 0.2, 3)))
    places = cv2.resize(random.uniform(0.2, 1, (3, 3)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    veil = between(random.uniform(0, 0.15), random.uniform(0, 0.7)) * places[None, :, :, None].clip(0, 1)
    is_dark = random.random() < 0.3
    color = random.uniform(0, 50, 3) if is_dark else 255 - random.uniform(0, 60) * np.array([0, 0.5, 1])  # or warm
    lit: np.ndarray = 255 * balance * (images / np.float32(255)) ** gamma
    seen: np.ndarray = lit * (1 - veil) + color.astype(np.float32) * veil
    return seen.clip(0, 255).astype(np.uint8)


def _weights(values: list[float]) -> np.ndarray:
    array = np.array(values, np.float64)
    return array / array.sum() if len(array) else array
