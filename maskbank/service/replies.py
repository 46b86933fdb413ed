"""What a request gets in return: shapes and states in CVAT's words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from maskbank.service.requests import STATE_VERSION, Entry
from maskbank.shapes.conversion import mask_to_shape
from maskbank.shapes.rle import decode_rle
from maskbank.shapes.shape import Shape
from maskbank.store.store import ObjectRecord, Revision
from maskbank.tracking.suggestions import suggest, sureness


@dataclass(frozen=True)
class ObjectReply:
    """What is known of one object of a request, in one image."""

    entry: Entry
    revision: Revision
    object: int  # its number there
    size: tuple[int, int]  # height, width of the image

    @property
    def record(self) -> ObjectRecord:
        """The object as the revision has it."""
        return self.revision.objects[self.object]


def state_of(reply: ObjectReply) -> dict[str, Any]:
    """What CVAT keeps of an object and sends back with the next frame."""
    state = {
        "v": STATE_VERSION,
        "bank": reply.revision.bank_id,
        "object": reply.object,
        "revision": reply.revision.number,
        "digest": reply.revision.digest,
        "type": reply.record.type,
        "box": list(reply.record.box),
        "visible": reply.record.rle is not None,
        "confidence": reply.record.confidence,
    }
    if reply.record.expected_j is not None:
        state["expected_j"] = reply.record.expected_j
    if not reply.revision.shared:
        state["shared"] = False
    return state


def shape_for_cvat(reply: ObjectReply) -> object:
    """The shape as CVAT's tracker protocol wants it: a box, and any shape of the legacy protocol, is never missing."""
    shape = _shape_of(reply)
    if shape is None and (reply.record.type == "rectangle" or reply.entry.legacy):
        shape = _last_box(reply.record)
    if shape is None:
        return None
    return list(shape.points) if reply.entry.legacy else _as_json(shape)


def frame_reply(replies: Sequence[ObjectReply | None]) -> dict[str, list[Any]]:
    """One frame of the reply of `Service.propagate`."""
    shapes = [_shape_of(each) if each else None for each in replies]
    return {
        "shapes": [shape and _as_json(shape) for shape in shapes],
        "confidences": [each and each.record.confidence for each in replies],
    }


def suggestion_reply(
    frames: Sequence[Mapping[str, Any]], outlined: Sequence[Sequence[Shape | None]]
) -> dict[str, Any] | None:
    """The frame that is most worth an outline, and the objects there, the worst one first; None where none is.

    Args:
        frames: of the reply of `Service.propagate`, see `frame_reply`.
        outlined: what the request gave for each of these frames, by object.
    """
    pairs = list(zip(frames, outlined, strict=True))
    confidence = {
        slot: [
            None if shapes[slot] else sureness(frame["confidences"][slot], frame["shapes"][slot] is not None)
            for frame, shapes in pairs
        ]
        for slot in range(len(outlined[0]))
    }
    best = next(iter(suggest(confidence, 1)), None)
    return {"frame": best.position, "objects": list(best.objects)} if best else None


def _shape_of(reply: ObjectReply) -> Shape | None:
    """In the type of the object's first shape; None where it is not visible."""
    outlined, record = reply.entry.shape, reply.record
    if outlined is not None and (reply.entry.state is None or outlined.type == record.type):
        return outlined  # what the annotator drew is the truth, to the last digit
    if record.rle is None:
        return None
    if record.type == "mask":
        return Shape("mask", record.rle)
    return mask_to_shape(decode_rle(record.rle, *reply.size), record.type)


def _last_box(record: ObjectRecord) -> Shape:
    """For CVAT's own tracker tab, which cannot do without a shape: where the object was when it was last seen."""
    left, top, right, bottom = record.box
    x1, y1, x2, y2 = float(left), float(top), float(right + 1), float(bottom + 1)
    if record.type == "rectangle":
        return Shape("rectangle", (x1, y1, x2, y2))
    return Shape("polygon", (x1, y1, x2, y1, x2, y2, x1, y2))


def _as_json(shape: Shape) -> dict[str, Any]:
    return {"type": shape.type, "points": list(shape.points)}
