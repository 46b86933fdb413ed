"""The model behind the handler, where people who know CVAT's functions look for it."""

from maskbank.function.model_handler import ModelHandler

__all__ = ["ModelHandler"]
