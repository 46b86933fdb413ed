"""Small requests that would cost much: each is refused, or answered in bounded time. The working size is 64."""

import io
import json
import resource
import struct
import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from support import Function, mask_shape, one_sentence, png, request

from maskbank.bank.entries import Entries
from maskbank.bank.feature_bank import FeatureBank
from maskbank.bank.policies import AdaptivePolicy
from maskbank.files.parts import MAX_READS, MAX_SCANS, MAX_SEGMENTS, MAX_STRIPS
from maskbank.service.json_body import MAX_CONTAINERS, MAX_VALUES
from maskbank.shapes.conversion import mask_to_shape, shape_to_mask
from maskbank.shapes.polygon import MAX_CROSSINGS
from maskbank.shapes.shape import Shape

BOX = {"type": "rectangle", "points": [2, 2, 6, 6]}


@pytest.fixture(scope="module")
def small(start: Callable[..., Function]) -> Function:
    return start(MASKBANK_SIZE=64)


def refused(function: Function, image: bytes, shape: dict = BOX) -> str:
    status, sentence = function.send(request(image, [shape], []))
    assert status == 413 and one_sentence(sentence), sentence
    return sentence


def jpeg(**options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (90, 80, 70)).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def test_a_scan_that_is_repeated(small: Function) -> None:
    data = jpeg(progressive=True)
    start, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    scan = data[start:end]
    status, _ = small.send(request(data[:end] + scan * (MAX_SCANS - 20) + data[end:], [BOX], []))
    assert status == 200
    assert "scans" in refused(small, data[:end] + scan * MAX_SCANS + data[end:])


def test_segments_and_chunks_and_strips_without_end(small: Function) -> None:
    data = jpeg()
    assert "segments" in refused(small, data[:2] + b"\xff\xfe\0\2" * MAX_SEGMENTS + data[2:])
    data = png(np.zeros((8, 8, 3), np.uint8))
    chunk = struct.pack(">I", 0) + b"teSt" + struct.pack(">I", zlib.crc32(b"teSt"))
    assert "parts" in refused(small, data[:33] + chunk * MAX_READS + data[33:])
    entry = struct.pack("<HHHII", 1, 273, 4, MAX_STRIPS + 1, 8)
    assert "strips" in refused(small, b"II*\0" + struct.pack("<I", 8) + entry + bytes(4))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("kind", "count", "value"),
    [("H", 1, "H"), ("I", 1, "I"), ("f", 1, "f"), ("H", 2, "I"), ("B", 1, "B")],
)
def test_scans_in_a_tiff_however_it_says_that_it_holds_jpegs(
    small: Function, order: str, kind: str, count: int, value: str
) -> None:
    types = {"B": 1, "H": 3, "I": 4, "f": 11}
    number = struct.pack(order + value, 7).ljust(4, b"\0")
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HIH", 42, 8, 1)
    data = head + struct.pack(order + "HHI", 259, types[kind], count) + number + bytes(4)
    assert "scans" in refused(small, data + b"\xff\xd8\xff" + b"\xff\xda" * (MAX_SCANS + 1))


def test_an_image_that_is_a_line(small: Function) -> None:
    assert "long" in refused(small, png(np.zeros((1, 70_000, 3), np.uint8)))


def test_a_box_over_a_long_strip(small: Function) -> None:
    """What is looked at is no thinner than half of its length: gigabytes, if it were looked at as it is."""
    strip = np.zeros((600, 60_000, 3), np.uint8)
    strip[200:400, 10_000:40_000] = (40, 90, 200)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    [shape], _ = small.ask(png(strip), [{"type": "rectangle", "points": [9_000, 150, 41_000, 450]}], [])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB
    left, top, right, bottom = shape["points"][-4:]
    assert abs(left - 10_000) < 2_000 and abs(right - 40_000) < 2_000 and top < 250 and bottom > 350


def test_nested_json_and_endless_numbers(small: Function) -> None:
    for content_type in ("application/json", "text/plain"):
        for body in (b"[" * MAX_CONTAINERS + b"[]", b"[" + b"1," * (MAX_VALUES + 1) + b"1]"):
            status, sentence = small.post(body, content_type)
            assert status == 413 and one_sentence(sentence)


def test_a_zigzag(small: Function) -> None:
    points = np.stack([np.arange(10_000) % 2 * 600, np.arange(10_000) * 0.03], 1)
    assert points.shape[0] * 600 > MAX_CROSSINGS
    zigzag = {"type": "polygon", "points": points.ravel().tolist()}
    assert "to and fro" in refused(small, png(np.zeros((320, 640, 3), np.uint8)), zigzag)
    thousand = Shape("polygon", tuple(points[:1000].ravel()))
    assert shape_to_mask(thousand, 320, 640).any()


def test_a_comb_as_a_polygon() -> None:
    comb = np.zeros((2000, 2000), bool)
    comb[:, ::2] = True
    comb[0] = True
    started = time.monotonic()
    shape = mask_to_shape(comb, "polygon")
    assert time.monotonic() - started < 10  # quadratic, it took minutes
    assert shape is not None and len(shape.points) <= 400


def test_many_objects_on_a_large_image(small: Function) -> None:
    image = np.zeros((4000, 4000, 3), np.uint8)
    boxes = [{"type": "polygon", "points": [x, 0, x + 9, 0, x + 9, 9, x, 9]} for x in range(0, 500, 10)]
    status, sentence = small.send(request(png(image), boxes, []))
    assert status == 413 and "at most 15" in sentence and one_sentence(sentence)


def test_a_narrow_image_gives_the_same_each_time(small: Function) -> None:
    random = np.random.default_rng(0)
    for height, width in ((200, 8), (1000, 4), (8, 200)):
        image = png(random.integers(0, 256, (height, width, 3), np.uint8))
        mask = np.zeros((height, width), bool)
        mask[: height // 2] = True
        found = set()
        for _ in range(5):
            _, states = small.ask(image, [mask_shape(mask)], [])
            _, [state] = small.track(image, states)
            found.add(state["confidence"])
        assert len(found) == 1 and 0 <= found.pop() <= 1


def test_a_budget_that_became_smaller() -> None:
    def frame(t: int) -> Entries:
        return Entries.of_frame(torch.rand(4, 6), torch.rand(1, 3, 6), t)

    bank = FeatureBank()
    for t in range(3):
        bank = AdaptivePolicy(budget=20).seed(bank, frame(t))
    smaller = AdaptivePolicy(budget=10).memorize(bank, frame(3))
    assert len(smaller.seeds) == 18 and smaller.older is None and smaller.recent == ()


def test_replies_are_json_of_the_standard(small: Function) -> None:
    status, reply = small.post(json.dumps(request(jpeg(), [BOX], [])).encode())
    assert status == 200
    json.loads(reply, parse_constant=lambda name: pytest.fail(name))
