"""Where a frame's time goes: seconds and floating-point operations of each stage, and what the machine could do."""

from collections import Counter
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from maskbank.networks.precision import fast_bfloat16
from maskbank.service import service
from maskbank.tracking import aggregation, tracker

STAGES = (
    "decode",
    "resize",
    "encode",
    "read-out",
    "decoder",
    "refinement",
    "aggregate",
    "value",
    "bank",
    "store",
    "shapes",
)
CALLS = 10  # of which the best counts


class StageTimer:
    """Functions that add what they take to stages; a stage within another counts only for itself.

    Attributes:
        seconds, flops: by stage; flops only while `counter` counts.
    """

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.flops: Counter[str] = Counter()
        self.counter: FlopCounterMode | None = None
        self._within: list[list[float]] = []  # of each stage that goes on: seconds and operations of those inside it

    def wrap(self, owner: Any, name: str, stage: str) -> None:
        """Replaces a function of a module or an object."""
        function = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            self._within.append([0.0, 0.0])
            flops, started = self._flops(), perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                seconds, flops = perf_counter() - started, self._flops() - flops
                inner_seconds, inner_flops = self._within.pop()
                self.seconds[stage] += seconds - inner_seconds
                self.flops[stage] += flops - inner_flops
                if self._within:
                    self._within[-1][0] += seconds
                    self._within[-1][1] += flops

        setattr(owner, name, timed)

    def clear(self) -> None:
        """Forgets what was counted so far."""
        self.seconds.clear()
        self.flops.clear()

    def _flops(self) -> int:
        return self.counter.get_total_flops() if self.counter else 0


def time_stages(timer: StageTimer, worker: service.Service) -> None:
    """Lets a timer see all stages of a service."""
    segmenter = worker.tracker.segmenter
    timer.wrap(service, "decode_image", "decode")
    timer.wrap(tracker, "resize_image", "resize")
    timer.wrap(segmenter, "encode", "encode")
    timer.wrap(segmenter, "memorize", "value")
    timer.wrap(worker.tracker, "_memorize", "bank")
    timer.wrap(aggregation, "probabilities_of", "aggregate")
    timer.wrap(aggregation, "object_map", "aggregate")
    for name in ("load", "save"):
        timer.wrap(worker.store, name, "store")
    for name in ("shape_for_cvat", "state_of", "next_revision"):
        timer.wrap(service, name, "shapes")
    timer.wrap(segmenter, "segment", "decoder")  # but for what is below
    if hasattr(segmenter.network, "neck"):  # `lite`
        from maskbank.networks import lite_segmenter as reader

        timer.wrap(segmenter.network.decoder.refinement, "forward", "refinement")
    else:
        from maskbank.networks import afb_urr as reader
    timer.wrap(reader, "read", "read-out")


def ceilings() -> dict[str, float]:
    """Floating-point operations per second of a large convolution and a large product of matrices, by name.

    In the layout and the precisions that `lite` uses here; the best of several.
    """
    found = {}
    kinds = [torch.float32] + ([torch.bfloat16] if fast_bfloat16(torch.device("cpu")) else [])
    with torch.inference_mode():
        for kind in kinds:
            name = str(kind).removeprefix("torch.")
            images = torch.rand(1, 160, 60, 108, dtype=kind).contiguous(memory_format=torch.channels_last)
            weights = torch.rand(160, 160, 3, 3, dtype=kind).contiguous(memory_format=torch.channels_last)
            matrix = torch.rand(1024, 1024, dtype=kind)
            operations = 2 * images.numel() * 160 * 9
            found[f"convolution, {name}"] = operations / best_of(F.conv2d, images, weights, padding=1)
            found[f"matrices, {name}"] = 2 * 1024**3 / best_of(torch.mm, matrix, matrix)
    return found


def best_of(function: Any, *arguments: Any, **named: Any) -> float:
    """The fewest seconds that one of several calls took."""
    function(*arguments, **named)
    seconds = []
    for _ in range(CALLS):
        started = perf_counter()
        function(*arguments, **named)
        seconds.append(perf_counter() - started)
    return min(seconds)
