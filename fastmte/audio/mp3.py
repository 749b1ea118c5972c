"""Where the frames of an mp3 begin, and how many there are where its header does not tell."""

import io
import os
from dataclasses import dataclass

_BIT_RATES = {  # kbit/s of layer III by the header's index; 0 is free format, 15 is forbidden
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),  # MPEG 1
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),  # MPEG 2 and 2.5
}
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_SEARCH = 65536  # bytes searched for the first frame
_RESYNC = 1024  # bytes of damage a decoder gets over, libmpg123's limit
_HAS_FRAMES, _HAS_BYTES = 1, 2  # flags of a Xing tag that this reads
_TAG_FIELDS = ((_HAS_FRAMES, 4), (_HAS_BYTES, 4), (4, 100), (8, 4))  # flag, bytes of the field
_CHUNK = 1 << 20  # bytes read at once
_PLACES = 8  # looked at in a file whose frames are of one size
_STRAY = 1500  # bytes they may be off: a frame
_BEHIND = 1 << 18  # bytes behind the music that may be tags and pictures
_LAME_DELAYS = 21  # where in the LAME part of the tag 12 bits of delay and 12 of padding stand
_DECODER_DELAY = 529  # samples


@dataclass(frozen=True)
class Layout:
    """How the samples that libmpg123 gives lie in the frames of an mp3.

    Attributes:
        stream: what to read in place of the file: it led by a Xing tag that counts its frames;
            None where the file has one.
        frame: samples of a frame.
        delay: samples of the first frames that are left out.
        size: bytes of a frame, on average.
        is_whole: the file and its frames are as long as the tag has it; False where that would
            have to be looked at.
    """

    stream: io.RawIOBase | None
    frame: int
    delay: int
    size: float
    is_whole: bool


def layout(descriptor: int) -> Layout | None:
    """Return how an mp3's samples lie in its frames, or None for what is no mp3.

    Without a tag libmpg123 guesses the length from the size of the file and the bit
    rate of the first frame, and what lies behind a guess that is too low can never be
    read. The samples stay the same.

    Args:
        descriptor: an open mp3 file, which the stream reads but does not close; its
            position does not matter.

    Reference:
        libmpg123, ``check_lame_tag`` and ``frame_gapless_init``.
    """
    file = _Frames(descriptor)
    start = file.first()
    header = None if start is None else file.header(start)
    if start is None or header is None:
        return None
    tag = file.tag(start, header)
    music = start if tag is None else start + header.size
    n_bytes = file.size - music
    if tag is not None and tag.is_proved(file.header(music), file.size - start):
        size = (tag.n_bytes - header.size) / tag.n_frames
        if file.has_frames(music, size, tag.n_frames):
            return Layout(None, header.samples, tag.delay, size, True)
    n_frames = file.count(music)
    size = n_bytes / max(n_frames, 1)
    # A count that is too high is found out when the end is read.
    if tag is not None and tag.n_frames + 1 >= n_frames:
        return Layout(None, header.samples, tag.delay, size, tag.n_frames <= n_frames)
    leader = _leader(os.pread(descriptor, 4, start), n_frames, n_bytes)
    led = _Led(leader, descriptor, music, file.size)
    return Layout(led, header.samples, header.samples, size, True)


@dataclass(frozen=True)
class _Tag:
    """What a Xing tag tells; zeros for one that does not count the frames.

    Attributes:
        n_frames: frames of music.
        n_bytes: of all frames with the tag's.
        is_constant: it says that all frames are of one size.
        delay: samples that libmpg123 drops.
    """

    n_frames: int
    n_bytes: int
    is_constant: bool
    delay: int

    def is_proved(self, first: "_Header | None", n_bytes: int) -> bool:
        """Return whether the size of the file proves the count: frames of one size do.

        Args:
            first: the first frame of music.
            n_bytes: of the file from the tag on.
        """
        if not self.is_constant or first is None or not self.n_frames:
            return False
        excess = self.n_bytes - self.n_frames * first.exact_size
        has_all = self.n_bytes <= n_bytes <= self.n_bytes + _BEHIND
        return has_all and abs(excess) < 3 * first.size


@dataclass(frozen=True)
class _Header:
    """One frame's header.

    Attributes:
        size: bytes to the next frame.
        exact_size: bytes of such frames on average, which differ by one.
        side: bytes of side information, behind which a Xing tag stands.
        kind: what all frames of a stream share: version and index of the rate.
    """

    size: int
    exact_size: float
    side: int
    kind: tuple[int, int]

    @property
    def samples(self) -> int:
        """Return the samples of a frame: 1152 in MPEG 1, 576 in MPEG 2 and 2.5."""
        return 1152 if self.kind[0] == 3 else 576


def _parse(four: bytes) -> _Header | None:
    """Return the layer III header these bytes are, or None if they are none."""
    if len(four) < 4 or four[0] != 0xFF or four[1] & 0xE6 != 0xE2:
        return None
    version = four[1] >> 3 & 3
    rate_index = four[2] >> 2 & 3
    if version == 1 or rate_index == 3:
        return None
    is_mpeg1 = version == 3
    bit_rate = _BIT_RATES[is_mpeg1][four[2] >> 4] * 1000
    if not bit_rate:
        return None
    exact = (144 if is_mpeg1 else 72) * bit_rate / _RATES[version][rate_index]
    is_mono = four[3] >> 6 == 3
    side = (17 if is_mono else 32) if is_mpeg1 else (9 if is_mono else 17)
    return _Header(int(exact) + (four[2] >> 1 & 1), exact, side, (version, rate_index))


class _Frames:
    """The frames of an mp3 file.

    It is read piece by piece and never mapped: a file that shrinks meanwhile must not end
    the process.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.size = os.fstat(descriptor).st_size
        self._sizes: dict[bytes, int] = {}  # of frames, by the first three bytes; 0 for none

    def header(self, at: int) -> _Header | None:
        """Return the header at byte ``at``, or None if there is none."""
        return _parse(os.pread(self.descriptor, 4, at))

    def first(self) -> int | None:
        """Return where the first frame begins, behind any ID3v2 tags, or None."""
        at = 0
        while (head := os.pread(self.descriptor, 10, at))[:3] == b"ID3" and len(head) == 10:
            size = 0
            for byte in head[6:]:
                size = size << 7 | byte & 0x7F
            at += 10 + size
        return self.next(at, _SEARCH)

    def next(self, at: int, limit: int) -> int | None:
        """Return the first frame within ``limit`` bytes that another follows, or the end."""
        data = os.pread(self.descriptor, limit + 3, at)
        found = data.find(0xFF)
        while found >= 0:
            header = _parse(data[found : found + 4])
            if header is not None:
                behind = at + found + header.size
                following = self.header(behind)
                if behind == self.size or (following and following.kind == header.kind):
                    return at + found
            found = data.find(0xFF, found + 1)
        return None

    def tag(self, at: int, header: _Header) -> "_Tag | None":
        """Return the tag that a frame holds in place of music, or None."""
        place = at + 4 + header.side
        data = os.pread(self.descriptor, header.size - header.side - 4, place)
        if data[:4] in (b"Xing", b"Info"):
            both = _HAS_FRAMES | _HAS_BYTES
            if len(data) < 16 or data[7] & both != both:
                return _Tag(0, 0, False, 0)
            n_frames, n_bytes = (int.from_bytes(data[i : i + 4], "big") for i in (8, 12))
            return _Tag(n_frames, n_bytes, data[:4] == b"Info", _delay(data))
        is_vbri = os.pread(self.descriptor, 4, at + 36) == b"VBRI"
        return _Tag(0, 0, False, 0) if is_vbri else None

    def has_frames(self, music: int, size: float, n_frames: int) -> bool:
        """Return whether frames of one size begin where they must, in a few places to the last."""
        first = self.header(music)
        for part in range(_PLACES + 1):
            at = music + round((n_frames - 1) * part / _PLACES * size) - _STRAY
            near = os.pread(self.descriptor, 4 + 2 * _STRAY, max(0, at))
            headers = [_parse(b"\xff" + rest[:3]) for rest in near.split(b"\xff")[1:]]
            if first is None or not any(h and h.kind == first.kind for h in headers):
                return False
        return True

    def count(self, at: int) -> int:
        """Return how many whole frames follow from byte ``at``; O(frames), 0.3 us each."""
        n = 0
        while True:
            found, at = self._run(at)
            n += found
            resumed = None if self.header(at) else self.next(at, _RESYNC)
            if resumed is None:
                return n
            at = resumed

    def _run(self, at: int) -> tuple[int, int]:
        """Return how many whole frames follow one another from byte ``at``, and what is behind."""
        n, sizes = 0, self._sizes
        while data := os.pread(self.descriptor, _CHUNK, at):
            place, end = 0, len(data)
            while place + 3 <= end:
                lead = data[place : place + 3]
                size = sizes.get(lead)
                if size is None:
                    header = _parse(lead + b"\0")
                    size = sizes[lead] = header.size if header else 0
                if not size or at + place + size > self.size:
                    return n, at + place
                n += 1
                place += size
            if place == 0:
                break
            at += place
        return n, at


def _delay(tag: bytes) -> int:
    """Return the samples libmpg123 drops of a stream with a tag that counts its frames."""
    lame = 8 + sum(size for flag, size in _TAG_FIELDS if tag[7] & flag)
    delays = tag[lame + _LAME_DELAYS : lame + _LAME_DELAYS + 2]
    if len(delays) < 2 or not tag[lame]:  # no LAME part
        return 0
    return (delays[0] << 4 | delays[1] >> 4) + _DECODER_DELAY


def _leader(like: bytes, n_frames: int, n_bytes: int) -> bytes:
    """Return a frame with the tag and a silent frame, of the kind of the header ``like``.

    libmpg123 drops 529 samples, a decoder's delay, from the start of every tagged stream,
    and as many more as the LAME part of the tag asks for: together the silent frame.
    """
    lead = bytes((0xFF, like[1] | 1, 0xE0 | like[2] & 0x0C, like[3]))  # no checksum, largest frame
    header = _parse(lead)
    if header is None:
        raise ValueError(f"like must be the header of a layer III frame, got {like.hex()}")
    delay = header.samples - _DECODER_DELAY
    tag = b"Xing" + (_HAS_FRAMES | _HAS_BYTES).to_bytes(4, "big")
    tag += (n_frames + 1).to_bytes(4, "big") + (n_bytes + 2 * header.size).to_bytes(4, "big")
    tag += b"LAME3.100".ljust(_LAME_DELAYS, b"\0") + (delay << 12).to_bytes(3, "big")
    tagged = (lead + bytes(header.side) + tag).ljust(header.size, b"\0")
    return tagged + lead.ljust(header.size, b"\0")


class _Led(io.RawIOBase):
    """A leader followed by a part of a file, as one stream to read."""

    def __init__(self, leader: bytes, descriptor: int, start: int, stop: int) -> None:
        self._leader = leader
        self._descriptor = descriptor
        self._offset = start - len(leader)  # from a place in the stream to one in the file
        self._size = len(leader) + stop - start
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = max(0, origin + offset)
        return self._place

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._place)
        size = left if size < 0 else min(size, left)
        head = self._leader[self._place : self._place + size]
        rest = size - len(head)
        data = head
        if rest > 0:
            at = self._place + len(head) + self._offset
            data += os.pread(self._descriptor, rest, at)
        self._place += len(data)
        return data

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
