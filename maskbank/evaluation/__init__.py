"""Measures how good the tracker is on annotated sequences."""
