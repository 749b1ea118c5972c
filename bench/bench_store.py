"""A batch of training crops: from the float16 store, and from MTG's own .npy files in place.

The songs are as long as MTG-Jamendo's, 264 s on average, and their files are in the page
cache. The crops go into memory that a training uses for each batch in turn.
"""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time

import numpy as np
import pytest
import torch

from bench import paper
from fastmte.data.npy_mels import NpyMels
from fastmte.data.store import MelStore, batch_room
from fastmte.data.store_build import build_store
from fastmte.mel import MelConfig

N_SONGS, FRAMES = 64, 1366
MEAN_FRAMES = 264 * 12000 // 256
CONFIG = MelConfig.of("mtg2019")


@pytest.fixture(scope="module")
def paths():
    """Write whole mels as float32 .npy files."""
    rng = np.random.default_rng(0)
    with TemporaryDirectory() as folder:
        files = []
        for i in range(N_SONGS):
            # Values float16 can hold, so that the store gives the very same crops.
            shape = (96, MEAN_FRAMES + 37 * (2 * i + 1 - N_SONGS))
            mel = rng.normal(-25, 15, shape).astype(np.float16).astype(np.float32)
            files.append(Path(folder) / f"{i:03d}.npy")
            np.save(files[-1], mel)
        yield files


@pytest.fixture(params=["float16 store", "MTG's .npy, in place"])
def store(request, paths, tmp_path):
    if request.param == "float16 store":
        build_store(paths, [path.stem for path in paths], tmp_path, CONFIG, FRAMES, 0, None)
        yield MelStore.open(tmp_path)
        (tmp_path / "mels.npy").unlink()
    else:
        yield MelStore.from_npy(paths)


def test_gather(versus, store, paths):
    index = torch.randperm(N_SONGS, generator=torch.Generator().manual_seed(0))
    batch = [paths[i] for i in index.tolist()]
    crops = paper.load_crops(batch, FRAMES)
    room, target = batch_room(N_SONGS, FRAMES), torch.empty_like(crops)
    where = "MTG's .npy, in place" if isinstance(store, NpyMels) else "the float16 store"
    versus(
        lambda: store.gather(index, FRAMES, "centre", room),
        lambda: paper.load_crops(batch, FRAMES),
        what=f"a batch of crops from {where}",
        size=f"{N_SONGS} x 96 x {FRAMES}",
        instead="`np.load` of whole mels + slice",
        limit=("copy of the float32 batch", lambda: target.copy_(crops)),
        clock=process_time,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("kind", "n_songs"), [("store", 55_000), ("npy", 10_000)])
def test_large_collection(benchmark, kind, n_songs):
    """What indexing many songs and a random epoch over them take, in a process of their own."""
    took = benchmark.pedantic(took_by, (kind, n_songs))
    frames, size = (FRAMES, 2) if kind == "store" else (MEAN_FRAMES, 4)
    whole = n_songs * 96 * frames * size
    ratio = whole / took["peak"]
    where = "the float16 store" if kind == "store" else "MTG's .npy, in place"
    benchmark.extra_info |= {
        "what": f"memory of the index of {where} and a random epoch over it",
        "size": f"{n_songs} x 96 x {frames}",
        "instead": "all of it in memory",
        "bytes": took["peak"],
        "instead_bytes": whole,
        "own_bytes": took["own"],
        "index_seconds": took["index_s"],
        "epoch_seconds": took["epoch_s"],
        "speedup": ratio,
        "speedup_quartiles": [ratio, ratio],
    }


def took_by(kind, n_songs):
    """Return what bench.large_store prints of a collection that exists for it alone."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bench.large_store", kind, str(n_songs), folder]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)
