"""`evaluate` on tiny folders cut from the sample clip: which frames and objects count, and the table."""

import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from support import CLIP

from maskbank import cli
from maskbank.evaluation import evaluate as module
from maskbank.evaluation.boxes import box_report, score_boxes
from maskbank.evaluation.evaluate import ALONE, TOGETHER, evaluate, report
from maskbank.evaluation.measures import Score, mean_j_and_f
from maskbank.evaluation.sequences import AnnotatedSequence, ConfidenceSample, SequenceScore, read_sequences
from maskbank.files.frames import open_frames
from maskbank.files.masks import read_id_mask, write_id_mask
from maskbank.networks.models import BUNDLED_INTERACTORS
from maskbank.networks.outliner import load_outliner


@pytest.fixture(autouse=True)
def environment(monkeypatch) -> None:
    """A small working image; a copy, because options of the command line are kept in the environment."""
    monkeypatch.setattr(os, "environ", os.environ | {"MASKBANK_SIZE": "64"})


def write_sequence(folder: Path, frames: int, annotated: list[int], objects: tuple[int, ...] = (1, 2, 3)) -> None:
    """The first frames of the sample clip at a quarter of its size, with masks for some."""
    folder.mkdir(parents=True)
    for index, image in zip(range(frames), open_frames(CLIP / "frames"), strict=False):
        small = cv2.resize(image, (160, 90), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / f"{index:05d}.jpg"), cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        if index in annotated:
            ids = read_id_mask(CLIP / "masks" / f"{index:05d}.png")[::4, ::4]
            write_id_mask(folder / f"{index:05d}.png", np.where(np.isin(ids, objects), ids, 0))


@pytest.fixture
def data(tmp_path) -> Path:
    """Two sequences: three objects annotated on every frame, and one object sparsely, from frame 1 on."""
    write_sequence(tmp_path / "data" / "pond" / "all", 4, [0, 1, 2, 3])
    write_sequence(tmp_path / "data" / "pond" / "turtle", 6, [1, 3, 5], objects=(3,))
    return tmp_path / "data"


def rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_sequences_begin_where_an_object_is_seen(tmp_path):
    write_sequence(tmp_path / "late", 4, [0, 1, 2, 3])
    write_id_mask(tmp_path / "late" / "00000.png", np.zeros((90, 160), np.uint8))
    for index in (2, 3):
        (tmp_path / "late" / f"{index:05d}.jpg").rename(tmp_path / "late" / f"{index:05d}.JPG")
    [late] = read_sequences(tmp_path)
    assert [path.name for path in late.images] == ["00001.jpg", "00002.JPG", "00003.JPG"] and late.objects == [1, 2, 3]


def test_sequences_begin_with_their_first_mask(data):
    write_sequence(data / "unmarked", 2, [])
    write_sequence(data / "once", 2, [0])
    every, turtle = read_sequences(data)
    assert [every.name, turtle.name] == ["pond/all", "pond/turtle"]
    assert (every.objects, turtle.objects) == ([1, 2, 3], [3])
    assert [path.name for path in turtle.images] == [f"{i:05d}.jpg" for i in range(1, 6)]
    assert [truth is not None for truth in turtle.truths] == [True, False, True, False, True]


def test_boxes_are_scored_one_by_one_and_together(data):
    outliner = load_outliner(BUNDLED_INTERACTORS["interactor"], torch.device("cpu"))
    every, turtle = (score_boxes(outliner, sequence) for sequence in read_sequences(data))
    assert (every.objects, turtle.objects) == (3, 3)  # in the first of four frames; in all that are annotated
    assert turtle.together == turtle.exact > 0.7
    assert 0.5 < every.jittered < every.exact <= 1 and abs(every.together - every.exact) < 0.1
    *_, mean = rows(box_report([every, turtle]))
    assert mean[:2] == ["**mean**", "6"]
    assert [float(cell) for cell in mean[2:]] == [
        pytest.approx(50 * (getattr(every, way) + getattr(turtle, way)), abs=0.06)
        for way in ("exact", "jittered", "together")
    ]


def test_every_way_is_scored_and_reported(data, tmp_path, capsys):
    assert cli.main(["evaluate", str(data), "--out", str(tmp_path / "report.md")]) == 0
    table = (tmp_path / "report.md").read_text()
    assert capsys.readouterr().out == table
    table, course, confidence = table.split("\n\n")
    # 3 objects in 3 frames after the seed, and 1 in 2.
    assert re.match(r"Confidence and J over 11 objects in frames: rank correlation -?\d\.\d\d\.\n", confidence)
    assert re.search(r"^There in 11, and said to be gone in \d+\.\d % of these\.$", confidence, re.MULTILINE)
    assert re.search(
        r"^Expected calibration error of the confidence \(10 bins\): 0\.\d{3}\.$", confidence, re.MULTILINE
    )
    course_head, _, *course_body = rows(course)
    assert course_head == ["sequence", "way", "J recall", "J decay", "F recall", "F decay"]
    head, _, *body = rows(table)
    assert [row[:2] for row in course_body] == [row[:2] for row in body]
    assert head == ["sequence", "way", "J", "F", "J&F", "s/frame"]
    every, turtle, means = body[:4], body[4:7], body[7:]
    assert [row[:2] for row in every] == [["pond/all", way] for way in (TOGETHER, ALONE, "copy", "flow")]
    assert [row[:2] for row in turtle] == [["pond/turtle", way] for way in (TOGETHER, "copy", "flow")]
    assert [row[:2] for row in means] == [["**pond** (2)", way] for way in (TOGETHER, ALONE, "copy", "flow")]
    for _, _, j, f, both, seconds in body:
        assert 0 <= float(j) <= 100 and 0 <= float(f) <= 100 and float(seconds) >= 0
        assert float(both) == pytest.approx((float(j) + float(f)) / 2, abs=0.1)
    for mean, first, second in zip(means, every, (turtle[0], *turtle), strict=True):
        for column in (2, 3, 4):
            assert float(mean[column]) == pytest.approx((float(first[column]) + float(second[column])) / 2, abs=0.11)


def test_baseline_scores_are_those_of_the_frames_that_count(data):
    """Copying the seed, worked out by hand: the first frame is given; the last counts where annotations are few."""
    results = {(r.sequence, r.way): r for r in evaluate(data, os.environ)}
    every, turtle = read_sequences(data)

    def by_hand(sequence: AnnotatedSequence, counted: list[int]) -> dict[int, Score]:
        seed, truths = sequence.truths[0], sequence.truths
        return mean_j_and_f([seed] * (1 + len(counted)), [seed, *(truths[i] for i in counted)], sequence.objects, False)

    assert results["pond/all", "copy"].scores == by_hand(every, [1, 2])
    assert results["pond/turtle", "copy"].scores == by_hand(turtle, [2, 4])
    assert set(results["pond/all", TOGETHER].scores) == set(results["pond/all", ALONE].scores) == {1, 2, 3}
    assert results["pond/turtle", TOGETHER].scores[3].j > 0.2  # loose: it tracks the turtle


def test_objects_alone_and_together_are_seeded_as_they_should(data, monkeypatch):
    """What the function is asked, whatever it answers."""
    seeded, tracked = [], []

    def call(body: dict) -> dict:
        states = body["states"] or [{"visible": False, "confidence": 1} for _ in body["shapes"]]
        (tracked if body["states"] else seeded).append(len(states))
        return {"shapes": [None] * len(states), "states": states}

    monkeypatch.setattr(module, "handler_call", lambda environment: call)
    results = {(r.sequence, r.way): r for r in evaluate(data, os.environ)}
    assert seeded == [3, 1, 1, 1, 1]
    assert tracked == [3] * 3 + [1] * 9 + [1] * 4
    assert results["pond/all", TOGETHER].mean == Score(0, 0)  # nothing found, and all objects are there


def test_two_frames_are_enough(tmp_path):
    write_sequence(tmp_path / "pair", 2, [0, 1], objects=(3,))
    assert [result.way for result in evaluate(tmp_path, os.environ)] == [TOGETHER, "copy", "flow"]


def test_report_of_a_single_sequence_has_no_means():
    score = Score(0.5, 0.25)
    table, course = report(
        [SequenceScore("a/b", TOGETHER, {1: [score, score], 4: [Score(0.8, 0.75), Score(0.6, 0.75)]}, 0.1234)]
    ).split("\n\n")
    assert rows(table)[2:] == [["a/b", TOGETHER, "60.0", "50.0", "55.0", "0.123"]]
    # The second object loses 20 points of J, the first none; its J is never above 0.5.
    assert rows(course)[2:] == [["a/b", TOGETHER, "50.0", "10.0", "50.0", "0.0"]]


def test_samples_are_compared_with_what_was_true():
    samples = (
        ConfidenceSample(0.9, True, 0.8, True),
        ConfidenceSample(0.4, True, 0.3, True),
        ConfidenceSample(0.3, False, 0.0, True),
    )
    result = SequenceScore(
        "a/b", TOGETHER, {1: [Score(0.5, 0.5)]}, 0.1, (*samples, ConfidenceSample(0.95, False, 1.0, False))
    )
    assert report([result]).splitlines()[-5:] == [
        "Confidence and J over 4 objects in frames: rank correlation 1.00.",
        "Of the worst fifth by J, 100 % are in the fifth with the lowest confidence.",
        "Expected calibration error of the confidence (10 bins): 0.112.",  # (0.3 + 0.1 + 0.1 - 0.05) / 4
        "Gone in 1 of them, and said to be gone in 100.0 % of these.",
        "There in 3, and said to be gone in 33.3 % of these.",
    ]


def test_bad_data_gives_one_sentence_and_keeps_what_was_done(data, tmp_path, capsys):
    assert cli.main(["evaluate", str(tmp_path / "nowhere")]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "nowhere holds no folder of .jpg or .webp frames with .png masks beside" in line
    broken = data / "pond" / "turtle" / "00002.jpg"
    broken.write_bytes(broken.read_bytes()[:500])
    assert cli.main(["evaluate", str(data), "--out", str(tmp_path / "report.md")]) == 1
    output = capsys.readouterr()
    assert "Traceback" not in output.err
    last = output.err.replace("\r", "\n").splitlines()[-1]
    refused = "maskbank: The function refused 00002.jpg of the sequence pond/turtle: 400: The image is damaged"
    assert last.startswith(refused)
    assert [row[0] for row in rows((tmp_path / "report.md").read_text())[2:6]] == ["pond/all"] * 4


def test_a_mask_of_another_size_is_named(data, capsys):
    odd = data / "pond" / "turtle" / "00003.png"
    write_id_mask(odd, np.ones((30, 20), np.uint8))
    assert cli.main(["evaluate", str(data)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line == f"maskbank: {odd} is 20 x 30 pixels, but 00001.png in the same folder is 160 x 90."


@pytest.mark.parametrize("out", ["/proc/report.md", "nowhere/report.md", "."])
def test_a_report_that_cannot_be_written_is_found_out_first(data, tmp_path, monkeypatch, capsys, out):
    monkeypatch.setattr(module, "score", lambda *_: pytest.fail("it was measured already"))
    assert cli.main(["evaluate", str(data), "--out", str(tmp_path / out)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"maskbank: --out {tmp_path / out} is no file that can be written: ")


def test_what_is_kept_when_it_is_stopped(data, monkeypatch, capsys):
    scored, left = module.score, iter(range(1))

    def score(*arguments: object) -> SequenceScore:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return scored(*arguments)

    monkeypatch.setattr(module, "score", score)
    assert cli.main(["evaluate", str(data)]) == 130
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == "maskbank: stopped; what was measured so far is above."
    assert "| pond/all |" in said.out
    assert cli.main(["evaluate", str(data)]) == 130
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == "maskbank: stopped; nothing was measured yet." and said.out == ""
