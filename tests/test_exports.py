"""CVAT's exports as training data."""

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support import CLIP, GOLDEN_KOI, HEIGHT, RED_KOI, TURTLE, WIDTH, box_of, jaccard, jpeg, true_mask

from maskbank import cli
from maskbank.files.coco import CocoWriter
from maskbank.files.masks import read_id_mask
from maskbank.networks.models import BUNDLED_WEIGHTS
from maskbank.shapes.conversion import mask_to_shape
from maskbank.shapes.rle import encode_rle
from maskbank.training import novelty
from maskbank.training.exports import is_export, load_data, load_export
from maskbank.tuning.samples import MAX_SHORT_SIDE

FRAMES = (0, 1, 2, 4)


def track(number: int, label: str, shapes: str) -> str:
    return f'<track id="{number}" label="{label}" source="manual">{shapes}</track>'


def attributes(frame: int, outside: int = 0, z: int = 0) -> str:
    return f'frame="{frame}" keyframe="1" outside="{outside}" occluded="0" z_order="{z}"'


def mask_node(frame: int, object_id: int) -> str:
    *runs, left, top, right, bottom = encode_rle(true_mask(frame, object_id))
    size = f'left="{left}" top="{top}" width="{right - left + 1}" height="{bottom - top + 1}"'
    return f'<mask {attributes(frame)} rle="{", ".join(map(str, runs))}" {size}></mask>'


def polygon_node(frame: int, object_id: int) -> str:
    points = np.reshape(mask_to_shape(true_mask(frame, object_id), "polygon").points, (-1, 2))
    return f'<polygon {attributes(frame)} points="{";".join(f"{x:.2f},{y:.2f}" for x, y in points)}"></polygon>'


def box_node(frame: int, object_id: int, outside: int = 0) -> str:
    left, top, right, bottom = box_of(true_mask(frame, object_id))
    edges = f'xtl="{left}" ytl="{top}" xbr="{right}" ybr="{bottom}"'
    return f"<box {attributes(frame, outside)} {edges}></box>"


def video_xml(mode: str = "interpolation") -> str:
    tracks = [
        track(0, "koi", "".join(mask_node(frame, RED_KOI) for frame in FRAMES)),
        track(1, "koi", "".join(polygon_node(frame, GOLDEN_KOI) for frame in FRAMES)),
        track(2, "turtle", box_node(0, TURTLE) + box_node(1, TURTLE) + box_node(2, TURTLE, 1)),
    ]
    meta = f"<meta><job><mode>{mode}</mode></job></meta>"
    return f'<?xml version="1.0"?><annotations><version>1.1</version>{meta}{"".join(tracks)}</annotations>'


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """A video job with its images, as CVAT names them; frame 3 has no annotation."""
    path = tmp_path / "job_7.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("annotations.xml", video_xml())
        for frame in range(6):
            archive.writestr(f"images/frame_{frame:06d}.jpg", jpeg(frame))
    return path


def test_tracks_become_a_video(export: Path) -> None:
    stills, [video] = load_export(export)
    [samples] = video.items
    assert stills == [] and video.name == "job_7" and len(samples) == len(FRAMES)
    for frame, sample in zip(FRAMES, samples, strict=True):
        np.testing.assert_array_equal(sample.image, np.asarray(Image.open(io.BytesIO(jpeg(frame)))))
        assert jaccard(sample.ids == 1, true_mask(frame, RED_KOI)) == 1
        assert jaccard(sample.ids == 2, true_mask(frame, GOLDEN_KOI)) > 0.94
        # The object in the box is searched for; afterwards the track is outside.
        assert (jaccard(sample.ids == 3, true_mask(frame, TURTLE)) > 0.6) == (frame < 2)
        assert (sample.ids == 3).any() == (frame < 2)


@pytest.mark.parametrize("name", BUNDLED_WEIGHTS)
def test_a_team_tunes_the_bundled_weights_on_its_job(export: Path, name: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(novelty, "CLIPS", 3)
    assert cli.main(["train", "--init", name, "--data", str(export), "--steps", "1"]) == 0
    told = Path(capsys.readouterr().out.splitlines()[-1])
    assert told == Path("runs/job_7/lite.safetensors")
    tuned = load_file(told)["key.weight"]
    bundled = {other: load_file(path)["key.weight"] for other, path in BUNDLED_WEIGHTS.items()}
    assert not torch.equal(tuned, bundled[name])
    assert min(bundled, key=lambda other: float((tuned - bundled[other]).abs().mean())) == name


def test_an_unpacked_export_is_the_same(export: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(export) as archive:
        archive.extractall(tmp_path / "job_7")
    _, [zipped] = load_export(export)
    _, [folder] = load_export(tmp_path / "job_7")
    assert zipped.name == folder.name
    for one, other in zip(zipped.items[0], folder.items[0], strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_array_equal(one.image, other.image)


def test_shapes_of_single_frames_become_stills(tmp_path: Path) -> None:
    """CVAT writes them as tracks that end at once; that they are not in the other frames says nothing."""
    tracks = [track(0, "koi", "".join(mask_node(frame, RED_KOI) for frame in (0, 1)))]
    for number, frame in enumerate((0, 2, 2), 1):
        end = mask_node(frame + 1, TURTLE).replace('outside="0"', 'outside="1"')
        tracks.append(track(number, "turtle", mask_node(frame, [TURTLE, TURTLE, GOLDEN_KOI][number - 1]) + end))
    (tmp_path / "images").mkdir()
    (tmp_path / "annotations.xml").write_text(f"<annotations>{''.join(tracks)}</annotations>")
    for frame in range(4):
        (tmp_path / "images" / f"frame_{frame:06d}.jpg").write_bytes(jpeg(frame))
    [stills], [video] = load_export(tmp_path)
    assert [sorted(np.unique(sample.ids)) for sample in video.items[0]] == [[0, 1], [0, 1]]
    assert [len(np.unique(item[0].ids)) - 1 for item in stills.items] == [1, 2]
    assert jaccard(stills.items[0][0].ids > 0, true_mask(0, TURTLE)) == 1


def test_rotated_shapes(tmp_path: Path) -> None:
    around = 'width="640" height="360"'
    nodes = (
        f'<image id="0" name="e.jpg" {around}><ellipse cx="300" cy="150" rx="100" ry="30" rotation="90"/></image>'
        f'<image id="1" name="b.jpg" {around}><box xtl="200" ytl="100" xbr="400" ybr="140" rotation="30"/></image>'
    )
    (tmp_path / "annotations.xml").write_text(f"<annotations>{nodes}</annotations>")
    (tmp_path / "images").mkdir()
    for name in "eb":
        (tmp_path / "images" / f"{name}.jpg").write_bytes(jpeg(0))
    [stills], _ = load_export(tmp_path)
    ellipse, box = (item[0].ids > 0 for item in stills.items)
    assert ellipse[60:240, 300].all() and not ellipse[150, 335:].any()
    assert ellipse.sum() == pytest.approx(np.pi * 100 * 30, rel=0.02)
    assert box.sum() == pytest.approx(200 * 40, rel=0.02)
    assert box[120 + 40, 300 + 69] and not box[120 - 40, 300 + 69]  # clockwise: the right end goes down


def test_images_of_one_name_in_two_folders(tmp_path: Path) -> None:
    frames = {"a/1.jpg": 0, "b/1.jpg": 40}
    nodes = "".join(
        f'<image id="{i}" name="{name}" width="640" height="360">{mask_node(frame, TURTLE)}</image>'
        for i, (name, frame) in enumerate(frames.items())
    )
    (tmp_path / "annotations.xml").write_text(f"<annotations>{nodes}</annotations>")
    for name, frame in frames.items():
        (tmp_path / "images" / name).parent.mkdir(parents=True)
        (tmp_path / "images" / name).write_bytes(jpeg(frame))
    [stills], _ = load_export(tmp_path)
    for item, frame in zip(stills.items, frames.values(), strict=True):
        np.testing.assert_array_equal(item[0].image, np.asarray(Image.open(io.BytesIO(jpeg(frame)))))


def test_annotated_images_become_stills(tmp_path: Path) -> None:
    nodes = "".join(
        f'<image id="{frame}" name="a/{frame}.jpg" width="640" height="360">{mask_node(frame, TURTLE)}</image>'
        for frame in range(2)
    )
    (tmp_path / "annotations.xml").write_text(f"<annotations>{nodes}<image id='9' name='9.jpg'/></annotations>")
    (tmp_path / "images" / "a").mkdir(parents=True)
    for frame in (0, 1, 9):
        (tmp_path / "images" / "a" / f"{frame}.jpg").write_bytes(jpeg(frame))
    [still], videos = load_export(tmp_path)
    assert videos == [] and len(still.items) == 2
    assert all((item[0].ids == 1).sum() == true_mask(i, TURTLE).sum() for i, item in enumerate(still.items))


def test_annotated_frames_of_a_video_become_stills(tmp_path: Path) -> None:
    """CVAT names frames without an ending there."""
    names = [f"frame_{frame:06d}" for frame in range(2)]
    nodes = "".join(
        f'<image id="{i}" name="{name}" width="640" height="360">{mask_node(i, TURTLE)}</image>'
        for i, name in enumerate(names)
    )
    (tmp_path / "annotations.xml").write_text(f"<annotations>{nodes}</annotations>")
    (tmp_path / "images").mkdir()
    for frame, name in enumerate(names):
        (tmp_path / "images" / f"{name}.PNG").write_bytes(jpeg(frame))
    [still], _ = load_export(tmp_path)
    assert [int((item[0].ids == 1).sum()) for item in still.items] == [true_mask(i, TURTLE).sum() for i in range(2)]


def test_images_whose_objects_are_too_small_to_train_on_are_told_of(tmp_path: Path, capsys) -> None:
    box = '<box xtl="9" ytl="9" xbr="19" ybr="19" occluded="0" z_order="0"></box>'
    (tmp_path / "images").mkdir()
    for frame in range(2):
        (tmp_path / "images" / f"{frame}.jpg").write_bytes(jpeg(frame))
    small = f'<image id="0" name="0.jpg" width="640" height="360">{box}</image>'
    (tmp_path / "annotations.xml").write_text(f"<annotations>{small}</annotations>")
    with pytest.raises(ValueError, match="can be trained on: no object covers 0.2 to 80 % of its image"):
        load_export(tmp_path)
    large = f'<image id="1" name="1.jpg" width="640" height="360">{mask_node(1, TURTLE)}</image>'
    (tmp_path / "annotations.xml").write_text(f"<annotations>{small}{large}</annotations>")
    assert len(load_export(tmp_path)[0][0].items) == 1
    assert f"1 of 2 images of {tmp_path} are left out: no object covers 0.2 to 80 % of them" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["compressed", "uncompressed", "polygons"])
def test_coco_becomes_stills(tmp_path: Path, kind: str) -> None:
    writer = CocoWriter({1: "red", 2: "golden", 3: "turtle"})
    for frame in range(2):
        writer.add(f"{frame}.jpg", read_id_mask(CLIP / "masks" / f"{frame:05d}.png"))
    document = writer.document()
    for annotation in document["annotations"]:
        frame, object_id = annotation["image_id"], annotation["category_id"]
        mask = true_mask(document["images"].index(next(i for i in document["images"] if i["id"] == frame)), object_id)
        if kind == "uncompressed":
            flat = mask.T.ravel()
            edges = np.flatnonzero(np.diff(flat)) + 1
            counts = np.diff([0, *edges, flat.size]).tolist()
            annotation["segmentation"] = {"size": list(mask.shape), "counts": ([0] if flat[0] else []) + counts}
        elif kind == "polygons":
            annotation["segmentation"] = [list(mask_to_shape(mask, "polygon").points)]
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_default.json").write_text(json.dumps(document))
    (tmp_path / "images" / "default").mkdir(parents=True)
    for frame in range(2):
        (tmp_path / "images" / "default" / f"{frame}.jpg").write_bytes(jpeg(frame))
    [still], _ = load_export(tmp_path)
    for frame, item in enumerate(still.items):
        for object_id in (1, 2, 3):
            overlap = jaccard(item[0].ids == object_id, true_mask(frame, object_id))
            assert overlap > 0.9 if kind == "polygons" else overlap == 1


def test_what_covers_no_pixel_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(jpeg(0))
    sliver = '<polygon points="5.1,5.1;5.2,5.1;5.1,5.2" z_order="0"/><box xtl="-9" ytl="-9" xbr="-2" ybr="-2"/>'
    nodes = f'<image id="0" name="a.jpg">{sliver}{mask_node(0, TURTLE)}</image>'
    (tmp_path / "annotations.xml").write_text(f"<annotations>{nodes}</annotations>")
    [stills], _ = load_export(tmp_path)
    assert (stills.items[0][0].ids == 3).sum() == true_mask(0, TURTLE).sum()


def test_coco_boxes_are_searched_and_keypoints_ignored(tmp_path: Path) -> None:
    left, top, right, bottom = box_of(true_mask(0, TURTLE))
    found = [
        {"image_id": 1, "segmentation": [], "bbox": [left, top, right - left, bottom - top]},
        {"image_id": 1, "keypoints": [1, 2, 2]},
    ]
    document = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": found}
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_Train.json").write_text(json.dumps(document))
    (tmp_path / "images" / "Train").mkdir(parents=True)
    (tmp_path / "images" / "Train" / "a.jpg").write_bytes(jpeg(0))
    [stills], _ = load_export(tmp_path)
    assert jaccard(stills.items[0][0].ids == 1, true_mask(0, TURTLE)) > 0.6


def test_large_images_are_shrunk(tmp_path: Path) -> None:
    image = Image.open(io.BytesIO(jpeg(0))).resize((1920, 1080))
    (tmp_path / "images").mkdir()
    image.save(tmp_path / "images" / "frame_000000.png")
    box = f'<box {attributes(0)} xtl="600" ytl="300" xbr="1200" ybr="900"/>'
    (tmp_path / "annotations.xml").write_text(f"<annotations>{track(0, 'any', box)}</annotations>")
    [still], _ = load_export(tmp_path)
    assert min(still.items[0][0].ids.shape) == MAX_SHORT_SIDE


def test_what_cannot_be_used_is_one_sentence(export: Path, tmp_path: Path) -> None:
    def refused(**files: str | bytes) -> str:
        folder = tmp_path / f"bad {len(list(tmp_path.iterdir()))}"
        for name, content in files.items():
            path = folder / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ValueError) as told:
            load_export(folder)
        text = str(told.value)
        assert text.endswith(".") and "\n" not in text
        return text

    assert "holds no annotated image; export the job from CVAT" in refused(annotations_dot_xml=video_xml())
    assert "is not XML" in refused(annotations_dot_xml="<annotations>")
    assert "is not a COCO file" in refused(annotations__a_dot_json="{}")
    broken = {"annotations_dot_xml": video_xml(), "images__frame_000000_dot_jpg": jpeg(0)[:500]}
    assert "frame_000000.jpg: The image is damaged" in refused(**broken)
    assert "export each task by itself, and images as" in refused(annotations_dot_xml=video_xml(mode="annotation"))
    coco = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [{"image_id": 1, "segmentation": {"size": [2, 2], "counts": [1, 3]}}],
    }
    files = {"annotations__a_dot_json": json.dumps(coco), "images__a_dot_jpg": jpeg(0)}
    assert "An annotation of a.jpg is damaged: it is for an image of another size" in refused(**files)
    coco["annotations"][0]["segmentation"] = {"counts": [1, 3]}
    assert "An annotation of a.jpg is damaged" in refused(**files | {"annotations__a_dot_json": json.dumps(coco)})
    (tmp_path / "cut.zip").write_bytes(export.read_bytes()[:-100] + b"x" * 78 + export.read_bytes()[-22:])
    with pytest.raises(ValueError, match=r"cut.zip is damaged: .*\.$"):
        load_export(tmp_path / "cut.zip")
    with pytest.raises(ValueError, match="Nothing is left to train on"):
        load_data([export], exclude=("job_7",))


def test_exports_are_told_from_other_data(export: Path, tmp_path: Path) -> None:
    assert is_export(export) and not is_export(tmp_path / "nowhere") and not is_export(CLIP)
    _, videos = load_data([export, export])
    assert [video.name for video in videos] == ["job_7", "job_7"]


CRASHES = {
    "far away": {"segmentation": [[1e8, 1e8, 1e8, 5, 5, 5]]},
    "nowhere": {"segmentation": [[float("nan"), 1, 9, 9, 1, 9]]},
    "half a point": {"segmentation": [[1, 1, 9, 9, 1, 9, 4]]},
    "a huge mask": {"segmentation": {"size": [65536, 65536], "counts": [65536 * 65536]}},
    "a huge compressed mask": {"segmentation": {"size": [65536, 65536], "counts": "PPYo1"}},
    "runs that are too long": {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [5, HEIGHT * WIDTH * 3]}},
    "compressed runs that are too short": {"segmentation": {"size": [HEIGHT, WIDTH], "counts": "0`0"}},
    "runs that are too short": {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [5, 5]}},
    "a negative run": {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [-5, HEIGHT * WIDTH + 5]}},
    "no runs of COCO's": {"segmentation": {"size": [HEIGHT, WIDTH], "counts": "\u00e4\u00f6" * 50}},
}

LOAD = """
import resource, sys
from pathlib import Path
from maskbank.training.exports import load_export
import maskbank.training.exports
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    load_export(Path(sys.argv[1]))
except ValueError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def loaded_apart(export: Path) -> tuple[list[str], int]:
    """What a process of its own says of an export, and the MiB that it takes for it; a crash fails here."""
    done = subprocess.run([sys.executable, "-c", LOAD, str(export)], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-500:]
    *said, mebibytes = done.stdout.splitlines()
    return said, int(mebibytes)


@pytest.mark.parametrize("annotation", CRASHES.values(), ids=CRASHES)
def test_annotations_that_would_crash_a_decoder(annotation: dict, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(jpeg(0))
    (tmp_path / "annotations").mkdir()
    coco = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, **annotation}]}
    (tmp_path / "annotations" / "instances.json").write_text(json.dumps(coco))
    said, mebibytes = loaded_apart(tmp_path)
    assert len(said) == 1 and said[0].startswith("An annotation of a.jpg is damaged") and said[0].endswith(".")
    assert mebibytes < 300


def test_a_small_zip_that_unpacks_to_a_lot(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("annotations.xml", b" " * (400 << 20))
    assert bomb.stat().st_size < 1 << 20
    said, mebibytes = loaded_apart(bomb)
    assert len(said) == 1 and "is larger than" in said[0] and said[0].endswith(".") and mebibytes < 400


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        ("<polygon {}/>", "annotations.xml has a damaged polygon: 'points'."),
        ('<polygon {} points="1,1;2,x;3,3"/>', "could not convert string to float: 'x'."),
        ('<polygon {} points="1,1;nan,2;3,3"/>', "The points of a polygon must be between"),
        ('<polygon {} points="1e8,1;2,2;3,3"/>', "The points of a polygon must be between"),
        ('<mask {} rle="1,2" left="0" top="0" width="5" height="wide"/>', "invalid literal for int"),
        ('<box {} xtl="1"/>', "annotations.xml has a damaged box: 'ytl'."),
    ],
)
def test_damaged_annotations_of_cvat(node: str, sentence: str, tmp_path: Path) -> None:
    nodes = "".join(node.format(attributes(frame)) for frame in (0, 1))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "frame_000000.jpg").write_bytes(jpeg(0))
    (tmp_path / "annotations.xml").write_text(f"<annotations>{track(0, 'koi', nodes)}</annotations>")
    with pytest.raises(ValueError) as told:
        load_export(tmp_path)
    assert sentence in str(told.value) and str(told.value).endswith(".") and "\n" not in str(told.value)


def test_endlessly_nested_json(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances.json").write_text("[" * 200_000)
    with pytest.raises(ValueError, match="is not a COCO file of instances"):
        load_export(tmp_path)


def test_a_zip_of_many_members_that_unpack_to_a_lot(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(10):
            archive.writestr(f"images/{number}.jpg", b" " * (60 << 20))
    said, mebibytes = loaded_apart(bomb)
    assert len(said) == 1 and "far more than images do" in said[0] and mebibytes < 50
