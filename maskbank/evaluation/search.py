"""How well an object is found again by search: its own later frames against frames of all other sequences."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from maskbank.evaluation.measures import jaccard
from maskbank.evaluation.sequences import AnnotatedSequence
from maskbank.files.frames import read_image
from maskbank.tracking.search import Match, Searcher
from maskbank.tracking.tracker import Frame, Tracker

FRAMES = 6  # of each sequence, evenly spaced among the annotated ones after the first


@dataclass(frozen=True)
class SearchScore:
    """How well an object was found, with its first frame as reference.

    Attributes:
        right_pairs: the share of pairs, one of its frames and one of another sequence, in which its own has more.
        j: the mean of its own frames.
        best_j: of the one with the highest score, which is what `maskbank job --from-job` would outline.
        found: the share of its own frames in which it is said to be there.
        found_elsewhere: the same of the frames of other sequences.
    """

    sequence: str
    object_id: int
    right_pairs: float
    j: float
    best_j: float
    found: float
    found_elsewhere: float


def evaluate_search(tracker: Tracker, sequences: Sequence[AnnotatedSequence]) -> Iterator[SearchScore]:
    """Searches for each object of each sequence in frames of all of them; those that never show it again are left out.

    Raises ValueError where there is a single sequence.
    """
    if len(sequences) < 2:
        raise ValueError("To see how well objects are found by search takes two sequences or more.")
    frames = [(sequence, *frame) for sequence in sequences for frame in _frames(sequence)]
    objects = [(sequence, object_id) for sequence in sequences for object_id in sequence.objects]
    for sequence, object_id in tqdm(objects, unit="object", desc="searching"):
        searcher = Searcher(tracker, [(_image(sequence, 0), sequence.seed == object_id)])
        own: list[Match] = []
        foreign: list[Match] = []
        overlaps = []
        for shown, index, truth in frames:
            mask = truth == object_id
            if shown is sequence and not mask.any():
                continue
            match = searcher.find(Frame(_image(shown, index)))
            (own if shown is sequence else foreign).append(match)
            if shown is sequence:
                overlaps.append(jaccard(match.mask, mask))
        if own:
            scores, others = (np.array([match.score for match in matches]) for matches in (own, foreign))
            right = (scores[:, None] > others).mean()
            found, elsewhere = (float(np.mean([match.found for match in matches])) for matches in (own, foreign))
            j, best_j = float(np.mean(overlaps)), overlaps[scores.argmax()]
            yield SearchScore(sequence.name, object_id, float(right), j, best_j, found, elsewhere)


def search_report(scores: Sequence[SearchScore]) -> str:
    """A Markdown table: a row per object, and the mean of the objects."""
    numbers = ("right_pairs", "j", "best_j", "found", "found_elsewhere")
    lines = ["| searched for | ranked right, % of pairs | J | J, surest frame | found, % | found elsewhere, % |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    rows = [(f"{each.sequence}, object {each.object_id}", [getattr(each, name) for name in numbers]) for each in scores]
    mean = np.mean([values for _, values in rows], 0).tolist()
    for name, values in [*rows, (f"**mean** ({len(scores)} objects)", mean)]:
        lines.append(f"| {name} | {' | '.join(f'{100 * value:.1f}' for value in values)} |")
    return "\n".join(lines)


def _frames(sequence: AnnotatedSequence) -> list[tuple[int, np.ndarray]]:
    annotated = [(i, truth) for i, truth in enumerate(sequence.truths) if truth is not None][1:]
    chosen = np.linspace(0, len(annotated) - 1, min(FRAMES, len(annotated))).round().astype(int)
    return [annotated[i] for i in chosen]


def _image(sequence: AnnotatedSequence, index: int) -> np.ndarray:
    return read_image(sequence.images[index])
