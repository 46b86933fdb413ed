"""What `Lite.strange` is for weights that were trained: their keys, and with them all distances, are others."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from maskbank.networks.lite import Lite, resemblance
from maskbank.networks.segmenter import fast_bfloat16
from maskbank.training.clips import ClipMaker, Recipe
from maskbank.training.data import Source
from maskbank.training.unrolling import unroll

CLIPS = 30
FRAMES = 8  # of a clip: long enough for an object to change
# Share of the objects' views in clips that lie beyond the limit. Clips change more than films do: on the data of the
# bundled weights this gives about their -61, and in its whole sequences no view was as far.
BEYOND = 0.04


def measure_strange(
    weights: dict[str, Tensor],
    initial: dict[str, Tensor] | None,
    stills: list[Source],
    videos: list[Source],
    recipe: Recipe,
) -> Tensor:
    """What `Lite.strange` should be for weights, from clips of their training data.

    initial: the weights that they started from, whose limit then is brought to the new scale of distances: the data of
    one job shows too little of what there is to set one. recipe: of the clips, but for their length.
    """
    far = far_views(weights, stills, videos, recipe)
    if initial is None:
        return weights["strange"].new_tensor(far)
    return initial["strange"] * (far / far_views(initial, stills, videos, recipe))


@torch.inference_mode()
def far_views(weights: dict[str, Tensor], stills: list[Source], videos: list[Source], recipe: Recipe) -> float:
    """The `resemblance` above which all but `BEYOND` of the objects' views in clips lie; the same clips every time."""
    device = weights["strange"].device
    network = Lite().to(device).eval()
    network.load_state_dict(weights)
    maker = ClipMaker(stills, videos, np.random.default_rng(0))
    recipe = replace(recipe, frames=FRAMES, cut_away=0.0)
    views = []
    with torch.random.fork_rng([]):
        torch.manual_seed(0)  # for what a clip's memory drops
        for clip in (maker.clip(recipe) for _ in range(CLIPS)):
            images = torch.from_numpy(clip.images).to(device)[None].float() / 255
            ids = torch.from_numpy(clip.ids).to(device)[None].long()
            objects = int(clip.ids[0].max())
            with torch.autocast(device.type, torch.bfloat16, enabled=fast_bfloat16(device)):
                answers = list(unroll(network, images, ids, objects))
            for decoded, familiar, truth, _ in answers:
                alike = resemblance(familiar[:, None].expand(-1, objects, -1), decoded.rough.float())[0]
                there = torch.stack([(truth == i).any() for i in range(1, objects + 1)])
                views += alike[there].tolist()
    return float(np.quantile(views, BEYOND))
