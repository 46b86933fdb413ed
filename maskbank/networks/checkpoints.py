"""Weights files by name: what there is, whether it is whole, and how to get it."""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from maskbank.networks.models import NETWORKS, interactor_beside
from maskbank.networks.weights import (
    WeightsError,
    fingerprint,
    fit_weights,
    interactor_named_in,
    load_state_dict,
    save_weights,
)

BLOCK = 1 << 20
TIMEOUT_S = 60.0
PARTIAL = ".part"  # what was downloaded of a file so far
FIRST_SEEN = "fetched.yaml"  # checksums of what was downloaded without a known one


@dataclass(frozen=True)
class Checkpoint:
    """An entry of `manifest.yaml`."""

    name: str
    about: str
    model: str  # a name in `NETWORKS`
    file: str
    licence: str
    home: str | None = None
    url: str | None = None  # None: it comes with the repository
    sha256: str | None = None
    bytes: int | None = None


def read_manifest(folder: Path) -> dict[str, Checkpoint]:
    """The known checkpoints by name, with the checksums that were learnt from a first download."""
    entries = yaml.safe_load((folder / "manifest.yaml").read_text())
    seen = _first_seen(folder)
    return {name: Checkpoint(name, **{**seen.get(name, {}), **entry}) for name, entry in entries.items()}


def find(name: str, folder: Path) -> Checkpoint:
    """Raises WeightsError when the manifest does not know the name."""
    known = read_manifest(folder)
    if name not in known:
        raise WeightsError(f"There are no weights called {name!r}; known are {', '.join(known)}.")
    return known[name]


def sha256(path: Path) -> str:
    """The SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inspect(path: Path, model: str | None = None) -> dict[str, object]:
    """What a weights file holds: the model that it fits, parameters, fingerprint, bytes and checksum.

    Raises WeightsError with one sentence when it is damaged, or fits neither `model` nor, if that is None, any.
    """
    state = load_state_dict(path)
    misfits = []
    for name in [model] if model else list(NETWORKS):
        network = NETWORKS[name]()
        try:
            fit_weights(network, state, str(path))
        except WeightsError as error:
            misfits.append(error)
            continue
        return {
            "model": name,
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "fingerprint": fingerprint(network),
            "bytes": path.stat().st_size,
            "sha256": sha256(path),
        }
    raise misfits[0]


def verify(checkpoint: Checkpoint, folder: Path) -> dict[str, object]:
    """`inspect` of a known file that is there.

    Raises WeightsError when it is not the file that the manifest, or the first download, says.
    """
    path = folder / checkpoint.file
    found = inspect(path, checkpoint.model)
    if checkpoint.sha256 is not None and found["sha256"] != checkpoint.sha256:
        raise WeightsError(f"{path} is not the file that it should be: its SHA-256 is {found['sha256']}.")
    return found


def convert(source: Path, target: Path) -> dict[str, object]:
    """Writes a checkpoint such as AFB-URR's `.pth` as safetensors, which can hold nothing but tensors.

    Returns what `inspect` says of the new file. Raises WeightsError.
    """
    if target.suffix != ".safetensors":
        raise WeightsError(f"The new file {target} must end in .safetensors.")
    model = str(inspect(source)["model"])
    tensors = {name: tensor.contiguous() for name, tensor in load_state_dict(source).items()}
    beside = interactor_beside(source).stem  # which may go by the file's name
    save_weights(tensors, target, beside if beside == "interactor-open" else interactor_named_in(source))
    return inspect(target, model)


def fetch(
    checkpoint: Checkpoint,
    folder: Path,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> Path:
    """Downloads a checkpoint, goes on where an earlier try broke off, and checks it; HTTPS_PROXY is honoured.

    progress: gets the bytes so far and, if the server tells, all. Returns the file's path.
    Raises WeightsError with one sentence; a file that was there before stays.
    """
    target = folder / checkpoint.file
    part = target.with_name(target.name + PARTIAL)
    if checkpoint.url is None:
        raise WeightsError(f"{checkpoint.name} comes with MaskBank: {target}.")
    by_hand = f"Get it by hand from {checkpoint.home or checkpoint.url} and put it at {target}."
    try:
        _download(checkpoint.url, part, progress)
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise WeightsError(f"{checkpoint.name} could not be downloaded ({reason}). {by_hand}") from error
    found = sha256(part)
    if checkpoint.sha256 is not None and found != checkpoint.sha256:
        part.unlink()
        raise WeightsError(f"What was downloaded as {checkpoint.name} is another file (SHA-256 {found}). {by_hand}")
    size = part.stat().st_size
    whole = target.with_name(f"new-{target.name}")  # its ending tells how to read it
    os.replace(part, whole)
    try:
        inspect(whole, checkpoint.model)
    except WeightsError as error:
        whole.unlink()
        raise WeightsError(f"What was downloaded as {checkpoint.name} cannot be used: {error} {by_hand}") from error
    os.replace(whole, target)
    if checkpoint.sha256 is None:
        seen = {**_first_seen(folder), checkpoint.name: {"sha256": found, "bytes": size}}
        (folder / FIRST_SEEN).write_text(yaml.safe_dump(seen))
    return target


def _download(url: str, part: Path, progress: Callable[[int, int | None], None]) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "maskbank"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.build_opener().open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if have and error.code == 416:  # there is no more: it was complete, or is another file now
            error.close()
            return
        raise
    with response:
        if response.headers.get_content_type() == "text/html":
            raise ValueError("the server sent a web page instead of the file")
        goes_on = response.status == 206
        if goes_on and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise ValueError("the server went on from another place than it was asked to")
        done = have if goes_on else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        with part.open("ab" if goes_on else "wb") as file:
            while block := response.read(BLOCK):
                file.write(block)
                done += len(block)
                progress(done, total)
    if total is not None and done < total:
        raise OSError(f"the connection broke off after {done} of {total} bytes; the next try goes on from there")


def _first_seen(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / FIRST_SEEN
    seen: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text()) or {} if path.exists() else {}
    return seen
