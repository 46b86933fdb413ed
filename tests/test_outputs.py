"""Frames in; pictures, masks, videos and JSON out; and the sample clip."""

import json
import math
import os
import runpy
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from maskbank.files.atomic import atomic_write, check_writable
from maskbank.files.coco import CocoWriter
from maskbank.files.frames import open_frames
from maskbank.files.masks import davis_palette, read_id_mask, write_id_mask
from maskbank.files.rendering import bright_colours, contact_sheet, overlay
from maskbank.files.video import CODECS, VideoWriter

ROOT = Path(__file__).parents[1]
CLIP = ROOT / "samples" / "clip"


@pytest.fixture
def ids() -> np.ndarray:
    """An id map (60, 80) with three objects."""
    mask = np.zeros((60, 80), np.uint8)
    mask[5:25, 10:40] = 1
    mask[20:50, 30:60] = 2
    mask[55:60, 70:80] = 7
    return mask


def smooth_image(seed: int, size: tuple[int, int] = (60, 80)) -> np.ndarray:
    """A (H, W, 3) uint8 picture that survives compression."""
    small = np.random.default_rng(seed).integers(40, 215, (3, 4, 3), np.uint8)
    return cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)


def save_image(path: Path, shade: int) -> None:
    Image.fromarray(np.full((8, 12, 3), shade, np.uint8)).save(path)


# ---------------------------------------------------------------- palette and masks


def test_palette_is_that_of_davis():
    palette = davis_palette()
    colours = [tuple(palette[3 * i : 3 * i + 3]) for i in range(256)]
    assert colours[:10] == [
        (0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128),
        (128, 0, 128), (0, 128, 128), (128, 128, 128), (64, 0, 0), (192, 0, 0),
    ]  # fmt: skip
    assert colours[20:22] == [(0, 64, 128), (128, 64, 128)]
    assert colours[255] == (224, 224, 192)
    assert len(set(colours)) == len({tuple(c) for c in bright_colours().tolist()}) == 256


def test_id_mask_round_trip_keeps_indices_and_palette(tmp_path, ids):
    ids[0, 0] = 254
    write_id_mask(tmp_path / "m.png", ids)
    with Image.open(tmp_path / "m.png") as image:
        assert image.mode == "P"
        assert image.getpalette()[:30] == davis_palette()[:30]
        np.testing.assert_array_equal(np.asarray(image), ids)
    np.testing.assert_array_equal(read_id_mask(tmp_path / "m.png"), ids)


def test_void_is_background_and_grey_masks_are_object_one(tmp_path, ids):
    indexed = Image.fromarray(np.where(ids == 2, 255, ids).astype(np.uint8))
    indexed.putpalette(davis_palette())
    indexed.save(tmp_path / "void.png")
    np.testing.assert_array_equal(read_id_mask(tmp_path / "void.png"), np.where(ids == 2, 0, ids))
    thing = ids > 0
    Image.fromarray(thing.astype(np.uint8) * 255).save(tmp_path / "grey.png")
    Image.fromarray(thing).save(tmp_path / "bit.png")
    Image.fromarray(thing.astype(np.uint16) * 300).save(tmp_path / "deep.png")
    Image.fromarray(np.dstack([thing * 9, thing * 0 + 255]).astype(np.uint8), "LA").save(tmp_path / "la.png")
    for name in ("grey", "bit", "deep", "la"):
        mask = read_id_mask(tmp_path / f"{name}.png")
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, thing)


def test_grey_masks_with_soft_edges_are_one_object_but_grey_ids_are_refused(tmp_path, ids):
    thing = ids > 0
    soft = np.where(thing, 255, 0).astype(np.uint8)
    soft[0, :9] = 28 * np.arange(9)
    Image.fromarray(soft).save(tmp_path / "soft.png")
    np.testing.assert_array_equal(read_id_mask(tmp_path / "soft.png"), soft > 0)
    two = np.zeros((30, 40), np.uint16)
    two[5:15, 5:15], two[18:28, 20:38] = 1, 2
    for name, grey in {"ids": two.astype(np.uint8), "bright": (two * 80).astype(np.uint8), "deep": two * 1000}.items():
        Image.fromarray(grey).save(tmp_path / f"{name}.png")
        with pytest.raises(ValueError, match=f"{name}.png is a grey image with areas of several values .*; save an"):
            read_id_mask(tmp_path / f"{name}.png")
    lossy = np.where(two > 0, 255 - two % 2, 0).astype(np.uint8)  # as a JPEG leaves white
    Image.fromarray(lossy).save(tmp_path / "lossy.png")
    np.testing.assert_array_equal(read_id_mask(tmp_path / "lossy.png"), lossy > 0)


def test_bad_masks_give_sentences(tmp_path, ids):
    save_image(tmp_path / "colour.png", 3)
    (tmp_path / "text.png").write_text("no image")
    write_id_mask(tmp_path / "whole.png", np.random.default_rng(0).integers(0, 99, (90, 90), np.uint8))
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    for name, words in (
        ("missing.png", "does not exist"),
        ("colour.png", "is a colour image"),
        ("text.png", "not a mask image"),
        ("cut.png", "not a mask image"),
    ):
        with pytest.raises(ValueError, match=words) as refusal:
            read_id_mask(tmp_path / name)
        assert name in str(refusal.value)
    with pytest.raises(ValueError, match="0..254"):
        write_id_mask(tmp_path / "x.png", np.full((3, 3), 255))
    with pytest.raises(ValueError, match="array of integers"):
        write_id_mask(tmp_path / "x.png", ids / 2)


# ---------------------------------------------------------------- pictures


def test_overlay_changes_objects_only(ids):
    image = smooth_image(0)
    before = image.copy()
    drawn = overlay(image, ids)
    np.testing.assert_array_equal(image, before)
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn[ids == 0], image[ids == 0])
    colours = bright_colours()
    half = (image[12, 20].astype(float) + colours[1]) / 2
    assert np.abs(drawn[12, 20] - half).max() <= 1  # inside: half the colour
    np.testing.assert_array_equal(drawn[5, 20], colours[1])  # at the rim: all of it
    np.testing.assert_array_equal(drawn[30, 30], colours[2])


def test_overlay_labels_are_drawn_for_visible_objects(ids):
    image = smooth_image(1, (240, 320))
    large = cv2.resize(ids, (320, 240), interpolation=cv2.INTER_NEAREST)
    plain, unseen = overlay(image, large), overlay(image, large, {5: "not there"})
    np.testing.assert_array_equal(plain, unseen)
    named = overlay(image, large, {1: "koi", 7: "a name in the corner"})
    assert named.shape == image.shape
    assert (named != plain).any(axis=2).sum() > 200
    with pytest.raises(ValueError, match="does not fit"):
        overlay(image, ids)


def test_contact_sheet_places_every_image():
    images = [np.full((40, 60, 3), 30 * i, np.uint8) for i in range(5)]
    sheet = contact_sheet(images, columns=3, gap=6)
    assert sheet.shape == (2 * 46 + 6, 3 * 66 + 6, 3)
    assert (sheet[46 - 3, 66 - 3] == 0).all()  # last pixels of the first tile
    assert (sheet[52 + 37, 72 + 57] == 120).all()  # … and of the fifth
    assert (sheet[-20:, -60:] == 255).all()  # no sixth
    other = contact_sheet(images, columns=3, gap=6, captions=["9", "8", "7", "6", "5"])
    assert (other != sheet).any()
    for bad in ([], [images[0], images[0][1:]]):
        with pytest.raises(ValueError, match="contact sheet"):
            contact_sheet(bad, columns=2)


@pytest.mark.parametrize("ending", CODECS)
@pytest.mark.parametrize("size", [(90, 120), (91, 121)])
def test_video_reads_back_as_written(tmp_path, capfd, ending, size):
    path = tmp_path / f"video{ending}"
    images = [smooth_image(i, size) for i in range(7)]
    with VideoWriter(path, fps=12.5) as video:
        for image in images:
            video.write(image)
        with pytest.raises(ValueError, match="follows one of"):
            video.write(images[0][:50])
    frames = open_frames(path)
    assert len(frames) == 7
    assert frames.fps == pytest.approx(12.5, abs=0.01)
    assert frames.name(6) == "frame_000006.png"
    with pytest.raises(IndexError):
        frames.name(7)
    for _ in range(2):  # can be iterated again
        back = list(frames)
        assert [frame.shape for frame in back] == [(size[0] + size[0] % 2, size[1] + size[1] % 2, 3)] * 7
    for image, frame in zip(images, back, strict=True):
        # the mean colour tells RGB from BGR; codecs lose the rest a little
        assert np.abs(image.mean((0, 1)) - frame[: size[0], : size[1]].mean((0, 1))).max() < 6
    assert capfd.readouterr().err == ""


def test_video_that_cannot_be_written_gives_a_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.webm or \.mp4"):
        VideoWriter(tmp_path / "video.avi")
    with pytest.raises(ValueError, match="frame rate"):
        VideoWriter(tmp_path / "video.mp4", fps=0)
    with pytest.raises(OSError, match="could not open"), VideoWriter(tmp_path / "no" / "video.mp4") as video:
        video.write(smooth_image(0))


# ---------------------------------------------------------------- frames


def test_folder_is_read_in_natural_order(tmp_path):
    for name, shade in (("frame10.png", 30), ("frame2.png", 20), ("frame1.PNG", 10)):
        save_image(tmp_path / name, shade)
    (tmp_path / ".hidden.png").write_text("")
    (tmp_path / "notes.txt").write_text("no frame")
    frames = open_frames(tmp_path)
    assert [frames.name(i) for i in range(len(frames))] == ["frame1.PNG", "frame2.png", "frame10.png"]
    assert [int(frame[0, 0, 0]) for frame in frames] == [10, 20, 30]
    assert all(frame.shape == (8, 12, 3) and frame.dtype == np.uint8 for frame in frames)


def test_bad_frames_give_sentences(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        open_frames(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no images"):
        open_frames(tmp_path / "empty")
    (tmp_path / "film.mp4").write_bytes(b"no film" * 100)
    with pytest.raises(ValueError, match="film.mp4 is not a video"):
        open_frames(tmp_path / "film.mp4")
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    save_image(mixed / "a.jpg", 1)
    save_image(mixed / "b.jpg", 1)
    (mixed / "b.jpg").write_bytes((mixed / "b.jpg").read_bytes()[:100])
    with pytest.raises(ValueError, match="b.jpg cannot be read"):
        list(open_frames(mixed))
    with pytest.raises(ValueError, match="a.jpg cannot be read"):
        list(open_frames(mixed, max_pixels=95))
    save_image(mixed / "a.png", 1)
    with pytest.raises(ValueError, match="2 images named a"):
        open_frames(mixed)


def turn_quarter(mp4: bytes) -> bytes:
    """The same film, with a header that says: show it turned by 90 degrees clockwise."""
    track = mp4.index(b"tkhd") + 4
    assert mp4[track] == 0  # version 0: the matrix lies 40 bytes behind the version
    values = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]
    matrix = b"".join(value.to_bytes(4, "big", signed=True) for value in values)
    return mp4[: track + 40] + matrix + mp4[track + 76 :]


def test_video_is_turned_upright_and_over_large_ones_are_refused(tmp_path):
    image = np.zeros((64, 96, 3), np.uint8)
    image[:, :48] = 255  # bright left half: the upper half, once turned clockwise
    with VideoWriter(tmp_path / "flat.mp4") as video:
        for _ in range(3):
            video.write(image)
    (tmp_path / "turned.mp4").write_bytes(turn_quarter((tmp_path / "flat.mp4").read_bytes()))
    frames = list(open_frames(tmp_path / "turned.mp4"))
    assert [frame.shape for frame in frames] == [(96, 64, 3)] * 3
    assert frames[0][:40].min() > 200 and frames[0][-40:].max() < 50
    with pytest.raises(ValueError, match="more than 6000 pixels"):
        open_frames(tmp_path / "flat.mp4", max_pixels=6000)


def test_frames_are_counted_when_the_header_lies(tmp_path):
    with VideoWriter(tmp_path / "film.mp4") as video:
        for i in range(60):
            video.write(smooth_image(i, (120, 160)))
    whole = (tmp_path / "film.mp4").read_bytes()
    # the header lies at the end of an mp4: cut frames out of the data before it by blanking them
    start = whole.index(b"mdat") + 4
    end = whole.rindex(b"moov") - 4
    middle = (start + end) // 2
    (tmp_path / "film.mp4").write_bytes(whole[:middle] + bytes(end - middle) + whole[end:])
    frames = open_frames(tmp_path / "film.mp4")
    header = int(cv2.VideoCapture(str(tmp_path / "film.mp4")).get(cv2.CAP_PROP_FRAME_COUNT))
    assert header == 60
    assert len(frames) == len(list(frames)) < 60


def film(path: Path, frames: int = 60) -> bytes:
    """Noise, of which each frame takes about as many bytes as any other."""
    random = np.random.default_rng(0)
    with VideoWriter(path, fps=10) as video:
        for _ in range(frames):
            video.write(random.integers(0, 255, (120, 160, 3), np.uint8))
    return path.read_bytes()


def damaged_mp4(path: Path) -> None:
    """A film of 60 frames, with nothing in the second half of its data."""
    whole = film(path)
    end = whole.rindex(b"moov") - 4  # the header lies at the end of an mp4
    path.write_bytes(whole[: end // 2] + bytes(end - end // 2) + whole[end:])


def test_a_video_that_ends_too_early_says_where(tmp_path, capfd):
    damaged_mp4(tmp_path / "damaged.mp4")
    whole = film(tmp_path / "cut.webm")
    (tmp_path / "cut.webm").write_bytes(whole[: len(whole) // 2])
    for name in ("damaged.mp4", "cut.webm"):
        frames = open_frames(tmp_path / name)
        assert 10 < len(frames) == len(list(frames)) < 50
        stopped = f"reading stopped at frame {len(frames)} of the 60 that its header promises"
        assert frames.damage == f"{name} may be damaged, cut off or trimmed: {stopped}."
    assert capfd.readouterr().err == ""  # nothing from FFmpeg


@pytest.mark.parametrize("ending", CODECS)
def test_a_whole_video_is_not_taken_for_damaged(tmp_path, ending):
    film(tmp_path / f"film{ending}")
    assert open_frames(tmp_path / f"film{ending}").damage is None


@pytest.mark.parametrize("element, value", [
    ("4489", struct.pack(">d", 0)),  # the length: not known, as of a stream
    ("4489", struct.pack(">d", -5)),
    ("4489", struct.pack(">d", math.inf)),
    ("4489", struct.pack(">d", 6300)),  # 63 frames
    ("23e383", (1_000_000).to_bytes(4, "big")),  # nanoseconds of a frame: 1000 a second, ten of which are there
])  # fmt: skip
def test_a_webm_whose_header_lies_is_not_taken_for_damaged(tmp_path, element, value):
    header = bytearray(film(tmp_path / "film.webm"))
    start = header.index(bytes.fromhex(element)) + len(element) // 2 + 1  # behind its name and its size
    header[start : start + len(value)] = value
    (tmp_path / "film.webm").write_bytes(header)
    frames = open_frames(tmp_path / "film.webm")
    assert int(cv2.VideoCapture(str(tmp_path / "film.webm")).get(cv2.CAP_PROP_FRAME_COUNT)) != 60
    assert len(frames) == 60 and frames.damage is None


# ---------------------------------------------------------------- COCO


def test_coco_loads_in_pycocotools_and_gives_the_masks_back(tmp_path, ids, capsys):
    writer = CocoWriter({1: "red koi", 9: "never seen"})
    later = np.where(ids == 7, 0, ids)
    writer.add("00000.jpg", ids)
    writer.add("00001.jpg", later)
    writer.save(tmp_path / "coco.json")
    assert [path.name for path in tmp_path.iterdir()] == ["coco.json"]
    coco = COCO(str(tmp_path / "coco.json"))
    assert {c["id"]: c["name"] for c in coco.dataset["categories"]} == {
        1: "red koi", 2: "object 2", 7: "object 7", 9: "never seen",
    }  # fmt: skip
    assert [(image["file_name"], image["height"], image["width"]) for image in coco.dataset["images"]] == [
        ("00000.jpg", 60, 80),
        ("00001.jpg", 60, 80),
    ]
    for image_id, expected in ((1, ids), (2, later)):
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=[image_id]))
        assert [a["track_id"] for a in annotations] == [i for i in (1, 2, 7) if (expected == i).any()]
        for annotation in annotations:
            mask = expected == annotation["category_id"]
            np.testing.assert_array_equal(coco.annToMask(annotation), mask)
            assert annotation["area"] == mask.sum()
            assert annotation["attributes"]["track_id"] == annotation["track_id"]
            assert annotation["bbox"] == list(cv2.boundingRect(mask.astype(np.uint8)))


def test_coco_file_that_cannot_be_replaced_keeps_the_old_one(tmp_path, ids, monkeypatch):
    path = tmp_path / "coco.json"
    CocoWriter().save(path)
    writer = CocoWriter()
    writer.add("0.jpg", ids)
    monkeypatch.setattr(json, "dumps", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        writer.save(path)
    assert json.loads(path.read_text())["images"] == []


# ---------------------------------------------------------------- the sample clip


def test_sample_clip_is_complete_and_small():
    assert sum(path.stat().st_size for path in CLIP.rglob("*") if path.is_file()) <= 3_000_000
    frames = open_frames(CLIP / "frames")
    assert len(frames) == 60
    visible = []
    for i, frame in enumerate(frames):
        mask = read_id_mask(CLIP / "masks" / f"{Path(frames.name(i)).stem}.png")
        assert mask.shape == frame.shape[:2] == (360, 640)
        visible.append({int(k) for k in np.unique(mask)} - {0})
    assert visible[0] == visible[-1] == {1, 2, 3}
    hidden = [i for i, ids in enumerate(visible) if ids != {1, 2, 3}]
    assert hidden == list(range(27, 37)) and all(visible[i] == {2, 3} for i in hidden)
    assert list(json.loads((CLIP / "labels.json").read_text())) == ["1", "2", "3"]


def test_render_tool_gives_the_stored_clip():
    pond = runpy.run_path(str(ROOT / "tools" / "render_sample_clip.py"))["Pond"]()
    for index in (0, 24, 50):
        stored = read_id_mask(CLIP / "masks" / f"{index:05d}.png")
        np.testing.assert_array_equal(pond.id_mask(index), stored)
    drawn = pond.frame(24)
    stored = np.asarray(Image.open(CLIP / "frames" / "00024.jpg"))
    assert np.abs(drawn.astype(int) - stored).mean() < 3  # what JPEG loses


# ---------------------------------------------------------------- files that are there as a whole


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    path = tmp_path / "report.txt"
    with atomic_write(path) as draft:
        draft.write_text("first")
        assert not path.exists() and draft.suffix == path.suffix
    with pytest.raises(ZeroDivisionError), atomic_write(path) as draft:
        draft.write_text("second")
        _ = 1 / 0
    assert path.read_text() == "first" and [each.name for each in tmp_path.iterdir()] == ["report.txt"]


def test_errors_name_the_file_and_never_its_draft(tmp_path):
    (tmp_path / "folder").mkdir()
    full = tmp_path / f".full-{os.getpid()}.txt"  # the draft of full.txt, on a device that is always full
    full.symlink_to("/dev/full")
    for path, kind in (
        (tmp_path / "folder", IsADirectoryError),
        (tmp_path / "nowhere" / "report.txt", FileNotFoundError),
        (tmp_path / "full.txt", OSError),
    ):
        with pytest.raises(kind) as raised, atomic_write(path) as draft:
            draft.write_text("report")
        assert raised.value.filename == str(path) and raised.value.strerror
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]
    with pytest.raises(FileNotFoundError) as raised, atomic_write(tmp_path / "report.txt"):
        (tmp_path / "other").read_text()
    assert raised.value.filename == str(tmp_path / "other")


def test_that_a_file_cannot_be_written_is_found_out_without_writing(tmp_path):
    (tmp_path / "there.txt").write_text("mine")
    check_writable(tmp_path / "there.txt")
    check_writable(tmp_path / "new.txt")
    assert [each.name for each in tmp_path.iterdir()] == ["there.txt"]
    assert (tmp_path / "there.txt").read_text() == "mine"
    for path in (tmp_path, tmp_path / "nowhere" / "a.txt", tmp_path / "there.txt" / "a.txt", Path("/proc/a.txt")):
        with pytest.raises(OSError) as raised:
            check_writable(path)
        assert str(raised.value.filename) == str(path)
