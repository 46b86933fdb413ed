"""Builds the tracking service from the environment's settings."""

from collections.abc import Mapping

from maskbank.health import Health
from maskbank.service import Service
from maskbank.settings import build_tracker, read_settings
from maskbank.store.opening import open_store, shown


class ModelHandler:
    """The service, and what there is to say about it."""

    def __init__(self, environment: Mapping[str, str]):
        settings = read_settings(environment)
        tracker, fingerprint = build_tracker(settings)
        maker = f"{settings.model} {fingerprint}"
        ttl_s, cache_bytes = settings.ttl_hours * 3600, settings.cache_mb << 20
        store = open_store(settings.store, ttl_s, maker, cache_bytes, tracker.device)
        self.service = Service(tracker, store, settings.max_pixels, settings.max_objects)
        self.description = {
            "model": settings.model,
            "weights": fingerprint,
            "device": settings.device,
            "short_side": tracker.short_side,
            "store": shown(settings.store),
        }
        self.health = Health(self.description, store)
