"""`Interactor` as the function, jobs and the agent use it: the object that a person means with a box or clicks."""

from math import ceil
from pathlib import Path

import numpy as np
import torch

from maskbank.errors import RequestError
from maskbank.networks.interactor import Interactor
from maskbank.networks.lite_segmenter import fast_bfloat16, fold_batch_norm
from maskbank.networks.prompts import OUTSIDE, Prompts, window_around
from maskbank.networks.weights import fit_weights, load_state_dict
from maskbank.shapes.conversion import shape_to_mask
from maskbank.shapes.polygon import fill_ellipse
from maskbank.shapes.shape import Shape

MIN_FILL = 0.05  # of the box; a smaller mask is a failure, not a finding


class Outliner:
    """Finds objects in images; on one machine the same prompts and image always give the same mask.

    Args:
        network: with its weights.
        device: where it computes.
    """

    def __init__(self, network: Interactor, device: torch.device):
        folded = fold_batch_norm(network.eval()).requires_grad_(False)
        self.network: Interactor = folded.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device = device

    def mask(self, shape: Shape, image: np.ndarray) -> np.ndarray:
        """The pixels that a shape means on its image: in a rectangle the object, else see `shape_to_mask`.

        Args:
            shape: as `parse_shape` or `mask_to_shape` returns it.
            image: (H, W, 3) uint8 RGB.

        Returns:
            (H, W) bool with at least one pixel set.

        Raises:
            RequestError: the shape does not fit the image or covers none of its pixels.
        """
        if shape.type == "rectangle":
            return self.object_in_box(shape.points, image)
        return shape_to_mask(shape, *image.shape[:2])

    def object_in_box(self, points: tuple[float, ...], image: np.ndarray) -> np.ndarray:
        """The object in a box; where nearly nothing is found, the ellipse in the box.

        As people draw boxes in haste, the mask may reach a little beyond.

        Args:
            points: left, top, right, bottom in pixels; cut off at the image's edges.
            image: (H, W, 3) uint8 RGB.

        Returns:
            (H, W) bool with at least one pixel set. Raises RequestError when the box covers no pixel.
        """
        height, width = image.shape[:2]
        if points[0] >= points[2] or points[1] >= points[3]:
            raise RequestError("The rectangle is empty: its right and bottom edges must lie beyond left and top.")
        left, right = np.clip(points[0::2], 0, width).tolist()
        top, bottom = np.clip(points[1::2], 0, height).tolist()
        if ceil(left - 0.5) >= ceil(right - 0.5) or ceil(top - 0.5) >= ceil(bottom - 0.5):  # no pixel's centre
            raise RequestError(f"The rectangle covers no pixel of the image of {width} x {height} pixels.")
        found = self.object_at(Prompts(box=(left, top, right, bottom)), image)
        if found.sum() < MIN_FILL * (right - left) * (bottom - top):
            found = fill_ellipse(((left + right) / 2, (top + bottom) / 2, right, top), height, width)
        if not found.any():  # too thin for an ellipse: the pixels whose centres it holds
            found[ceil(top - 0.5) : ceil(bottom - 0.5), ceil(left - 0.5) : ceil(right - 0.5)] = True
        return found

    def object_at(self, prompts: Prompts, image: np.ndarray) -> np.ndarray:
        """What the network finds: (H, W) bool, perhaps empty; arguments as in `object_in_box`, `prompts` with a box."""
        assert prompts.box is not None
        window = window_around(prompts.box)
        crop, drawn = (
            torch.from_numpy(pixels)[None].to(self.device).float() / 255
            for pixels in (window.crop(image, OUTSIDE).transpose(2, 0, 1), prompts.draw(window))
        )
        fast = torch.autocast(self.device.type, torch.bfloat16, enabled=fast_bfloat16(self.device))
        with torch.inference_mode(), fast:
            logits = self.network(crop.contiguous(memory_format=torch.channels_last), drawn).logits[0]
        return window.paste(logits.float().cpu().numpy(), *image.shape[:2])


def load_outliner(weights: Path, device: torch.device) -> Outliner:
    """The interactor with the weights in a file. Raises WeightsError with one sentence."""
    network = Interactor()
    fit_weights(network, load_state_dict(weights), str(weights))
    return Outliner(network, device)
