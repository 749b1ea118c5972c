"""A store of as many songs as MTG-Jamendo has, and an epoch over it in random order.

python -m bench.large_store store|npy N_SONGS FOLDER    prints what it took, as JSON

The mels are holes in sparse files: they take no space, and are read as a store's are.
"""

import json
import os
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from bench.process import bytes_of
from fastmte.data import store_build
from fastmte.data.batches import BatchRoom, LabelledMels, batch_order, random_starts
from fastmte.data.store import MELS, MelStore
from fastmte.mel import MelConfig

FRAMES, BATCH = 1366, 64
MEAN_FRAMES = 264 * 12000 // 256
CONFIG = MelConfig.of("mtg2019")


def make_store(folder: Path, n_songs: int) -> MelStore:
    """Note every song in the journal, as decoding would, then finish and open the store."""
    names = [os.fsencode(folder / f"{i:05d}.mp3") for i in range(n_songs)]
    ids = [f"track_{i:07d}" for i in range(n_songs)]
    np.lib.format.open_memmap(folder / MELS, "w+", np.float16, (n_songs, 96, FRAMES))
    header = store_build._header(names, ids, CONFIG, FRAMES)
    done = {}
    for row, id_ in enumerate(ids):
        known = (id_, row, MEAN_FRAMES, FRAMES, 5504, "ok", 264.0, 0, [-1, -1])
        done[row] = dict(zip(store_build._SONG_KEYS, known, strict=True))
    store_build._begin_journal(folder, header, done)
    done = store_build._read_journal(folder, header)
    store_build._drop_changed(done, [store_build._state(name) for name in names], False)
    store_build._finish(folder, header, [done[row] for row in range(n_songs)])
    return MelStore.open(folder)


def make_files(folder: Path, n_songs: int) -> list[Path]:
    """Write whole mels, one .npy a song."""
    paths = [folder / f"{i % 100:02d}" / f"{i}.npy" for i in range(n_songs)]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        shape = (96, MEAN_FRAMES)
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        with open(path, "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + 4 * shape[0] * shape[1])
    return paths


def measure(kind: str, n_songs: int, folder: Path) -> dict[str, float]:
    """Return the seconds of the index and of an epoch, and the memory at most, in bytes."""
    torch.set_num_threads(1)
    paths = make_files(folder, n_songs) if kind == "npy" else []
    before = bytes_of("VmRSS")
    start = perf_counter()
    store = MelStore.from_npy(paths) if paths else make_store(folder, n_songs)
    index = perf_counter() - start
    data = LabelledMels(store, store.index_of(store.ids), np.zeros((n_songs, 56), bool))
    room, own = BatchRoom(), 0
    start = perf_counter()
    starts = random_starts(data.lengths, FRAMES, 0, 1)
    for rows in batch_order(n_songs, BATCH, 0, 1):
        mels, _ = data.batch(rows, FRAMES, starts[rows], room.take(len(rows), FRAMES))
        assert mels.shape == (len(rows), 96, FRAMES)
        own = max(own, bytes_of("RssAnon"))
    epoch = perf_counter() - start
    return {"index_s": index, "epoch_s": epoch, "peak": bytes_of("VmHWM") - before, "own": own}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))))
