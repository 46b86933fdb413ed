"""How well objects are found in boxes: the interactor against the masks of annotated sequences."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from maskbank.evaluation.measures import jaccard
from maskbank.evaluation.sequences import AnnotatedSequence
from maskbank.networks.outliner import Outliner
from maskbank.shapes.conversion import mask_to_shape
from maskbank.shapes.shape import Shape

EVERY = 10  # of the frames; where only some are annotated, all of these
JITTER = 0.1  # of the box's width and height: how far each edge of a box drawn in haste is off
SMALLEST = 30  # pixels; nobody draws a box around less


@dataclass(frozen=True)
class BoxScore:
    """The mean J of a sequence's objects, found in boxes."""

    sequence: str
    objects: int  # in frames
    exact: float
    jittered: float


def score_boxes(outliner: Outliner, sequence: AnnotatedSequence) -> BoxScore:
    """Of the objects in the first and every tenth frame, in their exact boxes and in boxes drawn in haste."""
    random = np.random.default_rng(0)
    exact, jittered = [], []
    for image, mask in _objects(sequence):
        shape = mask_to_shape(mask, "rectangle")
        assert shape is not None
        left, top, right, bottom = shape.points
        off = random.uniform(-JITTER, JITTER, 4) * ([right - left, bottom - top] * 2)
        hasty = Shape("rectangle", tuple((np.array(shape.points) + off).tolist()))
        exact.append(jaccard(outliner.mask(shape, image), mask))
        jittered.append(jaccard(outliner.mask(hasty, image), mask))
    return BoxScore(sequence.name, len(exact), *(float(np.mean(found or [np.nan])) for found in (exact, jittered)))


def box_report(scores: list[BoxScore]) -> str:
    """A Markdown table: a row per sequence, and the mean of those in which there is an object to draw a box around."""
    lines = ["| sequence | objects in frames | J in the box | J in a box that is off by up to 10 % |"]
    lines.append("| --- | --- | --- | --- |")
    means = [float(np.mean([getattr(each, name) for each in scores if each.objects])) for name in ("exact", "jittered")]
    mean = BoxScore("**mean**", sum(each.objects for each in scores), *means)
    for row in (*scores, mean):
        lines.append(f"| {row.sequence} | {row.objects} | {100 * row.exact:.1f} | {100 * row.jittered:.1f} |")
    return "\n".join(lines)


def _objects(sequence: AnnotatedSequence) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The image and the mask of each object in the frames that count."""
    frames = [(path, truth) for path, truth in zip(sequence.images, sequence.truths, strict=True) if truth is not None]
    for path, truth in frames[:: EVERY if len(frames) == len(sequence.images) else 1]:
        image = np.asarray(Image.open(path).convert("RGB"))
        for object_id in np.unique(truth[truth > 0]):
            mask = truth == object_id
            if mask.sum() >= SMALLEST:
                yield image, mask
