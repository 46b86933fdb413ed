"""The one interface behind which the networks track: encode a frame, memorize it, segment it with banks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from maskbank.bank.entries import Entries
from maskbank.bank.feature_bank import FeatureBank
from maskbank.bank.memory import BankRequest
from maskbank.networks.search_area import SearchArea


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The n objects of one memory in one frame."""

    logits: Tensor  # (n, H, W) float32, each against the background, whose own logit is 0
    presence: Tensor  # (n,) probability that the object is in the frame
    quality: Tensor  # (n,) Jaccard index of the mask, as the network expects it
    expected_j: Tensor  # (n,) the same, as far as the outlined frames support it
    usage: tuple[Tensor, ...]  # of each bank: what its usage counters grow by, (N,)
    areas: tuple[SearchArea, ...]  # where each object was looked for


class Segmenter(Protocol):
    """A network as the tracker uses it; images are (1, 3, H, W) RGB in [0, 1]."""

    def encode(self, image: Tensor) -> Any:
        """The features of an image, which is encoded once and handed to the other calls about it."""

    def segment(
        self, features: Any, requests: Sequence[BankRequest], areas: Sequence[Sequence[SearchArea]], strict: bool
    ) -> list[Segmentation]:
        """Reads the banks of memories, which have objects, and finds these objects in an image; seeds do not count.

        Args:
            areas: where each object of each memory may be looked for alone.
            strict: not to look farther where an object seems to be outside of its area.
        """

    def add_objects(self, banks: tuple[FeatureBank, ...], count: int) -> tuple[FeatureBank, ...]:
        """The banks of a memory to which `count` new objects come; () is those of an empty memory."""

    def memorize(self, features: Any, probabilities: Tensor, valid: Tensor, frame: int) -> tuple[Entries | None, ...]:
        """What each bank has to memorize of an image, None for nothing.

        probabilities: (n, H, W); valid: (n,) bool, the objects that may memorize it; frame: the image's index.
        """

    def prev_mask(self, probabilities: Tensor) -> Tensor:
        """What the network needs of a frame's masks when it segments the next: (n, H, W) → (n, ...)."""
