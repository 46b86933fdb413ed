"""The novelty threshold of weights that were trained: their keys, and with them all distances, are others."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from maskbank.networks.lite import Lite
from maskbank.networks.novelty import found_places, object_novelty
from maskbank.networks.precision import fast_bfloat16
from maskbank.training.clips import ClipMaker, ClipRecipe
from maskbank.training.sources import Source
from maskbank.tuning.unrolling import unroll

CLIPS = 30
FRAMES = 8  # of a clip: long enough for an object to change
# Share of the objects' views in clips that lie above the threshold. Clips change more than films do. For `lite` of 0.10
# it gave 23, where 26 was taken (docs/weights.md).
ABOVE = 0.04


def calibrated_threshold(
    weights: dict[str, Tensor],
    initial: dict[str, Tensor] | None,
    stills: list[Source],
    videos: list[Source],
    recipe: ClipRecipe,
) -> Tensor:
    """The `Lite.novelty_threshold` of weights, from clips of their training data.

    initial: the weights that they started from, whose threshold then is brought to the new scale of distances: the data
    of one job shows too little of what there is to set one. recipe: of the clips, but for their length.
    """
    highest = highest_novelty(weights, stills, videos, recipe)
    if initial is None:
        return weights["novelty_threshold"].new_tensor(highest)
    return initial["novelty_threshold"] * (highest / highest_novelty(initial, stills, videos, recipe))


@torch.inference_mode()
def highest_novelty(
    weights: dict[str, Tensor], stills: list[Source], videos: list[Source], recipe: ClipRecipe
) -> float:
    """The `object_novelty` below which all but `ABOVE` of the objects' views in clips lie; always the same clips."""
    device = weights["novelty_threshold"].device
    network = Lite().to(device).eval()
    network.load_state_dict(weights)
    maker = ClipMaker(stills, videos, np.random.default_rng(0))
    recipe = replace(recipe, frames=FRAMES, cut_away=0.0)
    scores: list[float] = []
    with torch.random.fork_rng([]):
        torch.manual_seed(0)  # for what a clip's memory drops
        for clip in (maker.clip(recipe) for _ in range(CLIPS)):
            images = torch.from_numpy(clip.images).to(device)[None].float() / 255
            ids = torch.from_numpy(clip.ids).to(device)[None].long()
            objects = int(clip.ids[0].max())
            with torch.autocast(device.type, torch.bfloat16, enabled=fast_bfloat16(device)):
                frames = list(unroll(network, images, ids, objects))
            for decoded, novelty, truth, _ in frames:
                found = found_places(decoded.coarse.float())
                score = object_novelty(novelty[:, None].expand(-1, objects, -1), found)[0]
                present = torch.stack([(truth == i).any() for i in range(1, objects + 1)])
                scores += score[present].tolist()
    return float(np.quantile(scores, 1 - ABOVE))
