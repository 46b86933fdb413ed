"""Render the sample clip of the demo: two koi and a turtle in a pond, with exact masks.

    python tools/render_sample_clip.py [--out samples/clip] [--seed 7]

The clip is ours from the first pixel to the last, so it can live in the repository and its masks are exact.
It has what a tracker finds hard: outlines that bend, textures that move with the object, look-alikes,
shadows, caustic light, a moving camera, partial occlusions, and one koi that is fully hidden under lily
pads for some frames and comes back.

How it is made: every animal is a set of `Limb`s (a bent spine with a width profile and a texture), every
lily pad a `Leaf`. A frame is the mean of a few instants while the shutter is open (motion blur); the mask is
the scene at the middle of them, drawn as polygons on a four times finer grid, each pixel going to the id
that covers most of it. Masks depend on polygons with integer corners only, so they come out bit-equal on any
machine; colours pass through floating point filters and JPEG and may differ in the last bit. The seed chooses
textures, not shapes or motions.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from maskbank.files.masks import write_id_mask

WIDTH, HEIGHT = 640, 360
FRAMES = 60
SEED = 7
FINE = 4  # polygons are drawn on a grid this many times finer, for smooth edges and fair masks
SHUTTER = (-0.21, -0.07, 0.07, 0.21)  # instants averaged into a frame, in frames around its own time
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 88, cv2.IMWRITE_JPEG_OPTIMIZE, 1]  # about 47 kB per frame
LABELS = ("red koi", "golden koi", "turtle")  # object ids 1, 2, 3
LIGHT = np.array([-0.45, -0.60, 0.66])  # towards the sun: x right, y down, z to the viewer; about unit length
SHADOW_SHIFT = np.array([9.0, 13.0])  # px, where a swimmer's shadow falls on the floor

Rgb = tuple[float, float, float]


# ------------------------------------------------------------------ noise and small helpers


def value_noise(rng: np.random.Generator, size: tuple[int, int], cell: float) -> np.ndarray:
    """Smooth random field, (height, width) float32 in 0..1, with blobs about `cell` pixels wide."""
    height, width = size
    grid = rng.random((int(height / cell) + 3, int(width / cell) + 3), dtype=np.float32)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1)


def fractal_noise(rng: np.random.Generator, size: tuple[int, int], cell: float, octaves: int = 4) -> np.ndarray:
    """Sum of `value_noise` at halving cell sizes and strengths, (height, width) float32 in 0..1."""
    layers = [value_noise(rng, size, max(cell / 2**i, 1.5)) / 2**i for i in range(octaves)]
    return sum(layers) / (2 - 2 ** (1 - octaves))


def smoothstep(low: float, high: float, x: np.ndarray) -> np.ndarray:
    """0 below `low`, 1 above `high`, a smooth slope between."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def mix(a: np.ndarray | Rgb, b: np.ndarray | Rgb, weight: np.ndarray) -> np.ndarray:
    """Blend colours (…, 3) `a` → `b` by `weight` (…) in 0..1."""
    weight = np.asarray(weight, np.float32)[..., None]
    return np.asarray(a, np.float32) * (1 - weight) + np.asarray(b, np.float32) * weight


def unit(angle: float) -> np.ndarray:
    """Unit vector (2,) at `angle` radians (clockwise on the screen, y points down)."""
    return np.array([np.cos(angle), np.sin(angle)])


# ------------------------------------------------------------------ shapes


@dataclass(frozen=True)
class Limb:
    """A bent strip: fish body, fin, flipper, shell, petal.

    spine: (M, 2) float, pixels, from root to tip. half_width: (M,) float, pixels.
    texture: (h, w, 3) float32 0..1; w runs along the spine, h across it.
    roundness: 0 flat … 1 a full barrel, for the shading. opacity: of the colour; the mask is always whole.
    """

    spine: np.ndarray
    half_width: np.ndarray
    texture: np.ndarray
    roundness: float = 1.0
    opacity: float = 1.0

    def normals(self) -> np.ndarray:
        """(M, 2) unit vectors across the spine."""
        along = np.gradient(self.spine, axis=0)
        along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-9
        return np.stack([-along[:, 1], along[:, 0]], axis=1)

    def outline(self) -> np.ndarray:
        """(2M, 2) float polygon, pixels."""
        side = self.normals() * self.half_width[:, None]
        return np.concatenate([self.spine + side, (self.spine - side)[::-1]])

    def colour(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Shaded colour (…, 3) at the pixel centres x, y (…)."""
        points = np.stack([x.ravel(), y.ravel()], axis=1)  # (P, 2)
        root, step = self.spine[:-1], np.diff(self.spine, axis=0)  # (M-1, 2)
        length2 = (step**2).sum(axis=1) + 1e-9
        # the nearest point of the polyline says where along (u) and across (v) the strip a pixel lies
        t = ((points @ step.T - (root * step).sum(axis=1)) / length2).clip(0, 1)  # (P, M-1)
        off_x = points[:, :1] - root[:, 0] - t * step[:, 0]
        off_y = points[:, 1:] - root[:, 1] - t * step[:, 1]
        nearest = (off_x**2 + off_y**2).argmin(axis=1)  # (P,)
        pick = np.arange(len(points))
        place = nearest + t[pick, nearest]  # 0..M-1
        normal = self.normals()
        across = np.stack([np.interp(place, np.arange(len(normal)), normal[:, i]) for i in (0, 1)], axis=1)
        offset = off_x[pick, nearest] * across[:, 0] + off_y[pick, nearest] * across[:, 1]
        width = np.interp(place, np.arange(len(self.half_width)), self.half_width) + 1e-3
        v = (offset / width).clip(-1, 1)
        height, length = self.texture.shape[:2]
        map_x = (place / (len(self.spine) - 1) * (length - 1)).astype(np.float32)
        map_y = ((v + 1) / 2 * (height - 1)).astype(np.float32)
        flat = cv2.remap(self.texture, map_x[:, None], map_y[:, None], cv2.INTER_LINEAR)[:, 0]
        bulge = v * self.roundness * 0.96
        facing = across[:, 0] * bulge * LIGHT[0] + across[:, 1] * bulge * LIGHT[1]
        facing = facing + np.sqrt(1 - bulge**2) * LIGHT[2]
        light = 0.62 + 0.62 * facing.clip(0, 1)
        shine = 0.22 * self.roundness * np.exp(-(((facing - 0.98) / 0.05) ** 2))
        return (flat * light[:, None] + shine[:, None]).reshape(*x.shape, 3)


@dataclass(frozen=True)
class Leaf:
    """A lily pad: a flat round leaf with a notch.

    centre: (2,) pixels. radius: pixels. angle: radians, of the notch. texture: (s, s, 3) float32 0..1.
    """

    centre: np.ndarray
    radius: float
    angle: float
    texture: np.ndarray
    opacity: float = 1.0

    def outline(self) -> np.ndarray:
        """(N, 2) float polygon, pixels."""
        theta = np.linspace(0.14, 2 * np.pi - 0.14, 90)  # the gap is the notch
        wave = 1 + 0.018 * np.sin(5 * theta + self.radius) + 0.012 * np.sin(11 * theta)
        rim = np.stack([np.cos(theta + self.angle), np.sin(theta + self.angle)], axis=1)
        rim *= (self.radius * wave)[:, None]
        heart = 0.20 * self.radius * unit(self.angle)  # the notch ends near the middle
        return self.centre + np.concatenate([rim, heart[None]])

    def colour(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Colour (…, 3) at the pixel centres x, y (…)."""
        dx, dy = (x - self.centre[0]) / self.radius, (y - self.centre[1]) / self.radius
        along, up = np.cos(self.angle), np.sin(self.angle)
        scale = (len(self.texture) - 1) / 2.2
        map_x = ((dx * along + dy * up + 1.1) * scale).astype(np.float32)
        map_y = ((dy * along - dx * up + 1.1) * scale).astype(np.float32)
        tilt = 1 + 0.10 * (dx * LIGHT[0] + dy * LIGHT[1])  # a pad is slightly domed
        return cv2.remap(self.texture, map_x, map_y, cv2.INTER_LINEAR) * tilt[..., None]


Shape = Limb | Leaf


@dataclass(frozen=True)
class Layer:
    """Shapes that move together, bottom to top. `object_id` 0 is scenery."""

    object_id: int
    shapes: Sequence[Shape]


# ------------------------------------------------------------------ textures


def skin(rng: np.random.Generator, light: Rgb, dark: Rgb, cell: float, size=(96, 256)) -> np.ndarray:
    """Mottled skin between two colours."""
    return mix(light, dark, smoothstep(0.25, 0.75, fractal_noise(rng, size, cell)))


def koi_texture(rng: np.random.Generator, base: Rgb, patch: Rgb, back: Rgb, patches: float) -> np.ndarray:
    """Koi skin (112, 320, 3): blotches on a pale base, scales, a dark back line, eyes."""
    size = (112, 320)
    v, u = np.meshgrid(np.linspace(-1, 1, size[0]), np.linspace(0, 1, size[1]), indexing="ij")
    image = mix(base, tuple(0.86 * c for c in base), fractal_noise(rng, size, 30))
    blotch = fractal_noise(rng, size, 58, octaves=3)
    edge = float(np.quantile(blotch, 1 - patches))
    image = mix(image, patch, smoothstep(edge - 0.02, edge + 0.03, blotch))
    row = (np.floor(v * 9) % 2) * 0.5
    scale = np.abs(np.sin(np.pi * (u * 34 + row)) * np.sin(np.pi * v * 9))
    body = smoothstep(0.20, 0.30, u) * (1 - smoothstep(0.75, 1.0, np.abs(v)))  # the head has no scales
    image = image * (1 - 0.28 * body * (1 - scale) ** 2)[..., None]
    line = np.exp(-((v / 0.10) ** 2)) * smoothstep(0.30, 0.42, u) * (1 - smoothstep(0.66, 0.78, u))
    image = mix(image, back, 0.75 * line)
    for side in (-1, 1):
        eye = np.hypot((u - 0.105) * 4.2, (v - side * 0.72) * 0.62)
        image = mix(image, (0.05, 0.04, 0.04), 1 - smoothstep(0.06, 0.10, eye))
    return image.astype(np.float32)


def fin_texture(rng: np.random.Generator, root: Rgb, tip: Rgb) -> np.ndarray:
    """Fin (64, 96, 3): rays from root to tip."""
    v, u = np.meshgrid(np.linspace(-1, 1, 64), np.linspace(0, 1, 96), indexing="ij")
    rays = 0.5 + 0.5 * np.sin(v * 24 + 2.0 * value_noise(rng, (64, 96), 20))
    return mix(mix(root, tip, u), (0.25, 0.20, 0.16), 0.30 * rays * (0.3 + 0.7 * u)).astype(np.float32)


def shell_texture(rng: np.random.Generator) -> np.ndarray:
    """Turtle shell (160, 200, 3): a middle row of plates, two side rows, a rim."""
    size = (160, 200)
    v, u = np.meshgrid(np.linspace(-1, 1, size[0]), np.linspace(0, 1, size[1]), indexing="ij")
    seeds = [(x, 0.0) for x in (0.10, 0.30, 0.50, 0.70, 0.90)]
    seeds += [(x, side * 0.58) for x in (0.20, 0.41, 0.61, 0.81) for side in (-1, 1)]
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    seeds += [(0.5 + 0.53 * np.cos(a), 1.06 * np.sin(a)) for a in angle]
    seeds = np.array(seeds) + rng.normal(0, 0.012, (len(seeds), 2))
    distance = np.stack([np.hypot((u - x) * 1.25, (v - y) * 0.5) for x, y in seeds])  # (plates, h, w)
    order = np.sort(distance, axis=0)
    plate = distance.argmin(axis=0)
    tone = rng.uniform(0.75, 1.15, len(seeds))[plate]
    image = mix((0.42, 0.40, 0.16), (0.23, 0.27, 0.10), fractal_noise(rng, size, 22)) * tone[..., None]
    rings = 0.5 + 0.5 * np.sin(order[0] * 150)
    image = image * (1 - 0.20 * rings)[..., None]
    image = mix(image, (0.72, 0.58, 0.20), 0.75 * np.exp(-((order[0] / 0.045) ** 2)))
    seam = 1 - smoothstep(0.004, 0.020, order[1] - order[0])
    return mix(image, (0.10, 0.09, 0.05), 0.85 * seam).astype(np.float32)


def striped_skin(rng: np.random.Generator, stripes: float) -> np.ndarray:
    """Turtle skin (64, 96, 3): dark green with yellow stripes along the limb."""
    v, u = np.meshgrid(np.linspace(-1, 1, 64), np.linspace(0, 1, 96), indexing="ij")
    image = skin(rng, (0.26, 0.33, 0.17), (0.13, 0.18, 0.10), 14, (64, 96))
    wave = v * stripes + 0.5 * np.sin(u * 5) + 0.8 * value_noise(rng, (64, 96), 24)
    stripe = smoothstep(0.72, 0.95, np.sin(wave * np.pi))
    return mix(image, (0.66, 0.64, 0.28), 0.85 * stripe).astype(np.float32)


def head_texture(rng: np.random.Generator) -> np.ndarray:
    """Turtle head and neck (64, 96, 3): striped skin, a red flash behind each eye."""
    image = striped_skin(rng, 3.4)
    v, u = np.meshgrid(np.linspace(-1, 1, 64), np.linspace(0, 1, 96), indexing="ij")
    for side in (-1, 1):
        flash = np.exp(-(((v - 0.55 * side) / 0.20) ** 2) - ((u - 0.60) / 0.16) ** 2)
        image = mix(image, (0.72, 0.16, 0.08), smoothstep(0.4, 0.7, flash))
        eye = np.hypot((u - 0.84) * 2.6, (v - 0.62 * side) * 0.8)
        image = mix(image, (0.04, 0.04, 0.03), 1 - smoothstep(0.10, 0.17, eye))
    return image.astype(np.float32)


def pad_texture(rng: np.random.Generator) -> np.ndarray:
    """Lily pad (256, 256, 3): branching veins on mottled green, a worn rim."""
    size = (256, 256)
    y, x = np.meshgrid(np.linspace(-1.1, 1.1, 256), np.linspace(-1.1, 1.1, 256), indexing="ij")
    r, theta = np.hypot(x, y), np.arctan2(y, x)
    image = mix((0.30, 0.50, 0.16), (0.17, 0.36, 0.12), smoothstep(0.2, 0.8, fractal_noise(rng, size, 70)))
    image = mix(image, (0.50, 0.56, 0.20), 0.5 * smoothstep(0.55, 0.8, fractal_noise(rng, size, 34)))
    wobble = 0.10 * (value_noise(rng, size, 40) - 0.5)
    count = 15
    turn = (theta + wobble) * count / (2 * np.pi) + 0.5
    near = np.abs(turn - np.round(turn)) * (2 * np.pi / count) * r  # distance to the nearest vein
    image = mix(image, (0.56, 0.66, 0.34), 0.75 * np.exp(-((near / (0.016 * (1.25 - r))) ** 2)))
    fine = (theta + 2.5 * wobble) * 3 * count / (2 * np.pi)
    near = np.abs(fine - np.round(fine)) * (2 * np.pi / (3 * count)) * r
    image = mix(image, (0.44, 0.58, 0.26), 0.45 * np.exp(-((near / 0.010) ** 2)) * smoothstep(0.45, 0.6, r))
    image = mix(image, (0.52, 0.36, 0.14), 0.65 * smoothstep(0.93, 1.02, r + 0.25 * wobble))
    holes = smoothstep(0.80, 0.86, value_noise(rng, size, 12)) * smoothstep(0.4, 0.8, r)
    return mix(image, (0.36, 0.26, 0.10), 0.6 * holes).astype(np.float32)


def pond_floor(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Pebbles under water, (height, width, 3) float32: shaded ellipses, large ones on top of small ones."""
    height, width = size
    image = mix((0.30, 0.29, 0.22), (0.20, 0.21, 0.16), fractal_noise(rng, size, 60))
    tints = np.array(
        [
            (0.46, 0.43, 0.35),
            (0.36, 0.37, 0.33),
            (0.50, 0.42, 0.30),
            (0.28, 0.30, 0.27),
            (0.58, 0.55, 0.47),
            (0.40, 0.33, 0.25),
        ]
    )
    radii = np.sort(rng.gamma(3.2, 2.6, 5200).clip(4, 26))
    for radius in radii:
        cx, cy = rng.uniform(-20, width + 20), rng.uniform(-20, height + 20)
        angle, squash = rng.uniform(0, np.pi), rng.uniform(0.60, 0.95)
        tint = tints[rng.integers(len(tints))] * rng.uniform(0.75, 1.15)
        grain = rng.uniform(0, 100)
        x0, x1 = max(int(cx - radius - 3), 0), min(int(cx + radius + 4), width)
        y0, y1 = max(int(cy - radius - 3), 0), min(int(cy + radius + 4), height)
        if x0 >= x1 or y0 >= y1:
            continue
        y, x = np.mgrid[y0:y1, x0:x1].astype(np.float32)
        along = ((x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)) / radius
        across = ((y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)) / (radius * squash)
        r = np.hypot(along, across) * (1 + 0.06 * np.sin(3 * np.arctan2(across, along) + grain))
        patch = image[y0:y1, x0:x1]
        patch *= (1 - 0.45 * (1 - smoothstep(0.9, 1.25, r)))[..., None]  # the gap around a stone is dark
        slope = (x - cx) / radius * LIGHT[0] + (y - cy) / radius * LIGHT[1]
        light = 0.80 + 0.42 * slope + 0.20 * np.sqrt((1 - r * r).clip(0, 1))
        speck = 1 + 0.10 * np.sin(along * 9 + grain) * np.sin(across * 7 + 2 * grain)
        stone = np.asarray(tint, np.float32) * (light * speck)[..., None]
        patch[...] = mix(patch, stone, 1 - smoothstep(0.90, 1.02, r))
    moss = smoothstep(0.52, 0.72, fractal_noise(rng, size, 110))
    image = mix(image, image * np.array((0.62, 0.85, 0.48), np.float32), 0.8 * moss)
    return cv2.GaussianBlur(image, (0, 0), 1.2).astype(np.float32)  # the floor lies a little out of focus


# ------------------------------------------------------------------ animals


def swim_path(waypoints: Sequence[tuple[float, float]]) -> np.ndarray:
    """Smooth curve through `waypoints`: (N, 2) pixels, evenly spaced along its length."""
    points = np.array(waypoints, float)
    knots = np.arange(len(points), dtype=float)
    # Catmull-Rom: each span is a cubic whose slope at a waypoint is that of its two neighbours
    slope = np.gradient(points, axis=0)
    t = np.linspace(0, len(points) - 1, 60 * len(points))
    i = np.minimum(t.astype(int), len(points) - 2)
    s = (t - knots[i])[:, None]
    curve = (
        (2 * s**3 - 3 * s**2 + 1) * points[i]
        + (s**3 - 2 * s**2 + s) * slope[i]
        + (3 * s**2 - 2 * s**3) * points[i + 1]
        + (s**3 - s**2) * slope[i + 1]
    )
    length = np.concatenate([[0], np.linalg.norm(np.diff(curve, axis=0), axis=1).cumsum()])
    even = np.linspace(0, length[-1], 600)
    return np.stack([np.interp(even, length, curve[:, k]) for k in (0, 1)], axis=1)


def along_path(path: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """(K, 2) points of an evenly spaced `path` at `distance` (K,) pixels from its start."""
    step = np.linalg.norm(path[1] - path[0])
    return np.stack([np.interp(distance / step, np.arange(len(path)), path[:, k]) for k in (0, 1)], axis=1)


def bent(root: np.ndarray, angle: float, length: float, bend: float, points: int = 14) -> np.ndarray:
    """A spine (points, 2) that leaves `root` at `angle` and turns by `bend` radians until its tip."""
    s = np.linspace(0, 1, points)
    heading = angle + bend * s
    steps = np.stack([np.cos(heading), np.sin(heading)], axis=1) * (length / (points - 1))
    return root + np.concatenate([np.zeros((1, 2)), steps[1:].cumsum(axis=0)])


@dataclass(frozen=True)
class Koi:
    """A fish that swims along `path`, its body a travelling wave that grows towards the tail."""

    path: np.ndarray
    start: float  # px along the path of the nose at frame 0
    speed: float  # px per frame
    length: float  # px, nose to root of the tail fin
    phase: float
    body: np.ndarray
    fin: np.ndarray

    def at(self, time: float) -> list[Shape]:
        """Its shapes at `time` (frames), bottom to top."""
        s = np.linspace(0, 1, 36)
        spine = along_path(self.path, self.start + self.speed * time - s * self.length)
        beat = 2 * np.pi * (time / 15.0) + self.phase
        along = np.gradient(spine, axis=0)
        along /= np.linalg.norm(along, axis=1, keepdims=True)
        side = np.stack([-along[:, 1], along[:, 0]], axis=1)
        sway = self.length * (0.012 + 0.085 * s**2) * np.sin(beat - 4.6 * s)
        spine = spine + side * sway[:, None]
        widest = 0.150 * self.length
        width = widest * np.interp(
            s, (0, 0.04, 0.10, 0.22, 0.38, 0.60, 0.82, 1.0), (0.05, 0.36, 0.60, 0.88, 1.0, 0.80, 0.42, 0.22)
        )
        width = np.convolve(np.pad(width, 2, mode="edge"), np.ones(5) / 5, mode="valid")  # no corners
        backward = np.arctan2(*(spine[-1] - spine[-4])[::-1])
        lag = 0.55 * np.sin(beat - 5.6)
        fan = np.linspace(0, 1, 14)
        lobe = 0.115 * self.length * np.sin(np.pi * (0.10 + 0.82 * fan)) * (0.45 + 0.75 * fan)
        shapes: list[Shape] = []
        for turn in (-0.30, 0.30):
            tail = bent(spine[-2], backward + turn + 0.3 * lag, 0.34 * self.length, 0.9 * lag - 0.6 * turn)
            shapes.append(Limb(tail, lobe, self.fin, 0.15, 0.94))
        for place, size, base in ((10, 0.25, 2.05), (22, 0.14, 2.35)):
            for mirror in (-1, 1):
                flap = 0.25 * np.sin(0.8 * beat + mirror * 0.9 + place)
                forward = np.arctan2(-along[place][1], -along[place][0])
                root = spine[place] + mirror * side[place] * width[place] * 0.65
                fin = bent(root, forward - mirror * (base + flap), size * self.length, mirror * 0.7)
                leaf = size * 0.40 * self.length * np.sin(np.pi * (0.12 + 0.82 * fan)) * (0.5 + 0.6 * fan)
                shapes.append(Limb(fin, leaf, self.fin, 0.15, 0.92))
        shapes.append(Limb(spine, width, self.body))
        return shapes


@dataclass(frozen=True)
class Turtle:
    """A pond turtle that drifts along a line, turns, and rows with four legs."""

    path: np.ndarray  # (2, 2) px: where it is at the first and at the last frame
    heading: tuple[float, float]  # radians at the first and at the last frame
    size: float  # px, length of the shell
    shell: np.ndarray
    legs: np.ndarray
    head: np.ndarray

    def at(self, time: float) -> list[Shape]:
        """Its shapes at `time` (frames), bottom to top."""
        progress = time / FRAMES
        centre = self.path[0] + progress * (self.path[-1] - self.path[0])
        stroke = 2 * np.pi * time / 26.0
        angle = self.heading[0] + (self.heading[1] - self.heading[0]) * progress + 0.06 * np.sin(stroke)
        ahead, side = unit(angle), unit(angle + np.pi / 2)
        fan = np.linspace(0, 1, 14)
        shapes: list[Shape] = []
        tail = bent(centre - 0.47 * self.size * ahead, angle + np.pi, 0.20 * self.size, 0.5 * np.sin(stroke))
        shapes.append(Limb(tail, 0.045 * self.size * (1.05 - fan), self.legs))
        for mirror in (-1, 1):
            for front in (True, False):
                row = np.sin(stroke + (0 if front == (mirror > 0) else np.pi))
                along, out = (0.33, 0.30) if front else (-0.34, 0.27)
                root = centre + self.size * (along * ahead + mirror * out * side)
                base, swing, length = (0.95, 0.45, 0.44) if front else (2.25, 0.40, 0.36)
                leg = bent(
                    root,
                    angle + mirror * (base + swing * row),
                    length * self.size,
                    mirror * (0.9 - 0.5 * row) * (1 if front else 0.4),
                )
                width = np.interp(fan, (0, 0.3, 0.75, 0.93, 1), (0.084, 0.089, 0.105, 0.074, 0.026))
                shapes.append(Limb(leg, self.size * width, self.legs, 0.8))
        look = 0.5 * np.sin(0.5 * stroke + 0.8)
        neck = bent(centre + 0.40 * self.size * ahead, angle, 0.45 * self.size, look)
        width = np.interp(fan, (0, 0.4, 0.55, 0.78, 0.93, 1), (0.10, 0.10, 0.12, 0.13, 0.09, 0.025))
        shapes.append(Limb(neck, self.size * width, self.head))
        s = np.linspace(-0.5, 0.5, 40)
        spine = centre + s[:, None] * self.size * ahead
        round_shell = self.size * 0.41 * (1 - np.abs(2 * s) ** 2.3).clip(0.0004, 1) ** 0.5 * (1 - 0.12 * s)
        shapes.append(Limb(spine, round_shell, self.shell, 0.92))
        return shapes


def water_lily(centre: np.ndarray, size: float, petal: np.ndarray, heart: np.ndarray) -> list[Shape]:
    """A flower seen from above: two rings of petals around a yellow heart."""
    fan = np.linspace(0, 1, 14)
    width = np.sin(np.pi * (0.10 + 0.86 * fan)) * (0.7 + 0.4 * fan)
    shapes: list[Shape] = []
    for ring, (count, reach) in enumerate(((9, 1.0), (7, 0.68))):
        for k in range(count):
            angle = 2 * np.pi * (k + 0.5 * ring) / count
            spine = bent(centre + 0.10 * size * unit(angle), angle, reach * size, 0.12)
            shapes.append(Limb(spine, 0.21 * reach * size * width, petal, 0.55))
    spine = bent(centre - np.array([0.15 * size, 0]), 0.0, 0.30 * size, 0.0)
    shapes.append(Limb(spine, 0.15 * size * np.sqrt((1 - (2 * fan - 1) ** 2).clip(0.01, 1)), heart))
    return shapes


# ------------------------------------------------------------------ the scene


class Pond:
    """The whole scene; everything random is drawn once, here, from one seed."""

    def __init__(self, seed: int = SEED) -> None:
        rng = np.random.default_rng(seed)
        white_fin = fin_texture(rng, (0.93, 0.86, 0.80), (0.86, 0.80, 0.76))
        gold_fin = fin_texture(rng, (0.88, 0.62, 0.20), (0.92, 0.76, 0.42))
        self.red_koi = Koi(
            swim_path(
                [
                    (-160, 330),
                    (-40, 300),
                    (110, 262),
                    (270, 205),
                    (400, 138),
                    (510, 118),
                    (600, 170),
                    (625, 260),
                    (600, 350),
                    (520, 420),
                ]
            ),
            start=455,
            speed=7.8,
            length=100,
            phase=0.3,
            fin=white_fin,
            body=koi_texture(rng, (0.96, 0.91, 0.85), (0.84, 0.20, 0.07), (0.55, 0.16, 0.08), 0.46),
        )
        self.golden_koi = Koi(
            swim_path(
                [
                    (150, -150),
                    (190, -40),
                    (215, 60),
                    (270, 160),
                    (370, 235),
                    (480, 270),
                    (610, 262),
                    (760, 215),
                ]
            ),
            start=325,
            speed=5.0,
            length=108,
            phase=2.1,
            fin=gold_fin,
            body=koi_texture(rng, (0.93, 0.66, 0.20), (0.16, 0.12, 0.09), (0.35, 0.20, 0.06), 0.30),
        )
        self.turtle = Turtle(
            np.array([(560.0, 300.0), (400.0, 245.0)]),
            heading=(3.45, 2.75),
            size=92,
            shell=shell_texture(rng),
            legs=striped_skin(rng, 2.2),
            head=head_texture(rng),
        )
        self.pads = [pad_texture(rng) for _ in range(3)]
        paleness = np.tile(np.linspace(1, 0, 64) ** 0.8, (32, 1))  # towards the root of a petal
        self.petal = mix((0.95, 0.62, 0.74), (0.99, 0.93, 0.94), paleness)
        self.heart = skin(rng, (0.98, 0.82, 0.25), (0.85, 0.55, 0.12), 6, (32, 32))
        self.floor = pond_floor(rng, (HEIGHT + 160, WIDTH + 220))
        self.ripples = [value_noise(rng, (HEIGHT + 200, WIDTH + 200), cell) for cell in (46, 34)]
        self.sky = fractal_noise(rng, (HEIGHT + 200, WIDTH + 300), 150, octaves=3)
        self.grain = [rng.normal(0, 0.004, (HEIGHT, WIDTH, 1)).astype(np.float32) for _ in range(5)]

    def camera(self, time: float) -> np.ndarray:
        """World → screen, (2, 3): a slow pan and zoom with a little unsteady hand."""
        zoom = 1.0 + 0.05 * time / FRAMES
        roll = 0.012 * np.sin(time / 19.0)
        pan = np.array([-0.55 * time + 1.6 * np.sin(time / 7.3), 0.18 * time + 1.2 * np.sin(time / 5.1 + 1)])
        turn = zoom * np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
        middle = np.array([WIDTH / 2, HEIGHT / 2])
        return np.column_stack([turn, middle - turn @ middle + pan])

    def layers(self, time: float) -> list[Layer]:
        """Everything that moves at `time` (frames), in world pixels, bottom to top."""
        sway = 2.5 * np.array([np.sin(time / 14.0), np.cos(time / 17.0)])
        pads = [
            Leaf(np.array([466, 164]) + 0.7 * sway, 54, 4.4, self.pads[2]),
            Leaf(np.array([398, 124]) + sway, 72, 4.3 + 0.020 * np.sin(time / 12), self.pads[0]),
            Leaf(np.array([492, 92]) + 0.8 * sway, 60, 5.2 - 0.020 * np.sin(time / 15), self.pads[1]),
        ]
        lone = Leaf(np.array([150, 60]) - sway, 46, 3.9, self.pads[1])
        flower = water_lily(np.array([416, 62]) + sway, 30, self.petal, self.heart)
        return [
            Layer(1, self.red_koi.at(time)),
            Layer(2, self.golden_koi.at(time)),
            Layer(3, self.turtle.at(time)),
            Layer(0, [lone, *pads, *flower]),
        ]

    def id_mask(self, time: float) -> np.ndarray:
        """Visible object ids at `time`, (HEIGHT, WIDTH) uint8: each pixel goes to what covers most of it."""
        camera = self.camera(time)
        fine = np.zeros((HEIGHT * FINE, WIDTH * FINE), np.uint8)
        for layer in self.layers(time):
            for shape in layer.shapes:
                cv2.fillPoly(fine, [fine_polygon(shape, camera)], layer.object_id)
        cells = fine.reshape(HEIGHT, FINE, WIDTH, FINE)
        share = [(cells == i).sum(axis=(1, 3)) for i in range(len(LABELS) + 1)]
        return np.argmax(share, axis=0).astype(np.uint8)

    def instant(self, time: float) -> np.ndarray:
        """The scene at one instant, (HEIGHT, WIDTH, 3) float32 RGB 0..1."""
        camera = self.camera(time)
        image = self.water_floor(time, camera)
        layers = self.layers(time)
        for layer in layers:
            higher = 0.8 if layer.object_id else 1.3  # the pads lie higher above the floor
            shadow = cv2.GaussianBlur(coverage(layer.shapes, camera, SHADOW_SHIFT * higher), (0, 0), 6.0)
            image *= (1 - 0.50 * shadow)[..., None]
        light = self.caustics(time)
        for layer in layers:
            if layer.object_id == 0:
                image = self.surface(image, time)  # the pads lie on the water, the animals under it
            for shape in layer.shapes:
                paint(image, shape, camera, light if layer.object_id else None)
        return image

    def caustics(self, time: float) -> np.ndarray:
        """Light bent by the waves, (HEIGHT, WIDTH) float32 about 1: bright lines where two noises cross."""
        one, two = self.ripples
        a = crop(one, 60 + 1.9 * time, 40 + 0.8 * time)
        b = crop(two, 90 - 1.3 * time, 50 + 1.1 * time)
        ridge = 1 - np.abs(a - b) * 3.2
        return (0.90 + 0.42 * ridge.clip(0, 1) ** 3).astype(np.float32)

    def water_floor(self, time: float, camera: np.ndarray) -> np.ndarray:
        """The floor seen through moving water, (HEIGHT, WIDTH, 3)."""
        place = camera.copy()
        place[:, 2] -= camera[:, :2] @ np.array([110, 80])  # the floor is larger than the screen
        floor = cv2.warpAffine(
            self.floor, place, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
        )
        y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
        one, two = self.ripples
        x += 5.0 * (crop(one, 60 + 1.9 * time, 40 + 0.8 * time) - 0.5)
        y += 5.0 * (crop(two, 90 - 1.3 * time, 50 + 1.1 * time) - 0.5)
        floor = cv2.remap(floor, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        floor = floor * np.array((0.72, 0.90, 0.84), np.float32)  # water takes the red
        depth = smoothstep(0, HEIGHT * 1.4, y)[..., None] * 0.35
        return floor * (1 - depth) * self.caustics(time)[..., None] + np.array((0.02, 0.07, 0.07), np.float32)

    def surface(self, image: np.ndarray, time: float) -> np.ndarray:
        """The sky mirrored on the water: soft pale patches."""
        sky = smoothstep(0.52, 0.85, crop(self.sky, 120 + 0.9 * time, 60 + 0.4 * time))
        return mix(image, (0.72, 0.82, 0.88), 0.18 * sky)

    def frame(self, index: int) -> np.ndarray:
        """Frame `index` with motion blur and a little sensor noise, (HEIGHT, WIDTH, 3) uint8 RGB."""
        image = np.mean([self.instant(index + shift) for shift in SHUTTER], axis=0)
        image = image + self.grain[index % len(self.grain)]
        return (image.clip(0, 1) ** 0.88 * 255 + 0.5).astype(np.uint8)


def crop(field: np.ndarray, x: float, y: float) -> np.ndarray:
    """The screen-sized window of `field` whose corner is at (x, y), with parts of a pixel."""
    move = np.array([[1, 0, -x], [0, 1, -y]])
    return cv2.warpAffine(field, move, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def fine_polygon(shape: Shape, camera: np.ndarray, shift: np.ndarray | float = 0.0) -> np.ndarray:
    """The shape's outline on the fine grid, (N, 1, 2) int32."""
    screen = (shape.outline() + shift) @ camera[:, :2].T + camera[:, 2]
    return np.round((screen + 0.5) * FINE - 0.5).astype(np.int32)[:, None]


def coverage(shapes: Iterable[Shape], camera: np.ndarray, shift: np.ndarray | float = 0.0) -> np.ndarray:
    """How much of each pixel the shapes cover, (HEIGHT, WIDTH) float32 0..1."""
    fine = np.zeros((HEIGHT * FINE, WIDTH * FINE), np.uint8)
    for shape in shapes:
        cv2.fillPoly(fine, [fine_polygon(shape, camera, shift)], 255)
    return cv2.resize(fine, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def paint(image: np.ndarray, shape: Shape, camera: np.ndarray, light: np.ndarray | None) -> None:
    """Draw one shape into `image` (HEIGHT, WIDTH, 3) in place; what is under water is lit by `light`."""
    polygon = fine_polygon(shape, camera)
    x0, y0 = np.maximum(polygon.min(axis=(0, 1)) // FINE - 1, 0)
    x1, y1 = np.minimum(polygon.max(axis=(0, 1)) // FINE + 2, (WIDTH, HEIGHT))
    if x0 >= x1 or y0 >= y1:
        return
    fine = np.zeros(((y1 - y0) * FINE, (x1 - x0) * FINE), np.uint8)
    cv2.fillPoly(fine, [polygon - np.array([x0, y0]) * FINE], 255)
    cover = cv2.resize(fine, (int(x1 - x0), int(y1 - y0)), interpolation=cv2.INTER_AREA)
    y, x = np.mgrid[y0:y1, x0:x1].astype(float)
    world = np.stack([x - camera[0, 2], y - camera[1, 2]], axis=-1) @ np.linalg.inv(camera[:, :2]).T
    colour = shape.colour(world[..., 0], world[..., 1])
    if light is not None:
        colour = colour * (0.35 + 0.65 * light[y0:y1, x0:x1, None])
        colour = mix(colour, (0.16, 0.30, 0.28), 0.12)  # a hand's breadth of water lies above the animals
    image[y0:y1, x0:x1] = mix(image[y0:y1, x0:x1], colour, cover * (shape.opacity / 255))


def main(arguments: Sequence[str] | None = None) -> None:
    """Write `frames/*.jpg`, `masks/*.png` and `labels.json` under the folder given by --out."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "samples" / "clip")
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args(arguments)
    for folder in ("frames", "masks"):
        (options.out / folder).mkdir(parents=True, exist_ok=True)
    pond = Pond(options.seed)
    for index in range(FRAMES):
        image = cv2.cvtColor(pond.frame(index), cv2.COLOR_RGB2BGR)
        name = options.out / "frames" / f"{index:05d}.jpg"
        if not cv2.imwrite(str(name), image, JPEG):
            raise SystemExit(f"could not write {name}")
        write_id_mask(options.out / "masks" / f"{index:05d}.png", pond.id_mask(index))
    labels = {str(i): label for i, label in enumerate(LABELS, start=1)}
    (options.out / "labels.json").write_text(json.dumps(labels, indent=2) + "\n")
    print(f"wrote {FRAMES} frames with masks to {options.out}")


if __name__ == "__main__":
    main()
