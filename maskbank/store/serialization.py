"""How a revision is written down: blobs, each with its format's version and a checksum.

A blob is a line, `maskbank <version> <sha256 of the rest>`, and a safetensors file, compressed where that pays.
A revision is one small blob that names the blobs that hold the entries of each part of its banks, one with their usage
counters, and those with the tuned decoder. These are named by their content, so what did not change since the revision
before has the same name and is not written again.

Nothing is lost: tensors are written in half precision, or in bytes, only where reading gives the same bits back.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import replace
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from maskbank.bank.entries import Entries
from maskbank.bank.feature_bank import FeatureBank
from maskbank.bank.memory import Memory, TunedDecoder
from maskbank.errors import ForeignModelError, ForeignVersionError
from maskbank.store.store import ObjectRecord, Revision

VERSION = 4
BLOB_BYTES = 2 << 20  # about; a store with a limit for one value can be served
UNCOUNTED = ("keys", "values", "valid", "frame")  # the tensors of entries, but for their usage

Names = tuple[str, ...]
Parts = MutableMapping[Names, Entries | TunedDecoder]  # what is in memory already, by the names of its blobs


class DamagedError(ValueError):
    """A blob is not what was written."""


def revision_name(number: int) -> str:
    """The name of the blob of a revision."""
    return f"r{number}"


def revision_number(name: str) -> int | None:
    """The other way round; None for the name of another blob."""
    return int(name[1:]) if name.startswith("r") else None


def entries_blobs(entries: Entries) -> dict[str, bytes]:
    """The blobs that hold the entries, but for their usage, by name."""
    return dict(_blob(chunk) for chunk in chunks(entries))


def usage_blob(parts: Mapping[str, Entries]) -> tuple[str, bytes]:
    """The name and the blob that holds the usage counters of a bank's parts."""
    return _blob({part: entries.usage for part, entries in parts.items()})


def decoder_blobs(decoder: TunedDecoder) -> dict[str, bytes]:
    """The blobs that hold a decoder's weights, by name."""
    blobs: list[dict[str, Tensor]] = []
    some: dict[str, Tensor] = {}
    size = 0
    for name, weight in sorted(decoder.weights.items()):
        if some and size + weight.nbytes // 2 > BLOB_BYTES:
            blobs.append(some)
            some, size = {}, 0
        some[name] = weight
        size += weight.nbytes // 2
    return dict(_blob(tensors) for tensors in [*blobs, some])


def revision_blob(
    revision: Revision, model_id: str, banks: list[tuple[dict[str, Names], str]], decoder: Names
) -> bytes:
    """The blob that says what a revision is.

    model_id: names the model and the weights: their features mean nothing to others.
    banks: for each bank, the names of the blobs that hold its parts, and of the one with their usage counters.
    decoder: the names of the blobs that hold the tuned decoder; none where there is none.
    """
    description = {
        "model": model_id,
        "bank": revision.bank_id,
        "number": revision.number,
        "digest": revision.digest,
        "frames": revision.memory.frames,
        "last_memorized": revision.memory.last_memorized,
        "objects": [vars(record) for record in revision.objects],
        "banks": [{"parts": parts, "usage": usage} for parts, usage in banks],
        "decoder": decoder,
    }
    prev_mask = {"prev_mask": pack(revision.memory.prev_mask)}
    content = zlib.compress(safetensors.torch.save(prev_mask, {"revision": json.dumps(description)}), 1)
    return with_header(content, checksum(content))


def read_revision(
    data: bytes, model_id: str, fetch: Callable[[Names], list[bytes]], parts: Parts, device: torch.device
) -> Revision:
    """The revision that `revision_blob` took apart, bit for bit.

    fetch: from the names of blobs to what is behind their headers. parts: what need not be fetched again; gets what
    was. The usage counters of entries are not part of it. device: for the tensors.

    Raises ForeignModelError or ForeignVersionError when another model or version wrote it, DamagedError when the bytes
    are not what was written, and whatever `fetch` raises.
    """
    prev_mask, description = _content(data)
    if description["model"] != model_id:
        raise ForeignModelError
    banks = tuple(_read_bank(bank, fetch, parts, device) for bank in description["banks"])
    records = tuple(
        ObjectRecord(each["type"], tuple(each["box"]), each["rle"] and tuple(each["rle"]), each["confidence"])
        for each in description["objects"]
    )
    decoder = _read_decoder(tuple(description["decoder"]), fetch, parts, device)
    memory = Memory(banks, prev_mask.to(device), description["frames"], description["last_memorized"], decoder)
    return Revision(description["bank"], description["number"], description["digest"], memory, records)


def blobs_of(data: bytes) -> set[str]:
    """The names of all blobs that a revision needs."""
    _, description = _content(data)
    banks = description["banks"]
    entries = {name for bank in banks for chunk in bank["parts"].values() for name in chunk}
    return entries | {bank["usage"] for bank in banks} | set(description["decoder"])


def _blob(tensors: dict[str, Tensor]) -> tuple[str, bytes]:
    content = safetensors.torch.save({name: pack(tensor) for name, tensor in tensors.items()})
    digest = checksum(content)
    return f"p{digest[:40]}", with_header(content, digest)


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
    names: Names, fetch: Callable[[Names], list[bytes]], parts: Parts, device: torch.device
) -> TunedDecoder | None:
    if not names:
        return None
    decoder = parts.get(names)
    if not isinstance(decoder, TunedDecoder):
        weights = [read_blob(blob, device) for blob in fetch(names)]
        decoder = parts[names] = TunedDecoder({name: weight for some in weights for name, weight in some.items()})
    return decoder


def _read_bank(
    bank: dict[str, Any], fetch: Callable[[Names], list[bytes]], parts: Parts, device: torch.device
) -> FeatureBank:
    [usages] = (read_blob(blob, device) for blob in fetch((bank["usage"],)))
    named = {}
    for part, listed in bank["parts"].items():
        names = tuple(listed)
        entries = parts.get(names)
        if isinstance(entries, Entries):
            entries = replace(entries, usage=usages[part])
        else:
            loaded = [read_blob(blob, device) for blob in fetch(names)]
            tensors = {name: torch.cat([chunk[name] for chunk in loaded], -1) for name in UNCOUNTED}
            entries = Entries(**tensors, usage=usages[part])
        named[part] = parts[names] = entries
    return FeatureBank.of_parts(named)


def read_blob(content: bytes, device: torch.device) -> dict[str, Tensor]:
    """The tensors of a blob, from what is behind its header. Raises DamagedError."""
    try:
        return {name: unpack(t).to(device) for name, t in safetensors.torch.load(content).items()}
    except SafetensorError as error:
        raise DamagedError("A blob in the store is damaged.") from error


def chunks(entries: Entries) -> Iterator[dict[str, Tensor]]:
    """Entries in portions of a size; as entries are added at the end, the first portions stay the same."""
    tensors = {name: tensor for name, tensor in entries.tensors() if name in UNCOUNTED}
    entry_bytes = sum(t.element_size() * (t.numel() // max(len(entries), 1)) for t in tensors.values())
    step = max(BLOB_BYTES // max(entry_bytes, 1), 1)
    for start in range(0, max(len(entries), 1), step):
        yield {name: tensor[..., start : start + step] for name, tensor in tensors.items()}


def pack(tensor: Tensor) -> Tensor:
    """The same numbers in fewer bytes, where there is a way: half precision, or 255ths as bytes."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.float32:
        ways: list[Callable[[Tensor], Tensor]] = [lambda t: (t * 255).round().to(torch.uint8), Tensor.half]
        for smaller in ways:
            if torch.equal(unpack(smaller(tensor)), tensor):
                return smaller(tensor)
    return tensor


def unpack(tensor: Tensor) -> Tensor:
    """What `pack` was given."""
    if tensor.dtype == torch.uint8:
        return tensor.float() / 255
    return tensor.float() if tensor.dtype == torch.float16 else tensor


def checksum(content: bytes) -> str:
    """64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def with_header(content: bytes, digest: str) -> bytes:
    """Content behind the line that says its version and checksum."""
    return f"maskbank {VERSION} {digest}\n".encode() + content


def without_header(data: bytes) -> bytes:
    """The content behind its header. Raises DamagedError, or ForeignVersionError for another version's."""
    line, _, content = data.partition(b"\n")
    words = line.split(b" ")
    if len(words) != 3 or words[0] != b"maskbank":
        raise DamagedError("What is in the store was not written by MaskBank.")
    if words[1] != str(VERSION).encode():
        raise ForeignVersionError
    if words[2] != checksum(content).encode():
        raise DamagedError("A blob in the store is damaged: its checksum is wrong.")
    return content
