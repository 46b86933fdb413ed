"""A page to look at a run: what was found, how surely, and where to look first."""
