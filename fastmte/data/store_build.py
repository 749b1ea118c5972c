"""Decode a collection into a mel store, keeping what is finished."""

import hashlib
import json
import os
import time
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fastmte.crop import BANDS
from fastmte.data.describe import load_middle
from fastmte.data.store import FORMAT, MELS, SIDECAR, Progress, read_sidecar
from fastmte.data.workers import Decoders, Outcome, n_cores
from fastmte.errors import InputError
from fastmte.files import atomic_write, locked, write_json
from fastmte.mel import MelConfig

DEADLINE = 120.0  # seconds a song may take; the slowest real ones take two
_JOURNAL = "journal.jsonl"
_COMMIT_SONGS, _COMMIT_SECONDS = 64, 2.0
_SONG_KEYS = ("id", "row", "n_frames", "length", "start", "status", "duration", "crc", "state")
_Entries = dict[int, dict[str, Any]]  # row -> what became of its song


def store_key(
    paths: Sequence[str | Path], ids: Sequence[str], config: MelConfig, frames: int
) -> str:
    """Return a hash that changes with the songs, their files, the mels' definition and width."""
    header = _header([_state(os.fsencode(path)) for path in paths], ids, config, frames)
    return hashlib.sha256(json.dumps(header).encode()).hexdigest()


def build_store(
    paths: Sequence[str | Path],
    ids: Sequence[str],
    folder: Path,
    config: MelConfig,
    frames: int,
    workers: int | None,
    progress: Progress | None,
    is_checked: bool = False,
    retry_failed: bool = False,
) -> None:
    """Decode songs into a store in ``folder``, or complete one that was interrupted.

    A finished song is noted in a journal once its mel is on the disk, so a kill loses
    seconds of work and never a song. Songs that cannot be decoded are noted too. Songs
    whose files have changed since are decoded again, and no others.

    Args:
        paths: the audio files.
        ids: a name a song, distinct.
        folder: made if need be; a finished store of the same songs is left as it is.
        config: the mels' definition.
        frames: frames kept of each song, its middle.
        workers: decoder processes; 0 decodes here  [default: one a core].
        progress: is told (finished songs, all songs).
        is_checked: the mels of a finished store are compared with their checksums, and what is
            damaged is decoded again; those of an unfinished one always are.
        retry_failed: songs that could not be decoded are tried again.

    Raises:
        InputError: nothing to decode, ids that repeat, a store of other songs or mels in
            the folder, another process that is writing it, or no song could be decoded.
        OSError: the folder cannot be written, or the disk is full.
    """
    names = [os.fsencode(path) for path in paths]
    if not names or len(names) != len(ids) or len(set(ids)) != len(ids):
        raise InputError(f"{folder}: needs songs of distinct ids, got {len(names)} files")
    states = [_state(name) for name in names]
    header = _header(states, ids, config, frames)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        is_finished = (folder / SIDECAR).is_file()
        done = (_read_finished if is_finished else _read_journal)(folder, header)
        _drop_changed(done, states, retry_failed)
        is_there = (folder / MELS).is_file()
        mels = _allocate(folder, len(ids), frames)
        if is_checked or not is_finished or not is_there:
            _drop_damaged(done, mels)
        todo = [row for row in range(len(ids)) if row not in done]
        if is_finished and not todo:
            return
        _begin_journal(folder, header, done)
        with _Journal(folder / _JOURNAL, mels, done) as journal:
            for row, outcome in _decode(todo, names, config, frames, workers):
                journal.note(row, str(ids[row]), names[row], states[row], outcome)
                if progress is not None:
                    progress(len(done), len(ids))
        _finish(folder, header, [done[row] for row in range(len(ids))])


def remove_store(folder: Path) -> None:
    """Remove a store, finished or not, and nothing else that is in its folder."""
    for name in (SIDECAR, _JOURNAL, MELS):
        (folder / name).unlink(missing_ok=True)


def _decode(
    rows: list[int], names: list[bytes], config: MelConfig, frames: int, workers: int | None
) -> Iterator[tuple[int, Outcome]]:
    """Yield each row and what its file decoded to, in order."""
    if workers is None:
        workers = n_cores()
    # A process starts in the time it takes to decode a dozen songs.
    n_workers = min(workers, len(rows) // 12)
    load = partial(load_middle, config=config, frames=frames)
    with Decoders(load, n_workers, DEADLINE, (BANDS, frames)) as decoders:
        yield from zip(rows, decoders.map(names[row] for row in rows), strict=True)


class _Journal:
    """Finished songs, put on the disk in groups: first their mels, then the lines about them."""

    def __init__(self, path: Path, mels: np.memmap, done: dict[int, dict[str, Any]]) -> None:
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by __exit__
        self._mels, self._done = mels, done
        self._lines: list[str] = []
        self._since = time.monotonic()

    def __enter__(self) -> "_Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self._commit()
        self._file.close()

    def note(self, row: int, id_: str, name: bytes, state: list[int], outcome: Outcome) -> None:
        """Keep the song's mel, or the reason why there is none."""
        if outcome.song is None:
            entry: dict[str, Any] = {"row": row, "id": id_, "path": _display(name)}
            entry |= {"code": outcome.code, "message": outcome.message, "state": state}
        else:
            song, frames = outcome.song, self._mels.shape[2]
            length = min(song.n_frames, frames)
            mel = _unrolled(song.mel, length, song.start_frame).astype(np.float16)
            self._mels[row].reshape(-1)[: mel.size] = mel.reshape(-1)
            start = 0 if length < frames else song.start_frame
            known = (id_, row, song.n_frames, length, start, song.status, song.duration_s)
            entry = dict(zip(_SONG_KEYS, (*known, _checksum(mel), state), strict=True))
        self._done[row] = entry
        self._lines.append(json.dumps(entry) + "\n")
        late = time.monotonic() - self._since > _COMMIT_SECONDS
        if late or len(self._lines) >= _COMMIT_SONGS:
            self._commit()

    def _commit(self) -> None:
        self._mels.flush()
        self._file.writelines(self._lines)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._lines, self._since = [], time.monotonic()


def _unrolled(mel: np.ndarray, length: int, start: int) -> np.ndarray:
    """Return (96, length) of a crop; one of a repeated, shorter song is turned back to frame 0."""
    if length == mel.shape[1]:
        return mel
    return mel[:, (np.arange(length) - start) % length]


def _header(
    states: list[list[int]], ids: Sequence[str], config: MelConfig, frames: int
) -> dict[str, Any]:
    """Return what a store is of: equal headers, equal stores.

    All but the files' states, ``songs_hash``, must be equal for a store to be completed.
    """
    songs, ids_hash = hashlib.sha256(), hashlib.sha256()
    for id_, state in zip(ids, states, strict=True):
        songs.update(json.dumps([str(id_), *state]).encode())
        ids_hash.update(json.dumps(str(id_)).encode())
    header = {"format": FORMAT, "mel": config.to_dict(), "frames": frames, "n_songs": len(ids)}
    return header | {"ids_hash": ids_hash.hexdigest(), "songs_hash": songs.hexdigest()}


def _state(name: bytes) -> list[int]:
    """Return the size and the time of change of a file; -1 where there is none."""
    try:
        about = os.stat(name)
    except OSError:
        return [-1, -1]
    return [about.st_size, about.st_mtime_ns]


def _check_same(folder: Path, found: dict[str, Any], header: dict[str, Any]) -> None:
    """Refuse to mix songs of two kinds in one store.

    Raises:
        InputError: what is in the folder is a store of something else.
    """
    words = {"mel": "mel preset", "frames": "--frames", "n_songs": "number of songs"}
    other = [key for key in header if key != "songs_hash" and found.get(key) != header[key]]
    if not other:
        return
    texts = []
    for key in other:
        was, now = found.get(key), header[key]
        if key == "mel":
            was, now = (was or {}).get("preset"), now["preset"]
        text = f"{words[key]} was {was}, got {now}" if key in words else "the songs differ"
        texts.append(text)
    raise InputError(
        f"{folder}: holds the mels of something else ({'; '.join(texts)}), and one store must "
        "not mix them; choose another folder, or remove this one"
    )


def _read_finished(folder: Path, header: dict[str, Any]) -> _Entries:
    """Return row -> entry of the songs of a finished store.

    Raises:
        InputError: the store is of something else.
    """
    sidecar = read_sidecar(folder)
    _check_same(folder, sidecar, header)
    columns = sidecar["songs"]
    rows = zip(*columns.values(), strict=True)
    songs = [dict(zip(columns, row, strict=True)) for row in rows]
    return {entry["row"]: entry for entry in (*songs, *sidecar["failed"])}


def _read_journal(folder: Path, header: dict[str, Any]) -> _Entries:
    """Return row -> entry of the songs an earlier run finished.

    Raises:
        InputError: the earlier run was of something else.
    """
    path = folder / _JOURNAL
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    entries = [_parsed(line) for line in lines[:-1]]  # a torn last line has no newline
    if not entries or not (folder / MELS).is_file():
        return {}
    _check_same(folder, entries[0], header)
    return {entry["row"]: entry for entry in entries[1:] if "row" in entry}


def _begin_journal(folder: Path, header: dict[str, Any], done: _Entries) -> None:
    """Write what is done; the store is an unfinished one from then on."""
    with atomic_write(folder / _JOURNAL) as file:
        file.writelines(json.dumps(one) + "\n" for one in (header, *done.values()))
    (folder / SIDECAR).unlink(missing_ok=True)


def _drop_changed(done: _Entries, states: list[list[int]], retry_failed: bool) -> None:
    """Take out the songs that are to be decoded again."""
    for row, entry in list(done.items()):
        if entry["state"] != states[row] or (retry_failed and "code" in entry):
            del done[row]


def _drop_damaged(done: _Entries, mels: np.memmap) -> None:
    """Take out the songs whose mels are not those that were written."""
    for row, entry in list(done.items()):
        if "code" not in entry:
            values = mels[row].reshape(-1)[: BANDS * entry["length"]]
            if _checksum(values) != entry["crc"]:
                del done[row]


def _checksum(mel: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(mel).view(np.uint8).data)


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _allocate(folder: Path, n_songs: int, frames: int) -> np.memmap:
    """Return the mapped (N, 96, F) float16 file, its space reserved.

    Without the reservation a full disk would be a bus error in the middle.
    """
    path, shape = folder / MELS, (n_songs, BANDS, frames)
    if path.is_file():
        try:
            mels = np.load(path, mmap_mode="r+", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise InputError(f"{path}: damaged ({error}); remove {folder}") from error
        if mels.shape == shape and mels.dtype == np.float16:
            return mels
    try:
        mels = np.lib.format.open_memmap(path, "w+", np.float16, shape)
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from error
    return mels


def _finish(folder: Path, header: dict[str, Any], entries: list[dict[str, Any]]) -> None:
    """Write the sidecar, which makes the store a finished one."""
    songs = [entry for entry in entries if "code" not in entry]
    failed = [entry for entry in entries if "code" in entry]
    if not songs:
        (folder / _JOURNAL).unlink(missing_ok=True)
        (folder / MELS).unlink(missing_ok=True)
        first = failed[0]
        raise InputError(
            f"{folder}: none of {len(failed)} songs could be decoded; "
            f"the first: {first['path']}: {first['message']}"
        )
    columns = {key: [song[key] for song in songs] for key in _SONG_KEYS}
    content = json.dumps([header, columns, [one["id"] for one in failed]])
    digest = hashlib.sha256(content.encode()).hexdigest()
    write_json(folder / SIDECAR, header | {"hash": digest, "songs": columns, "failed": failed})
    (folder / _JOURNAL).unlink(missing_ok=True)


def _display(name: bytes) -> str:
    """Return a path for people: bytes that are no UTF-8 are escaped."""
    return name.decode("utf-8", "backslashreplace")
