"""Training clips: a few frames with known masks, made from stills or cut from video.

Stills become clips as in STM and its followers (random motion, deformation, colour; Oh et al. 2019), and objects
are cut out and pasted over other backgrounds so that every clip has several objects that compete, occlude each
other, leave and come back.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from maskbank.training.data import Sample, Source

SMALLEST_SEED = 0.004  # share of the frame an object must cover in the seed frame
LARGEST_SEED = 0.75
MAX_TRIES = 1000  # for one clip


@dataclass(frozen=True)
class Clip:
    images: np.ndarray  # (T, 3, S, S) uint8, RGB
    ids: np.ndarray  # (T, S, S) uint8: 0 background, 1..n objects


@dataclass(frozen=True)
class Recipe:
    """What clips look like; grows during training."""

    size: int = 256  # pixels, square
    frames: int = 3
    objects: int = 2  # at most
    video: float = 0.4  # share of clips cut from video
    max_gap: int = 5  # stored frames between two frames of a video clip
    cut_away: float = 0.08  # chance that a clip shows something else for a while


def affine(scale: float, degrees: float, shear: float, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(2, 3) map of `source` (x, y) onto `target` with scale, rotation and shear around it."""
    angle = np.deg2rad(degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = rotation @ np.array([[1, shear], [0, 1]]) * scale
    return np.concatenate([linear, (target - linear @ source)[:, None]], 1)


class ClipMaker:
    """Draws clips from sources; deterministic for a given random generator."""

    def __init__(self, stills: list[Source], videos: list[Source], random: np.random.Generator):
        self.random = random
        self.stills, self.videos = stills, videos
        # Big sources count more, but less than by their size: 500 region masks must not drown 30 cows.
        self.still_weights = _weights([len(s.items) ** 0.7 for s in stills])
        self.video_weights = _weights([sum(len(v) ** 0.5 for v in s.items) for s in videos])

    def clip(self, recipe: Recipe) -> Clip:
        """A clip whose seed frame shows at least one object of a usable size.

        Raises ValueError with one sentence when the data gives none: too short sequences, too small or large objects.
        """
        for _ in range(MAX_TRIES):
            from_video = self.videos and self.random.random() < recipe.video
            made = self._video_clip(recipe) if from_video else self._still_clip(recipe)
            if made is None:
                continue
            images, ids = made
            kept = [i for i in np.unique(ids[0]) if i and SMALLEST_SEED <= (ids[0] == i).mean() <= LARGEST_SEED]
            if not kept:
                continue
            self.random.shuffle(kept)
            renumber = np.zeros(256, np.uint8)
            renumber[kept[: recipe.objects]] = np.arange(1, len(kept[: recipe.objects]) + 1)
            ids = renumber[ids]
            if self.random.random() < recipe.cut_away:
                self._cut_away(images, ids, recipe)
            images = self._augment(images)
            if self.random.random() < 0.5:
                images, ids = images[:, :, ::-1], ids[:, :, ::-1]
            return Clip(np.ascontiguousarray(images.transpose(0, 3, 1, 2)), np.ascontiguousarray(ids))
        raise ValueError(
            f"The training data gives no clip of {recipe.frames} frames: it needs images or longer sequences with "
            f"objects that cover {SMALLEST_SEED:.1%} to {LARGEST_SEED:.0%} of the frame."
        )

    def moving(self, sample: Sample, recipe: Recipe) -> Clip:
        """A clip of one still in motion, whose objects keep their ids; they may be out of view."""
        images, ids = self._move_still(sample, recipe.size, recipe.frames)
        images = self._augment(np.stack(images))
        return Clip(np.ascontiguousarray(images.transpose(0, 3, 1, 2)), np.stack(ids))

    # -- stills ------------------------------------------------------------------------------------------------

    def _still(self) -> Sample:
        source = self.stills[self.random.choice(len(self.stills), p=self.still_weights)]
        return source.items[self.random.integers(len(source.items))][0]

    def _still_clip(self, recipe: Recipe) -> tuple[np.ndarray, np.ndarray]:
        """One still in motion, or a background in motion, with cut-outs that move over it.

        Without stills, a frame of a video in motion; what could be cut out of it may be the very object.
        """
        size, frames, rng = recipe.size, recipe.frames, self.random
        if not self.stills:
            sequence = self._sequence()
            images, id_maps = self._move_still(sequence[rng.integers(len(sequence))], size, frames)
            return np.stack(images), np.stack(id_maps)
        base = self._still()
        ids = base.ids if rng.random() < 0.45 else np.zeros_like(base.ids)
        images, id_maps = self._move_still(Sample(base.image, ids), size, frames)
        pasted = int(rng.integers(0, 3)) if ids.any() else int(rng.integers(1, 4))
        for number in range(pasted):
            self._paste_cutout(images, id_maps, new_id=200 + number, size=size)
        return np.stack(images), np.stack(id_maps)

    def _move_still(self, sample: Sample, size: int, frames: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        rng = self.random
        height, width = sample.ids.shape
        objects = sample.objects() or sample.objects(0, 1)
        if objects:
            rows, columns = np.nonzero(sample.ids == rng.choice(objects))
            focus = np.array([columns.mean(), rows.mean()])
        else:
            focus = np.array([width, height]) * rng.uniform(0.3, 0.7, 2)
        center = np.array([width, height]) / 2
        source = center + (focus - center) * rng.uniform(0, 1)
        scale = max(size / width, size / height) * rng.uniform(0.9, 1.7)
        degrees, turn = rng.uniform(-20, 20), rng.normal(0, 7)
        drift, growth = rng.normal(0, 0.05, 2) * size, rng.normal(0, 0.06)
        bend = rng.choice([0, 2, 5, 8])
        images, id_maps = [], []
        for t in range(frames):
            matrix = affine(
                scale * np.exp(growth * t),
                degrees + turn * t,
                rng.normal(0, 0.04),
                source,
                np.array([size, size]) / 2 + drift * t + rng.normal(0, 0.01, 2) * size,
            )
            field = self._bend(size, bend)
            images.append(_warp(sample.image, matrix, field, size, cv2.INTER_LINEAR, cv2.BORDER_REFLECT_101))
            id_maps.append(_warp(sample.ids, matrix, field, size, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT))
        return images, id_maps

    def _paste_cutout(self, images: list[np.ndarray], id_maps: list[np.ndarray], new_id: int, size: int) -> None:
        """Cuts an object out of a still and lets it move over the clip, in place; it may leave and come back."""
        rng = self.random
        sample = self._still()
        objects = sample.objects(smallest=0.01)
        if not objects:
            return
        mask = (sample.ids == rng.choice(objects)).astype(np.float32)
        rows, columns = np.nonzero(mask)
        extent = max(np.ptp(rows), np.ptp(columns), 1)
        scale = size * np.exp(rng.uniform(np.log(0.2), np.log(0.75))) / extent
        flip = -1 if rng.random() < 0.5 else 1
        source = np.array([columns.mean(), rows.mean()])
        start = rng.uniform(0.1, 0.9, 2) * size
        step = rng.normal(0, 0.08, 2) * size
        degrees, turn, growth = rng.uniform(-25, 25), rng.normal(0, 8), rng.normal(0, 0.07)
        bend = rng.choice([0, 2, 4, 7])
        tint = 1 + rng.uniform(-0.15, 0.15, 3)
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
            field = self._bend(size, bend)
            alpha = _warp(mask, matrix, field, size, cv2.INTER_LINEAR, cv2.BORDER_CONSTANT)
            look = _warp(sample.image, matrix, field, size, cv2.INTER_LINEAR, cv2.BORDER_REFLECT_101)
            look = np.clip(look * tint, 0, 255)
            alpha = cv2.GaussianBlur(alpha, (3, 3), 0)
            images[t] = (images[t] * (1 - alpha[..., None]) + look * alpha[..., None]).astype(np.uint8)
            id_maps[t][alpha > 0.5] = new_id

    def _cut_away(self, images: np.ndarray, ids: np.ndarray, recipe: Recipe) -> None:
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

    def _bend(self, size: int, pixels: float) -> np.ndarray | None:
        """A smooth random displacement field (S, S, 2) of a few pixels (thin-plate-like, from a 4x4 grid)."""
        if not pixels:
            return None
        grid = self.random.normal(0, pixels, (4, 4, 2)).astype(np.float32)
        return cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)

    # -- video -------------------------------------------------------------------------------------------------

    def _sequence(self) -> list[Sample]:
        source = self.videos[self.random.choice(len(self.videos), p=self.video_weights)]
        lengths = _weights([len(v) ** 0.5 for v in source.items])
        return source.items[self.random.choice(len(source.items), p=lengths)]

    def _video_clip(self, recipe: Recipe) -> tuple[np.ndarray, np.ndarray] | None:
        """Frames of a sequence in order or reversed, with random gaps, cropped around an object."""
        rng, size = self.random, recipe.size
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
        images = [_warp(s.image, matrix, None, size, cv2.INTER_LINEAR, cv2.BORDER_REFLECT_101) for s in samples]
        id_maps = [_warp(s.ids, matrix, None, size, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT) for s in samples]
        if self.stills and rng.random() < 0.35:
            self._paste_cutout(images, id_maps, new_id=200, size=size)
        return np.stack(images), np.stack(id_maps)

    # -- looks -------------------------------------------------------------------------------------------------

    def _augment(self, images: np.ndarray) -> np.ndarray:
        """Light, colour, blur and noise: one change for the clip, a smaller one for each frame."""
        rng = self.random
        gain = 1 + rng.uniform(-0.3, 0.3) + rng.uniform(-0.1, 0.1, 3)
        grey = rng.random() < 0.08
        out = np.empty_like(images)
        for t, image in enumerate(images):
            x = image.astype(np.float32) * (gain + rng.uniform(-0.07, 0.07) + rng.uniform(-0.03, 0.03, 3))
            x += rng.uniform(-12, 12)
            if grey:
                x[:] = x.mean(2, keepdims=True)
            if rng.random() < 0.15:
                x = cv2.GaussianBlur(x, (5, 5), rng.uniform(0.5, 2))
            if rng.random() < 0.1:
                x = _motion_blur(x, int(rng.integers(3, 9)), rng.uniform(0, 180))
            if rng.random() < 0.3:
                noise = rng.integers(-8, 9, x.shape[:2], dtype=np.int16)
                x += noise[..., None]
            out[t] = np.clip(x, 0, 255)
        return out


def _weights(values: list[float]) -> np.ndarray:
    array = np.array(values, np.float64)
    return array / array.sum() if len(array) else array


def _warp(
    image: np.ndarray,
    matrix: np.ndarray,
    field: np.ndarray | None,
    size: int,
    interpolation: int,
    border: int,
) -> np.ndarray:
    """`image` mapped by `matrix` onto (S, S), then bent by `field`."""
    if field is None:
        return cv2.warpAffine(image, matrix, (size, size), flags=interpolation, borderMode=border)
    inverse = cv2.invertAffineTransform(matrix).astype(np.float32)
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32)
    columns, rows = columns + field[..., 0], rows + field[..., 1]
    map_x = inverse[0, 0] * columns + inverse[0, 1] * rows + inverse[0, 2]
    map_y = inverse[1, 0] * columns + inverse[1, 1] * rows + inverse[1, 2]
    return cv2.remap(image, map_x, map_y, interpolation, borderMode=border)


def _motion_blur(image: np.ndarray, length: int, degrees: float) -> np.ndarray:
    kernel = np.zeros((length, length), np.float32)
    kernel[length // 2] = 1 / length
    turn = cv2.getRotationMatrix2D((length / 2 - 0.5, length / 2 - 0.5), degrees, 1)
    kernel = cv2.warpAffine(kernel, turn, (length, length))
    return cv2.filter2D(image, -1, kernel / max(kernel.sum(), 1e-6))
