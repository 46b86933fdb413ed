"""Which frame of a clip to outline first, before anything is tracked."""

import cv2
import numpy as np

SHORT_SIDE = 240  # sharpness is compared at this size: more would measure the noise of the sensor


def sharpness(image: np.ndarray) -> float:
    """How much detail a frame shows: the variance of its Laplacian (Pech-Pacheco et al., ICPR 2000), which falls with
    blur, and with what is far away, dark or hidden.

    image: (H, W, 3) uint8 RGB.
    """
    scale = SHORT_SIDE / min(image.shape[:2])
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if scale < 1:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(grey, cv2.CV_32F).var())
