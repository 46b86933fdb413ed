"""`maskbank job` against a stand-in of CVAT's server: the real SDK, the real handler, real frames."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib import error, request

import numpy as np
import pytest
import torch
from cvat_stand_in import PASSWORD, TOKEN, USER, CvatStandIn, StoredJob, cvat_stand_in, drop, refuse
from support import (
    GOLDEN_KOI,
    HEIGHT,
    RED_KOI,
    TURTLE,
    WIDTH,
    box_of,
    decoded,
    jaccard,
    jpeg,
    mask_shape,
    one_sentence,
    png,
    true_mask,
)

from maskbank import cli
from maskbank.evaluation.measures import jaccard as measured
from maskbank.files.masks import read_id_mask
from maskbank.function.local import local_function
from maskbank.jobs import retrying, sweeps, uploads, writing
from maskbank.jobs.annotate import annotate
from maskbank.jobs.cvat import Login, connect
from maskbank.jobs.function import Propagate, StateExpired, deployed, identity_of, in_this_process
from maskbank.jobs.plan import AnnotateOptions, results_of
from maskbank.jobs.retrying import BusyError
from maskbank.jobs.run_folder import RunFolder, job_folder
from maskbank.networks.lite import Lite
from maskbank.networks.models import BUNDLED_INTERACTORS, BUNDLED_WEIGHTS
from maskbank.networks.outliner import Outliner, load_outliner
from maskbank.networks.weights import fingerprint, fit_weights, load_state_dict
from maskbank.review.marks import what_to_outline_next
from maskbank.review.record import decode_mask, read_record
from maskbank.shapes.conversion import shape_to_mask
from maskbank.shapes.shape import Shape

JOB = 12
FRAMES = 10
NAME, POSE = 31, 32  # attributes of a koi: of the whole track, and of each keyframe
KOI = {
    "id": 7,
    "name": "koi",
    "type": "any",
    "attributes": [
        {"id": NAME, "name": "name", "mutable": False, "default_value": "?"},
        {"id": POSE, "name": "pose", "mutable": True, "default_value": "straight"},
    ],
}
TURTLE_LABEL = {"id": 8, "name": "turtle", "type": "any", "attributes": []}
POINT = {"id": 9, "name": "eye", "type": "points", "attributes": []}
LABELS = [KOI, TURTLE_LABEL, POINT]
LABEL_OF = {GOLDEN_KOI: KOI["id"], RED_KOI: KOI["id"], TURTLE: TURTLE_LABEL["id"]}


def outline(frame: int, object_id: int, **facts: object) -> dict:
    """A mask that an annotator drew."""
    drawn = mask_shape(true_mask(frame, object_id)) | {"frame": frame, "label_id": LABEL_OF[object_id]}
    return {"group": 0, "source": "manual", "attributes": []} | drawn | facts


def box(frame: int, object_id: int, **facts: object) -> dict:
    return outline(frame, object_id) | {"type": "rectangle", "points": box_of(true_mask(frame, object_id))} | facts


@pytest.fixture
def cvat() -> Iterator[CvatStandIn]:
    """A server with a job of the first frames of the sample clip."""
    with cvat_stand_in() as server:
        server.jobs[JOB] = StoredJob({i: jpeg(i) for i in range(FRAMES)}, LABELS)
        yield server


@pytest.fixture(scope="module")
def propagate(no_settings: pytest.MonkeyPatch) -> Propagate:
    """The function in this process, at a small working size for speed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASKBANK_SIZE", "96")
        call = in_this_process()
        with suppress(ValueError):
            call({})  # loads the network
        return call


@pytest.fixture(autouse=True)
def small_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps, "FRAMES_PER_REQUEST", 3)
    monkeypatch.setattr(retrying, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(writing, "LOOKS_S", (0.01, 0.02, 0.04))


@pytest.fixture(scope="module")
def outliner() -> Outliner:
    return load_outliner(BUNDLED_INTERACTORS["interactor"], torch.device("cpu"))


@pytest.fixture
def run(cvat: CvatStandIn, propagate: Propagate, outliner: Outliner, tmp_path: Path, capsys) -> Callable[..., str]:
    """Annotates the job; returns what is printed: run(form="track", call=..., replace=True)."""

    def run(call: Propagate = propagate, jobs: tuple[int, ...] = (JOB,), **options: object) -> str:
        known = {"form": None, "labels": (), "dry_run": False, "replace": False, "tracker": "test", "retry_s": 0.0}
        with connect(Login(cvat.url, f"{USER}:{PASSWORD}")) as client:
            annotate(
                client, jobs, call, outliner.object_of, AnnotateOptions(**known | {"work": tmp_path / "work"} | options)
            )
        return capsys.readouterr().out

    return run


@pytest.fixture
def command(cvat, monkeypatch, tmp_path, capsys) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line; returns its exit code and what it prints. Options of the model go to the environment."""
    monkeypatch.setattr(os, "environ", os.environ | {"MASKBANK_SIZE": "96", "XDG_CACHE_HOME": str(tmp_path / "cache")})
    before = signal.getsignal(signal.SIGTERM)

    def command(*arguments: object, server: str = cvat.url) -> tuple[int, str, str]:
        try:
            code = cli.main(["job", "--server-host", server, *map(str, arguments)])
        finally:
            signal.signal(signal.SIGTERM, before)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return command


def counting(propagate: Propagate) -> tuple[Propagate, list[int]]:
    """The same call, and how many frames each of its requests had."""
    sizes: list[int] = []

    def call(body: dict) -> dict:
        sizes.append(len(body["frames"]))
        return propagate(body)

    return call, sizes


def failing(propagate: Propagate, at: int, failure: BaseException) -> Propagate:
    """The same call, which fails once, at its request number `at` from 0."""
    left = [at]

    def call(body: dict) -> dict:
        left[0] -= 1
        if left[0] == -1:
            raise failure
        return propagate(body)

    return call


def results(cvat: CvatStandIn, kind: str = "shapes") -> list[dict]:
    """The automatic annotations of the job without their ids, in order."""
    found = [{k: v for k, v in each.items() if k != "id"} for each in cvat.of_source(JOB, "auto")[kind]]
    return sorted(found, key=lambda each: (each["frame"], each["label_id"], str(each.get("points"))))


def drawn_by_people(cvat: CvatStandIn) -> str:
    return json.dumps(cvat.of_source(JOB, "manual", "semi-auto", "file"))


def frames_of(shapes: list[dict]) -> list[int]:
    return [shape["frame"] for shape in shapes]


def mask_of(shape: dict) -> np.ndarray:
    """What a shape covers, (H, W) bool; of a rectangle all of it."""
    points = shape["points"]
    if shape["type"] == "mask":
        return decoded({"type": "mask", "points": [int(number) for number in points]})
    if shape["type"] == "rectangle":
        x0, y0, x1, y1 = points
        points, shape = [x0, y0, x1, y0, x1, y1, x0, y1], {"type": "polygon"}
    return shape_to_mask(Shape(shape["type"], tuple(points)), HEIGHT, WIDTH)


def filled_box(mask: np.ndarray) -> np.ndarray:
    return mask_of({"type": "rectangle", "points": box_of(mask)})


def quality(shapes: list[dict], object_id: int) -> float:
    """The mean Jaccard index of shapes; boxes are compared with boxes."""
    scores = []
    for each in shapes:
        truth = true_mask(each["frame"], object_id)
        scores.append(jaccard(mask_of(each), filled_box(truth) if each["type"] == "rectangle" else truth))
    return float(np.mean(scores))


# What is tracked


def test_one_seed_reaches_both_ends(cvat, run):
    cvat.add(JOB, shapes=[outline(4, GOLDEN_KOI)])
    before = drawn_by_people(cvat)
    printed = run()
    assert printed.startswith("Job 12: 1 object tracked on 9 frames, 9 shapes made, 9 uploaded.\n  koi: ")
    assert frames_of(results(cvat)) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert quality(results(cvat), GOLDEN_KOI) > 0.6
    assert drawn_by_people(cvat) == before


@pytest.mark.parametrize(("frame", "frames"), [(0, range(1, FRAMES)), (FRAMES - 1, range(FRAMES - 1))])
def test_a_seed_at_an_end_needs_one_sweep(cvat, run, propagate, frame: int, frames: range):
    cvat.add(JOB, shapes=[outline(frame, GOLDEN_KOI)])
    call, sizes = counting(propagate)
    run(call)
    assert sum(sizes) == FRAMES
    assert frames_of(results(cvat)) == list(frames)


def test_two_seeds_are_in_both_sweeps(cvat, run, propagate):
    cvat.add(JOB, shapes=[outline(2, GOLDEN_KOI), outline(7, GOLDEN_KOI)])
    seeds = []

    def call(body: dict) -> dict:
        seeds.extend(each for frame in body["frames"] for each in frame.get("shapes", []))
        return propagate(body)

    run(call)
    first, last = (mask_shape(true_mask(frame, GOLDEN_KOI)) for frame in (2, 7))
    assert seeds == [first, last, first, last, last, first, last, first]  # each time both are known when it begins
    assert frames_of(results(cvat)) == [0, 1, 3, 4, 5, 6, 8, 9]
    assert quality(results(cvat), GOLDEN_KOI) > 0.6


def test_more_seeds_make_it_better(cvat, run, monkeypatch, tmp_path):
    """On the sample clip, with the middle frame outlined as well; the two seeded frames do not count."""
    monkeypatch.setenv("MASKBANK_SIZE", "128")
    monkeypatch.setattr(sweeps, "FRAMES_PER_REQUEST", 16)
    call = in_this_process()
    cvat.jobs[JOB] = StoredJob({i: jpeg(i) for i in range(26)}, LABELS)
    animals = (RED_KOI, GOLDEN_KOI, TURTLE)
    means = []
    for seeds in ([0], [0, 13]):
        cvat.jobs[JOB].annotations = {"shapes": [], "tracks": [], "tags": []}
        cvat.add(JOB, shapes=[outline(frame, i, group=i) for frame in seeds for i in animals])
        run(call)
        found = {(each["frame"], each["group"]): mask_of(each) for each in results(cvat)}
        nothing = np.zeros((HEIGHT, WIDTH), bool)
        others = [(frame, i) for frame in range(26) for i in animals if frame not in (0, 13)]
        means.append(np.mean([measured(found.get(each, nothing), true_mask(*each)) for each in others]))
    assert means[1] >= means[0]


def test_several_objects_with_seeds_of_their_own(cvat, run, monkeypatch):
    monkeypatch.setenv("MASKBANK_SIZE", "128")
    cvat.add(JOB, shapes=[outline(2, GOLDEN_KOI), box(6, TURTLE), outline(8, GOLDEN_KOI)])
    printed = run(call=in_this_process())
    assert "2 objects tracked on 10 frames, 17 shapes made" in printed
    koi = [each for each in results(cvat) if each["label_id"] == KOI["id"]]
    turtle = [each for each in results(cvat) if each["label_id"] == TURTLE_LABEL["id"]]
    assert frames_of(koi) == [0, 1, 3, 4, 5, 6, 7, 9] and {each["type"] for each in koi} == {"mask"}
    assert frames_of(turtle) == [0, 1, 2, 3, 4, 5, 7, 8, 9] and {each["type"] for each in turtle} == {"rectangle"}
    assert quality(koi, GOLDEN_KOI) > 0.6
    assert quality(turtle, TURTLE) > 0.6


@pytest.mark.parametrize("kind", ["polygon", "ellipse", "rectangle", "turned rectangle"])
def test_seeds_of_other_types(cvat, run, kind: str):
    left, top, right, bottom = box_of(true_mask(3, TURTLE))
    x, y = (left + right) / 2, (top + bottom) / 2
    turned = [x - (bottom - top) / 2, y - (right - left) / 2, x + (bottom - top) / 2, y + (right - left) / 2]
    drawn = {
        "polygon": {"points": [left, y, x, top, right, y, x, bottom]},
        "ellipse": {"points": [x, y, right, top]},
        "rectangle": {"points": [left, top, right, bottom]},
        "turned rectangle": {"points": turned, "rotation": 90.0},
    }[kind]
    cvat.add(JOB, shapes=[outline(3, TURTLE, type=kind.split()[-1], **drawn)])
    run()
    assert frames_of(results(cvat)) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert {each["type"] for each in results(cvat)} == {kind.split()[-1]}
    assert {each["rotation"] for each in results(cvat)} == {0.0}
    assert quality(results(cvat), TURTLE) > 0.5


def test_a_track_is_an_object(cvat, run, monkeypatch):
    monkeypatch.setenv("MASKBANK_SIZE", "128")
    keyframes = [
        {"type": "rectangle", "frame": frame, "points": box_of(true_mask(frame, TURTLE)), "outside": False}
        for frame in (1, 5)
    ]
    keyframes.append(keyframes[-1] | {"frame": 8, "outside": True})
    cvat.add(JOB, tracks=[{"label_id": TURTLE_LABEL["id"], "frame": 1, "shapes": keyframes}])
    before = drawn_by_people(cvat)
    printed = run(call=in_this_process())
    assert frames_of(results(cvat)) == [0]  # on 2, 3, 4, 6 and 7 CVAT interpolates it, from 8 on it is outside
    assert quality(results(cvat), TURTLE) > 0.6
    assert drawn_by_people(cvat) == before
    assert "left to a person's track on 2-4, 6-7" in printed


@pytest.mark.parametrize(("form", "kind"), [(None, "shapes"), ("track", "tracks")])
def test_nothing_is_laid_over_a_persons_track(cvat, run, propagate, form: str | None, kind: str):
    """Beside another object, which is tracked through the same frames."""
    drawn = [track_keyframe(5), track_keyframe(9) | {"outside": True}]
    cvat.add(JOB, tracks=[{"label_id": TURTLE_LABEL["id"], "frame": 5, "shapes": drawn}])
    cvat.add(JOB, shapes=[outline(0, GOLDEN_KOI, type="rectangle", points=box_of(true_mask(0, GOLDEN_KOI)))])
    run(form=form)
    shown = {KOI["id"]: [], TURTLE_LABEL["id"]: []}
    for each in results(cvat, kind):
        own = [each] if kind == "shapes" else [part for part in each["shapes"] if not part["outside"]]
        shown[each["label_id"]] += frames_of(own)
    assert shown == {KOI["id"]: list(range(1, FRAMES)), TURTLE_LABEL["id"]: [0, 1, 2, 3, 4]}


def test_a_track_from_the_first_frame_leaves_nothing_to_do(cvat, run, propagate):
    cvat.add(JOB, tracks=[{"label_id": TURTLE_LABEL["id"], "frame": 0, "shapes": [track_keyframe(0)]}])
    call, sizes = counting(propagate)
    assert one_sentence(run(call).strip())
    assert sizes == [] and results(cvat) == [] and results(cvat, "tracks") == []


def test_deleted_frames_are_left_out(cvat, run, propagate):
    cvat.add(JOB, shapes=[outline(2, GOLDEN_KOI), outline(6, RED_KOI)])
    cvat.jobs[JOB].deleted = {0, 4, 6}
    call, sizes = counting(propagate)
    run(call)
    assert frames_of(results(cvat)) == [1, 3, 5, 7, 8, 9]
    assert sum(sizes) == 6 + 2


def test_jobs_of_chosen_frames(cvat, run):
    cvat.add(JOB, shapes=[outline(2, GOLDEN_KOI)])
    cvat.jobs[JOB].included = [1, 2, 8]
    run()
    assert frames_of(results(cvat)) == [1, 8]


@pytest.mark.parametrize(("step", "data_start"), [(3, 0), (2, 0), (1, 5), (3, 7)])
def test_chosen_frames_of_a_task_that_leaves_frames_of_its_data_out(cvat, run, step: int, data_start: int):
    """CVAT numbers these as the data, and annotations and pictures as the task's frames."""
    cvat.add(JOB, shapes=[outline(4, GOLDEN_KOI)])
    job = cvat.jobs[JOB]
    job.type, job.included, job.step, job.data_start = "ground_truth", [2, 4, 8], step, data_start
    run()
    assert frames_of(results(cvat)) == [2, 8]


def answering(cvat: CvatStandIn, part: str | None, change: Callable[[dict], object]) -> None:
    """Lets the server answer something else where a job, or a part of it, is read."""
    real = cvat._of_job

    def of_job(method: str, job: StoredJob, job_id: int, asked: str | None, query: dict, body: bytes) -> object:
        answer = real(method, job, job_id, asked, query, body)
        return change(answer) if asked == part and method == "GET" else answer

    cvat._of_job = of_job


def lacking(*names: str) -> Callable[[dict], dict]:
    return lambda answer: {name: value for name, value in answer.items() if name not in names}


def of_first_shape(change: Callable[[dict], dict]) -> Callable[[dict], dict]:
    return lambda answer: answer | {"shapes": [change(shape) for shape in answer["shapes"]]}


@pytest.mark.parametrize(
    ("part", "change"),
    [
        (None, lacking("start_frame")),
        (None, lacking("task_id")),
        ("/data/meta", lambda answer: [1]),
        ("/annotations/", lacking("tracks")),
        ("/annotations/", lambda answer: []),
        ("/annotations/", of_first_shape(lacking("points"))),
        ("/annotations/", of_first_shape(lacking("label_id"))),
        ("/annotations/", of_first_shape(lambda shape: shape | {"attributes": [1]})),
    ],
)
def test_answers_that_lack_what_is_needed_earn_a_sentence(cvat, run, part: str | None, change: Callable):
    cvat.add(JOB, shapes=[outline(4, GOLDEN_KOI)])
    answering(cvat, part, change)
    with pytest.raises(ValueError, match="about job 12 is no CVAT that this command knows") as refused:
        run()
    assert one_sentence(str(refused.value))


@pytest.mark.parametrize(
    ("part", "change"),
    [
        (None, lacking("dimension")),
        ("/data/meta", lacking("deleted_frames", "included_frames", "start_frame", "frame_filter")),
        ("/data/meta", lambda answer: answer | {"deleted_frames": None}),
        ("/annotations/", of_first_shape(lacking("source", "group", "z_order", "attributes", "rotation"))),
        ("/annotations/", of_first_shape(lambda shape: shape | {"source": None, "group": None, "attributes": None})),
    ],
)
def test_answers_of_servers_that_leave_out_what_has_a_default(cvat, run, part: str | None, change: Callable):
    cvat.add(JOB, shapes=[outline(4, GOLDEN_KOI)])
    answering(cvat, part, change)
    assert "9 uploaded" in run()


def test_a_task_that_is_still_being_made(cvat, run):
    answering(cvat, None, lambda answer: answer | {"start_frame": None, "stop_frame": None})
    with pytest.raises(ValueError, match="^Job 12 has no frames yet; its task is still being made"):
        run()


def test_only_some_labels(cvat, run):
    cvat.add(JOB, shapes=[outline(2, GOLDEN_KOI), outline(2, RED_KOI), outline(6, GOLDEN_KOI), outline(0, TURTLE)])
    run(labels=("turtle",))
    assert {each["label_id"] for each in results(cvat)} == {TURTLE_LABEL["id"]}
    with pytest.raises(ValueError) as refused:
        run(labels=("turtle", "tortoise"))
    assert str(refused.value) == "Job 12 has no label tortoise; it has koi, turtle, eye."


def test_more_seeds_than_the_tracker_can_remember(cvat, run, start, monkeypatch, tmp_path):
    """A bank of this size has room for some 15 seed frames."""
    monkeypatch.setenv("MASKBANK_SIZE", "96")
    monkeypatch.setenv("MASKBANK_BUDGET", "1000")
    cvat.jobs[JOB] = StoredJob({i: jpeg(i) for i in range(34)}, LABELS)
    cvat.add(JOB, shapes=[outline(frame, GOLDEN_KOI) for frame in range(0, 34, 2)])
    cvat.add(JOB, shapes=[outline(0, TURTLE)])
    refused = []
    propagate = in_this_process()

    def call(body: dict) -> dict:
        try:
            return propagate(body)
        except ValueError as error:
            refused.append(str(error))
            raise

    run(call)
    koi = [each for each in results(cvat) if each["label_id"] == KOI["id"]]
    assert len(refused) == 2 and all("remember" in each for each in refused)  # once in each sweep
    assert frames_of(koi) == list(range(1, 34, 2))
    assert quality(koi, GOLDEN_KOI) > 0.6


def test_it_says_where_an_annotator_should_look(cvat, run):
    """The red koi dives under the lily pads in frame 27."""
    cvat.jobs[JOB] = StoredJob({i: jpeg(i) for i in range(20, 34)}, LABELS)
    cvat.add(JOB, shapes=[outline(20, RED_KOI)])
    printed = run()
    first, koi, following, page = printed.splitlines()
    found = {each["frame"] for each in results(cvat)}
    gone = [frame for frame in range(21, 34) if frame not in found]
    assert 30 in gone
    assert koi.startswith("  koi: ") and f"gone on {gone[0]}" in koi and koi.endswith(f"-{gone[-1]}")
    assert f"{len(found)} shapes made" in first
    assert Path(page.removeprefix("  Look at ").removesuffix(".")).name == "review.html"
    suggested = re.fullmatch(r"  Outline next: frame (\d+), koi\.", following)
    assert suggested and 20 < int(suggested[1]) < 34
    folder = run_folder(printed)
    assert following.strip() in (folder / "review.html").read_text()


def test_a_refusal_that_has_nothing_to_do_with_an_outline_costs_no_memory(cvat, run, propagate):
    cvat.add(JOB, shapes=[outline(0, GOLDEN_KOI), outline(6, GOLDEN_KOI)])

    def call(body: dict) -> dict:
        if any(body["states"]) and "shapes" in body["frames"][0]:
            raise ValueError("The function answers 500: out of order")
        return propagate(body)

    with pytest.raises(ValueError, match="out of order"):
        run(call)
    assert results(cvat) == []


# Training on the job.


def test_a_job_is_tuned_to_before_it_is_tracked(cvat, command, tmp_path, monkeypatch):
    """Frames with all objects become a sequence, others stills; other weights come of them, once for all."""
    monkeypatch.setattr("maskbank.training.novelty.CLIPS", 2)
    drawn = [outline(frame, number) for frame in (0, 9) for number in (RED_KOI, TURTLE)]
    cvat.add(JOB, shapes=[*drawn, outline(4, TURTLE)])
    arguments = ("--auth", f"{USER}:{PASSWORD}", "--job", JOB, "--work", tmp_path / "work", "--tune", "0.01")
    code, printed, progress = command(*arguments, "--labels", "turtle", "--dry-run")
    assert code == 0 and "1 object tracked on 7 frames" in printed, progress
    code, printed, progress = command(*arguments)
    assert code == 0 and "2 objects tracked" in printed, progress
    [data] = (path for path in (tmp_path / "work").rglob("tuning/data") if (path / "static").exists())
    assert [path.name for path in sorted((data / "video/job/outlined").glob("*.jpg"))] == ["000000.jpg", "000009.jpg"]
    assert [path.name for path in (data / "static/outlined").glob("*.jpg")] == ["000004.jpg"]
    ids = read_id_mask(data / "video/job/outlined/000009.png")
    for each in (RED_KOI, TURTLE):
        assert max(jaccard(ids == number, true_mask(9, each)) for number in (1, 2)) > 0.99
    tuned = data.parent / "run" / "lite.safetensors"
    assert fingerprint_of(tuned) != fingerprint_of(BUNDLED_WEIGHTS["lite"])
    assert quality([each for each in results(cvat) if each["label_id"] == TURTLE_LABEL["id"]], TURTLE) > 0.5
    written = tuned.stat().st_mtime
    code, printed, _ = command(*arguments)
    assert code == 0 and "nothing to do" in printed and tuned.stat().st_mtime == written


@pytest.mark.parametrize("other", [("--function-url", "http://127.0.0.1:1"), ("--propose",), ("--model", "afb-urr")])
def test_tuning_is_for_this_machine_and_lite(cvat, command, other: tuple[str, ...]):
    code, _, said = command("--auth", f"{USER}:{PASSWORD}", "--job", JOB, "--tune", "5", *other)
    assert code == 1 and "Tuning trains the model lite on this machine" in said
    assert one_sentence(said.removeprefix("maskbank: ").rstrip())


def fingerprint_of(path: Path) -> str:
    network = Lite()
    fit_weights(network, load_state_dict(path), str(path))
    return fingerprint(network)


def run_folder(printed: str) -> Path:
    """Where the page is that a report names."""
    [path] = re.findall(r"Look at (.*)\.$", printed, re.MULTILINE)
    assert Path(path).read_text().startswith("<!doctype html>")
    return Path(path).parent


def test_the_page_shows_what_was_uploaded(cvat, run):
    """The red koi dives in frame 26; a person said that the turtle, which is a track, is not there after frame 30."""
    cvat.jobs[JOB] = StoredJob({i: jpeg(i) for i in range(20, 34)}, LABELS, task=3, deleted={22})
    points = box_of(true_mask(25, TURTLE))
    keyframes = [
        {"type": "rectangle", "frame": frame, "points": points, "outside": outside}
        for frame, outside in ((25, False), (31, True))
    ]
    track = {"label_id": TURTLE_LABEL["id"], "frame": 25, "shapes": keyframes}
    cvat.add(JOB, shapes=[outline(20, RED_KOI), outline(33, GOLDEN_KOI, group=5)], tracks=[track])
    facts, frames = read_record(run_folder(run(form="mask")))
    assert facts.job_url == f"{cvat.url}/tasks/3/jobs/{JOB}"
    assert list(facts.objects.values()) == ["koi", "turtle", "koi (group 5)"]
    assert [frame.number for frame in frames] == [20, 21, *range(23, 34)]
    uploaded = {(each["frame"], each["label_id"], each["group"]): mask_of(each) for each in results(cvat)}
    shown, gone, unknown = set(), set(), set()
    for frame in frames:
        for label, group, finding in zip((7, 8, 7), (0, 0, 5), frame.findings, strict=True):
            key = (frame.number, label, group)
            if finding is None:
                unknown.add(key)
            elif finding.seed:
                outlined = decode_mask(finding.mask, frame.size)
                truth = true_mask(frame.number, {(7, 0): RED_KOI, (7, 5): GOLDEN_KOI, (8, 0): TURTLE}[label, group])
                assert finding.confidence is None
                assert jaccard(outlined, truth) > 0.8 if label == 8 else (outlined == truth).all()
            elif finding.mask:
                shown.add(key)
                np.testing.assert_array_equal(decode_mask(finding.mask, frame.size), uploaded[key])
            else:
                gone.add(key)
    seeds = [[each.number for each in frames if (own := each.findings[slot]) and own.seed] for slot in range(3)]
    assert seeds == [[20], [25], [33]]
    assert unknown == {(frame, 8, 0) for frame in range(26, 31)}  # CVAT itself shows the track there
    assert shown == set(uploaded)
    assert {(frame, 8, 0) for frame in (31, 32, 33)} <= gone and (30, 7, 0) in gone


def test_the_page_needs_no_server_and_no_frame_twice(cvat, run, tmp_path):
    cvat.add(JOB, shapes=[outline(0, GOLDEN_KOI)])
    folder = run_folder(run(dry_run=True))
    assert sum("type=frame" in request for request in cvat.requests) == FRAMES
    asked = len(cvat.requests)
    assert cli.main(["review", str(folder), "--out", str(tmp_path / "page.html")]) == 0
    assert len(cvat.requests) == asked
    assert (tmp_path / "page.html").read_bytes() == (folder / "review.html").read_bytes()


def test_pictures_that_are_missing_are_fetched(cvat, run, propagate):
    """As in the folder of a run that was stopped after a sweep's answer and before the picture was kept."""
    cvat.add(JOB, shapes=[outline(0, GOLDEN_KOI)])
    pictures = run_folder(run(dry_run=True)) / "pictures"
    first, *_ = sorted(pictures.iterdir())
    first.unlink()
    call, sizes = counting(propagate)
    folder = run_folder(run(call))
    assert sizes == [] and first.exists()
    assert len(read_record(folder)[1]) == FRAMES


def test_nothing_to_track_has_no_page(cvat, run, tmp_path):
    cvat.jobs[JOB] = StoredJob({0: jpeg(0)}, LABELS)
    cvat.add(JOB, shapes=[outline(0, GOLDEN_KOI)])
    assert "Look at" not in run() and not list(tmp_path.rglob("review.html"))


# What it becomes in CVAT


@pytest.mark.parametrize(
    ("drawn", "form", "kind"),
    [(outline, "mask", "mask"), (outline, "polygon", "polygon"), (box, "mask", "mask"), (box, "polygon", "rectangle")],
)
def test_shapes_of_the_wanted_type(cvat, run, drawn: Callable, form: str, kind: str):
    cvat.add(JOB, shapes=[drawn(3, TURTLE)])
    run(form=form)
    assert {each["type"] for each in results(cvat)} == {kind}
    assert frames_of(results(cvat)) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert quality(results(cvat), TURTLE) > 0.6


@pytest.mark.parametrize(("drawn", "kind"), [(outline, "polygon"), (box, "rectangle")])
def test_tracks(cvat, run, drawn: Callable, kind: str):
    cvat.add(JOB, shapes=[drawn(3, TURTLE), drawn(6, TURTLE)])
    assert "1 track made, 1 uploaded" in run(form="track")
    assert results(cvat) == []
    [track] = results(cvat, "tracks")
    there = [each["frame"] for each in track["shapes"] if not each["outside"]]
    assert there == [0, 1, 2, 4, 5, 7, 8, 9]
    assert [each["frame"] for each in track["shapes"] if each["outside"]] == [3, 6]
    assert {each["type"] for each in track["shapes"]} == {kind}
    assert quality([each for each in track["shapes"] if not each["outside"]], TURTLE) > 0.6


@pytest.mark.parametrize("form", [None, "track"])
def test_label_attributes_group_and_order_are_kept(cvat, run, form: str | None):
    def attributes(name: str, pose: str) -> list[dict]:
        return [{"spec_id": NAME, "value": name}, {"spec_id": POSE, "value": pose}]

    first = {"group": 5, "z_order": 2, "attributes": attributes("Hana", "bent")}
    cvat.add(JOB, shapes=[outline(1, GOLDEN_KOI, **first)])
    cvat.add(
        JOB, shapes=[outline(8, GOLDEN_KOI, **first | {"z_order": 4, "attributes": attributes("Hana", "straight")})]
    )
    run(form=form)
    if form is None:
        found = results(cvat)
        assert {each["group"] for each in found} == {5}
        poses = {each["frame"]: each["attributes"][1]["value"] for each in found}
        names = {each["attributes"][0]["value"] for each in found}
    else:
        [track] = results(cvat, "tracks")
        assert track["group"] == 5
        found = track["shapes"]
        poses = {each["frame"]: each["attributes"][0]["value"] for each in found}
        names = {each["value"] for each in track["attributes"]}
    assert names == {"Hana"}
    assert (poses[2], poses[7]) == ("bent", "straight")
    orders = {each["frame"]: each["z_order"] for each in found}
    assert (orders[2], orders[7]) == (2, 4)


def test_a_label_that_takes_other_shapes_only(cvat, run):
    boxes = KOI | {"type": "rectangle"}
    cvat.jobs[JOB].labels = [boxes]
    cvat.add(JOB, shapes=[box(1, GOLDEN_KOI)])
    with pytest.raises(ValueError, match="^Job 12: In CVAT the label koi has rectangle shapes only"):
        run(form="mask")
    run(form="track")
    assert len(results(cvat, "tracks")) == 1


def test_large_uploads_come_in_portions(cvat, run, monkeypatch):
    monkeypatch.setattr(uploads, "SHAPES_PER_REQUEST", 4)
    cvat.add(JOB, shapes=[outline(0, GOLDEN_KOI)])
    run()
    assert cvat.uploads() == 3
    assert frames_of(results(cvat)) == list(range(1, 10))


def test_a_dry_run_uploads_nothing(cvat, run, propagate):
    cvat.add(JOB, shapes=[outline(4, GOLDEN_KOI)])
    before = json.dumps(cvat.jobs[JOB].annotations)
    printed = run(dry_run=True)
    assert "9 shapes made, 9 would be uploaded." in printed
    assert json.dumps(cvat.jobs[JOB].annotations) == before
    assert not [each for each in cvat.requests if each.startswith("PATCH")]
    call, sizes = counting(propagate)
    assert "9 uploaded" in run(call)
    assert sizes == []  # what the dry run tracked is not tracked again


# Interruptions


REQUESTS = 10  # that tracking these seeds takes: in both sweeps the koi's two seeds are learnt before it starts
LEARNT_AGAIN = {
    1: 1,
    2: 2,
    6: 1,
    7: 2,
}  # of these, by the number of those that were answered: the log has no answers yet


def seeds() -> list[dict]:
    return [outline(2, GOLDEN_KOI), outline(7, GOLDEN_KOI), box(4, TURTLE)]


@pytest.fixture(scope="module")
def undisturbed(no_settings, propagate, outliner, tmp_path_factory) -> list[dict]:
    """The results that every interrupted run must come to."""
    with cvat_stand_in() as server:
        server.jobs[JOB] = StoredJob({i: jpeg(i) for i in range(FRAMES)}, LABELS)
        server.add(JOB, shapes=seeds())
        with connect(Login(server.url, f"{USER}:{PASSWORD}")) as client, pytest.MonkeyPatch.context() as patch:
            patch.setattr(sweeps, "FRAMES_PER_REQUEST", 3)
            annotate(
                client,
                [JOB],
                propagate,
                outliner.object_of,
                AnnotateOptions(None, (), False, False, tmp_path_factory.mktemp("w"), "test"),
            )
        found = results(server)
    assert len(found) == 8 + 9
    return found


@pytest.mark.parametrize("at", range(REQUESTS))
def test_stopped_while_tracking(cvat, run, propagate, undisturbed, at: int):
    cvat.add(JOB, shapes=seeds())
    every, sizes = counting(propagate)
    with pytest.raises(KeyboardInterrupt):
        run(failing(every, at, KeyboardInterrupt()))
    assert len(sizes) == at and results(cvat) == []
    run(every)
    assert len(sizes) == REQUESTS + LEARNT_AGAIN.get(at, 0)  # no other was made twice
    assert results(cvat) == undisturbed


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("portion", [0, 2])
def test_the_connection_breaks_while_uploading(cvat, run, monkeypatch, undisturbed, when: str, portion: int):
    monkeypatch.setattr(uploads, "SHAPES_PER_REQUEST", 4)
    cvat.add(JOB, shapes=seeds())
    cvat.once("PATCH", "annotations", drop, after=portion, answered_first=when == "after")
    with pytest.raises(ConnectionError, match="what was done is kept"):
        run()
    assert len(results(cvat)) == 4 * (portion + (when == "after"))
    assert f"{4 * (portion + (when == 'after')) or 'no'} there already".replace("no there already", "uploaded") in run()
    assert results(cvat) == undisturbed


def test_a_broken_upload_is_gone_on_with_at_once(cvat, run, monkeypatch, undisturbed):
    monkeypatch.setattr(uploads, "SHAPES_PER_REQUEST", 4)
    cvat.add(JOB, shapes=seeds())
    cvat.once("PATCH", "annotations", drop, after=1, answered_first=True)
    cvat.once("PATCH", "annotations", refuse(502, "<html>Bad Gateway</html>"), after=2)
    run(retry_s=5)
    assert results(cvat) == undisturbed


def test_what_was_uploaded_twice_is_there_once(cvat, run, undisturbed):
    """A request without an answer is carried out while the one that is made again is on its way."""
    cvat.add(JOB, shapes=seeds())
    cvat.once("PATCH", "annotations", drop)
    cvat.once("PATCH", "annotations", lambda: cvat.add(JOB, shapes=results(cvat)), answered_first=True)
    run(retry_s=5)
    assert results(cvat) == undisturbed


class LateServer:
    """A server whose gateway gives up (504) on the first uploads, which are carried out later, when it is told to."""

    def __init__(self, cvat: CvatStandIn, uploads: int):
        self._real, self._left, self._late = cvat._create, uploads, []
        cvat._create = self._create

    def _create(self, job: StoredJob, given: dict) -> None:
        if not self._left:
            return self._real(job, given)
        self._left -= 1
        self._late.append((job, given))
        return refuse(504, "Gateway Timeout")()

    def carry_out(self) -> None:
        while self._late:
            self._real(*self._late.pop(0))


def test_an_upload_that_is_carried_out_late_is_waited_for(cvat, run, undisturbed):
    cvat.add(JOB, shapes=seeds())
    late = LateServer(cvat, 1)
    cvat.once("PATCH", "annotations", lambda: cvat.once("GET", "/annotations/", late.carry_out, after=2))
    assert "17 shapes made, 17 uploaded" in run(retry_s=5)
    assert results(cvat) == undisturbed and cvat.uploads() == 1


def test_uploads_that_are_carried_out_after_they_were_made_again(cvat, run, undisturbed):
    """Two of them, one at once and one when the run is over: the next start finds it."""
    cvat.add(JOB, shapes=seeds())
    late = LateServer(cvat, 2)
    run(retry_s=5)
    assert results(cvat) == undisturbed and cvat.uploads() == 3
    late.carry_out()
    assert len(results(cvat)) == 3 * len(undisturbed)
    assert "nothing to do" in run()
    assert results(cvat) == undisturbed
    cvat.requests.clear()
    run()
    assert not [each for each in cvat.requests if each.startswith("PATCH")]


def test_what_is_carried_out_late_is_in_nobodys_way(cvat, run, undisturbed):
    """After a run that was given up, its shapes come twice: once late, and once more from the run that was repeated."""
    cvat.add(JOB, shapes=seeds())
    late = LateServer(cvat, 2)
    for _ in range(2):
        with pytest.raises(ConnectionError, match="504.*before that, 0 of 17 new annotations uploaded; what was done"):
            run()
    late.carry_out()
    run()
    assert results(cvat) == undisturbed


@pytest.mark.parametrize("method", ["GET", "PATCH"])
@pytest.mark.parametrize("path", ["/api/jobs/12$", "/data/meta$", "/annotations/$"])
def test_a_server_that_is_away_for_a_moment(cvat, run, undisturbed, method: str, path: str):
    cvat.add(JOB, shapes=seeds())
    for after in range(2):
        cvat.once(method, path, refuse(503, "x"), after)
    run(retry_s=5)
    assert results(cvat) == undisturbed


def test_the_commands_own_work_takes_no_patience(cvat, run, monkeypatch):
    """It stands for minutes in which masks become polygons."""

    def slowly(*arguments: object) -> object:
        time.sleep(0.4)
        return results_of(*arguments)

    monkeypatch.setattr("maskbank.jobs.annotate.results_of", slowly)
    cvat.add(JOB, shapes=[outline(4, GOLDEN_KOI)])
    cvat.once("PATCH", "annotations", refuse(503, "x"))
    run(retry_s=0.3)
    assert len(results(cvat)) == 9


def test_old_results_stay_until_the_new_ones_are_there(cvat, run):
    """CVAT refuses tracks in tasks with honeypots."""
    cvat.add(JOB, shapes=[outline(4, GOLDEN_KOI)])
    run()
    before = results(cvat)
    cvat.once("PATCH", "annotations", refuse(400, ["Tracks are not supported"]))
    with pytest.raises(ValueError, match=r"400: Tracks are not supported; nothing in the job was changed\.$"):
        run(form="track", replace=True)
    assert results(cvat) == before


@pytest.mark.parametrize("options", [{"replace": True}, {"around": (5,)}])
@pytest.mark.parametrize("portion", range(6))
def test_replacing_that_is_refused_midway_is_finished_by_the_next_run(cvat, run, monkeypatch, options, portion: int):
    monkeypatch.setattr(uploads, "SHAPES_PER_REQUEST", 3)
    cvat.add(JOB, shapes=[outline(0, GOLDEN_KOI)])
    run(call=still)
    cvat.add(JOB, shapes=[outline(5, RED_KOI)])
    cvat.once("PATCH", "annotations", refuse(413, "Request Entity Too Large"), after=portion)
    with suppress(ValueError):
        run(call=still, **options)
    assert {each["frame"] for each in results(cvat)} >= {1, 2, 3, 4, 6, 7, 8, 9}
    run(call=still, **options)
    assert sorted(frames_of(results(cvat))) == [1, 2, 3, 4, 6, 7, 8, 9]
    assert {each["frame"] for each in results(cvat) if each["points"] == outline(5, RED_KOI)["points"]} >= {6, 7, 8, 9}


def still(body: dict) -> dict:
    """A function of which every object stays where it was outlined last."""
    states = list(body["states"])
    frames = []
    for frame in body["frames"]:
        states = [shape or state for shape, state in zip(frame.get("shapes") or states, states, strict=True)]
        frames.append({"shapes": states, "confidences": [state and 0.9 for state in states]})
    return {"frames": frames, "states": states}


def test_what_a_person_edits_at_the_last_moment_is_not_deleted(cvat, run):
    """Between two readings of a job CVAT gives what was edited another id and source."""
    cvat.add(JOB, shapes=[outline(0, GOLDEN_KOI)])
    run(call=still)
    cvat.add(JOB, shapes=[outline(9, GOLDEN_KOI)])

    def edit() -> None:
        shapes = cvat.jobs[JOB].annotations["shapes"]
        old = next(each for each in shapes if each["frame"] == 7)
        shapes.remove(old)
        cvat.add(JOB, shapes=[old | {"source": "semi-auto", "points": outline(7, RED_KOI)["points"]}])

    cvat.once("PATCH", "annotations", edit, answered_first=True)
    said = run(call=still, replace=True)
    assert [each["frame"] for each in cvat.of_source(JOB, "semi-auto")["shapes"]] == [7]
    assert "\n  On 7 a person changed automatic annotations meanwhile; these stay as well." in said


def test_what_a_person_changes_while_results_are_made_counts(cvat, run, monkeypatch):
    """Masks become polygons for minutes: an attribute of an outline, and a frame that is deleted meanwhile."""
    cvat.add(JOB, shapes=[outline(4, GOLDEN_KOI)])
    drawn = cvat.jobs[JOB].annotations["shapes"][0]
    changes = [lambda: cvat.jobs[JOB].deleted.add(6), lambda: drawn.update(z_order=3)]

    def while_made(*arguments: object) -> object:
        made = results_of(*arguments)
        if changes:
            changes.pop()()
        return made

    monkeypatch.setattr("maskbank.jobs.annotate.results_of", while_made)
    run(call=still)
    assert frames_of(results(cvat)) == [0, 1, 2, 3, 5, 7, 8, 9] and {each["z_order"] for each in results(cvat)} == {3}


@pytest.mark.parametrize("note", ["uploading", "uploaded"])
def test_stopped_between_upload_and_bookkeeping(cvat, run, monkeypatch, undisturbed, note: str):
    cvat.add(JOB, shapes=seeds())
    real = RunFolder.note

    def stopped(folder: RunFolder, what: str, text: str) -> None:
        if what == note and text:
            raise KeyboardInterrupt
        real(folder, what, text)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "note", stopped)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert len(results(cvat)) == (17 if note == "uploaded" else 0)
    run()
    assert results(cvat) == undisturbed
    assert cvat.uploads() == 1


def test_killed_at_any_moment(cvat, command, tmp_path, monkeypatch):
    """Real processes: one is killed between two requests, one while it uploads; then a third run finishes."""
    frames = range(26)
    cvat.jobs[JOB] = StoredJob({i: jpeg(i) for i in frames}, LABELS)
    cvat.add(JOB, shapes=[outline(5, GOLDEN_KOI)])
    monkeypatch.setitem(os.environ, "MASKBANK_STORE", f"file://{tmp_path / 'banks'}")
    monkeypatch.setitem(os.environ, "CVAT_ACCESS_TOKEN", TOKEN)
    arguments = ["--job", str(JOB), "--work", str(tmp_path / "work")]
    program = [sys.executable, "-m", "maskbank.cli", "job", "--server-host", cvat.url]

    for method, path, after in (("GET", "/data$", 18), ("PATCH", "/annotations/$", 0)):
        process = subprocess.Popen([*program, *arguments], env=os.environ, stderr=subprocess.DEVNULL)
        cvat.once(method, path, process.kill, after)
        assert process.wait(timeout=300) == -signal.SIGKILL
    images = sum("/data?" in each for each in cvat.requests)
    assert images <= 21 + 6 + 3  # each frame of both sweeps once, but for those of the request that was interrupted
    code, printed, _ = command(*arguments)
    assert code == 0 and "25 there already" in printed
    assert frames_of(results(cvat)) == [frame for frame in frames if frame != 5]


def test_a_finished_run_does_nothing_again(cvat, run, propagate):
    cvat.add(JOB, shapes=seeds())
    run()
    before = json.dumps(cvat.jobs[JOB].annotations)
    cvat.requests.clear()
    call, sizes = counting(propagate)
    said = run(call)
    assert said.startswith("Job 12: these outlines were tracked and the results uploaded before; nothing to do.")
    assert "--replace" in said and "  Look at " in said and ("Outline next: " in said or "No frame is worth" in said)
    assert sizes == [] and json.dumps(cvat.jobs[JOB].annotations) == before
    assert not [each for each in cvat.requests if each.startswith("PATCH") or "/data?" in each]


# Runs after runs


def test_groups_that_are_given_later_are_those_of_the_results(cvat, run, propagate):
    cvat.add(JOB, shapes=[outline(0, GOLDEN_KOI), outline(0, RED_KOI)])
    run()
    for number, shape in enumerate(cvat.jobs[JOB].annotations["shapes"][:2], 1):
        shape["group"] = number
    call, sizes = counting(propagate)
    with pytest.raises(ValueError, match="already has 18 automatic annotations"):
        run(call)
    assert run(call, replace=True).startswith("Job 12: 2 objects tracked")
    assert sizes == [] and {shape["group"] for shape in results(cvat)} == {1, 2}
    cvat.add(JOB, shapes=[outline(5, TURTLE, label_id=KOI["id"])])  # over none of the results
    assert "koi, outlined on 5, has no group" in run(replace=True)


def test_results_of_an_earlier_run_are_in_the_way(cvat, run, propagate):
    cvat.add(JOB, shapes=[outline(4, GOLDEN_KOI)])
    run()
    cvat.add(JOB, shapes=[outline(8, GOLDEN_KOI, source="semi-auto")])
    call, sizes = counting(propagate)
    before = json.dumps(cvat.jobs[JOB].annotations)
    with pytest.raises(ValueError, match="already has 9 automatic annotations.*--replace"):
        run(call)
    said = run(call, dry_run=True)
    # Up to where the sweeps hand over between 4 and 8, the masks are those of the first run.
    same = re.search(r"(\d) there already", said)
    there = int(same[1]) if same else 0
    assert there <= 3
    assert f"{9 - there} automatic annotations of earlier runs would have to be deleted first" in said
    assert sizes and json.dumps(cvat.jobs[JOB].annotations) == before
    printed = run(call, replace=True)
    assert f"8 shapes made, {8 - there} uploaded" in printed
    assert f"\n  {9 - there} automatic annotations of earlier runs deleted." in printed
    assert frames_of(results(cvat)) == [0, 1, 2, 3, 5, 6, 7, 9]


def test_replacing_deletes_nothing_else(cvat, run):
    """CVAT counts the ids of shapes, tracks and tags apart: here what is deleted shares its ids with what is not."""
    cvat.add(JOB, shapes=[box(9, GOLDEN_KOI, source="auto")])
    people = {
        "shapes": [outline(4, GOLDEN_KOI)],
        "tracks": [{"label_id": TURTLE_LABEL["id"], "frame": 0, "shapes": [track_keyframe(0)]}],
        "tags": [{"label_id": KOI["id"], "frame": 0}],
    }
    cvat.add(JOB, **people)
    cvat.add(JOB, tracks=[{"label_id": KOI["id"], "frame": 0, "source": "auto", "shapes": [track_keyframe(0)]}])
    others = [box(0, TURTLE, source="auto"), outline(1, TURTLE, source="auto", type="points", label_id=KOI["id"])]
    cvat.add(JOB, shapes=others, tags=[{"label_id": KOI["id"], "frame": 3, "source": "auto"}])
    ids = {kind: [each["id"] for each in own] for kind, own in cvat.jobs[JOB].annotations.items()}
    assert ids == {"shapes": [1, 2, 3, 4], "tracks": [1, 2], "tags": [1, 2]}  # shape 1 and track 2 have to go
    before = drawn_by_people(cvat)
    run(labels=("koi",), replace=True)
    assert drawn_by_people(cvat) == before
    left = cvat.of_source(JOB, "auto")
    assert [(each["type"], each["label_id"]) for each in left["shapes"][:2]] == [("rectangle", 8), ("points", 7)]
    assert {each["type"] for each in left["shapes"][2:]} == {"mask"} and len(left["shapes"]) == 2 + 9
    assert left["tracks"] == [] and len(left["tags"]) == 1


def track_keyframe(frame: int) -> dict:
    return {"type": "rectangle", "frame": frame, "points": box_of(true_mask(frame, TURTLE)), "outside": False}


def test_another_form_replaces_without_tracking_again(cvat, run, propagate):
    cvat.add(JOB, shapes=[outline(4, GOLDEN_KOI)])
    run()
    call, sizes = counting(propagate)
    run(call, form="track", replace=True)
    assert sizes == [] and results(cvat) == []
    assert len(results(cvat, "tracks")) == 1
    run(call, replace=True)
    assert sizes == [] and len(results(cvat)) == 9
    assert results(cvat, "tracks") == []


def test_a_frame_that_was_restored_gets_its_results(cvat, run):
    cvat.add(JOB, shapes=seeds())
    cvat.jobs[JOB].deleted = {9}
    run()
    there = frames_of(results(cvat))
    cvat.jobs[JOB].deleted = set()
    run()
    assert 9 not in there and frames_of(results(cvat)) == [*there, 9, 9]


def test_replacing_brings_back_what_was_deleted(cvat, run):
    cvat.add(JOB, shapes=[outline(4, GOLDEN_KOI)])
    run()
    before = results(cvat)
    del cvat.jobs[JOB].annotations["shapes"][3:]
    assert "nothing to do" in run()
    assert "9 shapes made, 7 uploaded, 2 there already." in run(replace=True)
    assert results(cvat) == before


def turtle_track(*keyframes: dict) -> dict:
    return {"label_id": TURTLE_LABEL["id"], "frame": keyframes[0]["frame"], "shapes": list(keyframes)}


def test_where_a_person_says_later_that_it_is_not_there_results_go(cvat, run):
    cvat.add(JOB, tracks=[turtle_track(track_keyframe(5))])
    run(call=still)
    cvat.jobs[JOB].annotations["tracks"].clear()
    cvat.add(JOB, tracks=[turtle_track(track_keyframe(3) | {"outside": True}, track_keyframe(5))])
    with pytest.raises(ValueError, match="already has 2 automatic annotations.*--replace"):
        run(call=still)
    run(call=still, replace=True)
    assert frames_of(results(cvat)) == [0, 1, 2]


def test_outlines_that_become_a_track_are_other_outlines(cvat, run):
    cvat.add(JOB, shapes=[box(5, TURTLE)])
    run(call=still)
    cvat.jobs[JOB].annotations["shapes"] = cvat.of_source(JOB, "auto")["shapes"]
    cvat.add(JOB, tracks=[turtle_track(track_keyframe(5))])
    run(call=still, replace=True)
    assert frames_of(results(cvat)) == [0, 1, 2, 3, 4]


def test_results_of_what_is_not_outlined_any_more_are_deleted(cvat, run):
    """And those of another program, of a label that was never tracked, stay."""
    cvat.add(JOB, shapes=[outline(0, GOLDEN_KOI), outline(0, TURTLE)])
    others = [outline(3, GOLDEN_KOI, source="auto", label_id=10)]
    cvat.jobs[JOB].labels = [*LABELS, {"id": 10, "name": "person", "type": "any", "attributes": []}]
    cvat.add(JOB, shapes=others)
    run(call=still)
    shapes = cvat.jobs[JOB].annotations["shapes"]
    shapes[:] = [each for each in shapes if each["source"] == "auto" or each["label_id"] == KOI["id"]]
    said = run(call=still, dry_run=True)
    assert "9 automatic annotations of earlier runs left, of labels of which nothing is outlined now" in said
    assert "9 automatic annotations of earlier runs deleted." in run(call=still, replace=True)
    assert {each["label_id"] for each in results(cvat)} == {KOI["id"], 10}
    shapes[:] = [each for each in cvat.jobs[JOB].annotations["shapes"] if each["source"] == "auto"]
    cvat.jobs[JOB].annotations["shapes"] = shapes
    with pytest.raises(ValueError, match="nothing to track, but 9 automatic annotations of earlier runs are left"):
        run(call=still)
    said = run(call=still, replace=True)
    assert said.startswith("Job 12: nothing is outlined in it.\n  9 automatic annotations of earlier runs deleted.")
    assert [each["label_id"] for each in results(cvat)] == [10]


def test_results_of_what_people_have_outlined_everywhere_are_deleted(cvat, run):
    cvat.add(JOB, shapes=[box(0, TURTLE)])
    run(call=still)
    cvat.jobs[JOB].annotations["shapes"] = cvat.of_source(JOB, "auto")["shapes"]
    cvat.add(JOB, tracks=[turtle_track(track_keyframe(0), track_keyframe(9))])
    assert run(call=still).endswith(
        "nothing to do.\n  9 automatic annotations of earlier runs left; --replace deletes them.\n"
    )
    assert "9 automatic annotations of earlier runs would be deleted" in run(call=still, replace=True, dry_run=True)
    assert len(results(cvat)) == 9
    assert "9 automatic annotations of earlier runs deleted" in run(call=still, replace=True)
    assert results(cvat) == []


def test_outlines_that_go_back_to_what_they_were_have_the_results_of_another_run(cvat, run):
    cvat.add(JOB, shapes=[outline(0, GOLDEN_KOI)])
    run(call=still)
    before = results(cvat)
    cvat.add(JOB, shapes=[outline(5, RED_KOI)])
    run(call=still, replace=True)
    shapes = cvat.jobs[JOB].annotations["shapes"]
    shapes[:] = [each for each in shapes if each["source"] == "auto" or each["frame"] != 5]
    with pytest.raises(ValueError, match="already has .* automatic annotations.*--replace"):
        run(call=still)
    run(call=still, replace=True)
    assert results(cvat) == before
    assert "nothing to do" in run(call=still)


def test_an_outline_that_cannot_be_used_is_told_of_before_anything_is_tracked(cvat, run, propagate):
    outside = outline(9, TURTLE, type="polygon", points=[700.0, 0.0, 800.0, 0.0, 700.0, 50.0])
    cvat.add(JOB, shapes=[outline(0, GOLDEN_KOI), outside])
    call, sizes = counting(propagate)
    with pytest.raises(ValueError, match="^turtle on frame 9: The polygon covers no pixel"):
        run(call)
    assert sizes == []


@pytest.mark.parametrize("options", [{"replace": True}, {"around": (5,)}])
def test_attributes_that_a_person_filled_in_stay(cvat, run, options: dict):
    """CVAT lets the source of a shape be "auto" when only its attributes are edited."""
    cvat.add(JOB, shapes=[outline(frame, GOLDEN_KOI, attributes=values("Goldie", "bent")) for frame in (0, 9)])
    run(call=still)
    for each in cvat.jobs[JOB].annotations["shapes"]:
        if each["source"] == "auto":
            each["attributes"] = values("Hana" if each["frame"] > 2 else "Goldie", f"bent on {each['frame']}")
    cvat.add(JOB, shapes=[outline(5, RED_KOI, attributes=values("Taro", "straight"))])
    run(call=still, **options)
    found = {each["frame"]: [value["value"] for value in each["attributes"]] for each in results(cvat)}
    assert found == {
        1: ["Goldie", "bent on 1"],
        2: ["Goldie", "bent on 2"],
        **{frame: ["Hana", f"bent on {frame}"] for frame in (3, 4, 6, 7, 8)},
    }
    before = results(cvat)
    for each in cvat.jobs[JOB].annotations["shapes"]:
        if each["source"] == "manual":
            each["attributes"] = values("Goldie the First", "bent")
    run(call=still, replace=True)  # the outlines' own attributes are changed, and those of people stay once more
    found = {each["frame"]: [value["value"] for value in each["attributes"]] for each in results(cvat)}
    assert found[1] == ["Goldie the First", "bent on 1"]
    assert [each for each in results(cvat) if each["frame"] > 2] == [each for each in before if each["frame"] > 2]


def values(name: str, pose: str) -> list[dict]:
    return [{"spec_id": NAME, "value": name}, {"spec_id": POSE, "value": pose}]


@pytest.mark.parametrize("form", [None, "track"])
def test_what_is_occluded_in_an_outline_is_so_in_what_is_made_of_it(cvat, run, form: str | None):
    cvat.add(JOB, shapes=[outline(0, GOLDEN_KOI, occluded=True), outline(9, GOLDEN_KOI)])
    run(call=still, form=form)
    parts = results(cvat) if form is None else results(cvat, "tracks")[0]["shapes"]
    occluded = {each["frame"]: each["occluded"] for each in parts}
    assert (occluded[1], occluded[8]) == (True, False)
    cvat.jobs[JOB].annotations["shapes"][0]["occluded"] = False
    run(call=still, form=form, replace=True)
    parts = results(cvat) if form is None else results(cvat, "tracks")[0]["shapes"]
    assert not any(each["occluded"] for each in parts)


def test_the_report_says_what_it_took_for_one_object_and_what_people_have_outlined(cvat, run):
    cvat.jobs[JOB] = StoredJob({i: jpeg(i) for i in range(3)}, LABELS)
    cvat.add(JOB, shapes=[*(outline(frame, GOLDEN_KOI) for frame in range(3)), outline(0, TURTLE)])
    said = run(call=still)
    assert "\n  koi: outlined on all frames\n  turtle: sure on all frames\n" in said
    assert "\n  koi: what is outlined on 0-2 has no group and was taken for one object" in said
    assert "turtle: what" not in said


# Corrections


@pytest.fixture
def watched(cvat, propagate) -> tuple[Propagate, list[int]]:
    """The function, and the numbers of the frames that it is asked for."""
    numbers = {base64.b64encode(image).decode(): frame for frame, image in cvat.jobs[JOB].images.items()}
    asked: list[int] = []

    def call(body: dict) -> dict:
        asked.extend(numbers[frame["image"]] for frame in body["frames"])
        return propagate(body)

    return call, asked


def by_frame(cvat: CvatStandIn, **facts: object) -> dict[int, dict]:
    """The automatic shapes of the job that have these facts, with their ids."""
    shapes = cvat.of_source(JOB, "auto")["shapes"]
    return {each["frame"]: each for each in shapes if facts.items() <= each.items()}


def test_a_correction_is_tracked_up_to_the_outlines_around_it(cvat, run, watched):
    call, asked = watched
    cvat.add(JOB, shapes=[outline(frame, GOLDEN_KOI) for frame in (0, 4, 9)])
    run()
    before, others = by_frame(cvat), json.loads(drawn_by_people(cvat))["shapes"]
    cvat.add(JOB, shapes=[outline(7, GOLDEN_KOI)])
    cvat.requests.clear()
    said = run(call, around=(7,))
    assert said.startswith("Job 12: 1 object tracked on 3 frames, 3 shapes made")
    assert set(asked) == {0, 4, 5, 6, 7, 8, 9}  # 0, as an outline from which it learns
    fetched = {int(number) for each in cvat.requests for number in re.findall(r"/data\?.*number=(\d+)", each)}
    assert fetched == set(asked)
    after = by_frame(cvat)
    assert sorted(after) == [1, 2, 3, 5, 6, 8]
    assert all(after[frame] == before[frame] for frame in (1, 2, 3))  # not even uploaded again
    assert any(after[frame] != before[frame] for frame in (5, 6, 8))
    assert quality(list(after.values()), GOLDEN_KOI) > 0.6
    assert json.loads(drawn_by_people(cvat))["shapes"][:-1] == others
    frames = read_record(run_folder(said))[1]
    assert [(frame.number, frame.findings[0].seed) for frame in frames] == [(i, i in (4, 7, 9)) for i in range(4, 10)]
    for frame in frames:
        mask = decode_mask(frame.findings[0].mask, frame.size)
        shape = after.get(frame.number)
        np.testing.assert_array_equal(mask, mask_of(shape) if shape else true_mask(frame.number, GOLDEN_KOI))


def test_several_corrections_and_one_that_is_taken_back(cvat, run, watched):
    call, asked = watched
    cvat.add(JOB, shapes=[outline(frame, GOLDEN_KOI) for frame in (0, 3, 6, 9)])
    run()
    first = by_frame(cvat)
    cvat.add(JOB, shapes=[outline(frame, GOLDEN_KOI) for frame in (1, 8)])
    run(call, around=(8, 1))
    assert set(asked) - {0, 3, 6, 9, 1, 8} == {2, 7}
    assert sorted(by_frame(cvat)) == [2, 4, 5, 7] and all(by_frame(cvat)[frame] == first[frame] for frame in (4, 5))
    shapes = cvat.jobs[JOB].annotations["shapes"]
    shapes[:] = [each for each in shapes if each["source"] == "auto" or each["frame"] != 8]
    run(call, around=(6,))  # its outline there is as it was, the next one is 9 now
    assert sorted(by_frame(cvat)) == [2, 4, 5, 7, 8]


def test_a_correction_of_one_object_leaves_the_others(cvat, run, watched):
    """The two compete for pixels where both are outlined."""
    call, asked = watched
    for group, i in enumerate((GOLDEN_KOI, RED_KOI), 1):
        cvat.add(JOB, shapes=[outline(frame, i, group=group) for frame in (0, 9)])
    run()
    before = by_frame(cvat, group=1)
    cvat.add(JOB, shapes=[outline(4, RED_KOI, group=2)])
    said = run(call, around=(4,))
    assert (
        said.startswith("Job 12: 1 object tracked on 7 frames") and "(group 1)" not in said.partition("Outline next")[0]
    )
    assert set(asked) == set(range(FRAMES))
    assert list(read_record(run_folder(said))[0].objects.values()) == ["koi (group 2)"]
    assert by_frame(cvat, group=1) == before
    red = by_frame(cvat, group=2)
    assert sorted(red) == [1, 2, 3, 5, 6, 7, 8] and quality(list(red.values()), RED_KOI) > 0.5
    assert not any((mask_of(shape) & mask_of(before[frame])).sum() > 20 for frame, shape in red.items())


def test_an_object_that_joins_is_tracked_to_both_ends(cvat, run, watched):
    call, asked = watched
    cvat.add(JOB, shapes=[outline(0, GOLDEN_KOI)])
    run()
    before = by_frame(cvat)
    cvat.add(JOB, shapes=[outline(5, TURTLE)])
    run(call, around=(5,))
    assert set(asked) == set(range(FRAMES))
    assert sorted(by_frame(cvat, label_id=TURTLE_LABEL["id"])) == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert by_frame(cvat, label_id=KOI["id"]) == before


def test_what_was_deleted_and_what_others_made_elsewhere_stays_so(cvat, run):
    cvat.add(JOB, shapes=[outline(frame, GOLDEN_KOI) for frame in (0, 4, 9)])
    run(form="polygon")
    shapes = cvat.jobs[JOB].annotations["shapes"]
    shapes[:] = [each for each in shapes if each["frame"] not in (2, 5)]
    others = [box(1, GOLDEN_KOI, source="auto"), box(8, TURTLE, source="auto")]
    cvat.add(JOB, shapes=[*others, outline(7, GOLDEN_KOI)])
    run(around=(7,))
    koi = [(each["frame"], each["type"]) for each in results(cvat) if each["label_id"] == KOI["id"]]
    made = [(frame, "mask") for frame in (5, 6, 8)]
    assert sorted(koi) == sorted([(1, "polygon"), (1, "rectangle"), (3, "polygon"), *made])
    assert by_frame(cvat, label_id=TURTLE_LABEL["id"])[8]["type"] == "rectangle"


def test_an_outline_over_a_result_between_outlines_takes_its_place(cvat, run):
    cvat.add(JOB, shapes=[outline(frame, GOLDEN_KOI) for frame in (0, 3, 5, 9)])
    run()
    cvat.add(JOB, shapes=[outline(4, GOLDEN_KOI)])
    run(around=(4,))
    assert sorted(frames_of(results(cvat))) == [1, 2, 6, 7, 8]


def two_fish(cvat: CvatStandIn, run: Callable) -> None:
    """Tracked from their outlines on frame 0; each stays where it was."""
    cvat.add(JOB, shapes=[outline(0, GOLDEN_KOI, group=1), outline(0, RED_KOI, group=2)])
    run(call=still)


@pytest.mark.parametrize("options", [{"around": (5,)}, {"replace": True}])
@pytest.mark.parametrize("drawn", [outline, box])
def test_an_outline_without_a_group_over_a_result_is_of_its_object(cvat, run, options: dict, drawn: Callable):
    two_fish(cvat, run)
    others = by_frame(cvat, group=1)
    shown = drawn(0, RED_KOI) | {"frame": 5}
    shown["points"] = [number + 1 for number in shown["points"]] if drawn is box else outline(1, RED_KOI)["points"]
    cvat.add(JOB, shapes=[shown])
    before = drawn_by_people(cvat)
    said = run(call=still, **options)
    assert "\n  koi on 5 has no group; drawn over a result of group 2, it counts as of that one.\n" in said
    assert sorted(by_frame(cvat, group=2)) == [1, 2, 3, 4, 6, 7, 8, 9] and by_frame(cvat, group=1) == others
    assert drawn_by_people(cvat) == before
    cvat.add(JOB, shapes=[outline(8, RED_KOI, group=2)])  # the result under the outline is gone now; it is remembered
    run(call=still, around=(8,))
    assert sorted(by_frame(cvat, group=2)) == [1, 2, 3, 4, 6, 7, 9]


def test_an_outline_over_two_results_or_beside_them_is_of_neither(cvat, run):
    two_fish(cvat, run)
    for frame, group in ((5, 1), (5, 2)):
        by_id = {each["id"]: each for each in cvat.jobs[JOB].annotations["shapes"]}
        by_id[by_frame(cvat, group=group)[frame]["id"]]["points"] = outline(0, RED_KOI)["points"]
    cvat.add(JOB, shapes=[outline(0, RED_KOI) | {"frame": 5}])
    with pytest.raises(ValueError, match="koi, outlined on 5, has no group"):
        run(call=still, around=(5,))
    cvat.jobs[JOB].annotations["shapes"].pop()
    cvat.add(JOB, shapes=[outline(4, TURTLE, label_id=KOI["id"])])
    with pytest.raises(ValueError, match="koi, outlined on 4, has no group"):
        run(call=still, around=(4,))


def test_a_correction_goes_on_where_it_was_stopped(cvat, run, propagate):
    cvat.add(JOB, shapes=[outline(frame, GOLDEN_KOI) for frame in (0, 3, 9)])
    run()
    cvat.add(JOB, shapes=[outline(6, GOLDEN_KOI)])
    every, sizes = counting(propagate)
    run(every, around=(6,), dry_run=True, tracker="another")
    needed = len(sizes)
    with pytest.raises(KeyboardInterrupt):
        run(failing(every, needed - 2, KeyboardInterrupt()), around=(6,))
    run(every, around=(6,))
    assert len(sizes) <= 2 * needed + 3  # what it learnt ahead for the way back
    stopped, total = results(cvat), len(sizes)
    assert sorted(frames_of(stopped)) == [1, 2, 4, 5, 7, 8]
    assert "tracked and the results uploaded before; nothing to do" in run(every, around=(6,))
    assert len(sizes) == total and results(cvat) == stopped


def test_a_correction_whose_upload_breaks(cvat, run, monkeypatch):
    monkeypatch.setattr(uploads, "SHAPES_PER_REQUEST", 2)
    cvat.add(JOB, shapes=[outline(frame, GOLDEN_KOI) for frame in (0, 9)])
    run()
    cvat.add(JOB, shapes=[outline(5, GOLDEN_KOI)])
    cvat.once("PATCH", "annotations", drop, after=5)
    with pytest.raises(ConnectionError):
        run(around=(5,))
    run(around=(5,))
    assert sorted(frames_of(results(cvat))) == [1, 2, 3, 4, 6, 7, 8]


@pytest.mark.parametrize(
    ("drawn", "around", "complaint"),
    [
        ([(0, GOLDEN_KOI, 0)], (4,), "Job 12: Nothing is outlined on frame 4; --around takes frames on which"),
        ([(0, GOLDEN_KOI, 0), (0, RED_KOI, 0)], (0,), "several objects koi with the same group, or without one"),
    ],
)
def test_corrections_of_which_it_is_unclear_what_they_change(cvat, run, propagate, drawn, around, complaint):
    cvat.add(JOB, shapes=[outline(frame, i, group=group) for frame, i, group in drawn])
    call, sizes = counting(propagate)
    with pytest.raises(ValueError, match=complaint):
        run(call, around=around)
    assert sizes == []


@pytest.mark.parametrize(
    ("drawn", "automatic", "complaint"),
    [
        ([(0, 0), (5, 0)], [(3, 0), (3, 0)], "In job 12 frame 3 has 2 automatic shapes of the label koi"),
        ([(0, 1), (5, 1)], [(3, 0)], "automatic annotations of the label koi have another group than its outlined"),
        ([(0, 1), (0, 2), (5, 0)], [(3, 1), (3, 2)], "Job 12: koi, outlined on 5, has no group"),
    ],
)
def test_corrections_among_results_of_which_it_is_unclear_whose_they_are(
    cvat, run, propagate, drawn, automatic, complaint
):
    """As a detector leaves them, or a run before the groups were given."""
    cvat.add(JOB, shapes=[outline(frame, GOLDEN_KOI, group=group) for frame, group in drawn])
    cvat.add(JOB, shapes=[box(frame, GOLDEN_KOI, group=group, source="auto") for frame, group in automatic])
    before = results(cvat)
    call, sizes = counting(propagate)
    with pytest.raises(ValueError, match=complaint):
        run(call, around=(5,))
    assert sizes == [] and results(cvat) == before


def test_a_correction_of_an_object_whose_neighbours_are_tracks(cvat, run):
    cvat.add(JOB, shapes=[outline(frame, RED_KOI, group=2) for frame in (0, 9)])
    run(form="track")
    tracks = results(cvat, "tracks")
    cvat.add(JOB, shapes=[outline(frame, GOLDEN_KOI, group=1) for frame in (3, 5)])
    run(around=(5,))
    assert frames_of(results(cvat)) == [4, 6, 7, 8, 9] and results(cvat, "tracks") == tracks


def test_the_report_of_a_correction_and_its_page_name_the_same_frame(cvat, run, propagate):
    def unsure(body: dict) -> dict:
        reply = propagate(body)
        for frame in reply["frames"]:
            frame["confidences"] = [None if each is None else min(each, 0.5) for each in frame["confidences"]]
        return reply

    cvat.add(JOB, shapes=[outline(frame, GOLDEN_KOI) for frame in (0, 4, 5, 9)])
    said = run(unsure, around=(5,))
    frames = read_record(run_folder(said))
    [named] = re.findall(r"Outline next: .*", said)
    assert named == what_to_outline_next(*frames)
    assert int(re.findall(r"frame (\d+)", named)[0]) in (6, 7, 8)


def test_no_part_of_a_track_is_replaced(cvat, run, propagate):
    cvat.add(JOB, shapes=[outline(frame, GOLDEN_KOI) for frame in (0, 9)])
    run(form="track")
    before = results(cvat, "tracks")
    cvat.add(JOB, shapes=[outline(5, GOLDEN_KOI)])
    call, sizes = counting(propagate)
    with pytest.raises(ValueError, match="In job 12 results of these objects are tracks.*without --around"):
        run(call, around=(5,))
    assert sizes == [] and results(cvat, "tracks") == before


def test_the_command_for_corrections(cvat, command, monkeypatch):
    monkeypatch.setitem(os.environ, "CVAT_ACCESS_TOKEN", TOKEN)
    cvat.add(JOB, shapes=[outline(0, GOLDEN_KOI), outline(5, GOLDEN_KOI)])
    assert command("--job", JOB)[0] == 0
    before = by_frame(cvat)
    cvat.add(JOB, shapes=[outline(7, GOLDEN_KOI)])
    code, said, _ = command("--job", JOB, "--around", 7)
    assert code == 0 and "1 object tracked on 3 frames" in said
    assert all(by_frame(cvat)[frame] == before[frame] for frame in (1, 2, 3, 4))
    assert "--around" in command("--job", JOB, "--around", 7, "--propose")[2]
    assert "--around is for one job" in command("--task", 1, "--around", 7)[2]
    assert "--around is for one job" in command("--job", JOB, "--around", 7, "--as", "track")[2]


# Changes midway


def test_outlines_that_change_midway(cvat, run):
    cvat.add(JOB, shapes=[outline(4, GOLDEN_KOI)])
    drawn = cvat.jobs[JOB].annotations["shapes"][0]
    cvat.once("GET", "/data$", lambda: drawn.update(points=outline(4, RED_KOI)["points"]), after=4)
    with pytest.raises(ValueError, match="outlines in job 12 were changed while they were tracked"):
        run()
    assert results(cvat) == [] and cvat.uploads() == 0
    run()
    assert len(results(cvat)) == 9
    assert quality(results(cvat), RED_KOI) > quality(results(cvat), GOLDEN_KOI)


def test_a_track_that_becomes_a_shape_midway(cvat, run):
    """Of the track nothing was to be found behind its keyframe, so nothing was tracked there."""
    cvat.add(JOB, tracks=[turtle_track(track_keyframe(5))])

    def change() -> None:
        cvat.jobs[JOB].annotations["tracks"].clear()
        cvat.add(JOB, shapes=[box(5, TURTLE)])

    cvat.once("GET", "/data$", change, after=4)
    with pytest.raises(ValueError, match="outlines in job 12 were changed while they were tracked"):
        run(call=still)
    run(call=still)
    assert frames_of(results(cvat)) == [0, 1, 2, 3, 4, 6, 7, 8, 9]


def test_attributes_that_change_midway_are_the_new_ones(cvat, run):
    cvat.add(JOB, shapes=[outline(4, GOLDEN_KOI)])
    drawn = cvat.jobs[JOB].annotations["shapes"][0]
    cvat.once("GET", "/data$", lambda: drawn.update(attributes=[{"spec_id": NAME, "value": "Hana"}]), after=4)
    run()
    assert {each["attributes"][0]["value"] for each in results(cvat)} == {"Hana"}


@pytest.mark.parametrize("form", [None, "track"])
@pytest.mark.parametrize("change", [{"z_order": 5}, {"attributes": [{"spec_id": NAME, "value": "Hana"}]}])
def test_what_changes_but_the_outline_is_made_anew(cvat, run, propagate, form: str | None, change: dict):
    cvat.add(JOB, shapes=[outline(4, GOLDEN_KOI)])
    run(form=form)
    cvat.jobs[JOB].annotations["shapes"][0].update(change)
    with pytest.raises(ValueError, match="give --replace to delete them first"):
        run(form=form)
    call, sizes = counting(propagate)
    run(call, form=form, replace=True)
    assert sizes == []  # it is known where the object is
    [(name, value)] = change.items()
    for each in results(cvat, "tracks" if form else "shapes"):
        parts = [each] if form is None or name == "attributes" else each["shapes"]
        assert all(value == part[name] or value[0] in part[name] for part in parts)
    assert "nothing to do" in run(form=form)


def test_a_frame_that_is_deleted_midway(cvat, run):
    cvat.add(JOB, shapes=[outline(4, GOLDEN_KOI)])
    cvat.once("GET", "/data$", lambda: cvat.jobs[JOB].deleted.add(6), after=8)
    run()
    assert frames_of(results(cvat)) == [0, 1, 2, 3, 5, 7, 8, 9]


def test_a_frame_that_is_deleted_between_two_runs(cvat, run, propagate):
    cvat.add(JOB, shapes=[outline(0, GOLDEN_KOI)])
    with pytest.raises(KeyboardInterrupt):
        run(failing(propagate, 2, KeyboardInterrupt()))
    cvat.jobs[JOB].deleted.add(3)
    call, sizes = counting(propagate)
    run(call)
    assert sizes == [3, 1]  # 6 frames were tracked before
    assert frames_of(results(cvat)) == [1, 2, 4, 5, 6, 7, 8, 9]


def test_a_seed_frame_that_is_deleted_midway(cvat, run):
    cvat.add(JOB, shapes=[outline(4, GOLDEN_KOI), outline(7, GOLDEN_KOI)])
    cvat.once("GET", "/data$", lambda: cvat.jobs[JOB].deleted.add(7), after=8)
    with pytest.raises(ValueError, match="changed"):
        run()
    assert results(cvat) == []


# The function


@contextmanager
def gateway(upstream: str) -> Iterator[tuple[str, list]]:
    """A proxy in front of a function, and the answers that it gives by itself before it passes requests on."""
    own: list[tuple[int, str]] = []

    class Gateway(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if own:
                status, text = own.pop(0)
            else:
                message = request.Request(upstream + self.path, body, {"Content-Type": "application/json"})
                try:
                    with request.urlopen(message) as response:
                        status, text = 200, response.read().decode()
                except error.HTTPError as refused:
                    status, text = refused.code, refused.read().decode()
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", own
        server.shutdown()
        thread.join()


@pytest.fixture
def function_url(monkeypatch) -> Iterator[str]:
    """A function of its own behind HTTP."""
    monkeypatch.setenv("MASKBANK_SIZE", "96")
    with local_function() as url:
        yield url


def test_a_deployed_function(cvat, run, function_url, undisturbed):
    cvat.add(JOB, shapes=seeds())
    run(deployed(function_url))
    assert results(cvat) == undisturbed


def test_a_function_that_is_busy_for_a_while(cvat, run, function_url, undisturbed, monkeypatch):
    monkeypatch.setattr(retrying, "LONGEST_PAUSE_S", retrying.FIRST_PAUSE_S)
    cvat.add(JOB, shapes=seeds())
    with gateway(function_url) as (url, own):
        own += [(408, '{"error": "handler timed out"}'), (503, "The tracker's memory is unreachable; try again.")]
        own += [(429, "<html>Too Many Requests</html>"), (502, "<html>Bad Gateway</html>"), (504, "")]
        run(deployed(url), retry_s=60)
        assert own == []
    assert results(cvat) == undisturbed


def test_a_person_sees_that_it_waits(cvat, propagate, outliner, monkeypatch, tmp_path, capsys):
    """The reason once, and in the progress line for whom, until it goes on."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
    cvat.add(JOB, shapes=seeds())
    away = [BusyError("The function at http://here answers 503: It is busy.")] * 3

    def busy_at_first(body: dict) -> dict:
        if away:
            raise away.pop()
        return propagate(body)

    with connect(Login(cvat.url, f"{USER}:{PASSWORD}")) as client:
        options = AnnotateOptions(None, (), False, False, tmp_path, "test")
        annotate(client, [JOB], busy_at_first, outliner.object_of, options)
    shown = capsys.readouterr().err
    assert shown.count("answers 503: It is busy. Waiting for the tracker…") == 1
    lines = re.split(r"[\r\n]", shown)
    assert [line for line in lines if line.startswith("job 12") and line.endswith("Waiting for the tracker…]")]
    assert "Waiting" not in lines[-2]


def test_a_person_is_told_of_boxes_that_are_hard_to_make_out(cvat, propagate, outliner, tmp_path, capsys):
    """Once, though both sweeps begin with them."""
    left, top, right, bottom = box_of(true_mask(4, TURTLE))
    beside = [1.5 * left - 0.5 * right, top, (left + right) / 2, bottom]  # half of the turtle, and as much water
    cvat.add(JOB, shapes=[box(4, RED_KOI), box(4, TURTLE, points=beside)])
    with connect(Login(cvat.url, f"{USER}:{PASSWORD}")) as client:
        options = AnnotateOptions(None, (), False, False, tmp_path, "test")
        annotate(client, [JOB], propagate, outliner.object_of, options)
    shown = capsys.readouterr().err
    assert shown.count("Frame 4: turtle is hard to make out in its box; a mask or polygon there says more.") == 1
    assert shown.count("hard to make out") == 1
    with connect(Login(cvat.url, f"{USER}:{PASSWORD}")) as client:  # what another run goes on with is still told of
        annotate(client, [JOB], propagate, outliner.object_of, replace(options, replace=True))
    assert "Hard to make out in its box: turtle on 4; a mask or polygon there says more." in capsys.readouterr().out


def test_a_function_that_stays_away(cvat, run, function_url, undisturbed):
    cvat.add(JOB, shapes=seeds())
    with gateway(function_url) as (url, own):
        propagate, sizes = counting(deployed(url))
        asked = []

        def call(body: dict) -> dict:
            asked.append(body)
            if len(asked) > 4:
                own.append((503, "The tracker's memory is unreachable; try again."))
            return propagate(body)

        with pytest.raises(ConnectionError) as refused:
            run(call, retry_s=0.05)
    assert "503: The tracker's memory is unreachable" in str(refused.value)
    assert "what was done is kept" in str(refused.value)
    with pytest.raises(ConnectionError, match="cannot be reached .*refused"):
        run(deployed(url))  # the gateway is gone
    call, sizes = counting(deployed(function_url))
    run(call)
    assert len(sizes) == REQUESTS - 4
    assert results(cvat) == undisturbed


def test_pages_for_browsers_are_no_sentences(function_url):
    with gateway(function_url) as (url, own):
        for status, page in ((502, "<html>Bad Gateway</html>"), (404, "\n<!doctype html><p>Not found"), (500, "")):
            own.append((status, page))
            with pytest.raises((ConnectionError, ValueError), match=rf"The function at {url} answers {status}\.$"):
                deployed(url)({})


def test_a_function_that_restarts_and_forgets(cvat, run, monkeypatch):
    """With a store in its memory it knows no state any more: the object starts again from its last seed."""
    monkeypatch.setenv("MASKBANK_SIZE", "96")
    monkeypatch.setattr(sweeps, "FRAMES_PER_REQUEST", 1)
    cvat.add(JOB, shapes=[outline(2, GOLDEN_KOI), outline(7, GOLDEN_KOI)])
    lost: list[str] = []
    again: list[int] = []  # frames that the function saw after its restart
    frame_of = {base64.b64encode(jpeg(i)).decode(): i for i in range(FRAMES)}
    with local_function() as before_url, local_function() as after_url:
        before, sizes = counting(deployed(before_url))
        after = deployed(after_url)

        def call(body: dict) -> dict:
            if len(sizes) < 9:  # two before it starts, then frames 2 to 8
                return before(body)
            try:
                reply = after(body)
            except StateExpired as error:
                lost.append(str(error))
                raise
            again.append(frame_of[body["frames"][0]["image"]])
            return reply

        run(call)
    assert len(lost) == 1 and "no longer remembers" in lost[0]
    images = [each.partition("number=")[2].partition("&")[0] for each in cvat.requests if "/data?" in each]
    assert "".join(images) == "27345689" + "72654310"  # what is outlined first
    assert again == [7, 2, 7, 8, 9, 7, 2, 7, 6, 5, 4, 3, 2, 1, 0]
    assert frames_of(results(cvat)) == [0, 1, 3, 4, 5, 6, 8, 9]
    assert quality(results(cvat), GOLDEN_KOI) > 0.6


def test_a_function_forgets_objects_that_are_outlined_on_different_frames(cvat, run, propagate, monkeypatch):
    """Until the turtle starts again, what was found of it counts."""
    monkeypatch.setattr(sweeps, "FRAMES_PER_REQUEST", 1)
    drawn = [outline(0, GOLDEN_KOI), outline(3, GOLDEN_KOI), outline(1, TURTLE), outline(6, TURTLE)]
    cvat.add(JOB, shapes=[each | {"group": 1 + (number > 1)} for number, each in enumerate(drawn)])
    frame_of = {base64.b64encode(jpeg(i)).decode(): i for i in range(FRAMES)}
    asked: list[int] = []

    def call(body: dict) -> dict:
        asked.append(frame_of[body["frames"][0]["image"]])
        if asked[-4:] == [3, 2, 1, 0] and asked.count(0) == 4:  # at the end of the way back
            raise StateExpired("The tracker no longer remembers it.")
        return propagate(body)

    run(call)
    found = results(cvat)
    for group, seeded in ((1, {0, 3}), (2, {1, 6})):
        assert frames_of([each for each in found if each["group"] == group]) == sorted(set(range(FRAMES)) - seeded)


def test_a_function_that_never_remembers(cvat, run, propagate):
    """Such as several workers with a store in the memory of each."""
    cvat.add(JOB, shapes=seeds())

    def call(body: dict) -> dict:
        if any(body["states"]):
            raise StateExpired("The tracker no longer remembers it.")
        return propagate(body)

    with pytest.raises(ValueError, match="again and again.*MASKBANK_STORE"):
        run(call)


def test_answers_with_fewer_frames(cvat, run, propagate, undisturbed, monkeypatch):
    cvat.add(JOB, shapes=seeds())
    monkeypatch.setattr("maskbank.service.service.REPLY_WITHIN_S", 0)  # one frame, and time is over
    run()
    assert results(cvat) == undisturbed
    images = [each for each in cvat.requests if "/data?" in each]
    assert len(images) == 8 + 8  # each frame was loaded once in each sweep


def test_requests_are_no_larger_than_the_function_takes(cvat, run, propagate, monkeypatch):
    cvat.add(JOB, shapes=[outline(0, GOLDEN_KOI)])
    monkeypatch.setattr(sweeps, "BYTES_PER_REQUEST", 2 * max(len(jpeg(i)) for i in range(FRAMES)))
    call, sizes = counting(propagate)
    run(call)
    assert sizes == [2] * 5


def test_a_seed_that_lies_outside_the_image(cvat, run):
    cvat.add(JOB, shapes=[outline(3, TURTLE, type="polygon", points=[700.0, 0.0, 800.0, 0.0, 700.0, 50.0])])
    with pytest.raises(ValueError, match="^turtle on frame 3: The polygon covers no pixel"):
        run()


def test_a_seed_that_the_function_refuses(cvat, run):
    hidden = outline(4, GOLDEN_KOI)
    cvat.add(JOB, shapes=[outline(2, GOLDEN_KOI, group=1), hidden | {"group": 1}, hidden | {"group": 2}])
    with pytest.raises(ValueError, match=r"Frame 4: koi \(group 2\): it lies wholly under other objects"):
        run()


# Jobs, tasks, people and servers


def test_a_task(cvat, run, tmp_path, capsys):
    cvat.jobs = {
        job: StoredJob({i: jpeg(i) for i in frames}, LABELS, task=3, type=kind)
        for job, frames, kind in (
            (JOB, range(4), "annotation"),
            (13, range(4, 8), "annotation"),
            (14, range(8, 11), "annotation"),
            (15, range(11), "ground_truth"),
        )
    }
    cvat.add(JOB, shapes=[outline(0, GOLDEN_KOI)])
    cvat.add(14, shapes=[outline(10, TURTLE)])
    cvat.add(15, shapes=[outline(10, TURTLE)])
    with connect(Login(cvat.url, f"{USER}:{PASSWORD}")) as client:
        assert client.jobs_of_task(3) == [12, 13, 14]
    printed = run(jobs=(12, 13, 14))
    assert [line for line in printed.splitlines() if line.startswith("Job")] == [
        "Job 12: 1 object tracked on 3 frames, 3 shapes made, 3 uploaded.",
        "Job 13: nothing is outlined in it.",
        "Job 14: 1 object tracked on 2 frames, 2 shapes made, 2 uploaded.",
    ]
    assert frames_of(cvat.of_source(14, "auto")["shapes"]) == [8, 9]


def test_what_is_outlined_while_the_jobs_before_are_tracked_counts(cvat, run, propagate):
    cvat.jobs = {job: StoredJob({i: jpeg(i) for i in range(3)}, LABELS, task=3) for job in (12, 13)}
    for job in (12, 13):
        cvat.add(job, shapes=[outline(0, GOLDEN_KOI)])

    def call(body: dict) -> dict:
        if len(cvat.jobs[13].annotations["shapes"]) == 1:
            cvat.add(13, shapes=[outline(2, GOLDEN_KOI)])
        return propagate(body)

    run(call, jobs=(12, 13))
    assert [frames_of(cvat.of_source(job, "auto")["shapes"]) for job in (12, 13)] == [[1, 2], [1]]


def test_of_a_task_one_job_that_cannot_be_tracked_does_not_keep_the_others_from_it(cvat, run, capsys):
    cvat.jobs[13] = StoredJob({i: jpeg(i) for i in range(4)}, LABELS)
    cvat.add(JOB, shapes=[outline(3, TURTLE, type="polygon", points=[700.0, 0.0, 800.0, 0.0, 700.0, 50.0])])
    cvat.add(13, shapes=[outline(0, TURTLE)])
    with pytest.raises(ValueError, match="^Not tracked: 1 job of 2, for the reasons above"):
        run(jobs=(JOB, 13))
    assert "Job 12: turtle on frame 3: The polygon covers no pixel" in capsys.readouterr().err
    assert frames_of(cvat.of_source(13, "auto")["shapes"]) == [1, 2, 3]


@pytest.fixture
def three_jobs(cvat) -> None:
    """Of one task; each has an outline."""
    for job in (JOB, 13, 14):
        cvat.jobs[job] = StoredJob({i: jpeg(i) for i in range(3)}, LABELS)
        cvat.add(job, shapes=[outline(0, GOLDEN_KOI)])


@pytest.mark.parametrize(
    ("path", "status", "complaint"),
    [
        ("/api/jobs/13$", 503, "Job 13: CVAT at .*503"),
        ("/api/jobs/13/annotations/$", 403, "Job 13: CVAT at .* refuses job 13 with 403"),
        ("/api/jobs/13/data$", 502, "Job 13: CVAT at .*502"),
    ],
)
def test_of_a_task_one_job_that_is_out_of_reach_does_not_keep_the_others(
    cvat, run, three_jobs, capsys, path: str, status: int, complaint: str
):
    def out_of_reach() -> None:
        cvat.once("GET", path, out_of_reach)
        refuse(status, "x")()

    cvat.once("GET", path, out_of_reach)
    with pytest.raises(ValueError, match="^Not tracked: 1 job of 3, for the reasons above"):
        run(jobs=(JOB, 13, 14), call=still)
    assert re.search(complaint, capsys.readouterr().err)
    assert [frames_of(cvat.of_source(job, "auto")["shapes"]) for job in (JOB, 13, 14)] == [[1, 2], [], [1, 2]]


def test_of_a_task_a_job_at_which_another_process_is_at_work_does_not_keep_the_others(
    cvat, run, three_jobs, tmp_path, capsys
):
    """Also where that process tracks other labels."""
    with (
        job_folder(tmp_path / "work", cvat.url, 13).alone(),
        pytest.raises(ValueError, match="^Not tracked: 1 job of 3"),
    ):
        run(jobs=(JOB, 13, 14), call=still)
    assert "Job 13: Another process is at work on this job." in capsys.readouterr().err
    assert [frames_of(cvat.of_source(job, "auto")["shapes"]) for job in (JOB, 13, 14)] == [[1, 2], [], [1, 2]]


def test_outlines_of_which_it_cannot_be_told_what_they_belong_to(cvat, run, propagate):
    cvat.jobs[13] = StoredJob({i: jpeg(i) for i in range(4)}, LABELS)
    cvat.add(JOB, shapes=[outline(0, TURTLE)])
    cvat.add(13, shapes=[outline(0, GOLDEN_KOI), outline(0, RED_KOI), outline(3, RED_KOI)])
    call, sizes = counting(propagate)
    with pytest.raises(
        ValueError, match="^Job 13: The label koi is outlined on the frames 0, 3, and several times on 0"
    ):
        run(call, jobs=(JOB, 13))
    assert sizes == []  # all jobs are checked before the first is tracked


def test_nothing_is_outlined(cvat, run):
    cvat.add(JOB, shapes=[outline(0, TURTLE, source="auto")])
    with pytest.raises(ValueError, match="nothing to track: outline each object"):
        run()


def test_two_at_once(cvat, run, propagate):
    cvat.add(JOB, shapes=[outline(0, TURTLE)])
    refused = []

    def call(body: dict) -> dict:
        if not refused:
            refused.append(None)
            with pytest.raises(OSError) as error:
                run()
            refused[0] = str(error.value)
        return propagate(body)

    run(call)
    assert one_sentence(refused[0])
    assert len(results(cvat)) == 9


def test_the_command(cvat, command, tmp_path):
    cvat.add(JOB, shapes=[outline(4, GOLDEN_KOI)])
    code, printed, _ = command(
        "--auth", f"{USER}:{PASSWORD}", "--task", 1, "--as", "polygon", "--labels", "koi, turtle"
    )
    assert code == 0 and "9 shapes made, 9 uploaded." in printed
    assert {each["type"] for each in results(cvat)} == {"polygon"}
    assert list((tmp_path / "cache" / "maskbank").rglob("forward.jsonl"))
    code, printed, _ = command("--auth", f"{USER}:{PASSWORD}", "--job", JOB, "--as", "polygon")
    assert code == 0 and "nothing to do" in printed


@pytest.mark.parametrize(
    ("given", "frames"),
    [(["koi", "turtle"], 9 + 9), (["koi,", "turtle"], 9 + 9), (["koi,turtle"], 9 + 9), (["koi"], 9)],
)
def test_labels_with_commas_or_spaces(cvat, command, given: list[str], frames: int):
    cvat.add(JOB, shapes=[outline(4, GOLDEN_KOI), outline(4, TURTLE)])
    code, printed, _ = command("--auth", f"{USER}:{PASSWORD}", "--job", JOB, "--dry-run", "--labels", *given)
    assert code == 0 and f"{frames} shapes made" in printed


def test_the_report_names_the_groups(cvat, run):
    cvat.add(JOB, shapes=[outline(4, GOLDEN_KOI, group=8), outline(4, RED_KOI, group=3), outline(4, TURTLE, group=5)])
    names = [line.strip().rpartition(": ")[0] for line in run().splitlines()[1:4]]
    assert sorted(names) == ["koi (group 3)", "koi (group 8)", "turtle"]


def test_what_another_model_tracked_behind_the_same_address_is_not_gone_on_with(cvat, command):
    known = ("--auth", f"{USER}:{PASSWORD}", "--job", JOB, "--replace", "--function-url")
    cvat.add(JOB, shapes=[outline(0, GOLDEN_KOI)])
    with local_function(environment={"MASKBANK_SIZE": "96"}) as url:
        before = identity_of(url)
        assert command(*known, url)[0] == 0
        first = results(cvat)
    with local_function(int(url.rpartition(":")[2]), environment={"MASKBANK_SIZE": "128"}):
        assert identity_of(url) != before
        assert command(*known, url)[0] == 0
    assert frames_of(results(cvat)) == frames_of(first) and results(cvat) != first


def test_the_command_with_a_token_and_a_function(cvat, command, function_url, monkeypatch, tmp_path):
    monkeypatch.setitem(os.environ, "CVAT_ACCESS_TOKEN", TOKEN)
    cvat.add(JOB, shapes=[outline(4, GOLDEN_KOI)])
    code, printed, _ = command("--job", JOB, "--function-url", function_url + "/", "--work", tmp_path / "here")
    assert code == 0 and "9 uploaded" in printed
    assert list((tmp_path / "here").rglob("backward.jsonl"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--auth", f"{USER}:wrong", "--job", JOB], "refuses the login with 400: Unable to log in"),
        (["--auth", f"{USER}:{PASSWORD}", "--job", 77], "has no job 77"),
        (["--auth", f"{USER}:{PASSWORD}", "--task", 77], "has no task 77"),
        (["--auth", f"{USER}:{PASSWORD}", "--job", JOB, "--labels", "tortoise"], "has no label tortoise"),
        (["--auth", f"{USER}:{PASSWORD}", "--job", JOB, "--size", "9"], "MASKBANK_SIZE"),
        (["--auth", f"{USER}:{PASSWORD}", "--job", JOB, "--function-url", "localhost:1"], "begins with http"),
        (["--job", JOB, "--function-url", "http://localhost:1", "--size", "96"], "--function-url"),
        (["--auth", f"{USER}:{PASSWORD}", "--job", JOB, "--propose", "--work", "here"], "no use for"),
    ],
)
def test_mistakes(cvat, command, arguments: list, expected: str):
    cvat.add(JOB, shapes=[outline(4, GOLDEN_KOI)])
    code, printed, complaint = command(*arguments)
    assert code == 1 and printed == ""
    assert complaint.startswith("maskbank: ") and expected in complaint and complaint.count("\n") == 1


def test_servers_that_are_not_there_or_not_what_they_should_be(cvat, command, function_url, monkeypatch):
    cvat.add(JOB, shapes=[outline(4, GOLDEN_KOI)])
    known = ["--auth", f"{USER}:{PASSWORD}", "--job", JOB]
    code, _, complaint = command(*known, server="http://127.0.0.1:9")
    assert code == 1 and "CVAT at http://127.0.0.1:9 cannot be reached" in complaint and complaint.count("\n") == 1
    monkeypatch.setitem(os.environ, "CVAT_ACCESS_TOKEN", TOKEN)
    code, _, complaint = command("--job", JOB, server="http://127.0.0.1:9")  # with a token nothing is asked to log in
    assert code == 1 and "cannot be reached" in complaint and complaint.count("\n") == 1
    monkeypatch.delitem(os.environ, "CVAT_ACCESS_TOKEN")
    code, _, complaint = command(*known, server=function_url)
    assert code == 1 and complaint.count("\n") == 1 and function_url in complaint
    code, _, complaint = command(*known, "--function-url", cvat.url)
    assert code == 1 and complaint.splitlines()[-1].startswith(f"maskbank: The function at {cvat.url} answers 401")
    cvat.once("GET", f"/api/jobs/{JOB}$", refuse(403, {"detail": "You do not have permission to perform this action."}))
    code, _, complaint = command(*known)
    assert code == 1 and "refuses job 12 with 403: You do not have permission" in complaint
    page = "<html><head><title>500 Internal Server Error</title></head><body>nginx/1.25</body></html>"
    cvat.once("GET", f"/api/jobs/{JOB}$", refuse(500, page))
    code, _, complaint = command(*known)
    assert code == 1 and "refuses job 12 with 500: Internal Server Error." in complaint and "<" not in complaint
    cvat.jobs[JOB].dimension = "3d"
    code, _, complaint = command(*known)
    assert code == 1 and "3d data" in complaint
    cvat.jobs[JOB].type = "ground_truth"
    code, _, complaint = command("--auth", f"{USER}:{PASSWORD}", "--task", 1)
    assert (code, complaint) == (1, "maskbank: Task 1 has no annotation jobs.\n")


# ---------------------------------------------------------------- proposals


def test_proposals_are_outlines_that_the_next_run_tracks(cvat, command):
    arguments = ("--job", JOB, "--auth", f"{USER}:{PASSWORD}")
    cvat.jobs[JOB] = StoredJob({100 + i: jpeg(15 + i) for i in range(FRAMES)}, LABELS)
    code, said, _ = command(*arguments, "--propose", "--labels", "koi", "--dry-run")
    assert code == 0 and "would be uploaded" in said and not cvat.uploads()
    code, said, _ = command(*arguments, "--propose", "--labels", "koi")
    shapes = cvat.of_source(JOB, "semi-auto")["shapes"]
    [frame] = {shape["frame"] for shape in shapes}
    assert code == 0 and said.startswith(f"Job {JOB}: {len(shapes)} proposed as koi on frame {frame}, uploaded. ")
    truths = [true_mask(frame - 85, each) for each in (RED_KOI, GOLDEN_KOI, TURTLE)]
    assert max(jaccard(decoded({"type": "mask", "points": shapes[0]["points"]}), truth) for truth in truths) > 0.6
    assert {(shape["type"], shape["label_id"]) for shape in shapes} == {("mask", KOI["id"])}
    code, _, complaint = command(*arguments, "--propose", "--labels", "koi")
    assert code == 1 and "--propose and --from-job are for jobs without any." in complaint
    code, said, _ = command(*arguments)
    assert code == 0 and f"{len(shapes)} object" in said and len(results(cvat)) > 0


def test_proposals_for_a_task_pass_over_jobs_in_which_no_motion_can_be_seen(cvat, command):
    cvat.jobs = {JOB: StoredJob({0: jpeg(0)}, LABELS), JOB + 1: StoredJob({i: jpeg(i) for i in range(20, 28)}, LABELS)}
    code, said, _ = command("--task", 1, "--auth", f"{USER}:{PASSWORD}", "--propose", "--labels", "koi")
    single, other = said.split("\n", 1)
    assert code == 0 and single.startswith(f"Job {JOB}: nothing is proposed. A single frame")
    assert other.startswith(f"Job {JOB + 1}: ") and cvat.uploads() == 1


def test_proposals_wait_for_a_server_that_is_busy(cvat, command):
    cvat.jobs[JOB] = StoredJob({i: jpeg(i) for i in range(20, 28)}, LABELS)
    for _ in range(6):  # the SDK itself asks again a few times
        cvat.once("GET", "/data$", refuse(502, "<html>Bad Gateway</html>"), after=3)
    code, said, waiting = command("--job", JOB, "--auth", f"{USER}:{PASSWORD}", "--propose", "--labels", "koi")
    assert code == 0 and "proposed as koi" in said and "Waiting for CVAT" in waiting


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "Say with --labels which label of job 12 the proposals get, one of: koi, turtle, eye."),
        (("--labels", "koi", "turtle"), "Say with --labels which label"),
        (("--labels", "eye"), "In CVAT the label eye has points shapes only; choose another one."),
        (("--labels", "koi", "--replace"), "--propose works on this machine, and has no use for"),
    ],
)
def test_proposals_that_cannot_be_made_earn_a_sentence(cvat, command, arguments, complaint):
    code, _, said = command("--job", JOB, "--auth", f"{USER}:{PASSWORD}", "--propose", *arguments)
    assert code == 1 and complaint in said and not cvat.uploads()


# ---------------------------------------------------------------- outlines from another job

NEXT_JOB, THIRD_JOB = 13, 14
START = 30  # of the next job's frames in the sample clip


@pytest.fixture
def next_jobs(cvat) -> None:
    """Three objects outlined in the job, and two more jobs of its task without outlines."""
    cvat.jobs[NEXT_JOB] = StoredJob({i: jpeg(i) for i in range(START, START + 12)}, LABELS)
    cvat.jobs[THIRD_JOB] = StoredJob({i: jpeg(i) for i in range(50, 53)}, LABELS)
    named = [{"spec_id": NAME, "value": "Goldie"}, {"spec_id": POSE, "value": "bent"}]
    cvat.add(JOB, shapes=[outline(0, GOLDEN_KOI, group=4, attributes=named), outline(0, RED_KOI, group=5)])
    cvat.add(JOB, shapes=[box(0, TURTLE), box(6, TURTLE)])


def test_objects_of_one_job_are_outlined_in_the_next(cvat, command, next_jobs):
    log_in = ("--auth", f"{USER}:{PASSWORD}", "--size", 240)
    arguments = ("--job", NEXT_JOB, "--from-job", JOB, *log_in)
    before = drawn_by_people(cvat)
    code, said, _ = command(*arguments, "--dry-run")
    assert code == 0 and f"Job {NEXT_JOB}: 3 of 3 objects found, would be uploaded." in said and not cvat.uploads()
    code, said, _ = command(*arguments)
    assert code == 0 and f"Job {NEXT_JOB}: 3 of 3 objects found, uploaded." in said and drawn_by_people(cvat) == before
    golden, red, turtle = cvat.of_source(NEXT_JOB, "semi-auto")["shapes"]
    assert [each["type"] for each in (golden, red, turtle)] == ["mask", "mask", "rectangle"]
    for shape, object_id in ((golden, GOLDEN_KOI), (red, RED_KOI)):
        assert jaccard(decoded(shape), true_mask(shape["frame"], object_id)) > 0.7
        assert shape["label_id"] == KOI["id"]
    assert golden["group"] and red["group"] and golden["group"] != red["group"] and not turtle["group"]
    assert {each["spec_id"]: each["value"] for each in golden["attributes"]} == {NAME: "Goldie", POSE: "bent"}
    left, top, right, bottom = box_of(true_mask(turtle["frame"], TURTLE))
    assert np.abs(np.subtract(turtle["points"], (left, top, right, bottom))).max() < 0.4 * (right - left)
    code, said, _ = command("--job", NEXT_JOB, *log_in)
    assert code == 0 and "3 objects" in said and cvat.of_source(NEXT_JOB, "auto")["shapes"]


def test_the_other_jobs_of_a_task_are_started_but_for_those_with_outlines(cvat, command, next_jobs):
    arguments = ("--task", 1, "--from-job", JOB, "--labels", "koi", "--auth", f"{USER}:{PASSWORD}", "--size", 240)
    cvat.add(THIRD_JOB, shapes=[outline(50, TURTLE)])
    code, said, _ = command(*arguments)
    assert code == 0 and f"Job {NEXT_JOB}: 2 of 2 objects found, uploaded." in said
    assert all(f"Job {job}: objects are outlined in it already" in said for job in (JOB, THIRD_JOB))
    assert not cvat.of_source(THIRD_JOB, "semi-auto")["shapes"]
    code, _, complaint = command("--job", THIRD_JOB, "--from-job", JOB, "--auth", f"{USER}:{PASSWORD}")
    assert code == 1 and one_sentence(complaint.removeprefix("maskbank: ").strip())


def test_outlines_that_cannot_be_told_apart(cvat, command, next_jobs):
    """They are outlines: in the job to start, which is passed over, and in the one to start from, which says so."""
    crowded = [outline(50, GOLDEN_KOI), outline(50, RED_KOI), outline(51, GOLDEN_KOI)]
    cvat.add(THIRD_JOB, shapes=crowded)
    arguments = ("--labels", "koi", "--auth", f"{USER}:{PASSWORD}", "--size", 96)
    code, said, _ = command("--task", 1, "--from-job", JOB, *arguments)
    assert code == 0 and f"Job {THIRD_JOB}: objects are outlined in it already" in said
    code, _, complaint = command("--job", NEXT_JOB, "--from-job", THIRD_JOB, *arguments)
    assert code == 1 and complaint.startswith(f"maskbank: Job {THIRD_JOB}: The label koi is outlined on the frames")


def test_a_label_that_the_next_job_lacks(cvat, command, next_jobs):
    arguments = ("--job", NEXT_JOB, "--from-job", JOB, "--auth", f"{USER}:{PASSWORD}", "--size", 240)
    cvat.jobs[NEXT_JOB] = StoredJob({i: jpeg(i) for i in range(START, START + 3)}, [POINT, TURTLE_LABEL])
    code, said, _ = command(*arguments)
    assert code == 0 and "1 of 3 objects found" in said and said.count("the job has no such label") == 2
    cvat.jobs[NEXT_JOB] = StoredJob({START: jpeg(START)}, [POINT])
    code, _, complaint = command(*arguments)
    assert code == 1 and f"Job {NEXT_JOB} has no label koi, turtle for shapes; it has none." in complaint


def test_an_object_that_is_not_there_is_not_outlined(cvat, command, next_jobs):
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    cvat.jobs[NEXT_JOB] = StoredJob({0: png(noise)}, LABELS)
    code, said, _ = command("--job", NEXT_JOB, "--from-job", JOB, "--auth", f"{USER}:{PASSWORD}")
    assert code == 0 and "0 of 3 objects found" in said and said.count("not found") == 3 and not cvat.uploads()


@pytest.mark.parametrize("answered_first", [False, True])
def test_drafts_are_uploaded_once_though_a_server_does_not_answer(cvat, command, next_jobs, answered_first: bool):
    cvat.once("PATCH", "annotations", refuse(504, "x"), answered_first=answered_first)
    code, said, _ = command("--job", NEXT_JOB, "--from-job", JOB, "--auth", f"{USER}:{PASSWORD}", "--size", 240)
    assert code == 0 and "3 of 3 objects found, uploaded" in said
    assert len(cvat.jobs[NEXT_JOB].annotations["shapes"]) == 3


def test_one_job_that_cannot_be_started_does_not_keep_the_others_from_it(cvat, command, next_jobs, tmp_path):
    broken = cvat.jobs[NEXT_JOB]
    broken.images = broken.images | {START: b"broken"}
    cvat.jobs[15] = StoredJob({i: jpeg(i) for i in range(3)}, LABELS)
    arguments = ("--task", 1, "--from-job", JOB, "--auth", f"{USER}:{PASSWORD}", "--size", 96)
    with job_folder(tmp_path / "cache" / "maskbank", cvat.url, 15).alone():
        code, said, complaint = command(*arguments)
    assert code == 1 and f"Job {THIRD_JOB}: " in said and cvat.jobs[THIRD_JOB].annotations["shapes"]
    assert f"Job {NEXT_JOB}: Frame {START} of job {NEXT_JOB}" in complaint
    assert "Job 15: Another process is at work on this job." in complaint
    assert complaint.endswith("maskbank: Not started: 2 jobs of 4, for the reasons above.\n")


def test_what_is_outlined_while_drafts_are_searched_for_is_let_alone(cvat, command, next_jobs):
    cvat.once("GET", f"jobs/{NEXT_JOB}/data$", lambda: cvat.add(NEXT_JOB, shapes=[outline(31, TURTLE)]), after=2)
    arguments = ("--from-job", JOB, "--auth", f"{USER}:{PASSWORD}", "--size", 96)
    code, _, complaint = command("--job", NEXT_JOB, *arguments)
    assert code == 1 and f"Job {NEXT_JOB}: objects are outlined in it already" in complaint and not cvat.uploads()


def test_groups_of_drafts_are_above_those_that_the_job_has(cvat, command, next_jobs):
    point = {"type": "points", "label_id": POINT["id"], "frame": START, "points": [5.0, 5.0]}
    cvat.add(NEXT_JOB, shapes=[point | {"group": 1}], tags=[{"label_id": POINT["id"], "frame": START, "group": 2}])
    cvat.add(NEXT_JOB, shapes=[outline(START, GOLDEN_KOI, group=3, source="auto")])
    assert command("--job", NEXT_JOB, "--from-job", JOB, "--auth", f"{USER}:{PASSWORD}", "--size", 240)[0] == 0
    assert {shape["group"] for shape in cvat.of_source(NEXT_JOB, "semi-auto")["shapes"]} == {4, 5, 0}


def test_a_search_that_is_stopped_keeps_nothing(cvat, command, next_jobs):
    cvat.once("GET", f"jobs/{NEXT_JOB}/data$", lambda: os.kill(os.getpid(), signal.SIGTERM), after=1)
    arguments = ("--from-job", JOB, "--auth", f"{USER}:{PASSWORD}", "--size", 96)
    code, _, said = command("--job", NEXT_JOB, *arguments)
    assert code == 130 and said.endswith("maskbank: stopped; what was found so far is not kept.\n")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--from-job", NEXT_JOB), "There is nothing to search for: nothing is outlined in job 13."),
        (("--from-job", JOB, "--labels", "carp"), "Job 12 has no label carp; it has koi, turtle, eye."),
        (("--from-job", JOB, "--as", "track"), "--from-job works on this machine, and has no use for"),
        (("--from-job", JOB, "--tune", 5), "not with --function-url, --propose, --from-job or another --model."),
        (("--from-job", JOB, "--model", "afb-urr"), ""),
        (("--from-job", 99), "has no job 99, or does not show it to this user."),
    ],
)
def test_jobs_that_cannot_be_started_from_earn_a_sentence(cvat, command, next_jobs, arguments, complaint):
    code, _, said = command("--job", NEXT_JOB, "--auth", f"{USER}:{PASSWORD}", *arguments)
    assert code == 1 and complaint in said and said.startswith("maskbank: ") and not cvat.uploads()
