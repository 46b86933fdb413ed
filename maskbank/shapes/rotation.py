"""Rotated shapes, which the tracker's protocol does not know."""

import numpy as np

from maskbank.shapes.shape import Shape

ELLIPSE_CORNERS = 64  # of the polygon that stands for a rotated ellipse


def unrotated(shape: Shape, degrees: float) -> Shape:
    """The polygon of a rectangle or an ellipse that CVAT shows turned clockwise about its centre.

    Other shapes, and those that are not turned, stay as they are. The plugin for CVAT's user interface does the same
    (`outlineOf`); tests/cases/rotated_shapes.json holds both to it.
    """
    if not degrees or shape.type not in ("rectangle", "ellipse"):
        return shape
    if shape.type == "rectangle":
        left, top, right, bottom = shape.points
        centre = np.array([left + right, top + bottom]) / 2
        corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)]) - centre
    else:
        x, y, right, top = shape.points
        centre = np.array([x, y])
        angles = np.linspace(0, 2 * np.pi, ELLIPSE_CORNERS, endpoint=False)
        corners = np.stack([np.cos(angles) * (right - x), np.sin(angles) * (y - top)], axis=1)
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turned = corners @ np.array([[cos, sin], [-sin, cos]]) + centre  # y points down: this is clockwise
    return Shape("polygon", tuple(turned.ravel().tolist()))
