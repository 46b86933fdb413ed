"""Builds the tracking service from the environment's settings."""

from collections.abc import Mapping

import torch

from maskbank.networks import MODELS, load_segmenter
from maskbank.service import Service
from maskbank.settings import read_settings
from maskbank.store.memory import MemoryStore
from maskbank.tracker import Tracker


class ModelHandler:
    """The service, and what there is to say about it in the log."""

    def __init__(self, environment: Mapping[str, str]):
        settings = read_settings(environment)
        model = MODELS[settings.model]
        device = torch.device(settings.device)
        segmenter, fingerprint = load_segmenter(settings.model, settings.weights, device)
        tracker = Tracker(model, segmenter, device, settings.short_side, settings.budget)
        store = MemoryStore(settings.ttl_hours * 3600, settings.cache_mb << 20)
        self.service = Service(tracker, store, settings.max_pixels, settings.max_objects)
        self.description = {
            "model": settings.model,
            "weights": fingerprint,
            "device": settings.device,
            "short_side": tracker.short_side,
            "store": settings.store,
        }
