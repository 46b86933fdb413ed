"""The networks that MaskBank can track with, and their weights; nothing here knows of images on disk or of CVAT."""
