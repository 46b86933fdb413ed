"""How a revision is written down: one small blob that names those that hold the rest.

These hold the entries of each part of its banks, an index of each bank (usage counters, and which rows of the blobs a
part consists of) and the tuned decoder. They are named by their content, so what did not change since the revision
before has the same name and is not written again; of a part that changed, only what is new is.

Nothing is lost: reading gives the same bits back.
"""

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from maskbank.bank.entries import Entries
from maskbank.bank.feature_bank import FeatureBank
from maskbank.bank.memory import Memory, TunedDecoder
from maskbank.errors import ForeignModelError
from maskbank.shapes.window import Window
from maskbank.store.blobs import DamagedError, blob, checksum, pack, read_blob, unpack, with_header, without_header
from maskbank.store.layout import CHUNK_BYTES, WRITTEN, Layout, Names, StoredParts
from maskbank.store.store import ObjectRecord, Revision

ROWS = ".rows"  # behind the name of a part in the index


def revision_name(number: int) -> str:
    """The name of the blob of a revision."""
    return f"r{number}"


def revision_number(name: str) -> int | None:
    """The other way round; None for the name of another blob."""
    return int(name[1:]) if name.startswith("r") else None


def index_blob(parts: Mapping[str, Entries], layouts: Mapping[str, Layout]) -> tuple[str, bytes]:
    """The name and the blob that holds the usage counters of a bank's parts, and their rows."""
    usage = {part: entries.usage for part, entries in parts.items()}
    # As differences: mostly ones, which take few bits.
    rows = {
        part + ROWS: torch.from_numpy(np.diff(layout.positions(), prepend=np.int32(0)))
        for part, layout in layouts.items()
        if layout.rows
    }
    return blob(usage | rows)


def decoder_blobs(decoder: TunedDecoder) -> dict[str, bytes]:
    """The blobs that hold a decoder's weights, by name."""
    blobs: list[dict[str, Tensor]] = []
    some: dict[str, Tensor] = {}
    size = 0
    for name, weight in sorted(decoder.weights.items()):
        if some and size + weight.nbytes // 2 > CHUNK_BYTES:
            blobs.append(some)
            some, size = {}, 0
        some[name] = weight
        size += weight.nbytes // 2
    return dict(blob(tensors) for tensors in [*blobs, some])


def revision_blob(
    revision: Revision, model_id: str, banks: list[tuple[dict[str, Names], str]], decoder: Names
) -> bytes:
    """The blob that says what a revision is.

    model_id: names the model and the weights: their features mean nothing to others.
    banks: for each bank, the names of the blobs that hold its parts, and of its index.
    decoder: the names of the blobs that hold the tuned decoder; none where there is none.
    """
    description = {
        "model": model_id,
        "bank": revision.bank_id,
        "number": revision.number,
        "digest": revision.digest,
        "image": revision.image,
        "frames": revision.memory.frames,
        "last_memorized": revision.memory.last_memorized,
        "window": revision.memory.window and vars(revision.memory.window),
        "finest": revision.memory.finest,
        "size": revision.memory.size,
        "outlined": list(revision.memory.outlined.items()),
        "objects": [vars(record) for record in revision.objects],
        "banks": [{"parts": parts, "index": index} for parts, index in banks],
        "decoder": decoder,
    }
    prev_mask = {"prev_mask": pack(revision.memory.prev_mask)}
    content = zlib.compress(safetensors.torch.save(prev_mask, {"revision": json.dumps(description)}), 1)
    return with_header(content, checksum(content))


def read_revision(
    data: bytes, model_id: str, fetch: Callable[[Names], list[bytes]], parts: StoredParts, device: torch.device
) -> Revision:
    """The revision that `revision_blob` took apart, bit for bit.

    fetch: from the names of blobs to what is behind their headers. parts: what need not be fetched again; gets what
    was. The usage counters of entries do not count there. device: for the tensors.

    Raises ForeignModelError or ForeignVersionError when another model or version wrote it, DamagedError when the bytes
    are not what was written, and whatever `fetch` raises.
    """
    prev_mask, description = _content(data)
    if description["model"] != model_id:
        raise ForeignModelError
    banks = tuple(_read_bank(bank, fetch, parts, device) for bank in description["banks"])
    records = tuple(
        ObjectRecord(
            each["type"],
            tuple(each["box"]),
            each["rle"] and tuple(each["rle"]),
            each["confidence"],
            each.get("expected_j"),  # since 0.7.2
        )
        for each in description["objects"]
    )
    decoder = _read_decoder(tuple(description["decoder"]), fetch, parts, device)
    memory = Memory(
        banks,
        prev_mask.to(device),
        description["frames"],
        description["last_memorized"],
        decoder,
        description["window"] and Window(**description["window"]),
        description["finest"],
        tuple(size) if (size := description.get("size")) else None,
        {number: digest for number, digest in description.get("outlined", ())},  # since 0.8
    )
    name = (description["bank"], description["number"], description["digest"])
    return Revision(*name, memory, records, description["image"])


def read_description(data: bytes) -> dict[str, Any]:
    """What a revision says of itself, see `revision_blob`. Raises DamagedError or ForeignVersionError."""
    return _content(data)[1]


def blobs_of(data: bytes) -> set[str]:
    """The names of all blobs that a revision needs."""
    description = read_description(data)
    banks = description["banks"]
    entries = {name for bank in banks for chunk in bank["parts"].values() for name in chunk}
    return entries | {bank["index"] for bank in banks} | set(description["decoder"])


def _content(data: bytes) -> tuple[Tensor, dict[str, Any]]:
    """The previous mask in the blob of a revision, and the description."""
    content = without_header(data)
    try:
        content = zlib.decompress(content)
        prev_mask = unpack(safetensors.torch.load(content)["prev_mask"])
        header = int.from_bytes(content[:8], "little")  # bytes of the JSON that a safetensors file begins with
        return prev_mask, json.loads(json.loads(content[8 : 8 + header])["__metadata__"]["revision"])
    except (zlib.error, SafetensorError, KeyError, ValueError) as error:
        raise DamagedError("A revision in the store is damaged.") from error


def _read_decoder(
    names: Names, fetch: Callable[[Names], list[bytes]], parts: StoredParts, device: torch.device
) -> TunedDecoder | None:
    if not names:
        return None
    decoder = parts.at(Layout(names))
    if not isinstance(decoder, TunedDecoder):
        weights = [read_blob(content, device) for content in fetch(names)]
        decoder = TunedDecoder({name: weight for some in weights for name, weight in some.items()})
        parts.add(decoder, Layout(names))
    return decoder


def _read_bank(
    bank: dict[str, Any], fetch: Callable[[Names], list[bytes]], parts: StoredParts, device: torch.device
) -> FeatureBank:
    [index] = (read_blob(content, device) for content in fetch((bank["index"],)))
    named = {}
    for part, names in bank["parts"].items():
        rows = index[part + ROWS].cumsum(0) if part + ROWS in index else None
        layout = Layout(tuple(names), b"" if rows is None else rows.cpu().numpy().astype(np.int32).tobytes())
        entries = parts.at(layout)
        if isinstance(entries, Entries):
            entries = replace(entries, usage=index[part])
        else:
            loaded = [read_blob(content, device) for content in fetch(layout.names)]
            layout = replace(layout, sizes=tuple(chunk["keys"].shape[1] for chunk in loaded))
            written = [name for name in WRITTEN if all(name in chunk for chunk in loaded)]
            tensors = {name: torch.cat([chunk[name] for chunk in loaded], -1) for name in written}
            if rows is not None:
                tensors = {name: tensor[..., rows.long()].contiguous() for name, tensor in tensors.items()}
            entries = Entries(**tensors, usage=index[part])
            parts.add(entries, layout)
        named[part] = entries
    return FeatureBank.of_parts(named)
