"""Images from bytes: what the annotator sees, within limits, and one sentence for everything else."""

import base64
import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maskbank.errors import RequestError
from maskbank.files.images import (
    FORMATS,
    MAX_ASPECT,
    decode_base64,
    decode_image,
    resize_image,
    resize_mask,
    working_size,
)

PIXELS = 100_000
RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def saved(image: Image.Image | np.ndarray, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png(width: int, height: int, bit_depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG put together by hand: for kinds that Pillow cannot write and for headers that lie."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def refused(status: int, call, *arguments: object) -> str:
    """The sentence with which a call is refused."""
    with pytest.raises(RequestError) as caught:
        call(*arguments)
    sentence = str(caught.value)
    assert caught.value.status == status, sentence
    assert sentence[0].isupper() and sentence.endswith(".") and ". " not in sentence and "\n" not in sentence
    assert len(sentence) < 160
    for word in ("Traceback", "Error", "Exception", "numpy", "PIL", "cv2", "bytes-like", "0x"):
        assert word not in sentence
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return sentence


# What the annotator sees


@pytest.mark.parametrize("format, options", [
    ("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}),
])  # fmt: skip
def test_lossless_formats_are_read_exactly(format, options):
    image = decode_image(saved(RGB, format, **options), PIXELS)
    assert image.dtype == np.uint8 and image.flags.c_contiguous and image.flags.writeable
    np.testing.assert_array_equal(image, RGB)


def test_jpeg_and_gif_are_read():
    smooth = np.repeat(np.repeat(RGB[:2, :3], 10, axis=0), 10, axis=1)
    jpeg = decode_image(saved(smooth, "JPEG", quality=95, subsampling=0), PIXELS)
    assert np.abs(jpeg.astype(int) - smooth).mean() < 4
    np.testing.assert_array_equal(decode_image(saved(smooth, "GIF"), PIXELS), smooth)


def test_grey_and_one_bit():
    grey = RGB[..., 0]
    np.testing.assert_array_equal(decode_image(saved(grey), PIXELS), np.stack([grey] * 3, axis=2))
    black_white = Image.fromarray(grey > 127)
    assert black_white.mode == "1"
    expected = np.where(grey > 127, 255, 0)[..., None].repeat(3, axis=2)
    np.testing.assert_array_equal(decode_image(saved(black_white), PIXELS), expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_ignored(mode):
    image = Image.fromarray(RGB).convert(mode)
    image.putalpha(Image.fromarray(RGB[..., 1] // 2))
    expected = RGB if mode == "RGBA" else np.array(image.getchannel("L"))[..., None].repeat(3, axis=2)
    np.testing.assert_array_equal(decode_image(saved(image), PIXELS), expected)


@pytest.mark.parametrize("transparency", [None, 5, bytes(range(0, 200, 5))])
def test_palette_with_and_without_transparency(transparency):
    image = Image.fromarray(RGB).quantize(40)
    expected = np.array(image.convert("RGB"))
    options = {} if transparency is None else {"transparency": transparency}
    np.testing.assert_array_equal(decode_image(saved(image, **options), PIXELS), expected)


def test_cmyk_jpeg():
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert np.abs(decode_image(saved(red, "JPEG"), PIXELS).astype(int) - (255, 0, 0)).max() < 12


def test_16_bit_grey_keeps_the_high_byte_of_every_frame():
    values = np.arange(600, dtype=np.uint16).reshape(20, 30) * 20  # up to 11 980: only a fifth of the range
    for format in ("PNG", "TIFF"):
        image = decode_image(saved(values, format), PIXELS)
        np.testing.assert_array_equal(image, (values >> 8).astype(np.uint8)[..., None].repeat(3, axis=2))
        brighter = values.copy()
        brighter[0, 0] = 65535  # one hot pixel must not change the others
        np.testing.assert_array_equal(decode_image(saved(brighter, format), PIXELS)[1:], image[1:])


@pytest.mark.parametrize("scale, offset", [(6, 7200), (16, 0), (1, 40000)])
def test_16_bit_grey_that_uses_few_values_is_stretched_alike_from_frame_to_frame(scale: int, offset: int):
    """As thermal cameras record."""
    grey = np.tile(RGB[..., 0], (3, 3)).astype(np.uint16)
    image = decode_image(saved(grey * scale + offset, "PNG"), PIXELS)
    assert np.ptp(image) > 100
    assert np.corrcoef(image[..., 0].ravel(), grey.ravel())[0, 1] > 0.999
    warmer = grey * scale + offset + scale // 2
    warmer[0, 0] = 65535
    np.testing.assert_allclose(decode_image(saved(warmer, "PNG"), PIXELS)[1:].astype(int), image[1:], atol=1)


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}, {"big_tiff": True}])
def test_pixels_of_a_tiff_are_no_scans_of_a_jpeg(options: dict[str, object]) -> None:
    """White pixels beside ones of 0xd8 and 0xda are what a JPEG's markers are."""
    pixels = np.full((40, 60, 2), 255, np.uint8)
    pixels[::2, :, 0], pixels[1::2, :, 0] = 0xD8, 0xDA
    file = io.BytesIO()
    Image.fromarray(pixels, "LA").save(file, "TIFF", **options)
    assert decode_image(file.getvalue(), 10_000).shape == (40, 60, 3)


def test_16_bit_grey_big_endian_tiff():
    values = np.arange(600, dtype=">u2").reshape(20, 30) * 100
    tags = [(256, 30), (257, 20), (258, 16), (259, 1), (262, 1), (273, 200), (277, 1), (278, 20), (279, 1200)]
    entries = b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in tags)
    header = b"MM\x00*" + struct.pack(">IH", 8, len(tags)) + entries + bytes(4)
    image = decode_image(header.ljust(200, b"\x00") + values.astype(">u2").tobytes(), PIXELS)
    np.testing.assert_array_equal(image[..., 0], values >> 8)


def test_32_bit_tiff_within_16_bits_is_read_like_16_bits():
    values = np.arange(600, dtype=np.int32).reshape(20, 30) * 100
    np.testing.assert_array_equal(decode_image(saved(values, "TIFF"), PIXELS)[..., 2], values >> 8)
    assert "65535" in refused(400, decode_image, saved(values * 100, "TIFF"), PIXELS)
    assert "65535" in refused(400, decode_image, saved(-values, "TIFF"), PIXELS)


def test_16_bit_rgb_png_keeps_the_high_byte():
    values = np.random.default_rng(1).integers(0, 65536, (5, 7, 3)).astype(">u2")
    rows = b"".join(b"\x00" + row.tobytes() for row in values)
    np.testing.assert_array_equal(decode_image(png(7, 5, 16, 2, rows), PIXELS), values >> 8)


def test_floating_point_tiff_is_refused():
    data = saved(RGB[..., 0].astype(np.float32), "TIFF")
    assert "floating-point" in refused(400, decode_image, data, PIXELS)


STORED = {  # how a camera stores a picture under each EXIF orientation, so that undoing it gives the picture
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_applied(format, orientation):
    picture = np.repeat(np.repeat(RGB[:2, :3], 16, axis=0), 16, axis=1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {"quality": 95, "subsampling": 0}
    stored = np.ascontiguousarray(STORED[orientation](picture))
    image = decode_image(saved(stored, format, exif=exif, **options), PIXELS)
    assert image.shape == picture.shape
    assert np.abs(image.astype(int) - picture).mean() < (4 if format == "JPEG" else 1e-9)


def test_damaged_or_senseless_exif_does_not_refuse_the_image():
    for exif in (b"Exif\x00\x00garbage", b"Exif\x00\x00MM\x00*\xff\xff\xff\xff"):
        assert decode_image(saved(RGB, "JPEG", exif=exif), PIXELS).shape == RGB.shape
    senseless = Image.Exif()
    senseless[0x0112] = 77
    assert decode_image(saved(RGB, "JPEG", exif=senseless), PIXELS).shape == RGB.shape


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_of_an_animation(format):
    frames = [Image.new("RGB", (9, 7), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if format == "WEBP" else {}
    data = saved(frames[0], format, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(decode_image(data, PIXELS), np.full((7, 9, 3), (255, 0, 0)))


# What is refused


def test_pixel_limit_is_exact():
    data = saved(RGB)
    assert decode_image(data, 600).shape == (20, 30, 3)
    assert "30 x 20" in refused(413, decode_image, data, 599)


@pytest.mark.parametrize("side", [2_000, 20_000, 60_000, 2**31 - 1])
def test_bomb_is_refused_by_its_header(side):
    # The file holds no pixels: decoding it would give 400, the size in its header gives 413.
    sentence = refused(413, decode_image, png(side, side, 8, 2, b""), 1_000_000)
    assert "pixels" in sentence


def test_bomb_beyond_pillows_guard_is_refused_whatever_our_limit():
    refused(413, decode_image, png(60_000, 60_000, 8, 2, b""), 10**12)


def test_gif_frame_larger_than_its_screen_counts():
    data = bytearray(saved(np.zeros((400, 500), np.uint8), "GIF"))
    data[6:10] = struct.pack("<HH", 1, 1)
    refused(413, decode_image, bytes(data), 1_000)


@pytest.mark.parametrize("width, height", [(0, 5), (5, 0), (0, 0)])
def test_zero_sized(width, height):
    refused(400, decode_image, png(width, height, 8, 2, b""), PIXELS)
    bmp = bytearray(saved(RGB, "BMP"))
    bmp[18:26] = struct.pack("<ii", width, height)
    refused(400, decode_image, bytes(bmp), PIXELS)
    gif = bytearray(saved(RGB, "GIF"))
    gif[6:10] = struct.pack("<HH", width, height)
    place = gif.index(b"\x2c\x00\x00\x00\x00")
    gif[place + 5 : place + 9] = struct.pack("<HH", width, height)
    refused(400, decode_image, bytes(gif), PIXELS)


@pytest.mark.parametrize("format, options", [
    ("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("BMP", {}), ("GIF", {}),
    ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}),
])  # fmt: skip
def test_truncated_anywhere(format, options):
    data = saved(RGB, format, **options)
    whole = decode_image(data, PIXELS)
    for length in (*range(0, len(data) - 20, 13), *range(len(data) - 60, len(data) - 20)):
        refused(400, decode_image, data[:length], PIXELS)
    for length in range(len(data) - 20, len(data)):  # every pixel may be there already
        with contextlib.suppress(RequestError):
            np.testing.assert_array_equal(decode_image(data[:length], PIXELS), whole)


@pytest.mark.parametrize("data", [b"", b"x", b"hello, I am no image", b"<svg xmlns='x'/>", b"\x00" * 1000])
def test_not_an_image_names_the_formats(data):
    sentence = refused(400, decode_image, data, PIXELS)
    assert all(format in sentence for format in FORMATS)


@pytest.mark.parametrize("format", ["PPM", "TGA", "ICO", "PCX", "EPS", "PDF", "JPEG2000"])
def test_other_decoders_of_pillow_cannot_be_reached(format):
    refused(400, decode_image, saved(RGB, format), PIXELS)


STARTS = [b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\x00\x08\x00\x00\x00"]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400), st.sampled_from([*STARTS, b"RIFF\x40\x00\x00\x00WEBPVP8 "]))
def test_random_bytes_are_refused(body, start):
    try:
        image = decode_image(start + body, 10_000)
    except RequestError as error:
        assert error.status in (400, 413)
    else:
        assert image.ndim == 3 and image.shape[2] == 3 and image.size <= 30_000


VALID = [saved(RGB[:9, :11], format) for format in FORMATS]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(VALID), st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=6))
def test_flipped_bytes_give_an_image_or_a_sentence(data, changes):
    damaged = bytearray(data)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    try:
        image = decode_image(bytes(damaged), 10_000)
    except RequestError as error:
        assert error.status in (400, 413)
    else:
        assert image.dtype == np.uint8 and image.shape[2:] == (3,) and image.size <= 30_000


# Base64


PREFIXES = ["", "data:image/png;base64,", "data:image/svg+xml;base64,"]


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=100), st.sampled_from(PREFIXES))
def test_base64_round_trip_at_its_exact_limit(data, prefix):
    text = prefix + base64.b64encode(data).decode()
    assert decode_base64(text, len(data)) == data
    assert str(len(data) - 1) in refused(413, decode_base64, text, len(data) - 1)


@pytest.mark.parametrize("value", [
    None, 3, b"aGk=", ["aGk="], {}, True, "", "data:image/png;base64,", "data:text/plain;base64,aGk=", "aGk", "a",
    "aG=k", "a===", "====", "aGk=aGk=", " aGk=", "aGk=\n", "aG k", "aG-_", "åäö=", "\x00\x00\x00\x00", "hello world",
])  # fmt: skip
def test_bad_base64(value):
    refused(400, decode_base64, value, 1_000)


@settings(deadline=None)
@given(st.text("aZ09+/=- \n\x00é", max_size=12))
def test_any_text_is_decoded_or_refused(text):
    try:
        assert base64.b64encode(decode_base64(text, 1_000)).decode()[:-2] in text  # last bits may be sloppy
    except RequestError as error:
        assert error.status == 400


def test_too_long_text_is_not_decoded(monkeypatch):
    monkeypatch.setattr(base64, "b64decode", lambda *_, **__: pytest.fail("decoded"))
    refused(413, decode_base64, "A" * 4_000_000, 1_000_000)


# Sizes


@pytest.mark.parametrize("height, width, expected", [
    (1080, 1920, (480, 853)), (1920, 1080, (853, 480)), (480, 854, (480, 854)), (100, 50, (100, 50)),
    (10, 4000, (5, 1920)), (4000, 10, (1920, 5)), (1, 100_000, (1, 1920)), (1, 1, (1, 1)), (1000, 1000, (480, 480)),
])  # fmt: skip
def test_working_size(height, width, expected):
    assert working_size(height, width, 480) == expected


@settings(deadline=None)
@given(st.integers(1, 20_000), st.integers(1, 20_000), st.integers(16, 1080))
def test_working_size_is_bounded_and_keeps_the_aspect(height, width, short_side):
    h, w = working_size(height, width, short_side)
    assert 1 <= h <= height and 1 <= w <= width
    assert min(h, w) <= max(1, short_side) and max(h, w) <= MAX_ASPECT * short_side
    if min(height, width) <= short_side and max(height, width) <= MAX_ASPECT * short_side:
        assert (h, w) == (height, width)
    scale = max(h, w) / max(height, width)
    assert abs(h - height * scale) <= 1 and abs(w - width * scale) <= 1


def test_resize_image_averages_and_leaves_a_fitting_image_alone():
    assert resize_image(RGB, 20, 30) is RGB
    small = resize_image(RGB, 10, 15)
    blocks = RGB.reshape(10, 2, 15, 2, 3).mean(axis=(1, 3))
    assert small.dtype == np.uint8 and np.abs(small - blocks).max() <= 0.5


def test_resize_mask_gives_coverage():
    mask = RGB[..., 0] > 200
    np.testing.assert_allclose(resize_mask(mask, 10, 15), mask.reshape(10, 2, 15, 2).mean(axis=(1, 3)), atol=1e-6)
    np.testing.assert_array_equal(resize_mask(mask, 20, 30), mask.astype(np.float32))
    thin = np.zeros((90, 90), bool)
    thin[:, 40] = True
    assert resize_mask(thin, 10, 10).max() > 0.1


def test_working_size_enlarges_as_far_as_it_may():
    assert working_size(100, 160, 480, max_scale=2.0) == (200, 320)
    assert working_size(360, 640, 480, max_scale=2.0) == (480, 853)


def test_resizing_up_blends_neighbours_and_keeps_masks_between_0_and_1():
    image = np.repeat(np.arange(0, 200, 20, dtype=np.uint8)[None, :, None], 3, 2).repeat(4, 0)  # (4, 10, 3) ramp
    larger = resize_image(image, 8, 20)
    assert larger.shape == (8, 20, 3) and len(np.unique(larger[0, :, 0])) > 10
    coverage = resize_mask(np.eye(5, dtype=bool), 10, 10)
    assert coverage.shape == (10, 10) and coverage.min() == 0 and 0.5 < coverage.max() <= 1
