"""The CVAT AI agent: loaded and driven by cvat-cli's own code, and once by the program itself."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import cvat_sdk.auto_annotation as cvataa
import numpy as np
import pytest
from cvat_cli._internal import agent as cvat_cli_agent
from cvat_cli._internal.agent_driver import worker_current_function
from cvat_cli._internal.agent_driver_tracking import (
    AgentTrackingFunctionDriver,
    _worker_job_init_tracking,
    _worker_job_track,
)
from cvat_cli._internal.common import FunctionLoader
from PIL import Image
from support import (
    CLIP,
    GOLDEN_KOI,
    HEIGHT,
    RED_KOI,
    TURTLE,
    WIDTH,
    decoded,
    jaccard,
    jpeg,
    mask_shape,
    one_sentence,
    rgb,
    true_mask,
)

from maskbank.files.images import decode_image
from maskbank.shapes.conversion import mask_to_shape, shape_to_mask
from maskbank.shapes.shape import SHAPE_TYPES, Shape

AGENT = Path(__file__).parents[1] / "agent" / "maskbank_agent.py"
ANIMALS = (RED_KOI, GOLDEN_KOI, TURTLE)
TASK = 7


def load(**parameters: object) -> Any:
    return FunctionLoader(None, AGENT, {"size": 128, "device": "cpu"} | parameters).load()


@pytest.fixture(scope="module")
def function() -> Any:
    """The agent's function, in cvat-cli's place for it."""
    loader = FunctionLoader(None, AGENT, {"size": 128, "device": "cpu"})
    cvat_cli_agent._worker_init(loader, cvat_cli_agent._default_tracking_state_id_generator)
    return worker_current_function()


def image(index: int) -> Image.Image:
    return Image.open(CLIP / "frames" / f"{index:05d}.jpg")


def start(*shapes: dict, picture: Image.Image | None = None) -> list[str]:
    """The ids of the states that cvat-cli keeps of shapes on the first frame."""
    return _worker_job_init_tracking(TASK, picture or image(0), [cvataa.TrackableShape(**shape) for shape in shapes])


def track(index: int, states: list[str]) -> list[cvataa.TrackableShape | None]:
    return _worker_job_track(TASK, image(index), states)


def mask_of(shape: cvataa.TrackableShape) -> np.ndarray:
    return decoded({"type": shape.type, "points": shape.points})


@pytest.fixture
def encodings(function: Any) -> Iterator[list[int]]:
    """The pixels of each image, or part of one, that the network encodes."""
    calls: list[int] = []
    encoder = function._tracker.segmenter.network.encoder
    hook = encoder.register_forward_hook(lambda module, images, found: calls.append(images[0][0, 0].numel()))
    yield calls
    hook.remove()


def test_cvat_cli_can_register_it(function: Any) -> None:
    assert cvat_cli_agent.get_function_driver_class(function.spec) is AgentTrackingFunctionDriver
    fields = AgentTrackingFunctionDriver.get_remote_function_fields(function.spec)
    assert fields == {"supported_shape_types": ["ellipse", "mask", "polygon", "rectangle"]}


def test_three_objects_are_tracked_and_each_frame_is_encoded_once(
    function: Any, encodings: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the network sees the frames nearly as they are; smaller ones are looked at closely, each by itself."""
    monkeypatch.setattr(function._tracker, "short_side", 264)
    states = start(*(mask_shape(true_mask(0, animal)) for animal in ANIMALS))
    for index in range(1, 5):
        shapes = track(index, states)
    whole = max(encodings)
    assert encodings.count(whole) == 2  # frames 0 and 3, which are memorized
    assert len(encodings) <= 2 + 3 * 3 and sum(encodings) < 5 * whole  # of the others, around each object
    assert min(jaccard(mask_of(s), true_mask(4, a)) for s, a in zip(shapes, ANIMALS, strict=True)) > 0.6


@pytest.mark.parametrize("type_", SHAPE_TYPES)
def test_the_answer_has_the_type_of_the_outline(function: Any, type_: str) -> None:
    outline = mask_to_shape(true_mask(0, TURTLE), type_)
    states = start({"type": type_, "points": list(outline.points)})
    for index in range(1, 4):
        [found] = track(index, states)
    assert found.type == type_
    assert json.loads(json.dumps(found.points)) == found.points  # as cvat-cli sends them
    truth = mask_to_shape(true_mask(3, TURTLE), type_)
    assert jaccard(filled(type_, found.points), filled(type_, truth.points)) > 0.7


def filled(type_: str, points: Sequence[float]) -> np.ndarray:
    """What a shape covers, (H, W) bool; of a box, all of it."""
    if type_ == "rectangle":
        left, top, right, bottom = points
        type_, points = "polygon", (left, top, right, top, right, bottom, left, bottom)
    return shape_to_mask(Shape(type_, tuple(points)), *rgb(0).shape[:2])


@pytest.mark.parametrize("type_", ["mask", "rectangle"])
def test_what_is_not_visible_is_none(function: Any, type_: str) -> None:
    """And is found again when it comes back."""
    states = start({"type": type_, "points": list(mask_to_shape(true_mask(0, TURTLE), type_).points)})
    assert _worker_job_track(TASK, Image.new("RGB", (WIDTH, HEIGHT), "navy"), states) == [None]
    [found] = track(1, states)
    assert found.type == type_


def test_states_do_not_disturb_each_other(function: Any) -> None:
    """Objects may be tracked alone or together, in any order."""
    outlines = [mask_shape(true_mask(0, animal)) for animal in ANIMALS]
    together = start(*outlines)
    expected = [track(index, together) for index in (1, 2)]
    one_by_one = [start(outline) for outline in reversed(outlines)]
    found = [[track(index, states)[0] for index in (1, 2)] for states in one_by_one]
    assert [list(reversed(frame)) for frame in zip(*found, strict=True)] == expected


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ({"type": "polygon", "points": [900, 900, 950, 900, 950, 950]}, "covers no pixel of the image"),
        ({"type": "mask", "points": [0, 4, 639, 0, 640, 1]}, "does not lie inside the image"),
        ({"type": "mask", "points": [0, 5, 0, 0, 1, 1]}, "add up to 5 pixels"),
        ({"type": "ellipse", "points": [10, 10, 20]}, "An ellipse needs 4 numbers"),
        ({"type": "rectangle", "points": [10, float("nan"), 20, 30]}, "must be between"),
        ({"type": "points", "points": [10, 10]}, "The shape's type must be one of"),
    ],
)
def test_a_shape_that_cannot_be_is_refused_with_a_sentence(function: Any, shape: dict, sentence: str) -> None:
    with pytest.raises(cvataa.BadFunctionError) as refused:
        start(shape)
    assert sentence in str(refused.value) and one_sentence(str(refused.value))


def test_images_are_read_as_the_function_reads_them(function: Any) -> None:
    grey = np.asarray(image(0).convert("L")).astype(np.uint16) << 8
    deep, file = Image.fromarray(grey), io.BytesIO()
    deep.save(file, "PNG")
    expected = decode_image(file.getvalue(), 10**7)
    for picture in (deep, Image.fromarray(expected[..., 0]), Image.fromarray(expected).convert("RGBA")):
        assert np.array_equal(function.preprocess_image(None, picture).image, expected)
    with pytest.raises(cvataa.BadFunctionError) as refused:
        function.preprocess_image(None, Image.fromarray(grey.astype(np.float32)))
    assert "floating-point" in str(refused.value)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"sise": 128}, "There is no parameter 'sise', only model, weights, device, size, budget, adapt_seconds."),
        ({"model": "sam"}, "MASKBANK_MODEL is 'sam', but must be one of lite, afb-urr, afb-urr-paper."),
        ({"size": 1}, "MASKBANK_SIZE is '1', but must be a whole number from 64 to 2160."),
        ({"weights": "none.pth"}, "MASKBANK_WEIGHTS is 'none.pth', but there is no such file."),
    ],
)
def test_wrong_parameters_end_it_with_a_sentence(parameters: dict, sentence: str) -> None:
    with pytest.raises(SystemExit) as ended:
        load(**parameters)
    assert str(ended.value) == f"maskbank_agent: {sentence}"


# ---- the program ----


class CvatStandIn:
    """What of CVAT Online's REST interface cvat-cli's commands `function …` use, with requests waiting."""

    def __init__(self) -> None:
        self.functions: list[dict] = []
        self.waiting: list[dict] = []  # parameters of annotation requests
        self.completed: list[dict] = []
        self.failed: list[str] = []

    def answer(self, method: str, target: str, body: Any) -> object:
        url = urlsplit(target)
        name, query = url.path.rstrip("/").rpartition("/")[2], parse_qs(url.query)
        if method == "POST":
            return self._take(name, body)
        return {
            "about": {"name": "CVAT", "version": "2.80.0", "description": "", "logo_url": "", "subtitle": ""},
            "self": {"id": 1, "username": "annotator"},
            "1": self.functions[0] | {"id": 1} if self.functions else None,
            str(TASK): {
                "id": TASK,
                "organization": None,
                "size": 8,
                "data_chunk_size": 8,
                "data_original_chunk_type": "video",
                "updated_date": "2026-01-01T00:00:00Z",
                "jobs": {"completed": 0, "validation": 0},
                "labels": {},
            },
            "labels": {"count": 0, "next": None, "previous": None, "results": []},
            "meta": {
                "chunks_updated_date": "2026-01-01T00:00:00Z",
                "deleted_frames": [],
                "frames": [{"name": "clip.mp4", "width": WIDTH, "height": HEIGHT, "related_files": 0}],
            },
            "data": "number" in query and jpeg(int(query["number"][0])),
        }[name]

    def _take(self, name: str, body: Any) -> object:
        if name == "functions":
            self.functions.append(body)
            return {"id": 1, "name": body["name"]}
        if name == "acquire":
            interactive = body["request_category"] == "interactive"
            parameters = self.waiting.pop(0) if interactive and self.waiting else None
            return {"ar_assignment": parameters and {"ar_id": "a-request", "ar_params": parameters}}
        if name == "complete":
            self.completed.append(body)
            if body.get("shapes") is None:  # CVAT's UI goes on with the states
                self.waiting.append({"type": "track", "task": TASK, "frame": 1, "states": body["states"]})
        elif name == "fail":
            self.failed.append(body["exc_info"])
        return {}


@contextmanager
def standing_in() -> Iterator[tuple[CvatStandIn, str]]:
    cvat = CvatStandIn()

    class Api(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            found = cvat.answer(self.command, self.path, json.loads(body) if body else None)
            content = found if isinstance(found, bytes) else json.dumps(found).encode()
            self.send_response(200)
            self.send_header("Content-Type", "image/jpeg" if isinstance(found, bytes) else "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """The test says what it needs."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield cvat, f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def cvat_cli(url: str, *arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "cvat_cli", "--server-host", url, "function", *map(str, arguments)],
        env=os.environ | {"CVAT_ACCESS_TOKEN": "a-token", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_cvat_cli_registers_and_runs_it() -> None:
    file = ("--function-file", AGENT, "-p", "model=str:lite", "-p", "size=int:128", "-p", "device=str:cpu")
    init = {"type": "init_tracking", "task": TASK, "frame": 0}
    with standing_in() as (cvat, url):
        created = cvat_cli(url, "create-native", "AI tracker", *file)
        assert (created.returncode, created.stdout) == (0, "1\n"), created.stderr
        assert cvat.functions[0]["kind"] == "tracker" and len(cvat.functions[0]["supported_shape_types"]) == 4
        outside = {"type": "polygon", "points": [900, 900, 950, 900, 950, 950]}
        cvat.waiting = [init | {"shapes": [outside]}, init | {"shapes": [mask_shape(true_mask(0, TURTLE))]}]
        ran = cvat_cli(url, "run-agent", 1, *file, "--burst")
    assert ran.returncode == 0, ran.stderr
    assert len(cvat.failed) == 1, ran.stderr
    assert cvat.failed[0].endswith(f": The polygon covers no pixel of the image of {WIDTH} x {HEIGHT} pixels.")
    _, tracked = cvat.completed
    [found] = tracked["shapes"]
    assert jaccard(decoded(found), true_mask(1, TURTLE)) > 0.6


def test_cvat_cli_says_what_is_wrong() -> None:
    with standing_in() as (_, url):
        created = cvat_cli(url, "create-native", "AI tracker", "--function-file", AGENT, "-p", "model=str:sam")
    assert created.returncode == 1
    assert created.stderr.splitlines()[-1].startswith("maskbank_agent: MASKBANK_MODEL is 'sam', but must be one of ")
    assert "Traceback" not in created.stderr
