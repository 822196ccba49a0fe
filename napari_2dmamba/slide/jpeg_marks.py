"""The marks within a JPEG, which tell whether its coded bits are whole; and within a JPEG 2000."""

import ctypes
import functools
import re

from napari_2dmamba.native import library_path

LIBRARY = library_path(__package__, "_jpeg_marks")
"""The library, or None where it was not built."""
_VERSION = 1

_MARK = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_END = 0xD9
_BETWEEN_SCANS = {0xC4, 0xCC, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)}
"""Tables, comments, the next scan."""


_FRAMES = {0xF7, *range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Headers of a frame, that of JPEG-LS first."""


def end_of_jpeg(data: bytes) -> int | None:
    """Return where the end mark stands, or None where another mark cannot stand before it.

    The decoder fills damaged stretches with grey and does not say so; OpenSlide refuses them.
    """
    if not isinstance(data, bytes):  # the library takes an address
        raise TypeError(f"a JPEG is bytes, not {type(data).__name__}")
    library = _library()
    if library is None:
        return end_of_jpeg_in_python(data)
    end = library.jpeg_end(data, len(data))
    return None if end < 0 else end


def end_of_jpeg_in_python(data: bytes) -> int | None:
    """The definition of `end_of_jpeg`, and what runs where the library was not built."""
    position = data.find(b"\xff\xda")
    while position >= 0:
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        mark = _MARK.search(data, position)
        if mark is None:
            return None
        position = mark.start()
        if data[position + 1] == _END:
            return position
        if data[position + 1] not in _BETWEEN_SCANS:
            return None
    return None


def with_more_code(data: bytes) -> bytes:
    """Return a JPEG with further coded bits before its end mark.

    Where the bits run out early, a decoder leaves the remaining blocks mid-grey and says
    nothing. Then further bits change the picture; a whole one they do not touch.
    """
    end = end_of_jpeg(data)
    return data[:end] + b"\x5a\xa5\x3c" * 400 + b"\xff\xd9"


def has_colour_transform(data: bytes) -> bool:
    """Whether a JPEG 2000 codestream mixes its first three components, to be undone in decoding.

    So says the coding style (COD) of its main header, ISO/IEC 15444-1, A.6.1.
    """
    start = max(data.find(b"\xff\x4f\xff\x51"), 0)
    style = data.find(b"\xff\x52", start, max(data.find(b"\xff\x90", start), 0) or len(data))
    return style >= 0 and len(data) > style + 8 and data[style + 8] == 1


def stated_size(data: bytes) -> tuple[int, int] | None:
    """Return ``(width, height)`` that a JPEG, JPEG-LS or JPEG 2000 states, None for other data.

    Decoders set memory aside for that size whatever was promised around the data.
    """
    if data[:2] == b"\xff\xd8":
        position = 2
        while len(data) >= position + 9 and data[position] == 0xFF:
            mark, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4])
            if mark == 0xFF:  # fill
                position += 1
            elif mark in _FRAMES:
                height = int.from_bytes(data[position + 5 : position + 7])
                return int.from_bytes(data[position + 7 : position + 9]), height
            else:
                position += 2 + length
        return 0, 0
    start = data[:4096].find(b"\xff\x4f\xff\x51")
    if start < 0 or (start and data[4:8] != b"jP  "):
        return None
    right, lower, left, upper = (
        int.from_bytes(data[start + at : start + at + 4]) for at in (8, 12, 16, 20)
    )
    return right - left, lower - upper


@functools.cache
def _library() -> ctypes.PyDLL | None:
    """Return the library; it keeps the interpreter's lock, which costs more than its work."""
    if LIBRARY is None:
        return None
    try:
        library = ctypes.PyDLL(str(LIBRARY))
        if library.jpeg_marks_version() != _VERSION:
            return None
    except (OSError, AttributeError):
        return None
    library.jpeg_end.argtypes = [ctypes.c_char_p, ctypes.c_int64]
    library.jpeg_end.restype = ctypes.c_int64
    return library
