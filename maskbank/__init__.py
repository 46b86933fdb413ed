"""MaskBank: an interactive tracker for CVAT that remembers objects in a feature bank."""

__version__ = "0.14.0"
