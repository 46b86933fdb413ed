"""What training reads: still images and video sequences with indexed PNG masks, in the folder layout of DAVIS.

    DATA/static/<source>/<name>.jpg + <name>.png
    DATA/video/<source>/<sequence>/<frame>.jpg + <frame>.png

Images may be of any kind that `track` reads, but for .png. In a mask 0 is background, 255 is void (scored as
background) and every other index is one object; a grey mask shows one object.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from maskbank.files.frames import IMAGE_ENDINGS, read_image
from maskbank.files.masks import read_id_mask
from maskbank.tuning.samples import Sample, shrunk

MASK_ENDING = ".png"


def read_sample(image_path: Path) -> Sample:
    """Reads `image_path` and the mask beside it, shrunk to the size that training uses.

    Raises ValueError with one sentence when one of them cannot be used.
    """
    image = read_image(image_path)
    ids = read_id_mask(image_path.with_suffix(MASK_ENDING))
    if ids.shape != image.shape[:2]:
        raise ValueError(f"The mask of {image_path} has another size than the image.")
    return shrunk(Sample(image, ids))


@dataclass(frozen=True)
class Source:
    """Images or sequences of one origin; each item is a list of samples in time order (one for a still)."""

    name: str
    items: list[list[Sample]]


def load_sources(data: Path, exclude: tuple[str, ...] = ()) -> tuple[list[Source], list[Source]]:
    """All stills and all sequences below `data`, decoded into memory (about 1 MB an image).

    exclude: sources, and sequences as <source>/<sequence>, that are not read.

    Raises ValueError with one sentence when the folder holds none.
    """
    stills, videos = [], []
    with ThreadPoolExecutor() as pool:
        for folder in sorted(p for p in (data / "static").glob("*") if p.is_dir() and p.name not in exclude):
            samples = pool.map(read_sample, _annotated(folder))
            items = [[sample] for sample in samples if sample.objects()]
            if items:
                stills.append(Source(folder.name, items))
        for folder in sorted(p for p in (data / "video").glob("*") if p.is_dir() and p.name not in exclude):
            items = []
            for sequence in sorted(path for path in folder.iterdir() if path.is_dir()):
                if f"{folder.name}/{sequence.name}" in exclude:
                    continue
                frames = list(pool.map(read_sample, _annotated(sequence)))
                if len(frames) >= 2:
                    items.append(frames)
            if items:
                videos.append(Source(folder.name, items))
    if not stills and not videos:
        raise ValueError(
            f"{data} holds neither static/<source>/ nor video/<source>/<sequence>/ with images and .png masks beside."
        )
    return stills, videos


def _annotated(folder: Path) -> Iterator[Path]:
    """The images that have a mask, in the order of their names."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGE_ENDINGS - {MASK_ENDING} and path.with_suffix(MASK_ENDING).exists():
            yield path
