"""Training on folds: trainings of two steps on six short sequences, and the numbers that are made of their scores."""

import inspect
import json
import shutil
from pathlib import Path

import cv2
import pytest
from support import CLIP

from maskbank import cli
from maskbank.files.frames import open_frames
from maskbank.files.masks import read_id_mask, write_id_mask
from maskbank.networks.models import BUNDLED_WEIGHTS
from maskbank.networks.weights import load_state_dict
from maskbank.training import folds, novelty, schedules
from maskbank.training.clips import ClipRecipe
from maskbank.training.exports import load_data
from maskbank.training.fold_scores import FoldScore, FoldScores, compare, comparison_report, read_scores
from maskbank.training.folds import train_on_folds
from maskbank.training.run import RunOptions
from maskbank.training.schedules import Stage
from maskbank.training.trainer import train
from maskbank.training.validation import validate

NAMES = ["ant", "bee", "cat", "dog", "eel", "fox"]
LENGTH = 4  # frames of a sequence


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A still, and a source of six sequences of four frames, from the sample clip at a quarter of its size."""
    root = tmp_path_factory.mktemp("data")
    places = {first + i: root / "video" / "pond" / name for first, name in zip(range(0, 60, 10), NAMES, strict=True)
              for i in range(LENGTH)} | {8: root / "static" / "stills"}  # fmt: skip
    for index, image in enumerate(open_frames(CLIP / "frames")):
        if index in places:
            places[index].mkdir(parents=True, exist_ok=True)
            small = cv2.resize(image, (160, 90), interpolation=cv2.INTER_AREA)
            cv2.imwrite(str(places[index] / f"{index:05d}.jpg"), cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
            ids = read_id_mask(CLIP / "masks" / f"{index:05d}.png")[::4, ::4]
            write_id_mask(places[index] / f"{index:05d}.png", ids)
    return root


@pytest.fixture
def tiny(monkeypatch) -> None:
    """A default schedule whose steps take a moment each."""
    stages = (Stage(1.0, ClipRecipe(crop_size=64, frames=2, objects=1), 1),)
    monkeypatch.setitem(schedules.SCHEDULES, "small", stages)
    monkeypatch.setattr(novelty, "CLIPS", 2)


@pytest.fixture
def trainings(monkeypatch) -> list[dict[str, object]]:
    """What was trained, filled as it is: the run's folder, its seed, and which sequences were left out."""
    done = []

    def noted(*arguments: object, **options: object) -> Path:
        given = inspect.signature(train).bind(*arguments, **options).arguments
        asked = given["options"]
        done.append({"run": given["out"].name, "seed": asked.seed, "exclude": asked.exclude})
        return train(*arguments, **options)

    monkeypatch.setattr(folds, "train", noted)
    return done


# ---------------------------------------------------------------- leaving out sequences


def test_a_sequence_that_is_left_out_is_not_read(data):
    _, [pond] = load_data([data])
    _, [rest] = load_data([data], ("pond/bee", "pond/fox"))
    assert len(pond.items) == 6 and len(rest.items) == 4
    kept = [items[0].image.tobytes() for items in rest.items]
    assert kept == [pond.items[i][0].image.tobytes() for i in (0, 2, 3, 4)]
    for wrong in ("pond/bea", "pool/bee", "pond/bee/00010.jpg"):
        with pytest.raises(ValueError, match=rf"^There is no sequence {wrong} in the data to leave out\.$"):
            load_data([data], (wrong,))
    with pytest.raises(ValueError, match=r"^There is no source pont in the data to leave out\.$"):
        load_data([data], ("pont",))


def test_a_name_with_a_slash_at_its_end_is_left_out_as_well(data):
    _, [rest] = load_data([data], ("pond/bee/", "pond/fox"))
    assert len(rest.items) == 4
    assert [each.name for each in load_data([data])[1]] == ["pond"] and load_data([data], ("pond/",))[1] == []


def test_training_does_without_a_sequence_that_is_left_out(data, tmp_path, tiny):
    """Not even a damaged frame of it comes up."""
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data" / "video" / "pond" / "bee" / "00010.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match="00010.jpg cannot be read: The image is damaged"):
        train([tmp_path / "data"], tmp_path / "all", RunOptions(steps=1))
    assert train([tmp_path / "data"], tmp_path / "rest", RunOptions(steps=1, exclude=("pond/bee",))).exists()


# ---------------------------------------------------------------- the run


def test_every_sequence_is_scored_once_by_weights_that_have_not_seen_it(data, tmp_path, tiny, trainings):
    """Stopped and repeated, for a second seed, and against itself."""
    out = tmp_path / "folds"
    report = train_on_folds([data], "pond", out, steps=2)
    assert [each["run"] for each in trainings] == ["seed-0-fold-1", "seed-0-fold-2", "seed-0-fold-3"]
    assert [each["exclude"] for each in trainings] == [
        ("pond/ant", "pond/dog"),
        ("pond/bee", "pond/eel"),
        ("pond/cat", "pond/fox"),
    ]
    first = read_scores(out)
    assert [(each.sequence, each.fold) for each in first.scores] == [
        ("ant", 1), ("dog", 1), ("bee", 2), ("eel", 2), ("cat", 3), ("fox", 3),
    ]  # fmt: skip
    assert all(0 <= each.j_and_f <= 100 for each in first.scores)
    assert (out / "folds.md").read_text() == report + "\n" and "sequences: 6 of 6." in report
    assert {path.name for path in (out / "seed-0-fold-1").iterdir()} == {"lite.safetensors", "log.csv"}
    weights = load_state_dict(out / "seed-0-fold-1" / "lite.safetensors")
    assert first.scores[1].j_and_f == pytest.approx(validate(weights, data / "video" / "pond" / "dog"))

    # As after Ctrl-C between the two sequences of the last fold: it is scored, not trained again.
    facts = json.loads((out / "folds.json").read_text())
    (out / "folds.json").write_text(json.dumps(facts | {"scores": facts["scores"][:-1]}))
    trainings.clear()
    assert train_on_folds([data], "pond", out, steps=2) == report and trainings == []
    assert read_scores(out) == first

    # A second seed adds its own trainings; the first one's scores stay.
    both = train_on_folds([data], "pond", out, steps=2, seeds=2, compare=out)
    assert [each["seed"] for each in trainings] == [1, 1, 1]
    assert read_scores(out).scores[:6] == first.scores and len(read_scores(out).scores) == 12
    assert "| mean of seed 1 |" in both and f"Against {out}: with the same options; sequences in both: 6." in both

    for other, name in (
        ({"steps": 3}, "--steps"),
        ({"folds": 2}, "--folds"),
        ({"learning_rate": 1.0}, "--learning-rate"),
        ({"exclude": ("stills",)}, "--exclude"),
        ({"init": BUNDLED_WEIGHTS["lite"]}, "--init"),
    ):
        with pytest.raises(ValueError, match=rf"began with another {name}: repeat that, or take another --out\.$"):
            train_on_folds([data], "pond", out, **{"steps": 2} | other)
    with pytest.raises(ValueError, match=r"cannot be compared with: it had another --folds, 3\.$"):
        train_on_folds([data], "pond", tmp_path / "two", folds=2, steps=2, compare=out)
    assert not (tmp_path / "two").exists()


def test_an_interruption_leaves_what_is_done(data, tmp_path, tiny, monkeypatch, capsys):
    """While the second sequence is scored."""
    score, scored = folds.j_and_f, []

    def interrupted(*arguments: object) -> float:
        if scored:
            raise KeyboardInterrupt
        scored.append(score(*arguments))
        return scored[0]

    monkeypatch.setattr(folds, "j_and_f", interrupted)
    command = ["folds", "--data", str(data), "--source", "pond", "--out", str(tmp_path / "out"), "--steps", "1"]
    assert cli.main(command) == 130
    assert capsys.readouterr().err.endswith("maskbank: stopped; what was done so far is kept.\n")
    assert read_scores(tmp_path / "out").scores == [FoldScore("ant", 1, 0, scored[0])]
    assert "sequences: 1 of 6." in (tmp_path / "out" / "folds.md").read_text()


def test_the_command_line_has_the_defaults_of_the_function():
    options = cli.entry._parser().parse_args(["folds", "--data", "x", "--source", "pond", "--out", "y"])
    for name, parameter in inspect.signature(train_on_folds).parameters.items():
        if parameter.default is not parameter.empty:
            value = getattr(options, name)
            assert (tuple(value) if name == "exclude" else value) == parameter.default, name


def test_what_cannot_be_done_gives_one_sentence(data, tmp_path, capsys):
    def refused(*more: object, source: str = "pond") -> str:
        out = str(tmp_path / "out")
        assert cli.main(["folds", "--data", str(data), "--source", source, "--out", out, *map(str, more)]) == 1
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("maskbank: ") and line.endswith(".") and not (tmp_path / "out").exists()
        return line

    assert f"There is no video/lake/ in {data}." in refused(source="lake")
    assert "pond has 6 annotated sequences, which cannot be 7 folds." in refused("--folds", 7)
    assert "holds no folds.json" in refused("--compare", tmp_path)
    (tmp_path / "folds.json").write_text("{}")
    assert "folds.json is damaged." in refused("--compare", tmp_path)
    with pytest.raises(ValueError, match="must be above 0 and at most 1, not 7"):
        train_on_folds([data], "pond", tmp_path / "blend", init=BUNDLED_WEIGHTS["lite"], blend=7)
    with pytest.raises(ValueError, match="must be above 0 and at most 1, not 8"):  # not: began with another --blend
        train_on_folds([data], "pond", tmp_path / "blend", init=BUNDLED_WEIGHTS["lite"], blend=8)
    with pytest.raises(ValueError, match="Which sequences to hold out is not clear"):
        train_on_folds([data, data], "pond", tmp_path / "out")
    for name, value in (("--folds", "1"), ("--seeds", "0"), ("--steps", "-3")):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["folds", "--data", str(data), "--source", "pond", "--out", "x", name, value])
        assert stopped.value.code == 2 and f"{value!r} is not a" in capsys.readouterr().err


# ---------------------------------------------------------------- the numbers


def scores_of(learning_rate: float, *by_seed: dict[str, float]) -> FoldScores:
    options = {"--source": "pond", "--folds": 2, "--schedule": None, "--learning-rate": learning_rate}
    scores = [FoldScore(name, 1 + i % 2, seed, value) for seed, found in enumerate(by_seed)
              for i, (name, value) in enumerate(found.items())]  # fmt: skip
    return FoldScores(options, ["ant", "bee", "cat", "dog"], scores)


def test_scores_are_summed_up_over_sequences(tmp_path):
    """By hand: the means over the seeds are 70, 80, 60 and 94."""
    found = scores_of(0.1, {"ant": 68, "bee": 80, "cat": 58, "dog": 94}, {"ant": 72, "bee": 80, "cat": 62, "dog": 94})
    assert found.by_sequence() == {"ant": 70, "bee": 80, "cat": 60, "dog": 94}
    assert found.by_seed() == {0: 75, 1: 77}
    deviation = ((6**2 + 4**2 + 16**2 + 18**2) / 3) ** 0.5
    assert found.summary() == pytest.approx({"mean": 76, "median": 75, "std": deviation})
    found.write(tmp_path)
    assert read_scores(tmp_path) == found
    facts = json.loads((tmp_path / "folds.json").read_text())
    assert (facts["mean"], facts["median"], facts["seeds"]) == (76, 75, {"0": 75, "1": 77})
    lines = (tmp_path / "folds.md").read_text().splitlines()
    assert "Trained with --source pond, --folds 2, --learning-rate 0.1." in lines
    for line in (
        "| ant | 1 | 0 | 68.0 |",
        "| mean | 76.0 |",
        "| standard deviation | 14.5 |",
        "| mean of seed 1 | 77.0 |",
    ):
        assert line in lines


def test_scores_are_compared_sequence_by_sequence():
    """By hand: +2, -1, +3 and 0 are 1 on average; their deviations, squared, 1 + 4 + 4 + 1 = 10."""
    before = scores_of(0.1, {"ant": 68, "bee": 80, "cat": 58, "dog": 94})
    now = scores_of(0.2, {"ant": 69, "bee": 79, "cat": 61, "dog": 94}, {"ant": 71, "bee": 79, "cat": 61, "dog": 94})
    found = compare(before, now)
    assert found.differences == {"ant": 2, "bee": -1, "cat": 3, "dog": 0}
    assert (found.mean, found.better, found.worse) == (1, 2, 1)
    assert found.standard_error == pytest.approx((10 / 3) ** 0.5 / 4**0.5)
    lines = comparison_report(before, now, Path("runs/before")).splitlines()
    assert lines[0] == "Against runs/before: --learning-rate 0.1 → 0.2; sequences in both: 4."
    assert "| cat | 58.0 | 61.0 | +3.0 |" in lines
    assert lines[-1] == "Mean difference +1.00, standard error 0.91; better 2, worse 1, the same 1."
    before.scores.pop()
    assert list(compare(before, now).differences) == ["ant", "bee", "cat"]
