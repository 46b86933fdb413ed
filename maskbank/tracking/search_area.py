"""Looking only where objects can be: most frames need not be seen in full to follow what was seen in the frame before.

Trackers of boxes have such a search area (SiamFC, Bertinetto et al., 2016, arXiv 1606.09549). Here it has the scale of
the whole image and lies on the grid of the network's features, which in it are what they are in the whole, but for its
rim. Margins and shares were chosen with `lite-open` on 13 training sequences of DAVIS-2016, which those weights never
saw: 83.6 J&F, and 83.7 where every frame is seen in full.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from maskbank.bank.memory import BankRequest
from maskbank.networks.aggregation import HIDDEN_LOGIT
from maskbank.networks.search_area import SearchArea
from maskbank.shapes.rle import mask_box

STRIDE, PREV_MASK_STRIDE = 16, 4  # of the network's features, and of a previous mask, in pixels of the working image
MARGIN, RELATIVE_MARGIN = 32, 0.15  # around an object: working pixels, and share of its own width and height
SHRUNK = 0.5  # share of its former pixels; of an object with fewer, the rest may be elsewhere
LEAST_SIDE = 240  # pixels; in smaller working images an area would be little but rim, and they are quick anyhow
LARGEST = 0.8  # share of all cells; a larger area gains too little over the whole
FAINTEST = 1 / 64  # of what a place of a previous mask can have: less than a single pixel makes of it is nothing


def whole_area(working: tuple[int, int]) -> SearchArea:
    """All cells of a working image of a height and width; the last ones may reach beyond it."""
    height, width = (max(-(-side // STRIDE), 2) for side in working)
    return SearchArea(0, 0, width, height)


def search_areas(request: BankRequest, working: tuple[int, int]) -> list[SearchArea]:
    """Where each object of a request's memory is looked for.

    It is the whole working image where an object was not seen in the frame before, as then it may be anywhere; where
    the area would be hardly smaller; and where the image is small.
    """
    whole, prev_mask = whole_area(working), request.memory.prev_mask
    per_cell = STRIDE // PREV_MASK_STRIDE
    other_size = prev_mask.shape[1:] != (per_cell * whole.bottom, per_cell * whole.right)  # of the image before
    if other_size or min(working) < LEAST_SIDE:
        return [whole] * request.memory.objects
    boxes = [mask_box(mask) for mask in seen_places(prev_mask).cpu().numpy()]
    areas = []
    for box in boxes:
        area = whole
        if box:
            left, right = _extent(box[0], box[2] + 1, whole.right)
            top, bottom = _extent(box[1], box[3] + 1, whole.bottom)
            area = SearchArea(left, top, right, bottom)
        areas.append(area if area.cells <= LARGEST * whole.cells else whole)
    return areas


def seen_places(prev_mask: Tensor) -> Tensor:
    """Where objects were seen in the frame before: a previous mask (n, 4h, 4w) → bool.

    They fill more than half of a place; or, where a small or thin one nowhere does, half of what it fills at most.
    """
    fullest = prev_mask.amax((1, 2), keepdim=True)
    return prev_mask > torch.where(fullest > 0.5, 0.5, fullest / 2).clamp(min=FAINTEST)


def common_area(areas: Sequence[SearchArea], working: tuple[int, int]) -> SearchArea:
    """The smallest one around all areas, or the whole working image where that is hardly larger."""
    whole = whole_area(working)
    common = SearchArea(
        min(area.left for area in areas),
        min(area.top for area in areas),
        max(area.right for area in areas),
        max(area.bottom for area in areas),
    )
    return common if common.cells <= LARGEST * whole.cells else whole


def in_area(request: BankRequest, area: SearchArea) -> BankRequest:
    """A request about a working image as one about a part of it, with a previous mask of that working image."""
    prev_mask = area.cut(request.memory.prev_mask, STRIDE // PREV_MASK_STRIDE)
    return replace(request, memory=replace(request.memory, prev_mask=prev_mask))


def pasted(logits: Tensor, area: SearchArea, working: tuple[int, int]) -> Tensor:
    """Logits in an area, (n, h, w), in the whole working image, (n, H, W): no object has a pixel outside."""
    left, top = area.left * STRIDE, area.top * STRIDE
    right, bottom = working[1] - left - logits.shape[2], working[0] - top - logits.shape[1]
    return F.pad(logits, (left, right, top, bottom), value=HIDDEN_LOGIT)


def may_be_outside(logits: Tensor, prev_mask: Tensor, area: SearchArea, working: tuple[int, int]) -> bool:
    """Whether more of an object may be outside of its area: it comes near the rim, or much of it is not found any more.

    logits: (H, W), prev_mask: (4h, 4w), both in the whole working image.
    """
    whole = whole_area(working)
    if area == whole:
        return False
    inside = area.cut(logits, STRIDE)
    rims = (
        (area.left > whole.left, inside[:, :STRIDE]),
        (area.top > whole.top, inside[:STRIDE]),
        (area.right < whole.right, inside[:, -STRIDE:]),
        (area.bottom < whole.bottom, inside[-STRIDE:]),
    )
    at_rim = any(has_outside and bool((rim > 0).any()) for has_outside, rim in rims)
    before = int(seen_places(prev_mask[None]).sum()) * PREV_MASK_STRIDE**2
    return at_rim or int((inside > 0).sum()) < SHRUNK * before


def _extent(first: int, last: int, cells: int) -> tuple[int, int]:
    """From and to which cell an area reaches that has an object between two places of a previous mask."""
    margin = MARGIN / PREV_MASK_STRIDE + RELATIVE_MARGIN * (last - first)
    per_cell = STRIDE // PREV_MASK_STRIDE
    start = min(max(int((first - margin) // per_cell), 0), cells - 2)
    return start, max(min(int(-(-(last + margin) // per_cell)), cells), start + 2)
