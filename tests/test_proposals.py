"""`maskbank propose` on the sample clip and on a photo that a camera pans over: what moves by itself."""

import os
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import CLIP, GOLDEN_KOI, RED_KOI, TURTLE, jaccard, rgb, true_mask

from maskbank import cli
from maskbank.evaluation.proposals import ProposalScore, proposal_report
from maskbank.files.masks import read_id_mask
from maskbank.files.video import VideoWriter
from maskbank.networks.outliner import load_outliner
from maskbank.proposals.motion import motion_map, small_grey
from maskbank.proposals.propose import OFFSETS, Proposals, frames_to_look_at, frames_to_read, propose
from maskbank.settings import Settings
from maskbank.tracking.loading import load_tracker


@pytest.fixture(autouse=True)
def environment(monkeypatch) -> None:
    """A small working image, and a copy of the environment: options of the command line are kept there."""
    monkeypatch.setattr(os, "environ", os.environ | {"MASKBANK_SIZE": "192"})


def panned(index: int) -> np.ndarray:
    """A frame of the clip that a camera moves over: nothing in it moves by itself."""
    return np.ascontiguousarray(rgb(0)[20 + 2 * index : 300 + 2 * index, 30 + 3 * index : 500 + 3 * index])


def write_clip(folder: Path, images: list[np.ndarray]) -> Path:
    folder.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index:05d}.png")
    return folder


def test_what_moves_by_itself_stands_out_from_what_the_camera_moves():
    moving = motion_map(small_grey(rgb(20)), [small_grey(rgb(18)), small_grey(rgb(22))])
    animals = small_grey(np.repeat((read_id_mask(CLIP / "masks" / "00020.png") > 0)[..., None], 3, 2) * np.uint8(255))
    assert moving[animals > 127].mean() > 3 * moving[animals == 0].mean()
    still = motion_map(small_grey(panned(3)), [small_grey(panned(2)), small_grey(panned(4))])
    assert still.mean() < 0.5 * moving[animals > 127].mean()


def test_the_proposal_is_a_seed_of_animals_to_track_from(tmp_path, capsys):
    out = tmp_path / "the out"
    assert cli.main(["propose", str(CLIP / "frames"), "--out", str(out)]) == 0
    said, go_on = capsys.readouterr().out.splitlines()
    [mask] = out.glob("*.png")
    frame, ids = int(mask.stem), read_id_mask(mask)
    assert said.startswith(f"{ids.max()} proposed on frame {frame} ({mask.stem}.jpg). ")
    command = shlex.split(go_on.partition("then: ")[2])
    assert command == ["maskbank", "track", str(CLIP / "frames"), "--seed", f"{frame}={mask}", "--out", "results"]
    overlaps = {each: jaccard(ids == 1, true_mask(frame, each)) for each in (RED_KOI, GOLDEN_KOI, TURTLE)}
    assert max(overlaps.values()) > 0.7
    with Image.open(out / f"{mask.stem}-overlay.jpg") as picture:
        assert picture.size == (640, 360)
    corrected = mask.read_bytes() + b"corrected"
    mask.write_bytes(corrected)
    assert cli.main(["propose", str(CLIP / "frames"), "--out", str(out)]) == 1
    assert "has a mask already, which somebody may have corrected" in capsys.readouterr().err
    assert mask.read_bytes() == corrected


def test_it_says_how_often_it_is_right_when_it_is_rather_sure():
    sure, unsure = (Proposals(0, rgb(0), np.ones((1, 1), np.uint8), each).how_sure for each in (0.7, 0.2))
    assert sure.startswith("Rather sure, which is right in 3 of 4 clips: ") and unsure.startswith("Unsure: ")


def test_a_file_in_the_place_of_the_folder_is_found_out_first(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert cli.main(["propose", str(tmp_path / "nowhere"), "--out", str(tmp_path / "notes.txt")]) == 1
    assert capsys.readouterr().err == f"maskbank: --out {tmp_path / 'notes.txt'} is not a folder.\n"


def test_a_video_that_ends_too_early_is_said(tmp_path, capsys):
    with VideoWriter(tmp_path / "film.webm", fps=10) as video:
        for index in range(40):
            video.write(rgb(index))
    whole = (tmp_path / "film.webm").read_bytes()
    (tmp_path / "film.webm").write_bytes(whole[: len(whole) // 2])
    assert cli.main(["propose", str(tmp_path / "film.webm"), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("maskbank: film.webm may be damaged, cut off or trimmed: reading stopped at frame ")


def test_objects_that_do_not_touch_are_apart():
    settings = Settings(short_side=192, device="cpu")
    looked_at = frames_to_look_at(60)
    read = ((i, rgb(i)) for i in frames_to_read(looked_at, 60))
    found = propose(read, looked_at, load_tracker(settings)[0], load_outliner(settings.interactor, torch.device("cpu")))
    assert found is not None and found.frame in looked_at and np.array_equal(found.image, rgb(found.frame))
    areas = [int((found.ids == object_id).sum()) for object_id in range(1, found.count + 1)]
    assert found.count == 2 and areas == sorted(areas, reverse=True)
    for object_id in (1, 2):
        alone = [
            jaccard(found.ids == object_id, true_mask(found.frame, each)) for each in (RED_KOI, GOLDEN_KOI, TURTLE)
        ]
        assert max(alone) > 0.6


def test_nothing_is_proposed_where_nothing_moves(tmp_path, capsys):
    clip = write_clip(tmp_path / "still", [rgb(0)] * 5)
    assert cli.main(["propose", str(clip), "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith("Nothing is proposed:")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        ([rgb(0)], "A single frame shows no motion"),
        ([rgb(0), rgb(1)[:, :400]], "The frames differ in size"),
    ],
)
def test_clips_without_motion_to_see_earn_a_sentence(tmp_path, capsys, images, sentence):
    assert cli.main(["propose", str(write_clip(tmp_path / "clip", images)), "--out", str(tmp_path / "out")]) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("length", [1, 2, 3, 7, 1000])
def test_only_a_few_frames_are_read(length):
    looked_at = frames_to_look_at(length)
    read = frames_to_read(looked_at, length)
    assert looked_at == sorted(set(looked_at)) and set(looked_at) <= set(read) <= set(range(length))
    assert len(read) <= len(looked_at) * (1 + len(OFFSETS))


def test_the_report_counts_what_was_right():
    scores = [
        ProposalScore("a", 3, 0.9, 1, 0.8),
        ProposalScore("b", 4, 0.6, 2, 0.9),
        ProposalScore("c", None, 0.0, 0, 0.0),
    ]
    report = proposal_report(scores)
    assert "| c | none | 0.0 | 0 | 0.00 |" in report
    expected = "Right (J of 70 or more) in 1 of 3 sequences; of the 2 that are rather sure in 1. Mean J 50.0."
    assert report.splitlines()[-1] == expected
