"""Builds the tracking service from the environment's settings."""

from collections.abc import Mapping

from maskbank.function.health import Health
from maskbank.networks.outliner import load_outliner
from maskbank.service.service import Service
from maskbank.settings import read_settings
from maskbank.store.opening import open_store, redacted
from maskbank.tracking.loading import load_tracker


class ModelHandler:
    """The service, its description for logs and monitoring, and its health."""

    def __init__(self, environment: Mapping[str, str]):
        settings = read_settings(environment)
        tracker, fingerprint = load_tracker(settings)
        model_id = f"{settings.model} {fingerprint}"
        ttl_s, cache_bytes = settings.ttl_hours * 3600, settings.cache_mb << 20
        store = open_store(settings.store, ttl_s, model_id, cache_bytes, tracker.device, settings.store_mb << 20)
        outliner = load_outliner(settings.interactor, tracker.device)
        self.service = Service(tracker, outliner, store, settings.max_pixels, settings.max_objects)
        self.token = settings.token
        self.description = {
            "model": settings.model,
            "weights": fingerprint,
            "device": settings.device,
            "short_side": tracker.short_side,
            "store": redacted(settings.store),
        }
        self.health = Health(self.description, store)
