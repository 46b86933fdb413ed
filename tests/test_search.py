"""`maskbank search` as a user runs it: an object of the sample clip, in frames that have it and in others."""

import csv
import os
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from support import CLIP, GOLDEN_KOI, RED_KOI, TURTLE, jaccard, png, rgb, true_mask

from maskbank import cli
from maskbank.evaluation.search import SearchScore, search_report
from maskbank.files.masks import read_id_mask, write_id_mask
from maskbank.files.video import VideoWriter
from maskbank.review.page import policy_digest
from maskbank.review.search import PICTURES, SearchResults
from maskbank.settings import Settings
from maskbank.tracking.loading import load_tracker
from maskbank.tracking.search import FOUND_FROM, Match, Searcher
from maskbank.tracking.tracker import Frame, Tracker

WITH, WITHOUT = (20, 25, 40), (10, 30, 50)  # frames of the clip, and frames that the object is painted out of
HOSTILE = "z<img src=x onerror=alert(1)>&.png"


@pytest.fixture(scope="module")
def tracker() -> Tracker:
    return load_tracker(Settings(short_side=192, device="cpu"))[0]


@pytest.fixture(autouse=True)
def environment(monkeypatch) -> None:
    """A small working image, and a copy of the environment: options of the command line are kept there."""
    monkeypatch.setattr(os, "environ", os.environ | {"MASKBANK_SIZE": "192"})


def without(index: int, object_id: int) -> np.ndarray:
    """A frame of the clip that an object is painted out of."""
    around = cv2.dilate(true_mask(index, object_id).astype(np.uint8), np.ones((9, 9), np.uint8))
    return cv2.inpaint(rgb(index), around, 5, cv2.INPAINT_TELEA)


def seed_mask(path: Path, *objects: int, index: int = 0) -> Path:
    ids = read_id_mask(CLIP / "masks" / f"{index:05d}.png")
    write_id_mask(path, np.where(np.isin(ids, objects), ids, 0))
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    """Frames with the golden koi, without it, and one of noise whose name is markup."""
    frames = tmp_path / "photos"
    frames.mkdir()
    for index in WITH:
        (frames / f"with-{index}.png").write_bytes(png(rgb(index)))
    for index in WITHOUT:
        (frames / f"without-{index}.png").write_bytes(png(without(index, GOLDEN_KOI)))
    noise = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
    (frames / HOSTILE).write_bytes(png(noise))
    return frames


def search(folder: Path, mask: Path, *arguments: object, index: int = 0) -> int:
    reference = (CLIP / "frames" / f"{index:05d}.jpg", mask)
    return cli.main(["search", "--reference", *map(str, reference), "--in", str(folder), *map(str, arguments)])


def test_frames_with_the_object_come_first_and_show_it(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert search(folder, seed_mask(tmp_path / "koi.png", GOLDEN_KOI), "--out", out) == 0
    with (out / "ranking.csv").open(newline="") as file:
        ranking = list(csv.DictReader(file))
    assert {row["name"] for row in ranking[:3]} == {f"with-{index}.png" for index in WITH}
    assert [int(row["rank"]) for row in ranking] == list(range(1, 8))
    scores = [float(row["score"]) for row in ranking]
    assert scores == sorted(scores, reverse=True) and scores[-1] >= 0 and scores[0] <= 1
    found = {row["name"] for row in ranking if row["found"] == "1"}
    assert found >= {f"with-{index}.png" for index in WITH} and HOSTILE not in found
    assert {path.name for path in (out / "masks").iterdir()} == found
    for row in ranking[:3]:
        mask = read_id_mask(out / "masks" / row["name"]) == 1
        assert jaccard(mask, true_mask(int(row["name"][5:-4]), GOLDEN_KOI)) > 0.6
        left, top, right, bottom = (int(float(row[side])) for side in ("left", "top", "right", "bottom"))
        assert mask[top:bottom, left:right].sum() == mask.sum()
    said = capsys.readouterr().out
    assert said.startswith(f"Found in {len(found)} of 7 frames. Best: {ranking[0]['name']} (")
    assert f"Look at {out / 'search.html'}." in said


def test_the_page_holds_pictures_and_no_name_is_markup(folder, tmp_path):
    out = tmp_path / "out"
    assert search(folder, seed_mask(tmp_path / "koi.png", GOLDEN_KOI), "--out", out) == 0
    page = (out / "search.html").read_text()
    assert page.count('src="data:image/jpeg;base64,') == 1 + 7
    assert "<script" not in page and "<img src=x" not in page and "z&lt;img src=x onerror" in page
    assert not re.search(r"(https?:)?//", re.sub(r'"data:[^"]*"', "", page))
    [style] = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert f"default-src 'none'; img-src data:; style-src '{policy_digest(style)}';" in page
    order = re.findall(r"<figcaption>(\d+)\. ", page)
    assert order == [str(rank) for rank in range(1, 8)]


def test_without_a_folder_it_only_says_what_it_found(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert search(folder, seed_mask(tmp_path / "koi.png", GOLDEN_KOI)) == 0
    assert "Best: with-" in capsys.readouterr().out
    assert not list((tmp_path / "here").iterdir())


def test_a_damaged_image_is_left_out(folder, tmp_path, capsys):
    (folder / "with-25.png").write_bytes(b"no image")
    out = tmp_path / "out"
    assert search(folder, seed_mask(tmp_path / "koi.png", GOLDEN_KOI), "--out", out) == 0
    said = capsys.readouterr()
    assert "Left out: " in said.err and "with-25.png cannot be read" in said.err
    assert "of 6 frames" in said.out and (out / "search.html").exists()


def test_masks_that_no_search_made_are_not_touched(folder, tmp_path, capsys):
    (tmp_path / "data" / "masks").mkdir(parents=True)
    drawn = seed_mask(tmp_path / "data" / "masks" / "without-10.png", TURTLE)
    before = drawn.read_bytes()
    assert search(folder, seed_mask(tmp_path / "koi.png", GOLDEN_KOI), "--out", tmp_path / "data") == 1
    assert "has masks that do not come from an earlier search; choose another folder" in capsys.readouterr().err
    assert drawn.read_bytes() == before


def test_a_mask_of_an_earlier_search_does_not_stay(tmp_path):
    image, mask = rgb(0), true_mask(0, TURTLE)
    for match, there in ((Match(mask, 0.9), True), (Match(mask, FOUND_FROM - 0.01), False)):
        with SearchResults(tmp_path, Path("pond"), [(image, mask)]) as results:
            results.add(0, "a.jpg", image, match)
        assert (tmp_path / "masks" / "a.png").exists() == there


def test_nothing_of_an_earlier_search_stays(folder, tmp_path):
    out, koi = tmp_path / "out", seed_mask(tmp_path / "koi.png", GOLDEN_KOI)
    assert search(folder, koi, "--out", out) == 0
    others = tmp_path / "others"
    others.mkdir()
    (others / "another.png").write_bytes((folder / "with-20.png").read_bytes())
    assert search(others, koi, "--out", out) == 0
    assert [path.name for path in (out / "masks").iterdir()] == ["another.png"]


def test_a_search_of_nothing_that_can_be_read_fails_and_leaves_an_earlier_one(folder, tmp_path, capsys):
    out, koi = tmp_path / "out", seed_mask(tmp_path / "koi.png", GOLDEN_KOI)
    assert search(folder, koi, "--out", out) == 0
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.png").write_bytes(b"no image")
    capsys.readouterr()
    assert search(broken, koi, "--out", out) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.splitlines()[-1].endswith(
        f"No image in {broken} can be read, so nothing was searched."
    )
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before


def test_what_a_killed_search_left_is_no_obstacle(folder, tmp_path):
    results = SearchResults(tmp_path / "out", Path("pond"), [])
    results.add(0, "a.jpg", rgb(0), Match(true_mask(0, TURTLE), 0.9))  # and it is never closed
    assert (tmp_path / "out" / "masks" / "a.png").exists()
    assert search(folder, seed_mask(tmp_path / "koi.png", GOLDEN_KOI), "--out", tmp_path / "out") == 0
    assert not (tmp_path / "out" / "masks" / "a.png").exists()


def test_a_ranking_that_no_search_made_is_not_touched(folder, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "ranking.csv").write_text("runner,time\n")
    assert search(folder, seed_mask(tmp_path / "koi.png", GOLDEN_KOI), "--out", tmp_path / "out") == 1
    assert (
        "has a ranking.csv that does not come from an earlier search; choose another folder" in capsys.readouterr().err
    )
    assert (tmp_path / "out" / "ranking.csv").read_text() == "runner,time\n"


@pytest.mark.parametrize("out, words", [("koi.png", "koi.png/masks: Not a directory."), ("/proc/out", "/proc/out")])
def test_a_folder_that_cannot_be_written_is_found_out_before_the_search(
    folder, tmp_path, capsys, monkeypatch, out, words
):
    monkeypatch.setattr(Searcher, "find", lambda *_: pytest.fail("it was searched already"))
    koi = seed_mask(tmp_path / "koi.png", GOLDEN_KOI)
    assert search(folder, koi, "--out", tmp_path / out) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("maskbank: ") and words in line


@pytest.mark.parametrize("with_out, frames, kept", [
    (True, 0, "no frame was searched"),
    (True, 1, "what was done so far is kept"),
    (False, 1, "nothing is kept without --out"),
])  # fmt: skip
def test_what_is_kept_when_it_is_stopped(folder, tmp_path, monkeypatch, capsys, with_out, frames, kept):
    found, left = Searcher.find, iter(range(frames))

    def find(searcher: Searcher, frame: Frame) -> Match:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return found(searcher, frame)

    monkeypatch.setattr(Searcher, "find", find)
    koi, out = seed_mask(tmp_path / "koi.png", GOLDEN_KOI), tmp_path / "out"
    assert search(folder, koi, *(["--out", out] if with_out else [])) == 130
    assert capsys.readouterr().err.splitlines()[-1] == f"maskbank: stopped; {kept}."
    assert (out / "search.html").exists() == (with_out and frames > 0)


def test_a_full_disk_is_said_with_the_folder_and_what_is_kept(folder, tmp_path, monkeypatch, capsys):
    koi, out = seed_mask(tmp_path / "koi.png", GOLDEN_KOI), tmp_path / "out"
    out.mkdir()
    full = out / f".ranking-{os.getpid()}.csv"  # the draft of the ranking, on a device that is always full
    full.symlink_to("/dev/full")
    assert search(folder, koi, "--out", out) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.endswith(f"maskbank: The disk that holds {out} is full; no frame was searched.")
    found = Searcher.find

    def find(searcher: Searcher, frame: Frame) -> Match:
        if (out / "masks" / "with-25.png").exists() and not full.is_symlink():
            full.symlink_to("/dev/full")
        return found(searcher, frame)

    monkeypatch.setattr(Searcher, "find", find)
    assert search(folder, koi, "--out", out) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"maskbank: The disk that holds {out} is full; the masks that were written are kept."
    assert (out / "masks" / "with-25.png").exists() and not (out / "search.html").exists()


def test_a_video_that_ends_too_early_is_searched_and_said(tmp_path, capsys):
    with VideoWriter(tmp_path / "film.webm", fps=10) as video:
        for index in range(40):
            video.write(rgb(index))
    whole = (tmp_path / "film.webm").read_bytes()
    (tmp_path / "film.webm").write_bytes(whole[: len(whole) // 2])
    assert search(tmp_path / "film.webm", seed_mask(tmp_path / "koi.png", GOLDEN_KOI)) == 0
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("maskbank: film.webm may be damaged, cut off or trimmed: reading stopped at frame ")


def test_the_page_keeps_the_best_pictures_however_many_frames_there_are(tmp_path):
    image, mask = rgb(0)[::8, ::8], true_mask(0, TURTLE)[::8, ::8]
    scores = np.random.default_rng(0).permutation(PICTURES + 20) / 100
    with SearchResults(tmp_path, Path("pond"), []) as results:
        for index, score in enumerate(scores):
            results.add(index, f"{index}.jpg", image, Match(mask, float(score)))
    page = (tmp_path / "search.html").read_text()
    shown = [int(frame) for frame in re.findall(r"<figcaption>.*?, frame (\d+),", page)]
    assert shown == np.argsort(-scores)[:PICTURES].tolist()
    assert len((tmp_path / "ranking.csv").read_text().splitlines()) == 1 + PICTURES + 20


def test_more_references_help(tracker):
    """The turtle as it looks at the end of the clip, with and without a reference of that time."""
    first, later = ((rgb(index), true_mask(index, TURTLE)) for index in (0, 50))
    one, two = (Searcher(tracker, references).find(Frame(rgb(57))) for references in ([first], [first, later]))
    assert two.score > one.score
    assert jaccard(two.mask, true_mask(57, TURTLE)) > 0.6


def test_each_object_is_told_from_the_others(tracker):
    """Searched for in a frame with all three, each is where it is, and not where another one is."""
    for object_id in (RED_KOI, GOLDEN_KOI, TURTLE):
        match = Searcher(tracker, [(rgb(0), true_mask(0, object_id))]).find(Frame(rgb(12)))
        overlaps = {each: jaccard(match.mask, true_mask(12, each)) for each in (RED_KOI, GOLDEN_KOI, TURTLE)}
        assert match.found and max(overlaps, key=overlaps.get) == object_id


@pytest.mark.parametrize(
    ("objects", "size", "sentence"),
    [
        ((RED_KOI, TURTLE), None, "shows several objects; a reference shows the one that is searched for."),
        ((), None, "The reference's mask shows no object."),
        ((TURTLE,), (320, 180), "The reference's mask is 320 x 180 pixels, but its image is 640 x 360."),
    ],
)
def test_bad_references_earn_a_sentence(folder, tmp_path, capsys, objects, size, sentence):
    mask = seed_mask(tmp_path / "mask.png", *objects)
    if size:
        Image.open(mask).resize(size, Image.Resampling.NEAREST).save(mask)
    assert search(folder, mask, "--out", tmp_path / "out") == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_only_a_network_that_says_how_good_its_masks_are_can_search(tracker):
    other = Tracker(tracker.model, object(), tracker.device)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Only the model lite"):
        Searcher(other, [(rgb(0), true_mask(0, TURTLE))])


def test_evaluate_searches_in_the_frames_of_other_sequences(tmp_path, capsys):
    """Two ponds: one with the golden koi only, the other with none."""
    for name, objects, frames in (("koi", GOLDEN_KOI, (0, 20, 40)), ("turtle", TURTLE, (0, 30, 50))):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in frames:
            image = rgb(index) if objects == GOLDEN_KOI else without(index, GOLDEN_KOI)
            Image.fromarray(image).save(tmp_path / "data" / name / f"{index:05d}.jpg")
            seed_mask(tmp_path / "data" / name / f"{index:05d}.png", objects, index=index)
    assert cli.main(["evaluate", str(tmp_path / "data"), "--search", "--out", str(tmp_path / "table.md")]) == 0
    table = (tmp_path / "table.md").read_text()
    assert table == capsys.readouterr().out
    [koi] = [line for line in table.splitlines() if line.startswith(f"| koi, object {GOLDEN_KOI} | 100.0 |")]
    assert float(koi.split("|")[3]) > 60


def test_the_report_has_the_mean_of_the_objects():
    score = SearchScore("a", 1, 1.0, 0.8, 0.9, 1.0, 0.0)
    report = search_report([score, replace(score, object_id=2, right_pairs=0.5)])
    assert report.splitlines()[-1] == "| **mean** (2 objects) | 75.0 | 80.0 | 90.0 | 100.0 | 0.0 |"
