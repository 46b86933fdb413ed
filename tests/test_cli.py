"""`maskbank track` as a user runs it: results, interruption, bad arguments."""

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from support import CLIP

from maskbank import cli
from maskbank.evaluation.measures import jaccard
from maskbank.files.frames import open_frames
from maskbank.files.masks import davis_palette, read_id_mask, write_id_mask
from maskbank.files.results import ResultFolder
from maskbank.files.video import VideoWriter
from maskbank.review.record import read_record

FRAMES = 7


@pytest.fixture(autouse=True)
def environment(monkeypatch) -> None:
    """A small working image, and a copy of the environment: options of the command line are kept there."""
    monkeypatch.setattr(os, "environ", os.environ | {"MASKBANK_SIZE": "128"})


@pytest.fixture
def folder(tmp_path) -> Path:
    """The first frames of the sample clip."""
    frames = tmp_path / "frames"
    frames.mkdir()
    for index in range(FRAMES):
        (frames / f"{index:05d}.jpg").write_bytes((CLIP / "frames" / f"{index:05d}.jpg").read_bytes())
    return frames


@pytest.fixture
def seed(tmp_path) -> Path:
    return seed_file(tmp_path / "seed.png", truth(0))


def truth(index: int) -> np.ndarray:
    return read_id_mask(CLIP / "masks" / f"{index:05d}.png")


def seed_file(path: Path, ids: np.ndarray) -> Path:
    write_id_mask(path, ids)
    return path


def track(*arguments: object) -> int:
    return cli.main(["track", *map(str, arguments)])


def test_what_to_outline_next_is_said_where_it_is_asked_for(folder, seed, tmp_path, capsys):
    assert track(folder, "--seed", f"0={seed}", "--out", tmp_path / "one", "--video", "none") == 0
    [said] = capsys.readouterr().out.splitlines()
    assert said.startswith("Look at ")
    assert track(folder, "--seed", f"0={seed}", "--out", tmp_path / "two", "--video", "none", "--suggest") == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"Outline next: frame [1-9]\d*, object .*\.|No frame is worth another outline: .*\.", said)


def check_results(out: Path, names: list[str], video: str | None = "overlay.webm") -> list[np.ndarray]:
    """Masks, JSON and video in `out` hold these frames and agree; returns the id maps."""
    masks = sorted((out / "masks").iterdir())
    assert [path.stem for path in masks] == [Path(name).stem for name in names]
    found = []
    for path in masks:
        with Image.open(path) as image:
            assert image.mode == "P" and image.size == (640, 360)
            assert image.getpalette() == davis_palette()
            found.append(np.asarray(image))
    coco = COCO(str(out / "annotations.json"))
    images = coco.dataset["images"]
    assert [image["file_name"] for image in images] == names
    for image, ids in zip(images, found, strict=True):
        again = np.zeros_like(ids)
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]])):
            again[coco.annToMask(annotation) > 0] = annotation["category_id"]
        np.testing.assert_array_equal(again, ids)
    assert [path.name for path in out.glob("overlay.*")] == ([video] if video else [])
    if video:
        assert [frame.shape for frame in open_frames(out / video)] == [(360, 640, 3)] * len(names)
    return found


# ---------------------------------------------------------------- results


def test_folder_with_a_correction_and_a_new_object(folder, tmp_path, capsys):
    fish_and_turtle = np.where(truth(0) == 1, 0, truth(0))
    first, second = seed_file(tmp_path / "a.png", fish_and_turtle), seed_file(tmp_path / "b.png", truth(4))
    assert track(folder, "--seed", f"0={first}", "--seed", f"4={second}", "--out", tmp_path / "out") == 0
    assert f"{FRAMES + 5}/{FRAMES + 5}" in capsys.readouterr().err  # the progress bar: five frames in both directions
    found = check_results(tmp_path / "out", [f"{i:05d}.jpg" for i in range(FRAMES)])
    np.testing.assert_array_equal(np.where(found[0] == 1, 0, found[0]), fish_and_turtle)
    np.testing.assert_array_equal(found[4], truth(4))
    for index in range(4):  # outlined on frame 4, and found before it
        assert jaccard(found[index] == 1, truth(index) == 1) > 0.3  # loose
    assert jaccard(found[1] == 3, truth(1) == 3) > 0.3  # loose: the turtle hardly moves
    assert (found[1] != found[0]).any() and (found[5] != found[4]).any()  # tracked, not copied


def test_video_file_and_no_overlay(folder, tmp_path, seed):
    with VideoWriter(tmp_path / "film.mp4", fps=10) as video:
        for image in open_frames(folder):
            video.write(image)
    assert track(tmp_path / "film.mp4", "--seed", f"2={seed}", "--out", tmp_path / "out", "--video", "none") == 0
    found = check_results(tmp_path / "out", [f"frame_{i:06d}.png" for i in range(FRAMES)], video=None)
    assert found[0].any() and found[1].any()
    np.testing.assert_array_equal(found[2], truth(0))
    assert found[3].any()


def test_overlay_has_the_videos_frame_rate(folder, tmp_path, seed):
    with VideoWriter(tmp_path / "film.mp4", fps=10) as video:
        for image in list(open_frames(folder))[:3]:
            video.write(image)
    assert track(tmp_path / "film.mp4", "--seed", f"0={seed}", "--out", tmp_path / "out", "--video", "mp4") == 0
    check_results(tmp_path / "out", [f"frame_{i:06d}.png" for i in range(3)], "overlay.mp4")
    assert open_frames(tmp_path / "out" / "overlay.mp4").fps == pytest.approx(10, abs=0.01)


# ---------------------------------------------------------------- interruption


def test_ctrl_c_leaves_what_was_done(tmp_path, seed):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "maskbank.cli", "track", CLIP / "frames", "--seed", f"0={seed}", "--out", out]
    running = subprocess.Popen(
        command,
        env=os.environ,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run in the background
    )
    try:
        until = time.monotonic() + 60
        while len(list(out.glob("masks/*.png"))) < 4 and running.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=30)
    finally:
        running.kill()
    assert running.returncode == 130, errors
    assert errors.splitlines()[-1] == "maskbank: stopped; what was done so far is kept."
    assert "Traceback" not in errors
    done = len(list(out.glob("masks/*.png")))
    assert 4 <= done < 60
    check_results(out, [f"{i:05d}.jpg" for i in range(done)])
    assert {path.name for path in out.iterdir()} == {"masks", "annotations.json", "overlay.webm", "review.jsonl"}
    assert len(read_record(out)[1]) == done  # `maskbank review` can show them


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_comes_after_the_frame_that_is_being_written(tmp_path, monkeypatch, number):
    def interrupted(path: Path, ids: np.ndarray) -> None:
        if path.stem == "00001":
            signal.raise_signal(number)
        write_id_mask(path, ids)

    def handler(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("maskbank.files.results.write_id_mask", interrupted)
    before = signal.signal(number, handler)
    try:
        with pytest.raises(KeyboardInterrupt), ResultFolder(tmp_path, "webm", 25) as results:
            for index, image in enumerate(open_frames(CLIP / "frames")):
                results.add(f"{index:05d}.jpg", image, truth(index), {1: 0.5})
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)
    check_results(tmp_path, ["00000.jpg", "00001.jpg"])


def test_frames_of_several_sizes(folder, tmp_path, seed):
    """The masks have each frame's size, the video that of the first."""
    Image.open(folder / "00002.jpg").resize((300, 400)).save(folder / "00002.jpg")
    assert track(folder, "--seed", f"0={seed}", "--out", tmp_path / "out") == 0
    assert read_id_mask(tmp_path / "out" / "masks" / "00002.png").shape == (400, 300)
    assert len({image.shape for image in open_frames(tmp_path / "out" / "overlay.webm")}) == 1


def test_a_run_that_fails_before_its_first_frame_leaves_what_was_there(folder, tmp_path, seed, capsys):
    out = tmp_path / "out"
    assert track(folder, "--seed", f"0={seed}", "--out", out) == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    write_id_mask(tmp_path / "small.png", np.ones((9, 9), np.uint8))
    assert track(folder, "--seed", f"0={seed}", "--seed", f"1={tmp_path / 'small.png'}", "--out", out) == 1
    assert "The seed mask of frame 1 is 9 x 9 pixels" in last_line(capsys)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_stop_before_the_first_frame_does_not_claim_that_anything_is_kept(
    folder, tmp_path, seed, capsys, monkeypatch
):
    def stopped(*_: object) -> Iterator[object]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("maskbank.tracking.clip.track_clip", stopped)
    assert track(folder, "--seed", f"0={seed}", "--out", tmp_path / "out") == 130
    assert last_line(capsys) == "maskbank: stopped; no frame was finished."


def test_masks_that_no_run_made_are_not_touched(folder, tmp_path, seed, capsys):
    (tmp_path / "data" / "masks").mkdir(parents=True)
    drawn = tmp_path / "data" / "masks" / "00000.png"
    drawn.write_bytes(seed.read_bytes())
    assert track(folder, "--seed", f"0={seed}", "--out", tmp_path / "data") == 1
    assert "has masks or annotations that do not come from an earlier run; choose another folder" in last_line(capsys)
    assert drawn.read_bytes() == seed.read_bytes() and list(tmp_path.joinpath("data").rglob("*.png")) == [drawn]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "annotations.json").write_text('{"images": []}')
    assert track(folder, "--seed", f"0={seed}", "--out", tmp_path / "mine") == 1
    assert (tmp_path / "mine" / "annotations.json").read_text() == '{"images": []}'


def test_a_run_takes_the_place_of_an_earlier_one(folder, tmp_path, seed):
    out = tmp_path / "out"
    assert track(folder, "--seed", f"0={seed}", "--out", out, "--video", "mp4") == 0
    for index in range(3, FRAMES):
        (folder / f"{index:05d}.jpg").unlink()
    assert track(folder, "--seed", f"0={seed}", "--out", out) == 0
    check_results(out, [f"{index:05d}.jpg" for index in range(3)])
    assert [path.name for path in out.glob("overlay.*")] == ["overlay.webm"]


def test_what_a_killed_run_left_is_no_obstacle(folder, tmp_path, seed):
    results = ResultFolder(tmp_path / "out", None, 25)
    results.add("00009.jpg", next(iter(open_frames(folder))), truth(0), {1: 1.0})  # and it is never closed
    assert (tmp_path / "out" / "masks" / "00009.png").exists()
    assert track(folder, "--seed", f"0={seed}", "--out", tmp_path / "out") == 0
    check_results(tmp_path / "out", [f"{index:05d}.jpg" for index in range(FRAMES)])


def test_a_full_disk_is_said_with_the_folder_and_what_is_kept(folder, tmp_path, seed, capsys, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    full = out / f".annotations-{os.getpid()}.json"  # the draft of the annotations, on a device that is always full
    full.symlink_to("/dev/full")
    assert track(folder, "--seed", f"0={seed}", "--out", out) == 1
    assert last_line(capsys) == f"maskbank: The disk that holds {out} is full; no frame was finished."

    def written(path: Path, ids: np.ndarray) -> None:
        if path.stem == "00003":
            full.symlink_to("/dev/full")  # where the annotations go at the end, too
            path.symlink_to("/dev/full")
        write_id_mask(path, ids)

    monkeypatch.setattr("maskbank.files.results.write_id_mask", written)
    assert track(folder, "--seed", f"0={seed}", "--out", out, "--video", "none") == 1
    kept = f"what was done so far is kept, and `maskbank review {out}` completes it once there is room"
    assert last_line(capsys) == f"maskbank: The disk that holds {out} is full; {kept}."
    (out / "masks" / "00003.png").unlink()
    assert cli.main(["review", str(out)]) == 0
    check_results(out, [f"{index:05d}.jpg" for index in range(3)], video=None)


def test_review_restores_the_annotations_of_a_run_that_was_killed(folder, tmp_path, seed, capsys):
    out = tmp_path / "out"
    assert track(folder, "--seed", f"0={seed}", "--out", out, "--video", "none") == 0
    annotations = out / "annotations.json"
    whole = annotations.read_bytes()
    ResultFolder(tmp_path / "killed", None, 25).add("0.jpg", next(iter(open_frames(folder))), truth(0), {1: 1.0})
    annotations.write_bytes((tmp_path / "killed" / "annotations.json").read_bytes())
    capsys.readouterr()
    assert cli.main(["review", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"{annotations} is complete now."
    assert annotations.read_bytes() == whole
    changed = whole.replace(b"object 1", b"red koi")
    annotations.write_bytes(changed)
    assert cli.main(["review", str(out)]) == 0
    assert annotations.read_bytes() == changed  # it has all frames, so it is let alone
    annotations.unlink()
    assert cli.main(["review", str(out)]) == 0
    assert not annotations.exists()  # as in the folder of a job


def test_a_video_that_ends_too_early_is_tracked_as_far_as_it_goes(tmp_path, seed, capfd):
    with VideoWriter(tmp_path / "film.webm", fps=10) as video:
        for image in itertools.islice(open_frames(CLIP / "frames"), 20):
            video.write(image)
    whole = (tmp_path / "film.webm").read_bytes()
    (tmp_path / "film.webm").write_bytes(whole[: len(whole) // 2])
    out = tmp_path / "out"
    assert track(tmp_path / "film.webm", "--seed", f"0={seed}", "--out", out, "--video", "none") == 0
    frames = open_frames(tmp_path / "film.webm")
    assert 3 < len(frames) < 15
    errors = capfd.readouterr().err.splitlines()
    assert errors[-1] == f"maskbank: {frames.damage}" and "reading stopped at frame" in errors[-1]
    check_results(out, [f"frame_{i:06d}.png" for i in range(len(frames))], video=None)
    assert f'"notice":"{frames.damage}"' in (out / "review.html").read_text()
    assert track(tmp_path / "film.webm", "--seed", f"19={seed}", "--out", out) == 1
    assert f"film.webm has {len(frames)} frames that can be read." in capfd.readouterr().err


def test_a_run_that_a_damaged_image_stopped_has_a_page(folder, tmp_path, seed):
    (folder / "00003.jpg").write_bytes(b"no image")
    assert track(folder, "--seed", f"0={seed}", "--out", tmp_path / "out") == 1
    assert cli.main(["review", str(tmp_path / "out")]) == 0


def test_what_is_named_like_an_image_but_is_no_file(folder, tmp_path, seed, capsys):
    (folder / "00009.jpg").symlink_to(folder / "nowhere.jpg")
    assert track(folder, "--seed", f"0={seed}", "--out", tmp_path / "out") == 1
    assert "00009.jpg is named like an image, but is no file." in last_line(capsys)


def test_frame_that_cannot_be_read_leaves_those_before_it(folder, tmp_path, seed, capsys):
    broken = folder / "00002.jpg"
    broken.write_bytes(broken.read_bytes()[:5000])
    assert track(folder, "--seed", f"0={seed}", "--out", tmp_path / "out") == 1
    assert "00002.jpg cannot be read" in last_line(capsys)
    check_results(tmp_path / "out", ["00000.jpg", "00001.jpg"])


# ---------------------------------------------------------------- bad arguments


def last_line(capsys) -> str:
    """Of stderr: one sentence (above it may be a progress bar), and never a traceback."""
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    return errors.replace("\r", "\n").splitlines()[-1]


@pytest.mark.parametrize("change, words", [
    ({"frames": "nowhere"}, "nowhere does not exist"),
    ({"frames": "text.mp4"}, "text.mp4 is not a video that can be read"),
    ({"frames": "empty"}, "empty holds no images"),
    ({"seed": "7=seed.png"}, "There is no frame 7 to seed"),
    ({"seed": "0=nowhere.png"}, "nowhere.png does not exist"),
    ({"seed": "0=text.mp4"}, "text.mp4 is not a mask image"),
    ({"seed": "0=photo.png"}, "photo.png is a colour image"),
    ({"--model": "resnet"}, "MASKBANK_MODEL is 'resnet', but must be one of lite, afb-urr, afb-urr-paper"),
    ({"--model": "afb-urr"}, "The model afb-urr brings no weights"),
    ({"--weights": "nowhere.safetensors"}, "nowhere.safetensors', but there is no such file"),
    ({"--weights": "text.safetensors"}, "text.safetensors is damaged or not a safetensors file"),
    ({"--size": "10"}, "MASKBANK_SIZE is '10', but must be a whole number from 64 to 2160"),
    ({"--device": "tpu"}, "MASKBANK_DEVICE is 'tpu', but must be auto, cpu, cuda or cuda:N"),
    ({"--out": "text.mp4"}, "Not a directory"),
])  # fmt: skip
def test_bad_arguments_give_one_sentence(folder, tmp_path, seed, monkeypatch, capfd, change, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no film")
    (tmp_path / "text.safetensors").write_text("no weights")
    Image.new("RGB", (640, 360)).save(tmp_path / "photo.png")
    arguments = {"frames": "frames", "seed": "0=seed.png", "--out": "out"} | change
    frames, seed_option = arguments.pop("frames"), arguments.pop("seed")
    assert track(frames, "--seed", seed_option, *sum(arguments.items(), ())) == 1
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("maskbank: ") and line.endswith(".") and words in line
    assert not (tmp_path / "out" / "annotations.json").exists()


def test_seed_that_does_not_fit_gives_one_sentence(folder, tmp_path, seed, capsys):
    out = tmp_path / "out"
    small, empty = seed_file(tmp_path / "small.png", truth(0)[:300, :400]), seed_file(tmp_path / "e.png", 0 * truth(0))
    out.mkdir()
    earlier = '{"info": {"description": "Masks propagated by MaskBank"}}'
    (out / "annotations.json").write_text(earlier)
    assert track(folder, "--seed", f"0={small}", "--out", out) == 1
    expected = "maskbank: The seed mask of frame 0 is 400 x 300 pixels, but the frame is 640 x 360."
    assert last_line(capsys) == expected
    assert track(folder, "--seed", f"0={seed}", "--seed", f"3={empty}", "--out", out) == 1
    assert last_line(capsys) == "maskbank: The seed mask of frame 3 shows no object."
    assert track(folder, "--seed", f"1={seed}", "--seed", f"1={empty}", "--out", out) == 1
    assert last_line(capsys) == "maskbank: Frame 1 has two seed masks; put all its objects into one."
    assert (out / "annotations.json").read_text() == earlier  # of an earlier run: nothing was done in its place
    assert track(folder, "--seed", f"0={seed}", "--seed", f"2={small}", "--out", out) == 1
    assert "of frame 2 is 400 x 300" in last_line(capsys)
    assert (out / "annotations.json").read_text() == earlier


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_write_permission_gives_one_sentence(folder, tmp_path, seed, capsys):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert track(folder, "--seed", f"0={seed}", "--out", tmp_path / "locked" / "out") == 1
    assert last_line(capsys).endswith("Permission denied.")


@pytest.mark.parametrize("arguments", [
    ["track", "frames"],
    ["track", "frames", "--out", "out"],
    ["track", "frames", "--seed", "seed.png", "--out", "out"],
    ["track", "frames", "--seed", "-1=seed.png", "--out", "out"],
    ["track", "frames", "--seed", "0=", "--out", "out"],
    ["track", "frames", "--seed", "0=seed.png", "--out", "out", "--video", "gif"],
    ["train", "--data", "data", "--out", "out", "--minutes", "0"],
    ["train", "--data", "data", "--out", "out", "--minutes", "soon"],
    ["train", "--data", "data", "--out", "out", "--minutes", "1", "--learning-rate", "0"],
    ["folds", "--data", "data", "--source", "s", "--out", "out", "--learning-rate", "nan"],
    ["train-interactor", "--data", "data", "--out", "out", "--minutes", "1", "--learning-rate", "fast"],
    ["store", "purge", "--older-than", "-8"],
    ["store", "purge", "--older-than", "nan"],
    ["dance"],
    [],
])  # fmt: skip
def test_unusable_command_line_is_refused_with_usage(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 2
    errors = capsys.readouterr().err
    assert errors.startswith("usage: maskbank") and "error: " in errors and "Traceback" not in errors
