"""Nuclio's entry points."""

from maskbank.function.handler import handler, init_context

__all__ = ["handler", "init_context"]
