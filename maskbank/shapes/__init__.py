"""CVAT's shapes, and the masks that they mean; nothing here knows of networks or requests."""
