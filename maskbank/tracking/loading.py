"""From settings to a tracker."""

import torch

from maskbank.networks.lite_segmenter import LiteSegmenter
from maskbank.networks.models import MODELS, load_segmenter
from maskbank.settings import Settings
from maskbank.tracking.tracker import Tracker
from maskbank.tuning.decoder_tuner import DecoderTuner


def load_tracker(settings: Settings) -> tuple[Tracker, str]:
    """The tracker that the settings ask for, and the fingerprint of its weights.

    Raises:
        WeightsError: the weights cannot be used; one sentence.
    """
    device = torch.device(settings.device)
    segmenter, fingerprint = load_segmenter(settings.model, settings.weights, device)
    seconds = settings.adapt_seconds
    tune = DecoderTuner(segmenter, seconds) if seconds and isinstance(segmenter, LiteSegmenter) else None
    tracker = Tracker(MODELS[settings.model], segmenter, device, settings.short_side, settings.budget, tune)
    return tracker, fingerprint
