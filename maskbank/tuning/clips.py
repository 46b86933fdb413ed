"""Clips of a still: it is set in motion, as STM and its followers train on images (Oh et al. 2019)."""

from dataclasses import dataclass

import cv2
import numpy as np

from maskbank.tuning.samples import Sample

LEVELS = np.arange(256)  # of a channel


@dataclass(frozen=True)
class Clip:
    """T frames of S x S pixels with the ids of their objects."""

    images: np.ndarray  # (T, 3, S, S) uint8, RGB
    ids: np.ndarray  # (T, S, S) uint8: 0 background, 1..n objects


def moving_clip(sample: Sample, size: int, frames: int, random: np.random.Generator) -> Clip:
    """A clip of one still in motion, whose objects keep their ids; they may be out of view."""
    images, ids = move_still(sample, size, frames, random)
    augmented = augment(np.stack(images), random)
    return Clip(np.ascontiguousarray(augmented.transpose(0, 3, 1, 2)), np.stack(ids))


def move_still(
    sample: Sample, size: int, frames: int, random: np.random.Generator
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Images (S, S, 3) and ids (S, S) of a still that is moved, turned, scaled and bent from frame to frame."""
    height, width = sample.ids.shape
    objects = sample.objects() or sample.objects(0, 1)
    if objects:
        rows, columns = np.nonzero(sample.ids == random.choice(objects))
        focus = np.array([columns.mean(), rows.mean()])
    else:
        focus = np.array([width, height]) * random.uniform(0.3, 0.7, 2)
    center = np.array([width, height]) / 2
    source = center + (focus - center) * random.uniform(0, 1)
    scale = max(size / width, size / height) * random.uniform(0.9, 1.7)
    degrees, turn = random.uniform(-20, 20), random.normal(0, 7)
    drift, growth = random.normal(0, 0.05, 2) * size, random.normal(0, 0.06)
    bend = random.choice([0, 2, 5, 8])
    images, id_maps = [], []
    for t in range(frames):
        matrix = affine(
            scale * np.exp(growth * t),
            degrees + turn * t,
            random.normal(0, 0.04),
            source,
            np.array([size, size]) / 2 + drift * t + random.normal(0, 0.01, 2) * size,
        )
        field = bend_field(size, bend, random)
        images.append(warp(sample.image, matrix, field, size, cv2.INTER_LINEAR, cv2.BORDER_REFLECT_101))
        id_maps.append(warp(sample.ids, matrix, field, size, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT))
    return images, id_maps


def affine(scale: float, degrees: float, shear: float, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(2, 3) map of `source` (x, y) onto `target` with scale, rotation and shear around it."""
    angle = np.deg2rad(degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = rotation @ np.array([[1, shear], [0, 1]]) * scale
    return np.concatenate([linear, (target - linear @ source)[:, None]], 1)


def bend_field(size: int, pixels: float, random: np.random.Generator) -> np.ndarray | None:
    """A smooth random displacement field (S, S, 2) of a few pixels (thin-plate-like, from a 4x4 grid)."""
    if not pixels:
        return None
    grid = random.normal(0, pixels, (4, 4, 2)).astype(np.float32)
    return cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)


def warp(
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
    place = np.arange(size, dtype=np.float32)
    columns, rows = place + field[..., 0], place[:, None] + field[..., 1]
    map_x = inverse[0, 0] * columns + inverse[0, 1] * rows + inverse[0, 2]
    map_y = inverse[1, 0] * columns + inverse[1, 1] * rows + inverse[1, 2]
    return cv2.remap(image, map_x, map_y, interpolation, borderMode=border)


def augment(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Light, colour, blur and noise: one change for the clip, a smaller one for each frame."""
    gain = 1 + random.uniform(-0.3, 0.3) + random.uniform(-0.1, 0.1, 3)
    grey = random.random() < 0.08
    out = np.empty_like(images)
    for t, image in enumerate(images):
        light = gain + random.uniform(-0.07, 0.07) + random.uniform(-0.03, 0.03, 3)
        levels = LEVELS[:, None] * light + random.uniform(-12, 12)
        x = cv2.LUT(image, np.clip(levels, 0, 255).astype(np.uint8)[None])
        if grey:
            x[:] = x.mean(2, keepdims=True)
        if random.random() < 0.15:
            x = cv2.GaussianBlur(x, (5, 5), random.uniform(0.5, 2))
        if random.random() < 0.1:
            x = _motion_blur(x, int(random.integers(3, 9)), random.uniform(0, 180))
        if random.random() < 0.3:
            noise = random.integers(-8, 9, x.shape[:2], dtype=np.int16)
            x = np.clip(x + noise[..., None], 0, 255)
        out[t] = x
    return out


def _motion_blur(image: np.ndarray, length: int, degrees: float) -> np.ndarray:
    kernel = np.zeros((length, length), np.float32)
    kernel[length // 2] = 1 / length
    turn = cv2.getRotationMatrix2D((length / 2 - 0.5, length / 2 - 0.5), degrees, 1)
    turned = cv2.warpAffine(kernel, turn, (length, length))
    return cv2.filter2D(image, -1, turned / max(turned.sum(), 1e-6))
