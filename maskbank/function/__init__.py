"""The Nuclio function: its handler, its health, and the same handler without Nuclio."""
