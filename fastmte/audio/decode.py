"""From an audio file to mono samples, whatever state the file is in."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
import soundfile
from numpy.typing import NDArray

from fastmte.audio import mp3
from fastmte.errors import InputError

MIN_RATE, MAX_RATE = 4_000, 768_000  # Hz; what lies outside is a damaged header
MAX_CHANNELS = 64
_BLOCK = 65536  # samples a channel decoded at once; bounds the memory beside the result
_TAIL = 8192  # samples read at the end a header promises: some Ogg files end a few early, and
# libvorbis decodes a whole song to seek to where it has none
_WORTH_A_WORD = 0.1  # seconds missing that are no matter of an encoder's padding
_PRE_ROLL = 12 * 1152  # an mp3 frame refers up to 9 frames back; libsndfile seeks with none
_MP3_LEAST, _MP3_MOST = np.float32(-1), np.float32(32767 / 32768)  # range of a 16-bit decoder
_UNKNOWN_LENGTH = 2**40  # libsndfile's answer for streams that do not tell is near 2**63

CODES = (
    "NOT_AUDIO",
    "EMPTY",
    "TRUNCATED",
    "DAMAGED",
    "NONFINITE",
    "NOT_REGULAR",
    "PERMISSION",
    "VANISHED",
    "UNSUPPORTED",
    "TOO_SHORT",
)

_KNOWN = (b"RIFF", b"RIFX", b"RF64", b"fLaC", b"OggS", b"FORM", b".snd", b"caff")
_FOREIGN = (  # offset, magic, name: what libsndfile does not read but users have
    (4, b"ftyp", "MP4/AAC"),
    (0, b"\x30\x26\xb2\x75", "WMA"),
    (0, b"wvpk", "WavPack"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"MPCK", "Musepack"),
    (0, b"TTA1", "True Audio"),
    (0, b"#!AMR", "AMR"),
    (0, b"MThd", "MIDI"),
    (0, b"\x1a\x45\xdf\xa3", "Matroska/WebM"),
)


class AudioError(InputError):
    """A file that gives no music, and why.

    Attributes:
        code: one of ``CODES``, stable for scripts.
    """

    def __init__(self, code: str, path: str | bytes | Path, what: str) -> None:
        super().__init__(f"{display_name(path)}: {what}")
        self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        """Travel between processes: rebuilt from the finished text, not the three parts."""
        return _rebuild, (self.code, str(self))


def _rebuild(code: str, text: str) -> AudioError:
    error = AudioError.__new__(AudioError)
    InputError.__init__(error, text)
    error.code = code
    return error


def display_name(path: str | bytes | Path) -> str:
    """Return a path as one printable line; bytes that are no UTF-8 and controls are escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@contextmanager
def silenced_native_stderr() -> Iterator[None]:
    """Keep C libraries from writing to the terminal; for a worker process only.

    libmpg123 writes thousands of lines about a damaged mp3, below Python's
    ``sys.stderr``. This turns file descriptor 2 of the whole process, so tracebacks
    and other threads fall silent too while it lasts.
    """
    saved = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def open_audio(path: str | bytes | Path) -> "AudioFile":
    """Return an open audio file whose length is known, not only claimed.

    The content decides what a file is, not its name. Where the header does not tell
    the length, or tells more than there is, the file is decoded once to count.

    Raises:
        AudioError: not a regular file (a pipe or device is never opened), no audio,
            no samples, or a rate or channel count beyond reason.
    """
    descriptor = _open_regular(path)
    try:
        return AudioFile(path, descriptor)
    except BaseException:
        os.close(descriptor)
        raise


class AudioFile:
    """An open audio file, read as the mean of its channels.

    Attributes:
        path: as it was given.
        sample_rate: Hz.
        channels: in the file.
        n_samples: a channel, as far as they can be decoded.
        warnings: what is odd about the file, in words.
    """

    def __init__(self, path: str | bytes | Path, descriptor: int) -> None:
        """Take over an open file descriptor; ``open_audio`` makes one.

        Raises:
            AudioError: see ``open_audio``.
        """
        self.path = path
        self.warnings: list[str] = []
        self._descriptor = descriptor
        self._file = self._open()
        try:
            self.sample_rate = int(self._file.samplerate)
            self.channels = int(self._file.channels)
            self._is_mp3 = self._file.format == "MP3" or "MPEG" in self._file.subtype
            self._check_header()
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
            out[done : done + len(block)] = self._mono(block, start + done)
            done += len(block)
        return out[:done]

    def measure(self) -> int:
        """Decode everything and return ``n_samples``, now what really came; warn if it is less.

        Raises:
            AudioError: no sample can be decoded.
        """
        claimed = int(self._file.frames)
        counted = sum(len(block) for block in self._blocks(0, _UNKNOWN_LENGTH))
        if not counted:
            raise AudioError("DAMAGED", self.path, "no sample of it can be decoded")
        if counted + _WORTH_A_WORD * self.sample_rate < claimed < _UNKNOWN_LENGTH:
            promised, there = claimed / self.sample_rate, counted / self.sample_rate
            text = f"truncated or damaged: {there:.1f} s of {promised:.1f} s can be decoded"
            self.warnings.append(text)
        self.n_samples = counted
        return counted

    def _open(self) -> soundfile.SoundFile:
        try:
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            file = soundfile.SoundFile(self._descriptor, closefd=False)
        except soundfile.LibsndfileError as error:
            raise _refusal(self.path, self._descriptor, error) from error
        if file.format != "MP3":
            return file
        counted = mp3.with_length(self._descriptor)
        if counted is None:
            return file
        file.close()
        return soundfile.SoundFile(counted)

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
        if claimed < _UNKNOWN_LENGTH:
            start = max(0, claimed - _TAIL)
            if there := sum(len(block) for block in self._blocks(start, claimed)):
                return start + there
        return self.measure()

    def _blocks(self, start: int, stop: int) -> Iterator[NDArray[np.float32]]:
        """Yield (n, channels) float32 of samples [start, stop), as far as they decode."""
        position = max(0, start - _PRE_ROLL) if self._is_mp3 else start
        try:
            if self._file.seek(position) != position:
                return
        except soundfile.LibsndfileError:
            return
        while position < stop:
            asked = min(_BLOCK, stop - position)
            block = self._decode(position, asked)
            yield block[max(0, start - position) :]
            position += len(block)
            if len(block) < asked:
                return

    def _decode(self, position: int, count: int) -> NDArray[np.float32]:
        """Return up to ``count`` samples, all there are before the first that is damaged."""
        while count:
            try:
                return self._file.read(count, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError:
                # The good samples of a damaged block are lost with it: ask for fewer.
                count //= 2
                try:
                    self._file.seek(position)
                except soundfile.LibsndfileError:
                    break
        return np.empty((0, self.channels), np.float32)

    def _mono(self, block: NDArray[np.float32], position: int) -> NDArray[np.float32]:
        """Return the mean of the channels of samples that begin at ``position``."""
        if self._is_mp3:
            # Essentia decodes mp3 through 16 bits, where loud passages clip.
            block = np.clip(block, _MP3_LEAST, _MP3_MOST)
        if self.channels == 1:
            mono = block[:, 0]
        elif self.channels == 2:
            mono = (block[:, 0] + block[:, 1]) * np.float32(0.5)
        else:
            mono = block.mean(axis=1, dtype=np.float64).astype(np.float32)
        finite = np.isfinite(mono)
        if not finite.all():
            index = position + int(np.argmin(finite))
            seconds = index / self.sample_rate
            what = f"sample {index} ({seconds:.3f} s) is NaN or infinite"
            raise AudioError("NONFINITE", self.path, what)
        return mono


def _open_regular(path: str | bytes | Path) -> int:
    """Return a descriptor of a regular file.

    Raises:
        AudioError: there is no such file, it may not be read, it is something else than
            a file, or it is empty.
    """
    raw = os.fsencode(path)
    try:
        # Asked before it is opened: opening a pipe waits for a writer, a device may act.
        _check_regular(path, os.stat(raw))
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(raw, flags | getattr(os, "O_CLOEXEC", 0))
    except (OSError, ValueError) as error:
        if isinstance(error, AudioError):
            raise
        raise _unopened(path, error) from error
    try:
        status = os.fstat(descriptor)  # the name may mean another file by now
        _check_regular(path, status)
        if not status.st_size:
            raise AudioError("EMPTY", path, "the file is empty (0 bytes)")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_regular(path: str | bytes | Path, status: os.stat_result) -> None:
    for test, kind in (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    ):
        if test(status.st_mode):
            raise AudioError("NOT_REGULAR", path, f"it is {kind}, not a file")


def _unopened(path: str | bytes | Path, error: OSError | ValueError) -> AudioError:
    """Return why a file cannot be opened."""
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EACCES or number == errno.EPERM:
        return AudioError("PERMISSION", path, "no permission to read it")
    if number == errno.ELOOP:
        return AudioError("NOT_REGULAR", path, "a loop of symbolic links")
    if number in (errno.ENXIO, errno.ENODEV):
        return AudioError("NOT_REGULAR", path, "it is a device or socket, not a file")
    if number in (errno.ENOENT, errno.ENOTDIR) and os.path.islink(os.fsencode(path)):
        return AudioError("VANISHED", path, "a symbolic link to a file that is not there")
    if number in (errno.ENOENT, errno.ENOTDIR):
        return AudioError("VANISHED", path, "there is no such file")
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return AudioError("VANISHED", path, f"it cannot be opened: {reason}")


def _refusal(
    path: str | bytes | Path, descriptor: int, error: soundfile.LibsndfileError
) -> AudioError:
    """Return why libsndfile did not open a regular file, in better words than its own."""
    head = os.pread(descriptor, 16, 0)
    for offset, magic, name in _FOREIGN:
        if head[offset : offset + len(magic)] == magic:
            what = f"{name} is not read; convert it to FLAC, Ogg, MP3 or WAV"
            return AudioError("UNSUPPORTED", path, what)
    if not any(head):
        return AudioError("NOT_AUDIO", path, "it begins with zeros, not with audio")
    reason = error.error_string.strip().rstrip(".")
    if head[:4] in _KNOWN or head[:3] == b"ID3":
        return AudioError("DAMAGED", path, f"its header is damaged ({reason})")
    return AudioError("NOT_AUDIO", path, "its content is no audio that libsndfile knows")
