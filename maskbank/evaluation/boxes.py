"""How well objects are found in boxes: the interactor against the masks of annotated sequences."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from maskbank.evaluation.measures import jaccard
from maskbank.evaluation.sequences import AnnotatedSequence
from maskbank.files.frames import read_image
from maskbank.networks.outliner import Outliner
from maskbank.networks.overlaps import disjoint
from maskbank.shapes.conversion import mask_to_shape
from maskbank.shapes.shape import Shape

EVERY = 10  # of the frames; where only some are annotated, all of these
JITTER = 0.1  # of the box's width and height: how far each edge of a box drawn in haste is off
SMALLEST = 30  # pixels; nobody draws a box around less


@dataclass(frozen=True)
class BoxScore:
    """The mean J of a sequence's objects, found in boxes.

    Attributes:
        exact: in exact boxes, each object by itself.
        jittered: the same in boxes drawn in haste.
        together: in exact boxes, the objects of a frame at once: they share no pixels, as where they are tracked.
    """

    sequence: str
    objects: int  # in frames
    exact: float
    jittered: float
    together: float


def score_boxes(outliner: Outliner, sequence: AnnotatedSequence) -> BoxScore:
    """Scores the objects in the first and every tenth frame, or in all that are annotated where only some are."""
    random = np.random.default_rng(0)
    exact, jittered, together = [], [], []
    for image, truths in _frames(sequence):
        found = {}
        for object_id, truth in truths.items():
            shape = mask_to_shape(truth, "rectangle")
            assert shape is not None
            left, top, right, bottom = shape.points
            off = random.uniform(-JITTER, JITTER, 4) * ([right - left, bottom - top] * 2)
            hasty = Shape("rectangle", tuple((np.array(shape.points) + off).tolist()))
            found[object_id] = outliner.object_of(shape, image)
            exact.append(jaccard(found[object_id].mask, truth))
            jittered.append(jaccard(outliner.mask(hasty, image), truth))
        together += [jaccard(seed.mask, truths[object_id]) for object_id, seed in disjoint(found.items())]
    means = (float(np.mean(each or [np.nan])) for each in (exact, jittered, together))
    return BoxScore(sequence.name, len(exact), *means)


def box_report(scores: list[BoxScore]) -> str:
    """A Markdown table: a row per sequence, and the mean of those in which there is an object to draw a box around."""
    lines = ["| sequence | objects in frames | J in the box | J in a box that is off by up to 10 % | J, all together |"]
    lines.append("| --- | --- | --- | --- | --- |")
    ways = ("exact", "jittered", "together")
    means = [float(np.mean([getattr(each, way) for each in scores if each.objects])) for way in ways]
    mean = BoxScore("**mean**", sum(each.objects for each in scores), *means)
    for row in (*scores, mean):
        cells = " | ".join(f"{100 * getattr(row, way):.1f}" for way in ways)
        lines.append(f"| {row.sequence} | {row.objects} | {cells} |")
    return "\n".join(lines)


def _frames(sequence: AnnotatedSequence) -> Iterator[tuple[np.ndarray, dict[int, np.ndarray]]]:
    """The image and the masks of the objects of each frame that counts."""
    frames = [(path, truth) for path, truth in zip(sequence.images, sequence.truths, strict=True) if truth is not None]
    for path, truth in frames[:: EVERY if len(frames) == len(sequence.images) else 1]:
        image = read_image(path)
        masks = {int(object_id): truth == object_id for object_id in np.unique(truth[truth > 0])}
        yield image, {object_id: mask for object_id, mask in masks.items() if mask.sum() >= SMALLEST}
