"""One request in, one reply out: what CVAT's tracker protocol asks is parsed, planned, tracked and answered."""
