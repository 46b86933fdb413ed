"""How good a network under training is on whole sequences."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from maskbank.evaluation.sequences import AnnotatedSequence, read_sequences, score
from maskbank.files.frames import read_image
from maskbank.networks.lite import Lite
from maskbank.networks.lite_segmenter import LiteSegmenter
from maskbank.networks.models import MODELS
from maskbank.tracking.tracker import Tracker
from maskbank.tracking.video import track_video


def validate(weights: dict[str, Tensor], data: Path) -> float:
    """Mean J&F, in percent, over the sequences below `data`, seeded on their first annotated frames.

    Raises ValueError with one sentence when there is no sequence.
    """
    device = next(iter(weights.values())).device
    network = Lite()
    network.load_state_dict(weights)
    tracker = Tracker(MODELS["lite"], LiteSegmenter(network, device), device)
    return float(np.mean([j_and_f(tracker, sequence) for sequence in read_sequences(data)]))


def j_and_f(tracker: Tracker, sequence: AnnotatedSequence) -> float:
    """The J&F, in percent, of a sequence that is tracked from its first frame."""
    images = (read_image(path) for path in sequence.images)
    tracked = track_video(tracker, images, {0: sequence.seed})
    masks: Iterator[tuple[np.ndarray, list[dict[str, Any]]]] = ((frame.ids, []) for frame in tracked)
    return 100 * score(sequence, "validation", sequence.objects, masks).mean.j_and_f
