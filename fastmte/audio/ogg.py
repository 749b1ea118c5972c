"""The last page of an Ogg file: whether it is there, and where its samples begin."""

import os
from dataclasses import dataclass

_REACH = 131072  # bytes read at the end of a file; a page has at most 65307
_HEADER = 27  # bytes before the table of a page's segments
_IS_LAST = 4  # flag of a page that ends its stream


@dataclass(frozen=True)
class Ending:
    """How an Ogg file ends.

    Attributes:
        is_whole: the last page is complete and says that it is the last.
        n_samples: samples that end in the last page; 0 if the pages do not tell.
    """

    is_whole: bool
    n_samples: int


def ending(descriptor: int) -> Ending:
    """Return how an Ogg file ends; its position does not matter.

    Reference:
        RFC 3533, section 6, the Ogg page format.
    """
    size = os.fstat(descriptor).st_size
    data = os.pread(descriptor, _REACH, max(0, size - _REACH))
    last = data.rfind(b"OggS")
    page = data[last:] if last >= 0 else b""
    if len(page) < _HEADER:
        return Ending(False, 0)
    n_segments = page[26]
    length = _HEADER + n_segments + sum(page[_HEADER : _HEADER + n_segments])
    is_whole = bool(page[5] & _IS_LAST) and len(page) >= length
    before = data.rfind(b"OggS", 0, last)
    if before < 0 or data[before + 14 : before + 18] != page[14:18]:  # of another stream
        return Ending(is_whole, 0)
    start, end = _granule(data[before:]), _granule(page)
    return Ending(is_whole, end - start if 0 <= start <= end else 0)


def _granule(page: bytes) -> int:
    """Return a page's granule position, the samples up to its end; negative if it has none."""
    return int.from_bytes(page[6:14], "little", signed=True)
