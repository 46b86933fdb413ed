"""What a run of training keeps in its folder: it may be stopped and resumed at any minute."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskbank.files.atomic import atomic_write
from maskbank.networks.weights import fit_weights
from maskbank.training.schedules import Clock

FILE = "state.pt"


def begun(out: Path) -> bool:
    """Whether there is a run in a folder to be resumed."""
    return (out / FILE).exists()


class WeightAverage:
    """Exponential moving average of a network's weights and batch-norm statistics; counters are as they are."""

    DECAY = 0.999

    def __init__(self, network: nn.Module):
        weights = {name: value.detach().clone() for name, value in network.state_dict().items()}
        self.state = {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Takes in the weights after a step."""
        decay = min(self.DECAY, (1 + step) / (20 + step))
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value.float(), 1 - decay)
            else:
                self.state[name].copy_(value)


class RunState:
    """The state of a run: network, optimizer, averaged weights, clock.

    Args:
        out: the folder of the run.
        options: what the run was begun with, by the names of the command line; it can only be resumed with the same.
    """

    def __init__(
        self,
        out: Path,
        options: Mapping[str, object],
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: WeightAverage,
        clock: Clock,
    ):
        self._out, self._options = out, dict(options)
        self._network, self._optimizer, self._average, self._clock = network, optimizer, average, clock

    def resume(self) -> dict[str, Any]:
        """Takes up the run in the folder; returns what else was saved with it, by name.

        Raises ValueError with one sentence when it cannot be gone on with.
        """
        path = self._out / FILE
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if state.get("options", {}).keys() != self._options.keys():
            raise ValueError(f"The run in {self._out} is one of an earlier version: take another --out.")
        if changed := [name for name, value in self._options.items() if state["options"][name] != value]:
            raise ValueError(
                f"The run in {self._out} began with another {changed[0]}: repeat that, or take another --out."
            )
        del state["options"]
        fit_weights(self._network, state.pop("network"), str(path))
        self._optimizer.load_state_dict(state.pop("optimizer"))
        average = state.pop("average")
        self._average.state = {name: average[name].to(own) for name, own in self._average.state.items()}
        self._clock.step, self._clock.spent_s = state.pop("step"), state.pop("spent_s")
        return state

    def save(self, **more: dict[str, Tensor] | None) -> None:
        """Writes it, and more with it; a stop in the middle leaves the former file whole."""
        state = {
            "network": self._network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "average": self._average.state,
            "step": self._clock.step,
            "spent_s": self._clock.seconds,
            "options": self._options,
        }
        with atomic_write(self._out / FILE) as draft:
            torch.save(state | more, draft)
