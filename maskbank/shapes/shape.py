"""A shape as CVAT sends and takes it."""

from dataclasses import dataclass

from maskbank.errors import RequestError, TooLargeError

SHAPE_TYPES = ("mask", "polygon", "rectangle", "ellipse")

MAX_COORDINATE = 1e6  # pixels, either sign; far beyond any image, near enough for exact arithmetic
MAX_RUN = 1e9  # pixels; a run of a mask can be as long as an image has pixels
MAX_MASK_NUMBERS = 2_000_000  # a 4K mask drawn by hand has some ten thousand
MAX_POLYGON_NUMBERS = 20_000  # 10 000 points; "intelligent scissors" draw a few thousand


@dataclass(frozen=True)
class Shape:
    """One of `SHAPE_TYPES` with CVAT's points for it.

    mask: run lengths, then left, top, right, bottom in whole pixels (right and bottom inclusive);
    polygon: x, y, x, y, ...; rectangle: left, top, right, bottom;
    ellipse: centre x, centre y, x of its rightmost and y of its topmost point.
    """

    type: str
    points: tuple[float, ...]


def parse_shape(value: object) -> Shape:
    """Check a shape as CVAT sends it: an object with type and points, or (old CVAT) a plain list of numbers.

    A plain list is a rectangle (4 numbers) or a polygon (an even count from 6). An object may not be rotated; other
    keys are ignored. Whether the shape fits an image is for `shape_to_mask` to say.

    Raises:
        RequestError: anything that is no such shape.
        TooLargeError: more numbers than any sensible shape has.
    """
    if isinstance(value, dict):
        kind, points = value.get("type"), value.get("points")
        if kind not in SHAPE_TYPES:
            raise RequestError(f"The shape's type must be one of {', '.join(SHAPE_TYPES)}.")
        if not isinstance(points, list):
            raise RequestError(f"The points of a {kind} must be a list of numbers.")
        if value.get("rotation"):
            raise RequestError(f"A rotated {kind} is not known here; send what it covers as a polygon.")
    elif isinstance(value, list):
        points = value
        if len(points) != 4 and (len(points) < 6 or len(points) % 2):
            raise RequestError(
                "A shape given as a plain list must have 4 numbers (a rectangle) or an even count "
                f"from 6 (a polygon), not {len(points)}."
            )
        kind = "rectangle" if len(points) == 4 else "polygon"
    else:
        raise RequestError("A shape must be an object with a type and points, or a list of numbers.")

    limit = MAX_MASK_NUMBERS if kind == "mask" else MAX_POLYGON_NUMBERS
    if len(points) > limit:
        raise TooLargeError(f"A {kind} may have at most {limit} numbers, not {len(points)}.")
    if not set(map(type, points)) <= {int, float}:  # by type, because a bool is an int to isinstance
        raise RequestError(f"The points of a {kind} must be numbers.")
    largest = MAX_RUN if kind == "mask" else MAX_COORDINATE
    if not all(-largest <= number <= largest for number in points):  # false for NaN as well
        raise RequestError(f"The points of a {kind} must be between {-largest:.0f} and {largest:.0f}.")

    count = len(points)
    if kind == "mask" and count < 5:
        raise RequestError("A mask needs run lengths and the 4 numbers of its box.")
    if kind == "polygon" and (count < 6 or count % 2):
        raise RequestError(f"A polygon needs at least 3 points of two numbers each, not {count} numbers.")
    if kind == "rectangle" and count != 4:
        raise RequestError(f"A rectangle needs 4 numbers (left, top, right, bottom), not {count}.")
    if kind == "ellipse" and count != 4:
        raise RequestError(f"An ellipse needs 4 numbers (centre x, centre y, right x, top y), not {count}.")
    return Shape(kind, tuple(points))
