"""Limits on what an image file consists of, so that a small file cannot keep a decoder busy for long."""

import io
import re
import struct

from maskbank.errors import TooLargeError

MAX_SCANS = 24  # of a JPEG; progressive ones have about 10. Each goes through all pixels, some with no data at all
MAX_SEGMENTS = 10_000  # of a JPEG, scans and markers of all kinds; a large colour profile has a hundred
MAX_STRIPS = 3 * 65_535  # of a TIFF: one for each row and plane
MOST_TAGS = 65_535  # of a TIFF that are looked at
MAX_READS = 100_000  # by Pillow from a file; one of 64 MB has some thousand, whatever its format

_JPEG = b"\xff\xd8\xff"
_JPEG_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")  # neither stuffing nor a restart
_START_OF_SCAN, _END_OF_IMAGE, _WITHOUT_LENGTH = 0xDA, 0xD9, (0x01, 0xD8)
_STRIP_TAGS = (273, 279, 324, 325)  # offsets and lengths of a TIFF's strips and tiles
_COMPRESSION_TAG, _JPEG_COMPRESSIONS = 259, (6, 7)
_SHORT, _LONG = 3, 4  # types of a tag's value


def check_parts(data: bytes) -> None:
    """Counts what a decoder would go through one by one, as far as `CountedReads` does not see it.

    Raises TooLargeError when it is too much. What is damaged is for the decoder to refuse.
    """
    if data.startswith(_JPEG):
        _check_jpeg(data)
    elif data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        _check_tiff(data)


class CountedReads(io.BytesIO):
    """A file in memory that may be read from `MAX_READS` times; then it raises TooLargeError.

    Pillow goes through chunks, blocks and runs in Python, a read each: a file of millions would take minutes.
    """

    _reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """See `io.BytesIO.read`."""
        self._reads += 1
        if self._reads > MAX_READS:
            raise TooLargeError("The image file has more parts than can be decoded in time.")
        return super().read(size)


def _check_jpeg(data: bytes) -> None:
    scans, position = 0, 2
    for _ in range(MAX_SEGMENTS):
        found = _JPEG_MARKER.search(data, position)
        if not found or found[1][0] == _END_OF_IMAGE:
            return
        marker, position = found[1][0], found.end()
        if marker in _WITHOUT_LENGTH:
            continue
        scans += marker == _START_OF_SCAN
        if scans > MAX_SCANS:
            raise TooLargeError(f"The image has more than {MAX_SCANS} scans, which take too long to decode.")
        position += int.from_bytes(data[position : position + 2], "big")
    raise TooLargeError(f"The image has more than {MAX_SEGMENTS} segments, which take too long to decode.")


def _check_tiff(data: bytes) -> None:
    """The first directory's strips; and the scans of JPEGs inside, wherever they are, if it says that there are any."""
    order = "<" if data.startswith(b"II") else ">"
    big = 43 in data[2:4]
    count_format, entry_format = ("Q", "HHQ8s") if big else ("H", "HHI4s")
    try:
        [start] = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
        [entries] = struct.unpack_from(order + count_format, data, start)
        start += struct.calcsize(order + count_format)
        size = struct.calcsize(order + entry_format)
        directory = data[start : start + min(entries, MOST_TAGS) * size]
        tags = list(struct.iter_unpack(order + entry_format, directory[: len(directory) // size * size]))
    except struct.error:
        return
    if any(tag in _STRIP_TAGS and count > MAX_STRIPS for tag, _, count, _ in tags):
        raise TooLargeError(f"The image has more than {MAX_STRIPS} strips, which take too long to decode.")
    # However the number is written: one that is not plainly another compression counts as JPEG.
    may_hold_jpegs = entries > MOST_TAGS or any(
        kind not in (_SHORT, _LONG) or count != 1 or any(code in value for code in _JPEG_COMPRESSIONS)
        for tag, kind, count, value in tags
        if tag == _COMPRESSION_TAG
    )
    if may_hold_jpegs and data.count(b"\xff\xda") > MAX_SCANS and data.count(b"\xff\xd8\xff"):
        raise TooLargeError(f"The image holds JPEGs of more than {MAX_SCANS} scans, which take too long to decode.")
