"""The songs a user means by the paths they give."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

AUDIO_EXTENSIONS = frozenset(
    # Those no decoder is there for are found too: a line says so, instead of silence.
    b".aac .aif .aifc .aiff .alac .amr .ape .au .bwf .caf .dff .dsf .flac .m4a .m4b .mka .mp1 .mp2"
    b" .mp3 .mpc .oga .ogg .opus .rf64 .snd .spx .tak .tta .w64 .wav .wave .wma .wv".split()
)


@dataclass(frozen=True)
class SongFile:
    """A file to tag.

    Attributes:
        name: as tables show it, relative to the root of the collection or absolute.
        path: what to open.
        size: bytes; None for a file that cannot be looked at.
        mtime_ns: its last change; None likewise.
    """

    name: bytes
    path: bytes
    size: int | None
    mtime_ns: int | None

    @cached_property
    def key(self) -> bytes:
        """What makes two names the same song: the absolute path, links not resolved."""
        return os.path.abspath(self.path)


@dataclass
class Found:
    """What was found under the given paths.

    Attributes:
        root: absolute folder that relative names start from.
        songs: sorted by name, each file once.
        unreadable: folders that could not be listed, with the reason.
    """

    root: bytes
    songs: list[SongFile] = field(default_factory=list)
    unreadable: list[tuple[bytes, str]] = field(default_factory=list)


def find_songs(
    paths: Sequence[str | bytes | os.PathLike[str]], listed: Sequence[bytes] = ()
) -> Found:
    """Return the songs under folders, and the named files whatever they are called.

    Folders are searched to the bottom for ``AUDIO_EXTENSIONS`` in any case, without
    hidden files and folders (AppleDouble ``._song.mp3`` is one). A linked folder is
    followed unless its songs are reached by their own name anyway, so loops end.

    Names: the songs of one single folder are named relative to it; of several paths,
    or of files, as given, and the root is the working folder.

    Args:
        paths: files and folders.
        listed: further files or folders, one entry each; they need not exist.
    """
    given = [os.fsencode(path) for path in paths]
    is_one_folder = len(given) == 1 and not listed and os.path.isdir(given[0])
    root = os.path.abspath(given[0]) if is_one_folder else os.getcwdb()
    found = Found(root)
    names: list[bytes] = []
    for path in [*given, *listed]:
        if os.path.isdir(path):
            inside = _walk(path, found.unreadable)
            names += inside if is_one_folder else (os.path.join(path, name) for name in inside)
        else:
            names.append(path)
    songs: dict[bytes, SongFile] = {}
    for name in sorted(names):
        song = _look_at(root, name)
        songs.setdefault(song.key, song)
    found.songs = list(songs.values())
    return found


def renamed(song: SongFile, root: bytes) -> SongFile:
    """Return the song under the name it has in a collection with root ``root``."""
    if not os.path.isabs(song.name) and os.path.join(root, song.name) == song.path:
        return song
    inside = song.key.startswith(os.path.join(root, b""))
    name = os.path.relpath(song.key, root) if inside else song.key
    return SongFile(name, song.path, song.size, song.mtime_ns)


def read_list(content: bytes, is_nul_separated: bool = False) -> list[bytes]:
    """Return the paths in a list with one a line, or separated by NUL; empty ones are left out."""
    if is_nul_separated:
        return [path for path in content.split(b"\0") if path]
    lines = (line.removesuffix(b"\r") for line in content.split(b"\n"))
    return [line for line in lines if line]


def _look_at(root: bytes, name: bytes) -> SongFile:
    path = os.path.join(root, name)
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return SongFile(name, path, None, None)
    return SongFile(name, path, found.st_size, found.st_mtime_ns)


def _walk(folder: bytes, unreadable: list[tuple[bytes, str]]) -> Iterator[bytes]:
    """Yield the songs below a folder, relative to it."""
    top = os.path.realpath(folder)
    visited = {_identity(os.stat(folder))}
    waiting = [b""]
    while waiting:
        inside = waiting.pop()
        try:
            with os.scandir(os.path.join(folder, inside) if inside else folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            unreadable.append((os.path.join(folder, inside), error.strerror or str(error)))
            continue
        for entry in entries:
            if entry.name.startswith(b"."):
                continue
            name = os.path.join(inside, entry.name)
            if not _is_folder(entry):
                if os.path.splitext(entry.name)[1].lower() in AUDIO_EXTENSIONS:
                    yield name
            elif not (entry.is_symlink() and _is_within(os.path.realpath(entry.path), top)):
                identity = _identity(entry.stat())
                if identity not in visited:
                    visited.add(identity)
                    waiting.append(name)


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def _is_within(path: bytes, folder: bytes) -> bool:
    return path == folder or path.startswith(os.path.join(folder, b""))


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
