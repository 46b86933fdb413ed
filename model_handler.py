"""Builds the tracking service from the environment's settings."""

from collections.abc import Mapping

from maskbank.service import Service
from maskbank.settings import build_tracker, read_settings
from maskbank.store.memory import MemoryStore


class ModelHandler:
    """The service, and what there is to say about it in the log."""

    def __init__(self, environment: Mapping[str, str]):
        settings = read_settings(environment)
        tracker, fingerprint = build_tracker(settings)
        store = MemoryStore(settings.ttl_hours * 3600, settings.cache_mb << 20)
        self.service = Service(tracker, store, settings.max_pixels, settings.max_objects)
        self.description = {
            "model": settings.model,
            "weights": fingerprint,
            "device": settings.device,
            "short_side": tracker.short_side,
            "store": settings.store,
        }
