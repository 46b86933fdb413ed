"""Annotates whole jobs of a CVAT server."""
