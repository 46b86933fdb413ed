"""Encoded images to RGB arrays, with limits on bytes and pixels; resizing to the working size and back."""

import base64
import binascii
import hashlib
import re
import warnings

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from maskbank.errors import RequestError, TooLargeError
from maskbank.files.parts import CountedReads, check_parts

# Only these decoders of Pillow can be reached: others are of no use to CVAT and some start programs (EPS).
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
# The long side of a working image is at most this many times the requested short side, so that a strip of
# 4000 x 10 pixels cannot cost more than an ordinary frame of a wide camera.
MAX_ASPECT = 4
# Of 16 bits, the largest power of two that is stretched to all of 8 bits where all values lie within it.
LARGEST_STRETCHED = 1 << 13
SAMPLED_SIDE = 256  # rows or columns of pixels that tell which values there are
MAX_SIDE = 65_535  # pixels, as in a JPEG: what costs time or memory per row or column has an end

_DAMAGED = "The image is damaged or truncated and cannot be decoded."
_BOMB = "The image has more pixels than can be decoded safely."  # Pillow's own limit, 179 million pixels
_DATA_URL = re.compile(r"data:image/[\w.+-]{1,40};base64,", re.ASCII)


def decode_base64(text: object, max_bytes: int) -> bytes:
    """Decode strict base64 (no white space, padded), with or without a `data:image/...;base64,` prefix.

    The length is checked before anything is decoded.

    Raises:
        RequestError: not a string, empty, or not base64.
        TooLargeError: more than `max_bytes` bytes once decoded.
    """
    if not isinstance(text, str):
        raise RequestError("The image must be a string in base64.")
    prefix = _DATA_URL.match(text)
    start = prefix.end() if prefix else 0
    length = len(text) - start
    if length == 0:
        raise RequestError("The image is empty.")
    padding = text.count("=", max(start, len(text) - 2))
    if length // 4 * 3 - padding > max_bytes:
        raise TooLargeError(f"The image file is larger than the {max_bytes} bytes that are allowed.")
    try:
        return base64.b64decode(text[start:], validate=True)
    except (binascii.Error, ValueError):
        raise RequestError("The image is not valid base64.") from None


def decode_image(data: bytes, max_pixels: int) -> np.ndarray:
    """Decode an image file into what CVAT shows the annotator.

    The size in the header and the number of the file's parts are checked before any pixel is decoded. Of an animation
    or a multi-page file the first frame is taken.

    * EXIF orientation is applied: CVAT shows and measures the rotated image, so shapes refer to it.
    * Transparency is ignored, not composited: CVAT drops the alpha channel of RGBA, LA and palette images
      when it prepares the frames, so the annotator sees the colours underneath.
    * 16 bits per channel become 8 by keeping the high byte. CVAT's own preview stretches each 16-bit grey
      frame by its own minimum and maximum; a tracker cannot, since the same object would change its
      brightness from frame to frame. Recordings that use a quarter of the range come out dark; what uses an
      eighth or less, as thermal cameras do, is stretched in coarse steps, which seldom change between frames.
    * Grey, 1-bit, palette, CMYK and YCbCr images are converted to RGB by Pillow; colour profiles are ignored.

    Args:
        data: an encoded image, in one of `FORMATS`.
        max_pixels: the largest allowed width x height.

    Returns:
        (H, W, 3) uint8 RGB, contiguous.

    Raises:
        RequestError: not an image, damaged, truncated, without pixels, or with floating-point pixels.
        TooLargeError: more than `max_pixels` pixels, a side longer than `MAX_SIDE`, or a file whose many parts (scans,
            chunks, strips) would take much longer than its pixels.
    """
    check_parts(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata and large images: we decide below
        try:
            image = Image.open(CountedReads(data), formats=FORMATS)
        except TooLargeError:
            raise
        except Image.DecompressionBombError:
            raise TooLargeError(_BOMB) from None
        except UnidentifiedImageError:
            allowed = ", ".join(FORMATS)
            raise RequestError(f"The image is damaged or not in an allowed format ({allowed}).") from None
        except Exception:  # decoders let out whatever the damaged bytes provoke (struct, zlib, index errors)
            raise RequestError(_DAMAGED) from None

        width, height = image.size
        if width < 1 or height < 1:
            raise RequestError("The image has no pixels.")
        if width * height > max_pixels:
            raise TooLargeError(
                f"The image has {width} x {height} pixels, but at most {max_pixels} pixels are allowed."
            )
        if max(width, height) > MAX_SIDE:
            raise TooLargeError(f"The image is {max(width, height)} pixels long, but at most {MAX_SIDE} are allowed.")
        try:
            image.load()
            return np.array(_to_rgb(_upright(image)))
        except RequestError:
            raise
        except Image.DecompressionBombError:  # a tile or a frame that is larger than the header said
            raise TooLargeError(_BOMB) from None
        except Exception:  # as above
            raise RequestError(_DAMAGED) from None


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert a loaded image of any mode to RGB with 8 bits per channel; see `decode_image`."""
    if image.mode == "F":
        raise RequestError("The image has floating-point pixels; 8 or 16 bits per channel are allowed.")
    if image.mode.startswith("I"):  # I;16, I;16B, ... hold 16 bits, I holds 32 or signed 16 bits
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise RequestError("The image has pixel values outside 0 to 65535, the range of 16 bits.")
        image = Image.fromarray(_eight_bits(values))
    if image.mode in ("La", "RGBa"):  # premultiplied alpha, which Pillow converts only to its plain twin
        image = image.convert(image.mode.upper())
    return image.convert("RGB")


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Grey values of 16 bits, (H, W) → uint8; see `decode_image`."""
    every = max(min(values.shape) // SAMPLED_SIDE, 1)
    low, high = np.percentile(values[::every, ::every], (0.1, 99.9)).astype(int).tolist()  # without hot pixels
    span = max(1 << (high - low).bit_length(), 256)
    if span > LARGEST_STRETCHED:
        return (values >> 8).astype(np.uint8)
    step = span // 8
    darkest = low // step * step
    stretched: np.ndarray = (values.astype(np.int32) - darkest) * 255 // (span + step)
    return stretched.clip(0, 255).astype(np.uint8)


def _upright(image: Image.Image) -> Image.Image:
    """The image as its EXIF orientation says; for a loaded one, as Pillow turns TIFF images while it loads them."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # the pixels are fine: damaged metadata is no reason to refuse them
        return image


def pixel_digest(image: np.ndarray) -> str:
    """What tells an image (H, W, 3) uint8 from others: 16 hexadecimal digits."""
    return hashlib.blake2b(
        np.ascontiguousarray(image).data, digest_size=8, person=b"%dx%d" % image.shape[:2]
    ).hexdigest()


def working_size(height: int, width: int, short_side: int, max_scale: float = 1.0) -> tuple[int, int]:
    """The size (h, w) to work at: the short side is `short_side` pixels, the aspect ratio is kept.

    Never larger than `max_scale` times the image. The long side is at most `MAX_ASPECT * short_side`, and a very
    narrow image keeps at least one pixel on its short side.
    """
    scale = min(max_scale, short_side / min(height, width), MAX_ASPECT * short_side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize (H, W, 3) uint8 to (height, width, 3) uint8, down by area averaging; same size: the same array."""
    if image.shape[:2] == (height, width):
        return image
    return cv2.resize(image, (width, height), interpolation=_interpolation(image, height))


def resize_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize (H, W) bool to (height, width) float32: the covered part of each pixel, 0 to 1.

    Coverage rather than a mask, so that a thin object does not vanish on the way down.
    """
    coverage = mask.astype(np.float32)
    if mask.shape == (height, width):
        return coverage
    return cv2.resize(coverage, (width, height), interpolation=_interpolation(mask, height))


def _interpolation(array: np.ndarray, height: int) -> int:
    return cv2.INTER_AREA if height <= array.shape[0] else cv2.INTER_LINEAR
