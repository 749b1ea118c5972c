"""Opening a file that may be no file, or no audio, and saying so."""

import errno
import os
import stat
from pathlib import Path

import soundfile

from fastmte.errors import InputError

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


def open_regular(path: str | bytes | Path) -> int:
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


def refusal(
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
