"""A team's own annotations as training data: what CVAT exports with its images, as a zip file or unpacked.

* "CVAT for video 1.1" of a video: annotations.xml with tracks; each becomes an object that keeps its id. Shapes that
  belong to no track make stills.
* "CVAT for images 1.1": annotations.xml with images; each becomes a still.
* "COCO 1.0": annotations/*.json with instances; each image becomes a still.

Masks, polygons and ellipses count as they are; in a box the object is searched for, as when tracking.
"""

import json
import re
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask

from maskbank.errors import RequestError
from maskbank.files.images import decode_image
from maskbank.networks.models import BUNDLED_INTERACTORS
from maskbank.networks.outliner import Outliner, load_outliner
from maskbank.shapes.rotation import unrotated
from maskbank.shapes.shape import MAX_COORDINATE, Shape, parse_shape
from maskbank.training.sources import Source, load_sources
from maskbank.tuning.samples import Sample, shrunk

MAX_OBJECTS = 254  # of an image; 255 is void
MAX_PIXELS = 100_000_000  # of an image
MAX_RATIO = 20  # of a zip's bytes: images hardly shrink, annotations do
MAX_FILE_BYTES = 128 << 20  # of a file in an export, unpacked; annotations of a thousand frames have a few MB
SHAPES = ("mask", "polygon", "ellipse", "box")

Folder = Path | zipfile.Path
Outline = tuple[int, Shape]  # the object's id in its image, and its shape; later ones lie on top


def load_data(paths: Sequence[Path], exclude: tuple[str, ...] = ()) -> tuple[list[Source], list[Source]]:
    """The stills and the videos of folders in the layout of `load_sources` and of exports.

    exclude: sources, and sequences as <source>/<sequence>, to leave out.

    Raises ValueError with one sentence when one of them cannot be used, there is no such source or sequence, or nothing
    is left.
    """
    exclude = tuple(name.rstrip("/") for name in exclude)
    for name in exclude:  # what stayed by a slip of the pen would make the scores on it too good
        kinds = ("video",) if "/" in name else ("static", "video")
        found = any(
            (path / kind / name).is_dir() or (is_export(path) and name == _name_of(path))
            for path in paths
            for kind in kinds
        )
        if not found:
            raise ValueError(f"There is no {'sequence' if '/' in name else 'source'} {name} in the data to leave out.")
    stills, videos = [], []
    for path in paths:
        loaded = load_export(path) if is_export(path) else load_sources(path, exclude)
        stills += [source for source in loaded[0] if source.name not in exclude]
        videos += [source for source in loaded[1] if source.name not in exclude]
    if not stills and not videos:
        raise ValueError("Nothing is left to train on; --exclude leaves out all of it.")
    return stills, videos


def named_data(paths: Sequence[Path], exclude: tuple[str, ...]) -> dict[str, object]:
    """What tells data from other data, by the names of the command line."""
    return {"--data": [str(path.resolve()) for path in paths], "--exclude": sorted({*exclude})}


def _name_of(export: Path) -> str:
    return export.resolve().name.removesuffix(".zip")


def is_export(path: Path) -> bool:
    """Whether `load_export` is for it."""
    if path.is_file():
        return zipfile.is_zipfile(path)
    return (path / "annotations.xml").is_file() or any((path / "annotations").glob("*.json"))


def load_export(path: Path) -> tuple[list[Source], list[Source]]:
    """The stills and the videos of an export. Annotations that cover no pixel of their image are left out.

    Raises ValueError with one sentence when it is damaged, of a kind that says too little, or holds no annotated image.
    """
    try:
        if path.is_file():
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > max(MAX_RATIO * path.stat().st_size, 4 * MAX_FILE_BYTES):
                raise ValueError(f"{path} unpacks to {unpacked} bytes, far more than images do.")
        folder: Folder = zipfile.Path(path) if path.is_file() else path
        stills, videos = _load(folder)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is damaged: {error}.") from error
    seen = [still for still in stills if still.objects()]
    if stills and not seen and not videos:
        raise ValueError(f"Nothing in {path} can be trained on: no object covers 0.2 to 80 % of its image.")
    if len(seen) < len(stills):
        left_out = f"{len(stills) - len(seen)} of {len(stills)} images of {path} are left out"
        print(f"{left_out}: no object covers 0.2 to 80 % of them.", file=sys.stderr)
    stills = seen
    if not stills and not videos:
        raise ValueError(
            f"{path} holds no annotated image; export the job from CVAT as CVAT for video 1.1, CVAT for images 1.1 or "
            "COCO 1.0, with 'Save images' switched on."
        )
    name = _name_of(path)
    return [Source(name, [[still] for still in stills])] if stills else [], [Source(name, videos)] if videos else []


def _load(folder: Folder) -> tuple[list[Sample], list[list[Sample]]]:
    stills: list[Sample] = []
    videos: list[list[Sample]] = []
    images = Images(folder / "images")
    if (folder / "annotations.xml").exists():
        root = _xml(folder / "annotations.xml")
        tracked, alone = _tracks(root)
        video = [_sample(shot, outlines) for frame, outlines in tracked if (shot := images.frame(frame))]
        stills += [_sample(shot, outlines) for frame, outlines in alone if (shot := images.frame(frame))]
        if len(video) > 1:
            videos.append(video)
        else:
            stills += video
        for image in root.findall("image"):
            file = images.named(image.get("name", ""), image.get("subset"))
            nodes = [node for node in image if node.tag in SHAPES]
            if file and nodes:
                stills.append(_sample(file, _in_order(list(enumerate(nodes, 1)))))
    elif (folder / "annotations").exists():
        for file in (folder / "annotations").iterdir():
            if file.name.endswith(".json"):
                subset = file.name.removeprefix("instances_").removesuffix(".json")
                found = [(images.named(name, subset), annotations) for name, annotations in _coco(file)]
                stills += [_coco_sample(image, annotations) for image, annotations in found if image]
    return stills, videos


class Images:
    """The images of an export, by their paths below its folder `images`."""

    def __init__(self, folder: Folder):
        self._files: dict[str, Folder] = {}
        self._stems: dict[str, Folder] = {}  # by their paths without the ending
        if folder.exists():
            self._add(folder, "")

    def _add(self, folder: Folder, path: str) -> None:
        for item in folder.iterdir():
            if item.is_dir():
                self._add(item, f"{path}{item.name}/")
            elif item.name.lower().endswith((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")):
                self._files[path + item.name] = item
                self._stems[path + item.name.rpartition(".")[0]] = item

    def named(self, name: str, subset: str | None) -> Folder | None:
        """The image of a name, which may lie in a folder for its subset; None if it was not exported.

        The frames of a video are named without an ending.
        """
        names = (name, f"{subset or 'default'}/{name}")
        return next((file for known in (self._files, self._stems) for each in names if (file := known.get(each))), None)

    def frame(self, number: int) -> Folder | None:
        """The frame of a video, as CVAT names it."""
        return self._stems.get(f"frame_{number:06d}")


def _read(file: Folder) -> bytes:
    """A file's bytes. Raises ValueError for one that is larger than any export's, as a few bytes of a zip may be."""
    with file.open("rb") as opened:
        data: bytes = opened.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"{file.name} is larger than the {MAX_FILE_BYTES} bytes that are allowed.")
    return data


def _xml(file: Folder) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(_read(file))
    except ElementTree.ParseError as error:
        raise ValueError(f"{file} is not XML: {error}.") from error


def _tracks(root: ElementTree.Element) -> tuple[list[tuple[int, list[Outline]]], list[tuple[int, list[Outline]]]]:
    """The frames of the tracks, and those of shapes that belong to no track: frame number and outlines, in order.

    CVAT writes a shape of a single frame as a track, too; an object that is in one frame only cannot be followed, and
    that it is missing in the others says nothing.
    """
    tracks = root.findall("track")
    if not tracks:
        return [], []
    if root.findtext("meta/*/mode") == "annotation" or any(track.get("task_id") for track in tracks):
        raise ValueError(
            "Tracks of single images, and of several tasks at once, do not say which image is which; export each task "
            "by itself, and images as CVAT for images 1.1."
        )
    seen = [[n for n in track if n.tag in SHAPES and n.get("outside") != "1"] for track in tracks]
    following = [nodes for nodes in seen if len(nodes) > 1]
    if len(following) > MAX_OBJECTS:
        raise ValueError(f"A video of {len(following)} tracks cannot be trained on; at most {MAX_OBJECTS} can.")
    return _by_frame(following), _by_frame([nodes for nodes in seen if len(nodes) == 1])


def _by_frame(tracks: list[list[ElementTree.Element]]) -> list[tuple[int, list[Outline]]]:
    frames: dict[int, list[tuple[int, ElementTree.Element]]] = {}
    for object_id, nodes in enumerate(tracks, 1):
        for node in nodes:
            frames.setdefault(int(node.attrib["frame"]), []).append((object_id, node))
    if len(tracks) > MAX_OBJECTS:  # those of single frames: numbered anew in each
        frames = {frame: list(enumerate((node for _, node in found), 1)) for frame, found in frames.items()}
    return [(frame, _in_order(frames[frame])) for frame in sorted(frames)]


def _in_order(nodes: list[tuple[int, ElementTree.Element]]) -> list[Outline]:
    """The outlines from the lowest to the one on top."""
    nodes = sorted(nodes[:MAX_OBJECTS], key=lambda numbered: int(numbered[1].get("z_order", 0)))
    return [(object_id, _shape(node)) for object_id, node in nodes]


def _shape(node: ElementTree.Element) -> Shape:
    """An XML element's shape in the numbers that CVAT sends to functions; a rotated one as a polygon.

    Raises ValueError with one sentence.
    """
    try:
        shape = _parsed(node)
        return parse_shape({"type": shape.type, "points": list(shape.points)})
    except (RequestError, ValueError, KeyError) as error:
        raise ValueError(f"annotations.xml has a damaged {node.tag}: {str(error).rstrip('.')}.") from error


def _parsed(node: ElementTree.Element) -> Shape:
    def numbers(*names: str) -> tuple[float, ...]:
        return tuple(float(node.attrib[name]) for name in names)

    if node.tag == "mask":
        left, top, width, height = (int(node.attrib[name]) for name in ("left", "top", "width", "height"))
        runs = map(int, node.attrib["rle"].split(","))
        return Shape("mask", (*runs, left, top, left + width - 1, top + height - 1))
    if node.tag == "polygon":
        return Shape("polygon", tuple(float(x) for x in re.split("[,;]", node.attrib["points"])))
    if node.tag == "ellipse":
        x, y, rx, ry = numbers("cx", "cy", "rx", "ry")
        shape = Shape("ellipse", (x, y, x + rx, y - ry))
    else:
        shape = Shape("rectangle", numbers("xtl", "ytl", "xbr", "ybr"))
    return unrotated(shape, float(node.get("rotation") or 0))


def _sample(file: Folder, outlines: list[Outline]) -> Sample:
    image = _pixels(file)
    ids = np.zeros(image.shape[:2], np.uint8)
    for object_id, shape in outlines:
        with suppress(RequestError):  # it lies outside of the image, or is too small for a pixel
            ids[_outliner().mask(shape, image)] = object_id
    return shrunk(Sample(image, ids))


def _pixels(file: Folder) -> np.ndarray:
    try:
        return decode_image(_read(file), MAX_PIXELS)
    except RequestError as error:
        raise ValueError(f"{file.name}: {error}") from error


def _coco(file: Folder) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The images of a COCO file by name, with their annotations."""
    data = _read(file)
    try:
        document = json.loads(data)
        names = {image["id"]: image["file_name"] for image in document["images"]}
        found: dict[int, list[dict[str, Any]]] = {number: [] for number in names}
        for annotation in document["annotations"]:
            if annotation.get("segmentation") or annotation.get("bbox"):
                found[annotation["image_id"]].append(annotation)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{file.name} is not a COCO file of instances.") from error
    return ((names[number], annotations) for number, annotations in found.items() if annotations)


def _coco_sample(file: Folder, annotations: list[dict[str, Any]]) -> Sample:
    image = _pixels(file)
    ids = np.zeros(image.shape[:2], np.uint8)
    for object_id, annotation in enumerate(annotations[:MAX_OBJECTS], 1):
        try:
            mask = _coco_mask(annotation, image)
        except (RequestError, ValueError, KeyError, TypeError, IndexError) as error:
            sentence = str(error).rstrip(".")
            raise ValueError(f"An annotation of {file.name} is damaged: {sentence}.") from error
        ids[mask] = object_id
    return shrunk(Sample(image, ids))


@cache
def _outliner() -> Outliner:
    """For boxes; its terms are those of the data with the fewest limits, as what is trained inherits them."""
    return load_outliner(BUNDLED_INTERACTORS["interactor-open"], torch.device("cpu"))


def _coco_mask(annotation: dict[str, Any], image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    segmentation = annotation.get("segmentation")
    if not segmentation:
        left, top, across, down = annotation["bbox"]
        return _outliner().mask(Shape("rectangle", (left, top, left + across, top + down)), image)
    if isinstance(segmentation, list):
        corners = [polygon for polygon in segmentation if len(polygon) >= 6]
        for polygon in corners:  # pycocotools crashes on what is far outside, and takes as long as edges are
            points = np.array(polygon, np.float64)
            if points.size % 2 or not np.all(np.abs(points) <= MAX_COORDINATE):  # false for NaN as well
                raise ValueError(
                    f"a polygon needs pairs of numbers between {-MAX_COORDINATE:.0f} and {MAX_COORDINATE:.0f}"
                )
        if not corners:
            return np.zeros((height, width), bool)
        rle = coco_mask.merge(coco_mask.frPyObjects(corners, height, width))
    elif tuple(segmentation["size"]) != (height, width):  # before anything of that size is built
        raise ValueError("it is for an image of another size")
    else:
        counts = segmentation["counts"]
        runs = np.array(counts if isinstance(counts, list) else _uncompressed(counts), np.float64)
        if not (runs >= 0).all() or runs.sum() != height * width:  # pycocotools would leave pixels unwritten
            raise ValueError("its runs do not fill the image")
        rle = coco_mask.frPyObjects({"size": [height, width], "counts": runs.astype(int).tolist()}, height, width)
    return coco_mask.decode(rle).astype(bool)


def _uncompressed(text: str) -> list[int]:
    """The runs in a string of COCO: groups of five bits, the lowest first; from the fourth on, less the one two before.

    Raises ValueError when it breaks off in the middle of a run.
    """
    runs: list[int] = []
    value = shift = 0
    for byte in text.encode():
        group = byte - 48
        value |= (group & 31) << shift
        shift += 5
        if not group & 32:
            if group & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("its runs break off")
    return runs
