"""What several tests need: the sample clip, and CVAT's side of the tracker protocol."""

import base64
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cvat_sdk.masks import decode_mask, encode_mask
from PIL import Image
from torch import Tensor

from maskbank.bank.feature_bank import FeatureBank
from maskbank.bank.memory import Memory
from maskbank.files.masks import read_id_mask
from maskbank.function.local import invoke
from maskbank.service.service import Service
from maskbank.store.store import Revision

CLIP = Path(__file__).parents[1] / "samples" / "clip"
HEIGHT, WIDTH = 360, 640
RED_KOI, GOLDEN_KOI, TURTLE = 1, 2, 3


def jpeg(index: int) -> bytes:
    """A frame of the sample clip as CVAT sends it."""
    return (CLIP / "frames" / f"{index:05d}.jpg").read_bytes()


def rgb(index: int) -> np.ndarray:
    """The same as (H, W, 3) uint8."""
    return np.array(Image.open(io.BytesIO(jpeg(index))).convert("RGB"))


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def true_mask(index: int, object_id: int) -> np.ndarray:
    """Where an object really is in a frame of the sample clip, (H, W) bool."""
    return read_id_mask(CLIP / "masks" / f"{index:05d}.png") == object_id


def mask_shape(mask: np.ndarray) -> dict[str, Any]:
    return {"type": "mask", "points": encode_mask(mask)}


def decoded(shape: dict[str, Any] | None, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """What CVAT makes of a mask in a reply, (H, W) bool; nothing of null."""
    if shape is None:
        return np.zeros(size, bool)
    assert shape["type"] == "mask"
    return decode_mask(shape["points"], image_height=size[0], image_width=size[1])


def box_of(mask: np.ndarray) -> list[float]:
    """Left, top, right and bottom edge of a mask's pixels."""
    rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    return [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    return (one & other).sum() / max(1, (one | other).sum())


def disjoint(masks: Sequence[np.ndarray]) -> bool:
    return bool((np.sum(masks, axis=0) <= 1).all())


def one_sentence(text: str) -> bool:
    """Whether an annotator can be shown this."""
    suspicious = ("Traceback", "Error", "Exception", "File ", "object at", "tensor", "None", "\n", ". ")
    return text[:1].isupper() and text.endswith(".") and len(text) < 200 and not any(s in text for s in suspicious)


@dataclass(frozen=True)
class Function:
    """A worker with the real handler, called as Nuclio calls it."""

    handler: Any
    context: Any

    def post(self, body: bytes, content_type: str = "application/json", path: str = "/") -> tuple[int, str]:
        status, reply_type, reply = invoke(self.handler, self.context, body, content_type, path)
        assert reply_type == ("application/json" if status == 200 else "text/plain")
        return status, reply.decode()

    def get(self, path: str) -> str:
        """What the worker says of itself."""
        status, _, body = invoke(self.handler, self.context, b"", "", path, "GET")
        assert status == 200
        return body.decode()

    def send(self, request: object, path: str = "/") -> tuple[int, Any]:
        """Status, and the reply or the sentence."""
        status, reply = self.post(json.dumps(request).encode(), path=path)
        return status, json.loads(reply) if status == 200 else reply

    def remembered(self, state: dict[str, Any]) -> Revision:
        """The revision that a state names."""
        revision = self.service.store.load(state["bank"], state["revision"], state["digest"])
        assert revision is not None
        return revision

    def ask(self, image: bytes, shapes: list, states: list) -> tuple[list, list]:
        """The reply's shapes and states to a good request, with all that holds for every reply."""
        status, reply = self.send(request(image, shapes, states))
        assert status == 200, reply
        assert set(reply) == {"shapes", "states"}
        assert len(reply["shapes"]) == len(reply["states"]) == max(len(shapes), len(states))
        assert all(len(json.dumps(state)) <= 300 for state in reply["states"])
        return reply["shapes"], reply["states"]

    def track(self, image: bytes, states: list) -> tuple[list, list]:
        return self.ask(image, [None] * len(states), states)

    @property
    def service(self) -> Service:
        return self.context.user_data.model.service

    @contextmanager
    def seeing(self, presence: float) -> Iterator[None]:
        """A network that thinks of every object that it is in the frame with this probability."""
        last = self.service.tracker.segmenter.network.decoder.quality_head.layers[-1]
        before = {name: tensor.clone() for name, tensor in last.state_dict().items()}
        with torch.no_grad():
            last.weight[0] = 0
            last.bias[0] = float(np.log(presence / (1 - presence)))
        try:
            yield
        finally:
            last.load_state_dict(before)


def request(image: bytes, shapes: list, states: list) -> dict[str, Any]:
    return {"image": base64.b64encode(image).decode(), "shapes": shapes, "states": states}


def tensors_of(memory: Memory) -> dict[str, Tensor]:
    """All tensors of a memory, copied."""
    named = {
        f"{i}.{name}": tensor for i, bank in enumerate(memory.banks) for name, tensor in bank_tensors(bank).items()
    }
    return named | {"prev_mask": memory.prev_mask.clone()}


def bank_tensors(bank: FeatureBank) -> dict[str, Tensor]:
    """All tensors of a bank, copied."""
    parts = bank.named_parts().items()
    return {f"{part}.{name}": tensor.clone() for part, entries in parts for name, tensor in entries.tensors()}


def equal_tensors(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())
