"""Filling polygons and ellipses, and the outline of a mask as a polygon that an annotator can edit."""

from bisect import bisect_left
from collections.abc import Sequence
from heapq import heapify, heappop, heappush

import cv2
import numpy as np

from maskbank.errors import RequestError, TooLargeError

POLYGON_POINTS = 200  # a polygon in a reply has at most this many points: an annotator has to edit it
POLYGON_IOU = 0.97  # aimed at with as few points as possible; 0.95 is promised wherever 200 points allow it
MAX_CROSSINGS = 1_000_000  # of edges with columns; an object's outline has some ten thousand, however fine
OUTLINE_PIXELS = 10_000_000  # a larger mask is outlined at half its resolution
CONTOUR_LIMIT = 50_000  # half pixels along the outline; a longer one is taken at half the resolution
OUTLINE_LIMIT = 3000  # points; of a longer outline the finest detail goes first, for speed


def check_crossings(corners: np.ndarray, width: int) -> None:
    """Raises TooLargeError for a polygon (as in `fill_polygon`) that takes too long to fill."""
    ends = np.clip(corners[:, 0], 0, width)
    if np.abs(ends - np.roll(ends, -1)).sum() > MAX_CROSSINGS:
        raise TooLargeError("The polygon goes to and fro across the image too often; outline the object itself.")


def fill_polygon(corners: np.ndarray, height: int, width: int) -> np.ndarray:
    """Fill a polygon by the even-odd rule: a pixel is inside if an odd number of edges lie above its centre.

    Takes some hundred bytes for each column that an edge crosses: `check_crossings` comes first.

    Args:
        corners: (N, 2) float64, x and y in pixels, in any order and anywhere.

    Returns:
        (height, width) bool.
    """
    mask = np.zeros((height, width), bool)
    # Work in the box of the polygon only; a centre at i + 0.5 is at or right of x from i = ceil(x - 0.5).
    limits = (width, height)
    left, top = np.clip(np.ceil(corners.min(axis=0) - 0.5), 0, limits).astype(int)
    right, bottom = np.clip(np.ceil(corners.max(axis=0) - 0.5), 0, limits).astype(int)
    if left >= right or top >= bottom:
        return mask

    ends = np.roll(corners, -1, axis=0)
    swap = (corners[:, 0] > ends[:, 0])[:, None]  # so that an edge is computed alike in both directions
    x0, y0 = np.where(swap, ends, corners).T
    x1, y1 = np.where(swap, corners, ends).T
    first = np.clip(np.ceil(x0 - 0.5), left, right).astype(np.int64)
    spans = np.clip(np.ceil(x1 - 0.5), left, right).astype(np.int64) - first  # columns that an edge crosses
    slopes = (y1 - y0) / np.where(x1 > x0, x1 - x0, 1.0)

    toggles = np.zeros((bottom - top + 1, right - left), np.uint8)
    edge = np.repeat(np.arange(len(spans)), spans)
    column = first[edge] + np.arange(len(edge)) - (np.cumsum(spans) - spans)[edge]
    crossing = y0[edge] + (column + 0.5 - x0[edge]) * slopes[edge]
    row = np.clip(np.ceil(crossing - 0.5), top, bottom).astype(np.int64)
    np.bitwise_xor.at(toggles.reshape(-1), (row - top) * (right - left) + column - left, np.uint8(1))
    for above, row in zip(toggles, toggles[1:], strict=False):  # faster than bitwise_xor.accumulate
        row ^= above
    mask[top:bottom, left:right] = toggles[:-1]
    return mask


def fill_ellipse(points: Sequence[float], height: int, width: int) -> np.ndarray:
    """Fill the upright ellipse [centre x, centre y, right x, top y]; returns (height, width) bool."""
    x, y, right, top = points
    radius_x, radius_y = right - x, y - top
    if radius_x <= 0 or radius_y <= 0:
        raise RequestError("An ellipse needs its right point right of its centre and its top point above it.")
    rows = (np.arange(height) + 0.5 - y) / radius_y
    columns = (np.arange(width) + 0.5 - x) / radius_x
    inside: np.ndarray = np.square(columns)[None, :] <= (1.0 - np.square(rows))[:, None]
    return inside


def largest_outline(mask: np.ndarray) -> np.ndarray:
    """Outline the largest part of a mask (8-connected, its holes filled) with few points.

    With as few points as give an IoU of `POLYGON_IOU` with that part when filled again; where
    `POLYGON_POINTS` points are too few for that, with these points.

    Args:
        mask: (H, W) bool, not empty.

    Returns:
        (N, 2) float64, x and y in pixels, N from 4 to `POLYGON_POINTS`.
    """
    corners = _outline(mask)
    coarse = mask
    scale = 1
    while corners is None:  # so many points are noise, or teeth of single pixels, which no annotator could edit
        scale *= 2
        coarse = _halved(coarse)
        corners = _outline(coarse)
    outline: np.ndarray = np.minimum(corners * scale, mask.shape[::-1])
    return outline


def _halved(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool at half the resolution: set where any of four pixels is."""
    height, width = mask.shape
    even = np.zeros((height + height % 2, width + width % 2), bool)
    even[:height, :width] = mask
    return even[::2, ::2] | even[1::2, ::2] | even[::2, 1::2] | even[1::2, 1::2]


def _outline(mask: np.ndarray) -> np.ndarray | None:
    """As `largest_outline`; None if the mask is too large or too ragged to be outlined in time."""
    if mask.size > OUTLINE_PIXELS:
        return None
    height, width = mask.shape
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    # findContours walks through the centres of border pixels, which would cost half a pixel all around (all
    # of a thin object). So it gets a grid twice as fine, of the corners, edge middles and centres of pixels.
    grid = np.zeros((2 * height + 1, 2 * width + 1), np.uint8)
    part = (parts == largest).astype(np.uint8)
    for dy, dx in np.ndindex(3, 3):
        grid[dy : dy + 2 * height : 2, dx : dx + 2 * width : 2] |= part
    contours, _ = cv2.findContours(grid, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    contour = contours[0]  # (N, 1, 2), of the one part there is
    if len(contour) > CONTOUR_LIMIT:
        return None
    filled = fill_polygon(contour[:, 0] / 2.0, height, width)

    # Through the corners of pixels a box is exact; through the middles of their edges the stairs of a slanting
    # side become straight, which a line of one pixel needs. Which one takes fewer points shows afterwards.
    middles = contour[contour.sum(axis=(1, 2)) % 2 == 1]
    found = [_simplify(line, filled) for line in (contour, middles)]
    return max(found, key=lambda each: (min(each[1], POLYGON_IOU), -len(each[0])))[0]


def _simplify(line: np.ndarray, filled: np.ndarray) -> tuple[np.ndarray, float]:
    """Choose the points of an outline that are worth most (Visvalingam and Whyatt 1993, "effective area").

    Args:
        line: (N, 1, 2) int32, a closed outline in half pixels.
        filled: (H, W) bool, what it encloses.

    Returns:
        The chosen points (n, 2) float64 in pixels, and the IoU that they reach when filled.
    """
    outline = cv2.approxPolyDP(line, 0.0, True)[:, 0]  # without what lies on straight lines
    tolerance = 0.5  # half pixels
    while len(outline) > OUTLINE_LIMIT:
        coarser = cv2.approxPolyDP(line, tolerance, True)[:, 0]
        if len(coarser) < POLYGON_POINTS:  # too coarse for the object, such as a long comb with short teeth
            break
        outline, tolerance = coarser, 2 * tolerance
    by_worth = np.argsort(_worth(outline))[::-1]

    def corners(count: int) -> np.ndarray:
        return outline[np.sort(by_worth[:count])] / 2.0

    def iou(count: int) -> float:
        again = fill_polygon(corners(count), *filled.shape)
        return np.count_nonzero(again & filled) / np.count_nonzero(again | filled)

    count = most = min(len(outline), POLYGON_POINTS)
    if iou(most) >= POLYGON_IOU:  # fewer points are (nearly always) worse, so bisect finds how few are enough
        counts = range(4, most + 1)
        count = counts[bisect_left(counts, True, hi=most - 4, key=lambda few: iou(few) >= POLYGON_IOU)]
    return corners(count), iou(count)


def _worth(outline: np.ndarray) -> np.ndarray:
    """Rank the points of a closed outline (N, 2) by the order in which they can be left out.

    The next point to leave out is the one that spans the smallest triangle with its two neighbours of the
    moment, because that changes the enclosed area least.

    Returns:
        (N,) int64, 0 for the first point that can go.
    """
    count = len(outline)
    x, y = outline.T.tolist()
    before = [count - 1, *range(count - 1)]
    after = [*range(1, count), 0]

    def triangle(i: int) -> int:
        a, b = before[i], after[i]
        area: int = abs((x[a] - x[i]) * (y[b] - y[i]) - (x[b] - x[i]) * (y[a] - y[i]))
        return area

    areas = [triangle(i) for i in range(count)]
    queue = [(area, i) for i, area in enumerate(areas)]
    heapify(queue)
    ranks = np.zeros(count, np.int64)
    rank = 0
    while queue:
        area, i = heappop(queue)
        if area != areas[i]:
            continue  # an outdated entry, or a point that is gone
        ranks[i], areas[i] = rank, -1
        rank += 1
        a, b = before[i], after[i]
        after[a], before[b] = b, a
        for each in (a, b):
            if areas[each] >= 0:
                areas[each] = max(area, triangle(each))  # never less than what is gone already
                heappush(queue, (areas[each], each))
    return ranks
