"""Nuclio's entry points."""

import os

from maskbank.function.siblings import shared_folder

os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", str(shared_folder()))  # prometheus_client looks when it is imported

from maskbank.function.handler import handler, init_context  # noqa: E402

__all__ = ["handler", "init_context"]
