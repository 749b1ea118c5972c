"""The demo as files: Ogg songs and the tables of MTG-Jamendo's mood/theme task."""

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import soundfile

from fastmte.data.demo.plan import SPLITS, DemoSong, plan_demo
from fastmte.data.demo.synth import synthesise
from fastmte.data.demo.voices import SAMPLE_RATE
from fastmte.errors import InputError
from fastmte.files import atomic_write, write_json

DEMO_SONGS = 300
_FORMAT = 1  # raise it whenever the same seed would sound different
_MARKER = "demo.json"
_COLUMNS = "TRACK_ID ARTIST_ID ALBUM_ID PATH DURATION TAGS".replace(" ", "\t")


def write_demo(
    folder: str | Path,
    seed: int = 0,
    n_songs: int = DEMO_SONGS,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the demo collection in MTG-Jamendo's layout and return its folder.

    ``audio/NN/ID.ogg``, ``splits/split-0/autotagging_moodtheme-*.tsv`` and
    ``test-songs.txt`` (the held-out songs, one path below ``audio`` a line). Equal
    arguments give equal sound, whatever ``workers`` is. A whole collection is left
    as it is; of one whose writing was interrupted only the missing songs are made.

    Args:
        folder: where to write; it is made when it is not there.
        seed: of everything that is drawn.
        n_songs: at least 48.
        workers: songs made at the same time; by default one a core.
        progress: is called with the songs there are and ``n_songs``.

    Raises:
        InputError: the folder holds something else, or a demo made with other arguments.
        OSError: the folder cannot be written.
        ValueError: ``n_songs`` or ``seed`` is too small.
    """
    folder = Path(folder)
    songs = plan_demo(seed, n_songs)
    settings = {"format": _FORMAT, "seed": seed, "n_songs": n_songs}
    _claim(folder, settings)
    _write_audio(folder / "audio", songs, seed, workers, progress)
    for split in SPLITS:
        table = folder / "splits" / "split-0" / f"autotagging_moodtheme-{split}.tsv"
        _write_text(table, _table([song for song in songs if song.split == split]))
    held_out = [song.path for song in songs if song.split == "test"]
    _write_text(folder / "test-songs.txt", "\n".join(held_out) + "\n")
    write_json(folder / _MARKER, {**settings, "complete": True})
    return folder


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Make sure that the folder is empty or holds this very demo, and mark it as begun."""
    marker = folder / _MARKER
    if marker.exists():
        try:
            found = json.loads(marker.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if not isinstance(found, dict) or any(found.get(k) != v for k, v in settings.items()):
            raise InputError(
                f"{folder}: holds a demo made with other settings; name another folder or remove it"
            )
        return
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: is not empty and holds no demo; name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(marker, {**settings, "complete": False})


def _write_audio(
    folder: Path,
    songs: list[DemoSong],
    seed: int,
    workers: int | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Write the songs that are not there yet.

    Threads are enough: NumPy and the Vorbis encoder release the interpreter's lock.
    """
    missing = [song for song in songs if not (folder / song.path).exists()]
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        jobs = [pool.submit(_write_song, folder / song.path, song, seed) for song in missing]
        try:
            for done, job in enumerate(as_completed(jobs), len(songs) - len(missing) + 1):
                job.result()
                if progress is not None:
                    progress(done, len(songs))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _write_song(path: Path, song: DemoSong, seed: int) -> None:
    """Synthesise one song into an Ogg Vorbis file."""
    samples = synthesise(song.latents, song.generator(seed))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, "wb") as file:
        soundfile.write(file, samples, SAMPLE_RATE, format="OGG", subtype="VORBIS")


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(text)


def _table(songs: list[DemoSong]) -> str:
    """Return the songs as a TSV of MTG-Jamendo; an artist has one album."""
    rows = [
        "\t".join(
            (
                f"track_{song.number:07d}",
                f"artist_{song.artist:06d}",
                f"album_{song.artist:06d}",
                song.path,
                f"{song.latents.seconds:.1f}",
                *(f"mood/theme---{tag}" for tag in song.tags),
            )
        )
        for song in songs
    ]
    return "\n".join([_COLUMNS, *rows]) + "\n"
