"""MaskBank as a CVAT AI agent, for CVAT Online and Enterprise: what cvat-cli loads with --function-file.

    cvat-cli function create-native "AI tracker" --function-file agent/maskbank_agent.py
    cvat-cli function run-agent ID --function-file agent/maskbank_agent.py

The agent tracks object by object and keeps their states in its memory for as long as cvat-cli does.
"""

import io
import os
from dataclasses import dataclass

import cvat_sdk.auto_annotation as cvataa
import numpy as np
from PIL import Image

from maskbank.bank.memory import BankRequest, Memory, Seed
from maskbank.errors import RequestError
from maskbank.files.images import decode_image
from maskbank.networks.outliner import load_outliner
from maskbank.service.heap import TRIM_EVERY, keep_freed_memory, trim_heap
from maskbank.settings import read_settings
from maskbank.shapes.conversion import mask_to_shape
from maskbank.shapes.shape import SHAPE_TYPES, parse_shape
from maskbank.tracking.loading import load_tracker
from maskbank.tracking.tracker import Frame

PARAMETERS = ("model", "weights", "device", "size", "budget", "adapt_seconds")


@dataclass
class TrackingState:
    """What is remembered of one object."""

    memory: Memory


class TrackingFunction:
    """See `cvat_sdk.auto_annotation.TrackingFunction`, which says who calls what."""

    spec = cvataa.TrackingFunctionSpec(supported_shape_types=SHAPE_TYPES)

    def __init__(self, **parameters: object):
        unknown = [name for name in parameters if name not in PARAMETERS]
        if unknown:
            raise ValueError(f"There is no parameter {unknown[0]!r}, only {', '.join(PARAMETERS)}.")
        chosen = {f"MASKBANK_{name.upper()}": str(value) for name, value in parameters.items()}
        settings = read_settings(os.environ | {"MASKBANK_STORE": "memory://"} | chosen)
        keep_freed_memory(os.environ)
        self._max_pixels = settings.max_pixels
        self._tracker, _ = load_tracker(settings)
        self._outliner = load_outliner(settings.interactor, self._tracker.device)
        self._tracked = 0

    def preprocess_image(self, context: cvataa.TrackingFunctionContext, image: Image.Image) -> Frame:
        """The image, of which each part is encoded once; BadFunctionError with one sentence if it cannot be used."""
        return Frame(self._to_rgb(image))

    def init_tracking_state(
        self,
        context: cvataa.TrackingFunctionShapeContext,
        pp_image: Frame,
        shape: cvataa.TrackableShape,
    ) -> TrackingState:
        """Raises BadFunctionError with one sentence for a shape that does not fit its image."""
        try:
            outlined = self._outliner.object_of(
                parse_shape({"type": shape.type, "points": shape.points}), pp_image.image
            )
        except RequestError as error:
            raise refusal(error) from None
        seed = Seed(outlined.mask, outlined.expected_j)
        [(memory, _)] = self._tracker.track(pp_image, [BankRequest(Memory(), {0: seed})])
        return TrackingState(memory)

    def track(
        self, context: cvataa.TrackingFunctionShapeContext, pp_image: Frame, state: TrackingState
    ) -> cvataa.TrackableShape | None:
        """The object in the type of the shape that it was outlined with; None where it is not visible."""
        self._tracked += 1
        if self._tracked % TRIM_EVERY == 0:
            trim_heap()
        [(state.memory, [prediction])] = self._tracker.track(pp_image, [BankRequest(state.memory)])
        found = mask_to_shape(prediction.mask, context.original_shape_type)
        return found and cvataa.TrackableShape(type=found.type, points=found.points)

    def _to_rgb(self, image: Image.Image) -> np.ndarray:
        if image.mode == "RGB" and image.width * image.height <= self._max_pixels:
            return np.array(image)
        # Pillow would make 16 bits all white. In a file without loss, they are read as the Nuclio function reads them.
        file = io.BytesIO()
        try:
            image.save(file, "TIFF")
            return decode_image(file.getvalue(), self._max_pixels)
        except RequestError as error:
            raise refusal(error) from None


def refusal(error: RequestError) -> cvataa.BadFunctionError:
    """The one error whose text cvat-cli passes on to the annotator."""
    return cvataa.BadFunctionError(str(error))


def create(**parameters: object) -> TrackingFunction:
    """For cvat-cli, with its -p options: see `PARAMETERS`; what is not given comes from the environment, MASKBANK_*.

    A wrong one ends the program with a sentence.
    """
    try:
        return TrackingFunction(**parameters)
    except ValueError as error:
        raise SystemExit(f"maskbank_agent: {error}") from None
