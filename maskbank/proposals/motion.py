"""What moves against the background: optical flow that the motion of the camera does not explain."""

from collections.abc import Sequence

import cv2
import numpy as np

from maskbank.files.images import resize_image, working_size

SHORT_SIDE = 240  # pixels of the image in which motion is measured
GRID = 8  # pixels between the places that the camera's motion is fitted to
TOLERANCE = 1.0  # pixels; what moves as the camera does, up to that, is background
LEAST = 1.0  # pixels; where nothing moves farther, the map stays low


def small_grey(image: np.ndarray) -> np.ndarray:
    """An image (H, W, 3) uint8 RGB as `motion_map` takes it, (h, w) uint8."""
    height, width = image.shape[:2]
    return cv2.cvtColor(resize_image(image, *working_size(height, width, SHORT_SIDE)), cv2.COLOR_RGB2GRAY)


def motion_map(frame: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """How much each pixel of a frame moves by itself, to frames close to it: (h, w), 0 to 1, the mean over these.

    frame, others: (h, w) uint8, see `small_grey`; there is another one at least.

    The flow is DIS (Kroeger et al., ECCV 2016); the homography that most of it agrees with (RANSAC) is the camera.
    """
    maps = []
    for other in others:
        residual = _residual(frame, other)
        maps.append(np.minimum(residual / max(float(np.percentile(residual, 98)), LEAST), 1))
    mean: np.ndarray = np.mean(maps, 0)
    return mean


def _residual(frame: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(h, w) float32: how far from where the camera's motion takes it each pixel went, in pixels."""
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow = dis.calc(frame, other, None)  # type: ignore[call-overload]  # (h, w, 2) pixels
    height, width = frame.shape
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    places = np.stack([columns, rows], -1)
    went = places + flow
    on_grid = np.s_[GRID // 2 :: GRID, GRID // 2 :: GRID]
    camera, _ = cv2.findHomography(
        places[on_grid].reshape(-1, 2), went[on_grid].reshape(-1, 2), cv2.RANSAC, ransacReprojThreshold=TOLERANCE
    )
    if camera is None:  # no motion that a camera could have made: what there is stands for itself
        camera = np.eye(3)
    expected = cv2.perspectiveTransform(places.reshape(-1, 1, 2), camera).reshape(went.shape)
    residual: np.ndarray = np.linalg.norm(went - expected, axis=-1)
    return residual
