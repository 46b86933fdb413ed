"""How a revision of a bank is written down: pieces of bytes, each with its format's version and a checksum.

A piece is a line, `maskbank <version> <sha256 of the rest>`, and a safetensors file, compressed where that pays.
A revision is one small piece that names the pieces that hold the entries of each part of its banks, one with their use
counters, and those with the network's adaptation. A piece is named by its content, so what did not change since the
revision before has the same name and is not written again.

Nothing is lost: tensors are written in half precision, or in bytes, only where reading gives the same bits back.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import asdict, replace

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from maskbank.bank import Entries, FeatureBank
from maskbank.errors import ForeignBankError
from maskbank.networks.segmenter import Adaptation
from maskbank.requests import START_AGAIN
from maskbank.store import Answer, ObjectRecord, Revision
from maskbank.tracker import Memory

VERSION = 2
PIECE_BYTES = 2 << 20  # about; a store with a limit for one value can be served
UNCOUNTED = ("keys", "values", "valid", "frame")  # the tensors of entries, but for their use


class DamagedError(ValueError):
    """A piece is not what was written."""


Names = tuple[str, ...]


def revision_name(number: int) -> str:
    return f"r{number}"


def revision_number(name: str) -> int | None:
    """The other way round; None for the name of another piece."""
    return int(name[1:]) if name.startswith("r") else None


def entries_pieces(entries: Entries) -> dict[str, bytes]:
    """The pieces that hold the entries, but for their use, by name."""
    return dict(_piece(slab) for slab in slabs(entries))


def use_piece(named: Mapping[str, Entries]) -> tuple[str, bytes]:
    """The name and the piece that holds the use counters of a bank's parts."""
    return _piece({part: entries.use for part, entries in named.items()})


def adaptation_pieces(adaptation: Adaptation) -> dict[str, bytes]:
    """The pieces that hold an adaptation's weights, by name."""
    pieces, some, size = [], {}, 0
    for name, weight in sorted(adaptation.weights.items()):
        if some and size + weight.nbytes // 2 > PIECE_BYTES:
            pieces.append(some)
            some, size = {}, 0
        some[name] = weight
        size += weight.nbytes // 2
    return dict(_piece(tensors) for tensors in [*pieces, some])


def write(revision: Revision, maker: str, banks: list[tuple[dict[str, Names], str]], adaptation: Names) -> bytes:
    """The piece that says what a revision is.

    maker: names the model and the weights: their features mean nothing to others.
    banks: for each bank, the names of the pieces that hold its parts, and of the one with their use counters.
    adaptation: the names of the pieces that hold it; none where there is none.
    """
    description = {
        "maker": maker,
        "bank": revision.bank,
        "number": revision.number,
        "digest": revision.digest,
        "frames": revision.memory.frames,
        "memorized": revision.memory.memorized,
        "objects": [asdict(known) for known in revision.objects],
        "banks": [{"parts": parts, "use": use} for parts, use in banks],
        "adaptation": adaptation,
    }
    hint = {"hint": lean(revision.memory.hint)}
    content = zlib.compress(safetensors.torch.save(hint, {"revision": json.dumps(description)}), 1)
    return sealed(content, checksum(content))


def _piece(tensors: dict[str, Tensor]) -> tuple[str, bytes]:
    content = safetensors.torch.save({name: lean(tensor) for name, tensor in tensors.items()})
    digest = checksum(content)
    return f"p{digest[:40]}", sealed(content, digest)


def read(
    data: bytes,
    maker: str,
    fetch: Callable[[Names], list[bytes]],
    parts: MutableMapping[Names, Entries | Adaptation],
    device: torch.device,
) -> Revision:
    """The revision that `write` took apart, bit for bit.

    fetch: from the names of pieces to the pieces. parts: what need not be fetched again, by the pieces that hold it;
    gets what was. The use counters of entries are not part of it. device: for the tensors.

    Raises ForeignBankError when another maker or version wrote it, DamagedError when the bytes are not what was
    written, and whatever `fetch` raises.
    """
    content = unsealed(data)
    try:
        content = zlib.decompress(content)
        hint = fat(safetensors.torch.load(content)["hint"])
        header = int.from_bytes(content[:8], "little")
        description = json.loads(json.loads(content[8 : 8 + header])["__metadata__"]["revision"])
    except (zlib.error, SafetensorError, KeyError, ValueError) as error:
        raise DamagedError("A revision in the store is damaged.") from error
    if description["maker"] != maker:
        raise ForeignBankError(f"These objects were tracked with another model or other weights; {START_AGAIN}.")
    banks = tuple(_read_bank(bank, fetch, parts, device) for bank in description["banks"])
    records = tuple(
        ObjectRecord(
            known["type"],
            tuple(known["box"]),
            Answer(known["answer"]["mask"] and tuple(known["answer"]["mask"]), known["answer"]["confidence"]),
        )
        for known in description["objects"]
    )
    adaptation = _read_adaptation(tuple(description["adaptation"]), fetch, parts, device)
    memory = Memory(banks, hint.to(device), description["frames"], description["memorized"], adaptation)
    return Revision(description["bank"], description["number"], description["digest"], memory, records)


def pieces_of(data: bytes) -> set[str]:
    """The names of all pieces that a revision needs."""
    content = zlib.decompress(unsealed(data))
    header = int.from_bytes(content[:8], "little")
    description = json.loads(json.loads(content[8 : 8 + header])["__metadata__"]["revision"])
    banks = description["banks"]
    entries = {name for bank in banks for slab in bank["parts"].values() for name in slab}
    return entries | {bank["use"] for bank in banks} | set(description["adaptation"])


def _read_adaptation(
    names: Names,
    fetch: Callable[[Names], list[bytes]],
    parts: MutableMapping[Names, Entries | Adaptation],
    device: torch.device,
) -> Adaptation | None:
    if names and names not in parts:
        loaded = [read_piece(piece, device) for piece in fetch(names)]
        adaptation = parts[names] = Adaptation({name: weight for some in loaded for name, weight in some.items()})
        return adaptation
    return parts[names] if names else None


def _read_bank(
    bank: dict,
    fetch: Callable[[Names], list[bytes]],
    parts: MutableMapping[Names, Entries | Adaptation],
    device: torch.device,
) -> FeatureBank:
    [uses] = (read_piece(piece, device) for piece in fetch((bank["use"],)))
    named = {}
    for part, names in bank["parts"].items():
        place = tuple(names)
        known = parts.get(place)
        if known is None:
            loaded = [read_piece(piece, device) for piece in fetch(place)]
            tensors = {name: torch.cat([slab[name] for slab in loaded], -1) for name in UNCOUNTED}
            named[part] = Entries(**tensors, use=uses[part])
        else:
            named[part] = replace(known, use=uses[part])
        parts[place] = named[part]
    return FeatureBank.of_parts(named)


def read_piece(data: bytes, device: torch.device) -> dict[str, Tensor]:
    """Raises DamagedError."""
    try:
        return {name: fat(tensor).to(device) for name, tensor in safetensors.torch.load(unsealed(data)).items()}
    except SafetensorError as error:
        raise DamagedError("A piece in the store is damaged.") from error


def slabs(entries: Entries) -> Iterator[dict[str, Tensor]]:
    """Entries in pieces of a size; as entries are added at the end, the first pieces stay the same."""
    tensors = {name: tensor for name, tensor in entries.tensors() if name in UNCOUNTED}
    entry_bytes = sum(t.element_size() * (t.numel() // max(len(entries), 1)) for t in tensors.values())
    step = max(PIECE_BYTES // max(entry_bytes, 1), 1)
    for start in range(0, max(len(entries), 1), step):
        yield {name: tensor[..., start : start + step] for name, tensor in tensors.items()}


def lean(tensor: Tensor) -> Tensor:
    """The same numbers in fewer bytes, where there is a way: half precision, or 255ths as bytes."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.float32:
        for smaller in (lambda t: (t * 255).round().to(torch.uint8), lambda t: t.half()):
            if torch.equal(fat(smaller(tensor)), tensor):
                return smaller(tensor)
    return tensor


def fat(tensor: Tensor) -> Tensor:
    """What `lean` was given."""
    if tensor.dtype == torch.uint8:
        return tensor.float() / 255
    return tensor.float() if tensor.dtype == torch.float16 else tensor


def checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def sealed(content: bytes, digest: str) -> bytes:
    return f"maskbank {VERSION} {digest}\n".encode() + content


def unsealed(data: bytes) -> bytes:
    line, _, content = data.partition(b"\n")
    words = line.split(b" ")
    if len(words) != 3 or words[0] != b"maskbank":
        raise DamagedError("What is in the store was not written by MaskBank.")
    if words[1] != str(VERSION).encode():
        raise ForeignBankError(f"These objects were tracked by another version of the tracker; {START_AGAIN}.")
    if words[2] != checksum(content).encode():
        raise DamagedError("A piece in the store is damaged: its checksum is wrong.")
    return content
