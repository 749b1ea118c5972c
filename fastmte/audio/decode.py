"""From an audio file to mono samples, whatever state the file is in."""

import io
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import soundfile
from numpy.typing import NDArray

from fastmte._light import light
from fastmte.audio import mp3, ogg
from fastmte.audio.opening import AudioError, display_name, open_regular, refusal

__all__ = ["AudioError", "AudioFile", "display_name", "open_audio"]

MIN_RATE, MAX_RATE = 4_000, 768_000  # Hz; what lies outside is a damaged header
MAX_CHANNELS = 64
_BLOCK = 65536  # samples a channel decoded at once; bounds the memory beside the result
_TAIL = 8192  # samples read at the end a header promises: some Ogg files end a few early, and
# libvorbis decodes the whole song to seek to where it has none
_WORTH_A_WORD = 0.1  # seconds missing that are no matter of an encoder's padding
_PRE_ROLL = 12  # frames; an mp3 frame refers up to 9 frames back, libmpg123 seeks with 4
_PIECE = 512 * 1152  # samples of an mp3 of small frames that are decoded from one place on
_NO_SMALL_FRAME = 160  # bytes a frame on average; an mp3 frame refers up to 511 bytes back
_VORBIS_BLOCK = 8192  # samples, the largest block of Vorbis
_MP3_LEAST, _MP3_MOST = -1.0, 32767 / 32768  # range of a 16-bit decoder
_CHUNK = re.compile(r"^ ?(?:data|SSND) : (\d+) \(should be (\d+)\)", re.MULTILINE)
_STREAMED = 0x7FFFF000  # bytes; programs that write to a pipe promise this much or more
_UNKNOWN_LENGTH = 2**40  # libsndfile's answer for streams that do not tell is near 2**63


def open_audio(path: str | bytes | Path) -> "AudioFile":
    """Return an open audio file whose length is known, not only claimed.

    The content decides what a file is, not its name. Where the header does not tell
    the length, or tells more than there is, the file is decoded once to count.

    Raises:
        AudioError: not a regular file (a pipe or device is never opened), no audio,
            no samples, or a rate or channel count beyond reason.
    """
    descriptor = open_regular(path)
    try:
        return AudioFile(path, descriptor)
    except BaseException:
        os.close(descriptor)
        raise


class _Reader(soundfile.SoundFile):
    """A file whose reads follow one another.

    Its base class seeks after each read to where it is, which begins an mp3 anew.
    """

    def seekable(self) -> bool:
        """Let the base class not seek by itself; ``seek`` still does."""
        return False


class AudioFile:
    """An open audio file, read as the mean of its channels.

    Attributes:
        path: as it was given.
        sample_rate: Hz.
        channels: in the file.
        n_samples: a channel, as far as they can be decoded.
        warnings: what is odd about the file, in words.
        is_cut: more than a second of what it promises is missing, or its end is.
    """

    def __init__(self, path: str | bytes | Path, descriptor: int) -> None:
        """Take over an open file descriptor; ``open_audio`` makes one.

        Raises:
            AudioError: see ``open_audio``.
        """
        self.path = path
        self.warnings: list[str] = []
        self.is_cut = False
        self._descriptor = descriptor
        self._is_spoilt = False
        self._mp3: mp3.Layout | None = None
        self._n_unseekable = 0  # libvorbis lands some samples off in the last page of a song
        self._room = np.empty((0, 0), np.float32)
        self._file = self._open()
        try:
            self.sample_rate = int(self._file.samplerate)
            self.channels = int(self._file.channels)
            self._is_mp3 = self._file.format == "MP3" or "MPEG" in self._file.subtype
            self._check_header()
            self._check_end()
            self.n_samples = self._check_length()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "AudioFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._descriptor >= 0:
            self._file.close()
            os.close(self._descriptor)
            self._descriptor = -1

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return samples [start, stop) as the mean of the channels.

        Returns:
            (n,) float32; n is less than ``stop - start`` where the file ends early or
            is damaged: never zeros or old samples in their place.

        Raises:
            AudioError: a sample is NaN or infinite.
            ValueError: the range is not in order.
        """
        if not 0 <= start <= stop:
            raise ValueError(f"range must be 0 <= start <= stop, got [{start}, {stop})")
        out = np.empty(stop - start, np.float32)
        done = 0
        for block in self._blocks(start, stop):
            self._mix(block, start + done, out[done : done + len(block)])
            done += len(block)
        return out[:done]

    def measure(self) -> int:
        """Decode everything and return ``n_samples``, now what really came; warn if it is less.

        Raises:
            AudioError: no sample can be decoded.
        """
        counted = sum(len(block) for block in self._blocks(0, _UNKNOWN_LENGTH))
        if not counted:
            code = "DAMAGED" if self._is_spoilt else "TRUNCATED"
            raise AudioError(code, self.path, "no sample of it can be decoded")
        self._warn_if_cut(counted)
        self.n_samples = counted
        return counted

    def _open(self) -> soundfile.SoundFile:
        file = self._reader(None)
        if file.format != "MP3":
            return file
        self._mp3 = mp3.layout(self._descriptor)
        if self._mp3 is None or self._mp3.stream is None:
            return file
        file.close()
        return self._reader(self._mp3.stream)

    def _reader(self, stream: io.RawIOBase | None) -> soundfile.SoundFile:
        """Open the stream, or the file itself."""
        try:
            if stream is not None:
                stream.seek(0)
                return _Reader(stream)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            return _Reader(self._descriptor, closefd=False)
        except soundfile.LibsndfileError as error:
            raise refusal(self.path, self._descriptor, error) from error

    def _check_end(self) -> None:
        """Warn of files that were cut off, where their format can tell."""
        for found in _CHUNK.finditer(self._file.extra_info):
            promised, there = int(found[1]), int(found[2])
            if there < promised < _STREAMED:
                share = 100 * there / promised
                text = f"truncated: {share:.0f} % of the samples its header promises are there"
                self.warnings.append(text)
                self.is_cut = True
        if self._file.format == "OGG":
            ending = ogg.ending(self._descriptor)
            self._n_unseekable = ending.n_samples
            if not ending.is_whole:
                self.warnings.append("truncated: its Ogg stream has no end")
                self.is_cut = True

    def _check_header(self) -> None:
        if not MIN_RATE <= self.sample_rate <= MAX_RATE:
            what = f"a sample rate of {self.sample_rate} Hz is outside [{MIN_RATE}, {MAX_RATE}]"
            raise AudioError("UNSUPPORTED", self.path, what)
        if self.channels > MAX_CHANNELS:
            what = f"{self.channels} channels are more than {MAX_CHANNELS}"
            raise AudioError("UNSUPPORTED", self.path, what)

    def _check_length(self) -> int:
        """Return the samples there are; O(1) unless the header is far wrong."""
        claimed = int(self._file.frames)
        if claimed <= 0:
            raise AudioError("EMPTY", self.path, "it has no samples")
        if self._mp3 is not None and self._mp3.is_whole:
            return claimed
        if claimed < _UNKNOWN_LENGTH:
            start = max(0, claimed - _TAIL)
            if there := sum(len(block) for block in self._blocks(start, claimed)):
                self._warn_if_cut(start + there)
                return start + there
        return self.measure()

    def _warn_if_cut(self, counted: int) -> None:
        claimed = int(self._file.frames)
        if counted + _WORTH_A_WORD * self.sample_rate < claimed < _UNKNOWN_LENGTH:
            promised, there = claimed / self.sample_rate, counted / self.sample_rate
            text = f"truncated or damaged: {there:.1f} s of {promised:.1f} s can be decoded"
            self.warnings.append(text)
            # Some whole songs promise a little more than they have.
            self.is_cut |= promised - there > 1.0

    def _blocks(self, start: int, stop: int) -> Iterator[NDArray[np.float32]]:
        """Yield (n, channels) float32 of samples [start, stop), as far as they decode.

        They have the same bits whatever else is asked for. libmpg123 adds up its filter bank in
        an order that depends on where it began: on whether that is an even frame, and on how many
        frames it then lacked something of that stands in those before. So it begins at an even
        frame, and where frames are small enough to lack something, at the same few places.
        """
        if not self._is_mp3:
            yield from self._run(self._before(start), start, stop)
        elif self._is_even:
            assert self._mp3 is not None
            frame = (start + self._mp3.delay) // self._mp3.frame - _PRE_ROLL
            position = (frame - frame % 2) * self._mp3.frame - self._mp3.delay
            yield from self._run(position if frame >= _PRE_ROLL else 0, start, stop)
        else:
            pre_roll = _PRE_ROLL * (self._mp3.frame if self._mp3 else 1152)
            for piece in range(start // _PIECE, -(-stop // _PIECE)):
                low, high = max(start, piece * _PIECE), min(stop, (piece + 1) * _PIECE)
                n = 0
                for block in self._run(max(0, piece * _PIECE - pre_roll), low, high):
                    n += len(block)
                    yield block
                if n < high - low:
                    return

    @property
    def _is_even(self) -> bool:
        """Whether an mp3's bits depend on nothing but whether decoding began at an even frame."""
        layout = self._mp3
        return layout is not None and layout.frame == 1152 and layout.size >= _NO_SMALL_FRAME

    def _before(self, start: int) -> int:
        """Return where to begin so that what comes at ``start`` is right."""
        if self._file.format != "OGG":
            return start
        # libvorbis has the block before in mind, and lands some samples off in the last page.
        in_last_page = int(self._file.frames) - self._n_unseekable
        return max(0, min(start - _VORBIS_BLOCK, in_last_page))

    def _run(self, position: int, start: int, stop: int) -> Iterator[NDArray[np.float32]]:
        """Decode from ``position`` on, and yield what it gives of [start, stop)."""
        if not self._seek(position):
            return
        while position < stop:
            asked = min(_BLOCK, stop - position)
            block = self._decode(position, asked)
            yield block[max(0, start - position) :]
            position += len(block)
            if len(block) < asked:
                return

    def _seek(self, position: int) -> bool:
        """Go to a sample and return whether it is there."""
        # After an error libsndfile's FLAC decoder gives errors only, and libmpg123 keeps the
        # place in its filter bank over a seek.
        if self._is_spoilt or self._is_mp3:
            self._file.close()
            self._file = self._reader(None if self._mp3 is None else self._mp3.stream)
            self._is_spoilt = False
        try:
            return self._file.seek(position) == position
        except soundfile.LibsndfileError:
            self._is_spoilt = True
            return False

    def _decode(self, position: int, count: int) -> NDArray[np.float32]:
        """Return ``count`` samples, or all there are before the first that is missing.

        They last until the next call: fresh memory for each would cost as much as a filter bank.
        """
        if len(self._room) < count:
            self._room = np.empty((count, self.channels), np.float32)
        done, step = 0, count
        while done < count and step:
            step = min(step, count - done)
            try:
                part = self._file.read(step, out=self._room[done : done + step])
            except soundfile.LibsndfileError:
                # The good samples of a damaged block are lost with it: ask for fewer.
                self._is_spoilt = True
                step //= 2
                if not self._seek(position + done):
                    break
                continue
            done += len(part)
            if len(part) < step:
                break
        return self._room[:done]

    def _mix(self, block: NDArray[np.float32], position: int, out: NDArray[np.float32]) -> None:
        """Write the mean of the channels of samples that begin at ``position``."""
        # Essentia decodes mp3 through 16 bits, where loud passages clip.
        least, most = (_MP3_LEAST, _MP3_MOST) if self._is_mp3 else (-math.inf, math.inf)
        if not light().mix(block, least, most, out):
            index = position + int(np.argmin(np.isfinite(out)))
            seconds = index / self.sample_rate
            what = f"sample {index} ({seconds:.3f} s) is NaN or infinite"
            raise AudioError("NONFINITE", self.path, what)
