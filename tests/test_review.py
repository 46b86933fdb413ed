"""The page of a run: what goes into it, and how it works in a browser."""

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support import CLIP, HEIGHT, WIDTH, jaccard, rgb, true_mask

from maskbank import cli
from maskbank.files.frames import open_frames
from maskbank.review import page as page_module
from maskbank.review.curves import areas, overlaps
from maskbank.review.marks import evenly_spaced, least_sure
from maskbank.review.page import page_data, render, write_page
from maskbank.review.pictures import MAX_BYTES, make_pictures
from maskbank.review.record import (
    Finding,
    RecordedFrame,
    RunFacts,
    RunRecord,
    decode_mask,
    encode_mask,
    facts_of,
    read_record,
)

NAMES = {1: "red koi", 2: "golden koi", 3: "turtle"}
FIRST, LAST = 20, 33  # the red koi dives in frame 26
HOSTILE = '</script><script>alert("a")</script><img src=x onerror=alert(1)>&quot;\u2028'


def confidence_of(frame: int, object_id: int) -> float | None:
    """The turtle is less and less sure, down to 0.35; the golden koi has one bad frame."""
    return {1: 0.9, 2: 0.2 if frame == 23 else 0.95, 3: 1 - 0.05 * (frame - FIRST)}[object_id]


def clip_findings(frame: int) -> list[Finding | None]:
    """What a perfect tracker would find in the sample clip; the turtle is outlined later than the others."""
    masks = {each: encode_mask(true_mask(frame, each)) for each in NAMES}
    return [
        None if each == 3 and frame < FIRST + 2 else Finding(mask, confidence_of(frame, each), frame == FIRST)
        for each, mask in masks.items()
    ]


def write_run(folder: Path, facts: RunFacts, frames: Sequence[int] = range(FIRST, LAST + 1)) -> Path:
    with RunRecord(folder, facts) as record:
        for frame in frames:
            record.add(frame, f"{frame:05d}.jpg", (HEIGHT, WIDTH), clip_findings(frame))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run over a part of the sample clip."""
    return write_run(tmp_path / "run", facts_of(CLIP / "frames", NAMES))


def frame_with(*confidences: float | None, seed: bool = False) -> RecordedFrame:
    return RecordedFrame(0, "0.jpg", (4, 4), tuple(Finding("04L0", each, seed) for each in confidences))


def squares(*corners: int | None) -> list[RecordedFrame]:
    """An object of 10 x 10 pixels whose left edge is at a column of a frame of 20 x 100; None: it is gone."""
    frames = []
    for number, left in enumerate(corners):
        mask = np.zeros((20, 100), bool)
        if left is not None:
            mask[5:15, left : left + 10] = True
        frames.append(RecordedFrame(number, "", mask.shape, (Finding(encode_mask(mask), 0.5, False),)))
    return frames


# ---------------------------------------------------------------- the record


def test_a_record_is_read_as_it_was_written(run):
    facts, frames = read_record(run)
    assert (facts.title, facts.objects, facts.job_url) == ("clip/frames", NAMES, None)
    assert [frame.number for frame in frames] == list(range(FIRST, LAST + 1))
    assert [list(frame.findings) for frame in frames] == [clip_findings(frame.number) for frame in frames]
    np.testing.assert_array_equal(decode_mask(frames[3].findings[2].mask, frames[3].size), true_mask(FIRST + 3, 3))


def test_a_line_that_was_cut_off_is_left_out(run):
    path = run / "review.jsonl"
    path.write_bytes(path.read_bytes()[:-100])
    assert [frame.number for frame in read_record(run)[1]] == list(range(FIRST, LAST))


def test_a_new_run_takes_the_old_page_away(run):
    page = write_page(run)
    write_run(run, facts_of(CLIP / "frames", NAMES))
    assert not page.exists()


HEAD = '{"title": "a", "frames": "%s", "objects": {}%s}\n'
LINE = '{"number": 0, "name": "b", "size": [1, 1], "findings": []}\n'


@pytest.mark.parametrize(
    "content, words",
    [
        (None, "holds no run"),
        ("", "not the record of a run"),
        ("[]\n", "not the record of a run"),
        ('{"objects": {}}\n' + LINE, "not the record of a run"),
        (HEAD % (".", ""), "No frame of the run"),
        (HEAD % (".", "") + '{"number": 1}\n', "not the record of a run"),
        (HEAD % (".", ', "job_url": "javascript:alert(1)"'), "not the address of a CVAT job"),
        (HEAD % ("nowhere", "") + LINE, "nowhere does not exist"),
        (HEAD % (CLIP / "frames", "") + LINE, "None of the frames"),
    ],
)
def test_what_is_no_run_gives_one_sentence(tmp_path, capsys, content, words):
    if content is not None:
        (tmp_path / "review.jsonl").write_text(content)
    assert cli.main(["review", str(tmp_path)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert words in line and "Traceback" not in line and line.endswith(".")
    assert not (tmp_path / "review.html").exists()


# ---------------------------------------------------------------- frames to look at


def test_the_least_sure_frames_are_apart():
    confidence = [0.9] * 64
    confidence[20:24] = [0.3, 0.1, 0.2, 0.3]
    confidence[50] = 0.25
    assert least_sure([frame_with(1.0, each) for each in confidence], 2) == [21, 50]
    chosen = least_sure([frame_with(1.0, each) for each in confidence], 8)
    assert chosen[:2] == [21, 50] and len(chosen) == 8
    assert min(abs(a - b) for a in chosen for b in chosen if a != b) >= 4


def test_outlines_and_unknown_confidences_are_not_unsure():
    assert least_sure([frame_with(0.1, seed=True), frame_with(None, 0.8), frame_with(None)], 8) == [1]
    assert least_sure([frame_with(None)] * 3, 8) == []


def test_evenly_spaced_frames():
    assert evenly_spaced(1, 12) == [0]
    assert evenly_spaced(5, 12) == [0, 1, 2, 3, 4]
    assert evenly_spaced(23, 12) == list(range(0, 23, 2))


# ---------------------------------------------------------------- curves


def test_area_and_overlap():
    frames = squares(0, 0, 5, None, 50, 60)
    assert areas(frames, 0) == [0.05, 0.05, 0.05, 0, 0.05, 0.05]
    assert overlaps(frames, 0) == [None, 1, pytest.approx(50 / 150), None, None, 0]


def test_before_its_first_seed_an_object_has_no_area():
    begun = squares(0)[0]
    assert areas([RecordedFrame(0, "", begun.size, (None,)), begun], 0) == [None, 0.05]
    assert overlaps([RecordedFrame(0, "", begun.size, (None,)), begun], 0) == [None, None]


def test_frames_of_two_sizes_are_not_compared():
    small = encode_mask(np.ones((10, 10), bool))
    assert overlaps([*squares(0), RecordedFrame(1, "", (10, 10), (Finding(small, 0.5, False),))], 0) == [None, None]


# ---------------------------------------------------------------- pictures


def test_large_frames_and_their_masks_are_made_small():
    image, mask = cv2.resize(rgb(0), (1920, 1080)), cv2.resize(true_mask(0, 3).astype(np.uint8), (1920, 1080)) > 0
    dot = np.zeros((1080, 1920), bool)
    dot[501, 701] = True
    frame = RecordedFrame(0, "", (1080, 1920), tuple(Finding(encode_mask(each), 1.0, False) for each in (mask, dot)))
    [picture] = make_pictures([frame], [(0, image)], set()).values()
    assert picture.size == (480, 853)
    small = cv2.resize(mask.astype(np.uint8), (853, 480), interpolation=cv2.INTER_AREA) > 0
    assert jaccard(decode_mask(picture.masks[0], picture.size), small) > 0.97
    assert decode_mask(picture.masks[1], picture.size).sum() >= 1  # a tiny object is seen, too


def clip_pictures(max_bytes: int, needed: set[int]) -> dict:
    frames = [RecordedFrame(i, "", (HEIGHT, WIDTH), (None,)) for i in range(32)]
    return make_pictures(frames, ((i, rgb(i)) for i in range(32)), needed, max_bytes)


def test_pictures_are_thinned_out_where_all_would_be_too_many():
    every = clip_pictures(MAX_BYTES, set())
    assert list(every) == list(range(32))
    total = sum(picture.bytes for picture in every.values())
    assert list(clip_pictures(total, set())) == list(range(32))
    thinned = clip_pictures(total // 3, {5, 13})
    assert list(thinned) == sorted({*range(0, 32, 4), 5, 13})
    assert sum(picture.bytes for picture in thinned.values()) <= total // 3
    assert {i: thinned[i] for i in thinned} == {i: every[i] for i in thinned}
    assert list(clip_pictures(1, {5, 13})) == [0, 5, 13]  # what is needed is there, whatever the limit


def test_a_page_of_a_hundred_frames_is_small(tmp_path):
    (tmp_path / "frames").mkdir()
    with RunRecord(tmp_path, RunFacts("large", "frames", {i: f"object {i}" for i in range(1, 11)})) as record:
        for i in range(100):
            image = cv2.resize(rgb(i % 60), (854, 480), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(tmp_path / "frames" / f"{i}.jpg"), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])
            masks = [cv2.resize(true_mask(i % 60, 1 + slot % 3).astype(np.uint8), (854, 480)) > 0 for slot in range(10)]
            record.add(i, f"{i}.jpg", (480, 854), [Finding(encode_mask(each), 0.9, False) for each in masks])
    data = json.loads(json.dumps(data_of(tmp_path)))
    assert len(data["pictures"]) == 100
    assert write_page(tmp_path).stat().st_size < 15e6


# ---------------------------------------------------------------- the page's data


def data_of(run: Path) -> dict[str, Any]:
    facts, frames = read_record(run)
    return page_data(facts, frames, open_frames(run / facts.frames))


def test_a_page_of_more_objects_than_there_are_colours(tmp_path):
    (tmp_path / "frames").mkdir()
    cv2.imwrite(str(tmp_path / "frames" / "0.jpg"), rgb(0)[..., ::-1])
    with RunRecord(tmp_path, RunFacts("crowd", "frames", {i: f"object {i}" for i in range(1, 301)})) as record:
        record.add(0, "0.jpg", rgb(0).shape[:2], [None] * 300)
    colours = [each["colour"] for each in data_of(tmp_path)["objects"]]
    assert len(set(colours[:255])) > 200 and colours[255] == colours[0] != "#000000"


def test_what_the_page_knows(run):
    data = data_of(run)
    assert data["numbers"] == list(range(FIRST, LAST + 1)) and data["names"][0] == f"{FIRST:05d}.jpg"
    koi, golden, turtle = data["objects"]
    assert [each["name"] for each in data["objects"]] == list(NAMES.values())
    assert len({each["colour"] for each in data["objects"]}) == 3
    gone = "".join("v" if true_mask(frame, 1).any() else "g" for frame in range(FIRST + 1, LAST + 1))
    assert koi["state"] == "s" + gone and "vg" in gone
    assert turtle["state"] == "nn" + "v" * 12
    assert golden["confidence"][3] == 0.2 and turtle["confidence"][:3] == [None, None, 0.9]
    assert turtle["area"][2] == pytest.approx(true_mask(FIRST + 2, 3).mean(), abs=1e-6)
    moved = jaccard(true_mask(FIRST + 4, 2), true_mask(FIRST + 3, 2))
    assert golden["overlap"][4] == pytest.approx(moved, abs=1e-3)
    assert data["next"] == f"Outline next: frame {FIRST + 3}, golden koi, turtle, red koi."
    first, *rest = data["suggested"]
    assert first == {"position": 3, "slots": (1, 2, 0)} and 3 not in {each["position"] for each in rest}
    assert data["look"] == [3, 13, 11]  # the golden koi's bad frame, then the turtle's last ones
    assert data["even"][0] == 0 and data["even"][-1] == LAST - FIRST
    assert set(data["pictures"]) == set(range(14))
    masks = data["pictures"][5]["masks"]
    np.testing.assert_array_equal(decode_mask(masks[1], (HEIGHT, WIDTH)), true_mask(FIRST + 5, 2))


def test_the_page_is_the_same_every_time_and_tells_no_paths(run, tmp_path):
    first = write_page(run).read_bytes()
    other = tmp_path / "other.html"
    assert cli.main(["review", str(run), "--out", str(other)]) == 0
    assert other.read_bytes() == first
    assert str(CLIP.parent).encode() not in first and str(tmp_path).encode() not in first
    assert b"http://" not in first.replace(b"http://www.w3.org/2000/svg", b"") and b"https://" not in first


def test_names_are_no_markup():
    data = {"title": HOSTILE, "jobUrl": None, "objects": [{"name": HOSTILE}], "names": [HOSTILE]}
    text = render(data)
    assert text.count("<script") == 2 and text.count("</script>") == 2 and "<img" not in text
    [written] = re.findall(r'<script id="data" type="application/json">(.*)</script>', text)
    assert json.loads(written) == data


def test_track_and_review_make_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MASKBANK_SIZE", "96")
    frames = tmp_path / "frames"
    frames.mkdir()
    for i in range(4):
        shutil.copy(CLIP / "frames" / f"{i:05d}.jpg", frames)
    seed, out = CLIP / "masks" / "00000.png", tmp_path / "out"
    assert cli.main(["track", str(frames), "--seed", f"0={seed}", "--seed", f"2={seed}", "--out", str(out)]) == 0
    assert f"Look at {out / 'review.html'}." in capsys.readouterr().out
    data = data_of(out)
    assert [each["name"] for each in data["objects"]] == ["object 1", "object 2", "object 3"]
    assert [each["state"] for each in data["objects"]] == ["svsv"] * 3
    page = (out / "review.html").read_bytes()
    (out / "review.html").unlink()
    assert cli.main(["review", str(out)]) == 0
    assert (out / "review.html").read_bytes() == page


def test_the_frames_of_a_run_may_be_elsewhere(tmp_path, capsys):
    (tmp_path / "old").mkdir()
    for i in range(FIRST, LAST + 1):
        shutil.copy(CLIP / "frames" / f"{i:05d}.jpg", tmp_path / "old")
    run = write_run(tmp_path / "run", facts_of(tmp_path / "old", NAMES))
    page = write_page(run).read_bytes()
    (tmp_path / "old").rename(tmp_path / "new")
    assert cli.main(["review", str(run)]) == 1
    sentence = "does not exist; say with --frames where the frames of this run are now."
    assert capsys.readouterr().err == f"maskbank: {tmp_path / 'old'} {sentence}\n"
    assert cli.main(["review", str(run), "--frames", str(tmp_path / "new")]) == 0
    assert (run / "review.html").read_bytes() == page
    assert cli.main(["review", str(run), "--frames", str(tmp_path / "nowhere")]) == 1
    assert "nowhere does not exist." in capsys.readouterr().err
    shutil.copy(CLIP / "frames" / "00000.jpg", tmp_path / "run")
    assert cli.main(["review", str(run), "--frames", str(run)]) == 1
    assert f"None of the frames of this run is in {run}; say with --frames" in capsys.readouterr().err


@pytest.mark.parametrize("out", [".", "nowhere/page.html"])
def test_a_page_that_cannot_be_written_is_said_by_its_own_name(run, tmp_path, capsys, out):
    assert cli.main(["review", str(run), "--out", str(tmp_path / out)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"maskbank: --out {tmp_path / out} is no file that can be written: ")


# ---------------------------------------------------------------- in a browser

BROWSER = Path(__file__).with_name("browser.mjs")
PLAYWRIGHT = BROWSER.parents[1] / "plugins" / "cvat-ui" / "maskbank" / "node_modules" / "playwright-core"

in_browser = pytest.mark.skipif(
    not (
        shutil.which("node")
        and PLAYWRIGHT.is_dir()
        and any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    ),
    reason="there is no Node.js, no Chromium, or no playwright-core (`make test-plugin` installs all three)",
)

DRAWN = ["wait", "document.querySelector('#picture').getAttribute('aria-busy') === 'false'"]
FRAME = ["see", "Number(document.querySelector('#picture').dataset.frame)"]
SHOWN = [DRAWN, FRAME]


def visit(page: Path, *steps: Sequence, **how: object) -> list[Any]:
    """Does the steps in the page; returns what was seen. The page must not complain about anything."""
    asked = {"url": page.as_uri(), "steps": [DRAWN, *steps]} | how
    done = subprocess.run(["node", BROWSER], input=json.dumps(asked), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["complaints"] == []
    return answer["seen"]


def text(selector: str) -> list[str]:
    return ["see", f"document.querySelector({json.dumps(selector)}).textContent.trim()"]


def painted(data: dict[str, Any], slot: int) -> list[str]:
    """The pixels of the player that have an object's own colour, as y * width + x."""
    red, green, blue = bytes.fromhex(data["objects"][slot]["colour"][1:])
    return [
        "see",
        f"""(() => {{
          const canvas = document.querySelector('#picture');
          const {{ data }} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
          const found = [];
          for (let i = 0; i < data.length; i += 4)
            if (data[i] === {red} && data[i + 1] === {green} && data[i + 2] === {blue}) found.push(i / 4);
          return found;
        }})()""",
    ]


def set_range(selector: str, value: int) -> list[str]:
    return [
        "see",
        f"""(() => {{
          const range = document.querySelector('{selector}');
          range.value = {value};
          range.dispatchEvent(new Event('input'));
          return range.valueAsNumber;
        }})()""",
    ]


@in_browser
def test_it_opens_from_disk_and_goes_from_frame_to_frame(run):
    seen = visit(
        write_page(run),
        FRAME,
        text("#now"),
        set_range("#scrub", 9),
        *SHOWN,
        ["press", "ArrowRight"],
        *SHOWN,
        ["press", "Shift+ArrowLeft"],
        *SHOWN,
        ["press", "End"],
        *SHOWN,
        ["press", "ArrowRight"],
        *SHOWN,
        ["press", "Home"],
        *SHOWN,
        ["click", "#next"],
        *SHOWN,
        ["click", "#previous"],
        *SHOWN,
        ["press", "n"],
        *SHOWN,
        ["press", "p"],
        *SHOWN,
    )
    assert seen[:4] == [20, "frame 20 · 00020.jpg", 9, 29]
    assert seen[4:11] == [30, 20, 33, 33, 20, 21, 20]
    look = sorted(data_of(run)["look"])
    assert seen[11] == FIRST + min(i for i in look if i > 0)


@in_browser
def test_the_scrubber_has_its_own_keys(run):
    seen = visit(
        write_page(run),
        ["click at", "#scrub", 0.5, 0.5],
        *SHOWN,
        ["press", "ArrowRight"],
        *SHOWN,
        ["press", "Home"],
        *SHOWN,
    )
    assert 25 <= seen[0] <= 28 and seen[1:] == [seen[0] + 1, 20]


@in_browser
def test_masks_are_drawn_exactly_and_an_object_can_be_hidden(run):
    data, page = data_of(run), write_page(run)
    seen = visit(
        page,
        set_range("#scrub", 4),
        set_range("#opacity", 100),
        DRAWN,
        painted(data, 1),
        painted(data, 2),
        ["click", "#object-1"],
        DRAWN,
        painted(data, 1),
        painted(data, 2),
        ["press", "2"],
        DRAWN,
        painted(data, 1),
        ["press", "m"],
        DRAWN,
        painted(data, 1),
        painted(data, 2),
    )
    golden, turtle = (np.flatnonzero(true_mask(FIRST + 4, each)).tolist() for each in (2, 3))
    assert seen[2:] == [golden, turtle, [], turtle, golden, [], []]


@in_browser
def test_the_fill_leaves_the_outline(run):
    data = data_of(run)
    *_, outline = visit(write_page(run), set_range("#opacity", 0), set_range("#scrub", 4), DRAWN, painted(data, 2))
    turtle = true_mask(FIRST + 4, 3)
    inner = cv2.erode(turtle.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    assert set(outline) < set(np.flatnonzero(turtle))
    assert len(outline) > 100 and not set(outline) & set(np.flatnonzero(inner))


@in_browser
def test_the_timeline_leads_to_a_frame(run):
    """Fourteen frames: each has a fourteenth of the width."""
    look = data_of(run)["look"]
    seen = visit(
        write_page(run),
        ["click at", "#confidence .plot >> nth=1", 3.5 / 14, 0.5],
        *SHOWN,
        text("#value-1"),
        ["click at", "#overlap .plot >> nth=2", 13.5 / 14, 0.5],
        *SHOWN,
        text("#value-0"),
        ["click", "#ruler .flag >> nth=0"],
        *SHOWN,
        ["click", "#look button >> nth=1"],
        *SHOWN,
        ["click", "#even button >> nth=0"],
        *SHOWN,
        text("#value-0"),
        text("#value-2"),
        ["click", "#objects .where button >> nth=0"],
        *SHOWN,
    )
    assert seen[:2] == [23, "0.20"] and seen[2:4] == [33, "gone 0.90"]
    assert seen[4:6] == [FIRST + look[0], FIRST + look[1]]
    assert seen[6:9] == [20, "seed", "–"]
    gone = next(frame for frame in range(FIRST, LAST) if not true_mask(frame, 1).any())
    assert seen[9] == gone


@in_browser
def test_it_plays_to_the_end_and_pauses(run):
    seen = visit(
        write_page(run),
        ["see", "document.querySelector('#speed').value = '0.25'"],
        ["press", " "],
        text("#play"),
        # In one go, so that it does not come to the end between the two.
        ["wait", f"{FRAME[1]} > 22 && (document.querySelector('#play').click(), true)"],
        text("#play"),
        DRAWN,
        FRAME,
        ["see", "new Promise((done) => setTimeout(done, 400))"],
        FRAME,
        ["see", "document.querySelector('#speed').value = '2'"],
        ["click", "#play"],
        ["wait", "document.querySelector('#play').textContent === 'Play'"],
        FRAME,
    )
    assert seen[1:3] == ["Pause", "Play"]
    assert LAST > seen[3] == seen[5] > 22
    assert seen[7] == LAST


@in_browser
def test_marks_of_the_timeline(run):
    count = "document.querySelectorAll('%s').length"
    seen = visit(
        write_page(run),
        *(["see", count % selector] for selector in ("#confidence .seed", "#confidence .gone", "#confidence .unsure")),
        *(["see", count % selector] for selector in ("#ruler .flag", "#area .lane", "#overlap .lane")),
        ["see", "[...document.querySelectorAll('#objects .where')].map((each) => each.textContent.trim())"],
        ["see", "[...document.querySelectorAll('#confidence .suggested')].map((each) => parseFloat(each.style.left))"],
    )
    gone = [frame for frame in range(FIRST, LAST + 1) if not true_mask(frame, 1).any()]
    assert seen[:6] == [2, 1, 2, len(data_of(run)["look"]), 3, 3]
    assert seen[6] == [f"gone on {gone[0]}–{gone[-1]}", "unsure on 23", "unsure on 31–33"]
    suggested = data_of(run)["suggested"]
    marks = sorted(each["position"] for each in suggested for _ in each["slots"])
    assert sorted(seen[7]) == pytest.approx(
        [100 * (position + 0.5) / len(data_of(run)["numbers"]) for position in marks]
    )


@in_browser
def test_links_into_the_cvat_job(tmp_path):
    facts = RunFacts("Job 5", str(CLIP / "frames"), NAMES, "https://cvat.example/tasks/3/jobs/5")
    page = write_page(write_run(tmp_path, facts))
    link = ["see", "document.querySelector('#link').href"]
    hidden = ["see", "document.querySelector('#link').hidden"]
    assert visit(page, hidden, link, ["press", "End"], link) == [
        False,
        "https://cvat.example/tasks/3/jobs/5?frame=20",
        "https://cvat.example/tasks/3/jobs/5?frame=33",
    ]


@in_browser
def test_names_from_strangers_are_shown_as_they_are(tmp_path):
    facts = RunFacts(HOSTILE, str(CLIP / "frames"), {1: HOSTILE, 2: "b", 3: "c"})
    seen = visit(
        write_page(write_run(tmp_path, facts)),
        ["see", "document.querySelector('#objects .title').textContent"],
        ["see", "document.querySelector('h1').textContent"],
        ["see", "[document.scripts.length, document.images.length]"],
    )
    assert seen == [HOSTILE, HOSTILE, [2, 0]]


@in_browser
def test_skipped_frames_are_said_and_passed_over(run, monkeypatch):
    monkeypatch.setattr(page_module, "LEAST_SURE", 1)
    monkeypatch.setattr(page_module, "EVENLY_SPACED", 2)
    monkeypatch.setattr(page_module, "make_pictures", lambda *given: make_pictures(*given, max_bytes=200_000))
    shown = [FIRST + i for i in data_of(run)["pictures"]]
    assert 3 < len(shown) < 14
    seen = visit(
        write_page(run),
        text("#facts"),
        ["press", "ArrowRight"],
        *SHOWN,
        ["press", "ArrowRight"],
        *SHOWN,
        ["click at", "#confidence .plot >> nth=0", 13.5 / 14, 0.5],
        *SHOWN,
        ["see", "document.querySelector('#confidence .line').getAttribute('d').match(/H/g).length"],
    )
    assert f"pictures of {len(shown)} of the 14 frames are in this page" in seen[0]
    assert seen[1:] == [shown[1], shown[2], shown[-1], 14]


def write_large_run(folder: Path) -> RunFacts:
    facts = RunFacts("ten", str(CLIP / "frames"), {i: f"object with a long name, number {i}" for i in range(1, 11)})
    with RunRecord(folder, facts) as record:
        for i in range(3):
            masks = [encode_mask(np.roll(true_mask(i, 3), 60 * slot, axis=1)) for slot in range(10)]
            record.add(i, f"{i:05d}.jpg", (HEIGHT, WIDTH), [Finding(mask, 0.4, i == 0) for mask in masks])
    return facts


@in_browser
@pytest.mark.parametrize("width", [1200, 800])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_ten_objects_fit(tmp_path, width, scheme):
    write_large_run(tmp_path)
    seen = visit(
        write_page(tmp_path),
        ["see", "document.documentElement.scrollWidth"],
        ["see", "document.querySelectorAll('#confidence .lane').length"],
        ["see", "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]"],
        width=width,
        scheme=scheme,
    )
    assert seen[:2] == [width, 10]
    assert (seen[2] < 64) == (scheme == "dark")


@in_browser
@pytest.mark.parametrize("width", [1200, 400])
def test_a_long_name_and_a_notice_fit(tmp_path, width):
    name = f"{'recording' * 30}.jpg"[-250:]
    (tmp_path / "frames").mkdir()
    shutil.copy(CLIP / "frames" / "00005.jpg", tmp_path / "frames" / name)
    with RunRecord(tmp_path, RunFacts("frames", "frames", {2: "koi"})) as record:
        record.add(5, name, (HEIGHT, WIDTH), [Finding(encode_mask(true_mask(5, 2)), 0.5, False)])
    data = data_of(tmp_path) | {"notice": f"{name} may be damaged."}
    page = tmp_path / "page.html"
    page.write_text(render(data))
    seen = visit(page, ["see", "document.documentElement.scrollWidth"], text("#notice"), text("#now"), width=width)
    assert seen == [width, f"{name} may be damaged.", f"frame 5 · {name}"]


@in_browser
def test_one_frame_without_confidence(tmp_path):
    facts = RunFacts("one", str(CLIP / "frames"), {2: "koi"})
    with RunRecord(tmp_path, facts) as record:
        record.add(5, "00005.jpg", (HEIGHT, WIDTH), [Finding(encode_mask(true_mask(5, 2)), None, False)])
    seen = visit(
        write_page(tmp_path),
        FRAME,
        text("#facts"),
        text("#value-0"),
        text("#confidence .plot"),
        text("#look-note"),
        ["press", "ArrowRight"],
        ["press", " "],
        ["click at", "#area .plot", 0.9, 0.5],
        *SHOWN,
    )
    assert seen[:3] == [5, "1 frame · 1 object.", "found"]
    assert "No confidence was recorded" in seen[3] and "No confidence was recorded" in seen[4]
    assert seen[5] == 5


@in_browser
def test_the_least_sure_object_is_shown_close(run, monkeypatch):
    monkeypatch.setattr(page_module, "EVENLY_SPACED", 14)  # all
    data = data_of(run)
    red, green, blue = bytes.fromhex(data["objects"][1]["colour"][1:])  # the golden koi's, which is unsure on frame 23

    def share(sheet: str) -> list[str]:
        """How much of a tile of frame 23 has nearly that colour, as the outline has."""
        tile = f"#{sheet} button[data-position='3'] canvas"
        return [
            "see",
            f"""(() => {{
              const canvas = document.querySelector("{tile}");
              const {{ data }} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
              let near = 0;
              for (let i = 0; i < data.length; i += 4)
                near += Math.hypot(data[i] - {red}, data[i + 1] - {green}, data[i + 2] - {blue}) < 60;
              return near / (data.length / 4);
            }})()""",
        ]

    close, whole = visit(
        write_page(run),
        *(["wait", share(sheet)[1]] for sheet in ("look", "even")),
        share("look"),
        share("even"),
    )
    assert close > 1.5 * whole > 0
