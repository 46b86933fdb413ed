"""The networks that MaskBank can track with, by name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from maskbank.bank.policies import PAPER_TOTAL, AdaptivePolicy, PaperPolicy, paper_budget
from maskbank.networks.afb_urr import AfbUrr
from maskbank.networks.afb_urr_segmenter import AfbUrrSegmenter
from maskbank.networks.interactor import Interactor
from maskbank.networks.lite import Lite
from maskbank.networks.lite_segmenter import LiteSegmenter
from maskbank.networks.segmenter import Segmenter
from maskbank.networks.weights import WeightsError, fingerprint, fit_weights, interactor_named_in, load_state_dict
from maskbank.resources import WEIGHTS_FOLDER

BUNDLED_INTERACTORS = {name: WEIGHTS_FOLDER / f"{name}.safetensors" for name in ("interactor", "interactor-open")}
BUNDLED_WEIGHTS = {name: WEIGHTS_FOLDER / f"{name}.safetensors" for name in ("lite", "lite-open")}  # for `lite`

Policy = AdaptivePolicy | PaperPolicy


@dataclass(frozen=True)
class Model:
    """A network and the way it tracks.

    Attributes:
        network, segmenter: the two classes that make it.
        policy: from the budget in entries (None: the model's own) and the number of classes, background included,
            to the policy of each bank.
        memorize_every: frames from one memorized frame to the next.
        confident_only: whether frames are memorized only for the objects that the network is sure of.
        short_side: of the working image in pixels, unless the user sets another.
        max_scale: how much a small image may be enlarged to reach it.
        zooms: whether small objects are tracked in a window of the frame.
        searches: whether frames that are not memorized are searched only around where objects were.
        weights: the bundled file; None where the user has to bring one.
    """

    network: Callable[[], nn.Module]
    segmenter: Callable[[Any, torch.device], Segmenter]  # of the model's own network
    policy: Callable[[int | None, int], Policy]
    memorize_every: int
    confident_only: bool
    short_side: int
    max_scale: float
    zooms: bool = False
    searches: bool = False
    weights: Path | None = None


def adaptive(budget: int | None, classes: int) -> AdaptivePolicy:
    """The policy of a bank for objects that share keys; the same for any number of classes."""
    return AdaptivePolicy() if budget is None else AdaptivePolicy(budget)


def paper(budget: int | None, classes: int) -> PaperPolicy:
    """The policy of one class's bank, whose budget is its share of the whole."""
    return PaperPolicy(paper_budget(PAPER_TOTAL if budget is None else budget, classes))


MODELS = {
    "lite": Model(
        network=Lite,
        segmenter=LiteSegmenter,
        policy=adaptive,
        memorize_every=3,
        confident_only=True,
        short_side=480,
        max_scale=2.0,
        zooms=True,
        searches=True,
        weights=BUNDLED_WEIGHTS["lite"],
    ),
    "afb-urr": Model(
        network=AfbUrr,
        segmenter=AfbUrrSegmenter,
        policy=adaptive,
        memorize_every=5,
        confident_only=True,
        short_side=480,
        max_scale=1.0,
    ),
    # As in the authors' experiments: every frame is memorized, with the soft probabilities, sure or not.
    "afb-urr-paper": Model(
        network=AfbUrr,
        segmenter=partial(AfbUrrSegmenter, exact=True),
        policy=paper,
        memorize_every=1,
        confident_only=False,
        short_side=480,
        max_scale=1.0,
    ),
}


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{name: model.network for name, model in MODELS.items()},
    "interactor": Interactor,
}


def interactor_beside(weights: Path | None) -> Path:
    """The bundled weights of the interactor that go with a tracker's: their terms must not be stricter."""
    if weights and (weights.stem == "lite-open" or interactor_named_in(weights) == "interactor-open"):
        return BUNDLED_INTERACTORS["interactor-open"]
    return BUNDLED_INTERACTORS["interactor"]


def load_segmenter(name: str, weights: Path | None, device: torch.device) -> tuple[Segmenter, str]:
    """The named model's network with its weights, and their fingerprint.

    weights: None takes the bundled file. Raises WeightsError with one sentence.
    """
    model = MODELS[name]
    weights = weights or model.weights
    if weights is None:
        raise WeightsError(
            f"The model {name} brings no weights: set MASKBANK_WEIGHTS to a checkpoint that AFB-URR's authors released."
        )
    network = model.network()
    fit_weights(network, load_state_dict(weights), str(weights))
    identity = fingerprint(network)
    return model.segmenter(network, device), identity
