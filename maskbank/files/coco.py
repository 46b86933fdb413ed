"""Masks as a COCO instance JSON: what pycocotools, CVAT ("COCO 1.0") and most training code read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from maskbank import __version__
from maskbank.files.atomic import atomic_write

DESCRIPTION = "Masks propagated by MaskBank"


class CocoWriter:
    """Collects id maps frame by frame, then writes them as one JSON file.

    Every object is a category of its own (id = object id) and a track: its annotations carry `track_id`, and
    again inside `attributes`, where CVAT looks for it. Masks are compressed RLE. A frame where an object is
    not visible has no annotation of it.
    """

    def __init__(self, labels: Mapping[int, str] | None = None) -> None:
        """labels: category name per object id; others are called "object 3"."""
        self._labels = dict(labels or {})
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, name: str, ids: np.ndarray) -> None:
        """Add the next frame: its file name and (H, W) object ids, 0 is background."""
        height, width = ids.shape
        image_id = len(self._images) + 1  # COCO counts from 1
        self._images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for object_id in np.unique(ids[ids > 0]).tolist():
            mask = rle.encode(np.asfortranarray(ids == object_id, dtype=np.uint8))
            counts = mask["counts"]
            assert isinstance(counts, bytes)
            self._annotations.append(
                {
                    "id": len(self._annotations) + 1,
                    "image_id": image_id,
                    "category_id": object_id,
                    "track_id": object_id,
                    "segmentation": {"size": [height, width], "counts": counts.decode("ascii")},
                    "area": int(rle.area(mask)),
                    "bbox": rle.toBbox(mask).tolist(),  # x, y, width, height
                    "iscrowd": 0,
                    "attributes": {"track_id": object_id, "occluded": False},
                }
            )

    def __len__(self) -> int:
        """How many frames there are."""
        return len(self._images)

    def document(self) -> dict[str, Any]:
        """The COCO document of everything added so far, ready for `json.dumps`."""
        object_ids = sorted(self._labels.keys() | {a["category_id"] for a in self._annotations})
        categories = [{"id": i, "name": self._labels.get(i, f"object {i}"), "supercategory": ""} for i in object_ids]
        return {
            "info": {"description": DESCRIPTION, "version": __version__},
            "licenses": [],
            "images": self._images,
            "annotations": self._annotations,
            "categories": categories,
        }

    def save(self, path: str | Path) -> None:
        """Write the document; nobody ever finds half of it."""
        with atomic_write(Path(path)) as draft:
            draft.write_text(json.dumps(self.document()), encoding="utf-8")


def is_of_a_run(annotations: Path) -> bool:
    """Whether a file is there that a `CocoWriter` wrote."""
    try:
        return json.loads(annotations.read_bytes())["info"]["description"] == DESCRIPTION  # type: ignore[no-any-return]
    except (OSError, ValueError, KeyError, TypeError):
        return False
