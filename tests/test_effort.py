"""Effort curves on frames of the sample clip, with the real tracker at a small size."""

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from support import CLIP

from maskbank import cli
from maskbank.evaluation.effort import COUNTS, POLICIES, EffortClip, curve, effort_report
from maskbank.evaluation.sequences import read_sequences
from maskbank.files.frames import open_frames
from maskbank.files.masks import read_id_mask, write_id_mask
from maskbank.networks.models import MODELS, load_segmenter
from maskbank.tracking.tracker import Tracker

FRAMES = 6


@pytest.fixture(scope="module")
def tracker() -> Tracker:
    segmenter, _ = load_segmenter("lite", None, torch.device("cpu"))
    return Tracker(MODELS["lite"], segmenter, torch.device("cpu"), short_side=64)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """One sequence with two objects, of which one is missing on frame 1; frame 3 is not annotated."""
    root = tmp_path_factory.mktemp("data")
    folder = root / "pond" / "two"
    folder.mkdir(parents=True)
    for index, image in zip(range(FRAMES), open_frames(CLIP / "frames"), strict=False):
        small = cv2.resize(image, (160, 90), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / f"{index:05d}.jpg"), cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        if index != 3:
            ids = read_id_mask(CLIP / "masks" / f"{index:05d}.png")[::4, ::4]
            write_id_mask(folder / f"{index:05d}.png", np.where(np.isin(ids, (1,) if index == 1 else (1, 3)), ids, 0))
    return root


@pytest.fixture(scope="module")
def clip(tracker, data) -> EffortClip:
    return EffortClip(tracker, read_sequences(data)[0])


def test_an_outcome_counts_outlined_frames_as_perfect_and_the_others_as_tracked(clip):
    assert clip.candidates == [0, 1, 2, 4, 5]
    outcome = clip.outcome((0, 5))
    assert sorted(outcome.scores) == [0, 1, 2, 4, 5]
    assert outcome.scores[0].j_and_f == outcome.scores[5].j_and_f == 1
    assert 0.3 < outcome.scores[2].j < 1  # loose: it tracks
    for confidence in outcome.confidence.values():
        assert [value is None for value in confidence] == [True, False, False, False, False, True]
    alone = clip.outcome((1,))  # where the turtle is not
    assert alone.confidence[3] == [None] * FRAMES
    assert alone.scores[1].j == 1 and alone.scores[0].j <= 0.5


def test_policies_choose_as_they_say(clip):
    chosen = {name: list(zip(range(5), policy(clip), strict=False)) for name, policy in POLICIES.items()}
    chosen = {name: [outlined for _, outlined in steps] for name, steps in chosen.items()}
    assert chosen["first only"] == [(0,)]
    assert chosen["uniform"] == [(2,), (1, 4), (0, 2, 5), (0, 1, 4, 5), (0, 1, 2, 4, 5)]
    for name in ("random", "suggest", "oracle"):
        for fewer, more in zip(chosen[name], chosen[name][1:], strict=False):
            assert set(fewer) < set(more) and len(more) == len(fewer) + 1
    assert chosen["suggest"][0] == chosen["oracle"][0] == (0,)
    scores = clip.outcome(chosen["oracle"][0]).scores
    [second] = set(chosen["oracle"][1]) - set(chosen["oracle"][0])
    assert scores[second].j_and_f == min(each.j_and_f for each in scores.values())


def test_curves_end_where_all_is_outlined(clip):
    curves = [curve(clip, name, policy) for name, policy in POLICIES.items()]
    by_name = {each.policy: each for each in curves}
    assert by_name["uniform"].outlined[8] == (0, 1, 2, 4, 5)
    assert by_name["uniform"].scores[8].j_and_f == by_name["oracle"].scores[8].j_and_f == 1
    assert len(set(by_name["first only"].scores.values())) == 1
    table = effort_report(curves).splitlines()
    assert table[2] == "| policy | 1 | 2 | 3 | 4 | 5 | 8 | frames outlined at the end |"
    uniform = next(line for line in table if line.startswith("| uniform"))
    assert uniform.endswith("| 100.0 | 100.0 | 5.0 |")


def test_a_broken_frame_is_named(data, tracker, tmp_path):
    [sequence] = read_sequences(shutil.copytree(data, tmp_path / "data"))
    clip = EffortClip(tracker, sequence)
    sequence.images[1].write_bytes(b"no image")
    with pytest.raises(ValueError, match=f"{sequence.images[1].name} cannot be read"):
        clip.image(1)


def test_the_command_writes_a_table_numbers_and_a_picture(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "environ", os.environ | {"MASKBANK_SIZE": "64"})
    out = tmp_path / "effort"
    assert cli.main(["evaluate", str(data), "--effort", str(out)]) == 0
    assert (out / "effort.md").read_text() == capsys.readouterr().out
    rows = json.loads((out / "effort.json").read_text())
    assert [row["policy"] for row in rows] == list(POLICIES)
    assert [point["of"] for point in rows[0]["curve"]] == list(COUNTS)
    picture = cv2.imread(str(out / "effort.png"))
    assert picture is not None and picture.std() > 0
    assert cli.main(["evaluate", str(data), "--effort", str(out), "--boxes"]) == 1
    assert "--effort has a folder of its own" in capsys.readouterr().err
    for other in ("--search", "--propose"):
        assert cli.main(["evaluate", str(data), other, "--boxes"]) == 1
        assert "do not track" in capsys.readouterr().err
