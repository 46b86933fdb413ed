"""How often what is proposed for a clip without a seed is what was annotated in it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from maskbank.evaluation.measures import jaccard
from maskbank.evaluation.sequences import AnnotatedSequence
from maskbank.files.frames import read_image
from maskbank.networks.outliner import Outliner
from maskbank.proposals.propose import SURE_FROM, frames_to_look_at, frames_to_read, propose
from maskbank.tracking.tracker import Tracker

RIGHT_FROM = 0.7  # J of the first proposal with the annotated object that it fits best


@dataclass(frozen=True)
class ProposalScore:
    """How well the first proposal for a sequence fits an annotated object.

    frame: suggested, counted from the first annotated one; None: nothing was proposed.
    j: of the first proposal with the object that it fits best.
    objects: how many were proposed.
    """

    sequence: str
    frame: int | None
    j: float
    objects: int
    recurrence: float


def evaluate_proposals(
    tracker: Tracker, outliner: Outliner, sequences: Sequence[AnnotatedSequence]
) -> Iterator[ProposalScore]:
    """Proposes for each sequence, on annotated frames only."""
    for sequence in tqdm(sequences, unit="sequence", desc="proposing"):
        truths = {i: truth for i, truth in enumerate(sequence.truths) if truth is not None}
        wanted = frames_to_look_at(len(sequence.images))
        looked_at = sorted({min(truths, key=lambda i: abs(i - each)) for each in wanted})
        needed = frames_to_read(looked_at, len(sequence.images))
        images = ((i, read_image(sequence.images[i])) for i in needed)
        found = propose(images, looked_at, tracker, outliner)
        if found is None:
            yield ProposalScore(sequence.name, None, 0.0, 0, 0.0)
            continue
        truth = truths[found.frame]
        overlaps = [jaccard(found.ids == 1, truth == object_id) for object_id in np.unique(truth[truth > 0])]
        yield ProposalScore(sequence.name, found.frame, max(overlaps, default=0.0), found.count, found.recurrence)


def proposal_report(scores: Sequence[ProposalScore]) -> str:
    """A Markdown table: a row per sequence, then how often the proposals were right."""
    lines = ["| sequence | frame | J | objects | recurrence |", "| --- | --- | --- | --- | --- |"]
    for each in scores:
        frame = "none" if each.frame is None else each.frame
        lines.append(f"| {each.sequence} | {frame} | {100 * each.j:.1f} | {each.objects} | {each.recurrence:.2f} |")
    right = [each.j >= RIGHT_FROM for each in scores]
    sure = [each.j >= RIGHT_FROM for each in scores if each.recurrence >= SURE_FROM]
    lines += [
        "",
        f"Right (J of {100 * RIGHT_FROM:.0f} or more) in {sum(right)} of {len(right)} sequences; of the {len(sure)} "
        f"that are rather sure in {sum(sure)}. Mean J {100 * np.mean([each.j for each in scores]):.1f}.",
    ]
    return "\n".join(lines)
