"""`maskbank weights`, with a real HTTP server in the role of the internet."""

import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from maskbank import cli
from maskbank.networks.afb_urr import AfbUrr
from maskbank.networks.checkpoints import read_manifest, sha256
from maskbank.networks.lite import Lite
from maskbank.networks.models import BUNDLED_WEIGHTS
from maskbank.networks.weights import FORMER_NAMES, FORMER_THRESHOLD, fingerprint, load_state_dict

BUNDLED = BUNDLED_WEIGHTS["lite"].parent


@dataclass
class Internet:
    """What the server has, how it behaves, and what it was asked."""

    content: bytes
    content_type: str = "application/octet-stream"
    breaks_after: int | None = None  # bytes of an answer
    ranges: bool = True
    status: int = 200
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # path and range
    port: int = 0


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A checkpoint as AFB-URR's authors saved theirs."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("released") / "afb.pth"
    torch.save({"model": AfbUrr().state_dict(), "epoch": 3}, path)
    return path.read_bytes()


@pytest.fixture
def internet(released: bytes) -> Iterator[Internet]:
    state = Internet(released)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.asked.append((self.path, wanted))
            if state.status != 200:
                self.send_error(state.status)
                return
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and state.ranges else 0
            if start >= len(state.content):
                self.send_error(416)
                return
            body = state.content[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Type", state.content_type)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(state.content) - 1}/{len(state.content)}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: state.breaks_after])

        def log_message(self, *_: object) -> None: ...

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """A client may hang up in the middle."""

    with Server(("127.0.0.1", 0), Handler) as server:
        state.port = server.server_port
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield state
        server.shutdown()


@pytest.fixture
def folder(internet: Internet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of weights whose manifest points to the server."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    entries = yaml.safe_load((BUNDLED / "manifest.yaml").read_text())
    entries["afb-urr"]["url"] = f"http://127.0.0.1:{internet.port}/download?id=1"
    (tmp_path / "manifest.yaml").write_text(yaml.safe_dump(entries))
    return tmp_path


def change_manifest(folder: Path, **changes: object) -> None:
    entries = yaml.safe_load((folder / "manifest.yaml").read_text())
    entries["afb-urr"] |= changes
    (folder / "manifest.yaml").write_text(yaml.safe_dump(entries))


@pytest.fixture
def run(capsys: pytest.CaptureFixture, request: pytest.FixtureRequest):
    folder = ["--folder", str(request.getfixturevalue("folder"))] if "folder" in request.fixturenames else []

    def run(*arguments: object) -> tuple[int, str]:
        code = cli.main(["weights", *folder, *map(str, arguments)])
        out, err = capsys.readouterr()
        if code:
            assert err.splitlines()[-1].startswith("maskbank: ") and err.rstrip().endswith(".")
        return code, out + err

    return run


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_bundled_weights_are_those_of_the_manifest(run) -> None:
    code, text = run("verify")
    assert code == 0
    for name in BUNDLED_WEIGHTS:
        known = read_manifest(BUNDLED)[name]
        assert known.sha256 == sha256(BUNDLED / known.file) and known.bytes == (BUNDLED / known.file).stat().st_size
        assert re.search(rf"^{name} is the file it should be: lite [0-9a-f]{{12}}$", text, re.MULTILINE)
    code, text = run("list")
    assert code == 0 and re.search(r"^lite +here +.*non-commercial", text, re.MULTILINE)
    assert re.search(r"^afb-urr .*academic use only", text, re.MULTILINE)


def test_fetch_shows_the_licence_first(run, folder: Path, internet: Internet) -> None:
    code, text = run("fetch", "afb-urr")  # pytest's standard input is no terminal
    assert code == 1 and "licence: academic use only" in text and "say --yes" in text
    assert "none is known, so this first download is trusted; a later one must be the same file" in text
    assert internet.asked == [] and files(folder) == {"manifest.yaml"}


def test_what_was_fetched_first_is_what_is_right(run, folder: Path, internet: Internet, released: bytes) -> None:
    digest = hashlib.sha256(released).hexdigest()
    code, text = run("fetch", "afb-urr", "--yes")
    assert code == 0 and f"afb-urr.pth, SHA-256 {digest}\n" in text
    assert (folder / "afb-urr.pth").read_bytes() == released
    assert files(folder) == {"manifest.yaml", "afb-urr.pth", "fetched.yaml"}
    assert internet.asked == [("/download?id=1", None)]
    assert run("fetch", "afb-urr", "--yes")[1].endswith("is there already.\n") and len(internet.asked) == 1
    assert "afb-urr is the file it should be: afb-urr" in run("verify", "afb-urr")[1]
    (folder / "afb-urr.pth").unlink()
    internet.content = released.replace(b"epoch", b"epoxy", 1)
    code, text = run("fetch", "afb-urr", "--yes")
    assert "this first download is trusted" not in text
    assert code == 1 and "is another file (SHA-256" in text and "Get it by hand from https://github.com" in text
    assert files(folder) == {"manifest.yaml", "fetched.yaml"}


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_goes_on(run, folder: Path, internet: Internet, released: bytes, ranges: bool) -> None:
    internet.breaks_after, internet.ranges = 5_000_000, ranges
    code, text = run("fetch", "afb-urr", "--yes")
    assert code == 1 and "the connection broke off after 5000000 of" in text
    assert files(folder) == {"manifest.yaml", "afb-urr.pth.part"}
    internet.breaks_after = None
    assert run("fetch", "afb-urr", "--yes")[0] == 0
    assert internet.asked[1][1] == "bytes=5000000-"
    assert (folder / "afb-urr.pth").read_bytes() == released


def test_a_download_that_was_complete_is_taken(run, folder: Path, internet: Internet, released: bytes) -> None:
    (folder / "afb-urr.pth.part").write_bytes(released)
    assert run("fetch", "afb-urr", "--yes")[0] == 0
    assert (folder / "afb-urr.pth").read_bytes() == released


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"content_type": "text/html; charset=utf-8"}, "the server sent a web page instead of the file"),
        ({"status": 404}, "Not Found"),
        ({"content": b"PK\x03\x04 not a checkpoint"}, "cannot be used: The weights file .* is damaged"),
        ({"port": None}, "refused"),
    ],
)
def test_what_goes_wrong_is_one_sentence(run, folder: Path, internet: Internet, change: dict, words: str) -> None:
    (folder / "afb-urr.pth").write_bytes(b"what was there before")
    for name, value in change.items():
        setattr(internet, name, value)
    if "port" in change:
        change_manifest(folder, url="http://127.0.0.1:1/")
    code, text = run("fetch", "afb-urr", "--yes")
    assert code == 1 and re.search(words, text) and "Get it by hand" in text and "Traceback" not in text
    assert (folder / "afb-urr.pth").read_bytes() == b"what was there before"
    assert files(folder) == {"manifest.yaml", "afb-urr.pth"}


def test_a_known_checksum_is_asked_for(run, folder: Path, internet: Internet, released: bytes) -> None:
    change_manifest(folder, sha256="0" * 64)
    assert "is another file" in run("fetch", "afb-urr", "--yes")[1]
    change_manifest(folder, sha256=hashlib.sha256(released).hexdigest())
    assert run("fetch", "afb-urr", "--yes")[0] == 0
    assert files(folder) == {"manifest.yaml", "afb-urr.pth"}


def test_a_proxy_is_used(run, folder: Path, internet: Internet, monkeypatch: pytest.MonkeyPatch) -> None:
    change_manifest(folder, url="http://weights.example/afb.pth")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{internet.port}")
    assert run("fetch", "afb-urr", "--yes")[0] == 0
    assert internet.asked == [("http://weights.example/afb.pth", None)]


def test_released_checkpoints_become_safetensors(run, tmp_path: Path, released: bytes) -> None:
    source, target = tmp_path / "released.pth", tmp_path / "afb.safetensors"
    source.write_bytes(released)
    code, text = run("convert", source, target)
    network = AfbUrr()
    network.load_state_dict(load_file(target))
    assert code == 0 and re.search(rf"^fingerprint +{fingerprint(network)}$", text, re.MULTILINE)
    assert re.search(r"^model +afb-urr$", run("info", target)[1], re.MULTILINE)
    assert files(tmp_path) == {"released.pth", "afb.safetensors"}
    assert "must end in .safetensors" in run("convert", source, tmp_path / "other.pth")[1]
    (tmp_path / "text.pth").write_text("no weights")
    assert run("convert", tmp_path / "text.pth", target)[0] == 1
    assert load_file(target)  # as before


def test_unknown_and_damaged_weights(run, folder: Path) -> None:
    assert (
        "There are no weights called 'xmem'; known are afb-urr, interactor, interactor-open, lite, lite-open."
        in run("info", "xmem")[1]
    )
    assert "lite comes with MaskBank" in run("fetch", "lite", "--yes")[1]
    (folder / "lite.safetensors").write_bytes((BUNDLED / "lite.safetensors").read_bytes()[:-1000])
    assert "damaged" in run("verify")[1]


@pytest.mark.parametrize("path", BUNDLED_WEIGHTS.values(), ids=BUNDLED_WEIGHTS)
def test_weights_of_version_0_1_load_under_the_names_of_today(path: Path, tmp_path: Path) -> None:
    today = load_state_dict(path)
    former = {FORMER_THRESHOLD: -today["novelty_threshold"]}
    for name, tensor in today.items():
        starts = [(old, new) for old, new in FORMER_NAMES.items() if name.startswith(new)]
        for old, new in starts:
            former[old + name.removeprefix(new)] = tensor
        if not starts and name != "novelty_threshold":
            former[name] = tensor
    assert len(former) == len(today) and len(former.keys() - today.keys()) > 10
    save_file(former, tmp_path / "former.safetensors")
    again = load_state_dict(tmp_path / "former.safetensors")
    assert again.keys() == today.keys() == Lite().state_dict().keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in today.items())
    assert float(today["novelty_threshold"]) > 0  # not negative, as `strange` was
