"""The operators crop_mels and label_centroids; dkmeans_assign is in bench_partition.py."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix

from bench import paper
from fastmte import ops


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Write 32 whole mels of about three minutes as float32 .npy files."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("mels")
    paths = []
    for i in range(32):
        # Values float16 can hold, so that the store gives the very same crops.
        mel = rng.normal(-25, 15, (96, 8000 + 37 * i)).astype(np.float16).astype(np.float32)
        np.save(folder / f"{i}.npy", mel)
        paths.append(folder / f"{i}.npy")
    return paths


def test_crop_mels(versus, songs):
    frames = 1366
    crops = paper.load_crops(songs, frames)
    store = crops.to(torch.float16).reshape(-1)
    n = len(songs)
    lengths = torch.full((n,), frames)
    offsets = torch.arange(n) * (96 * frames)
    index = torch.arange(n)
    target = torch.empty_like(crops)
    versus(
        lambda: ops.crop_mels(store, offsets, lengths, index, None, frames),
        lambda: paper.load_crops(songs, frames),
        what="`crop_mels`: a batch of crops from the float16 store",
        size=f"{n} x 96 x {frames}",
        instead="`np.load` of whole mels + slice",
        limit=("copy of the float32 batch", lambda: target.copy_(crops)),
    )


@pytest.mark.parametrize(
    "n_songs, n_features, n_labels",
    [(9949, 22, 56), (100_000, 64, 200)],
    ids=["jamendo", "large"],
)
def test_label_centroids_against_scipy(versus, n_songs, n_features, n_labels):
    features, labels, sparse = _multi_hot(n_songs, n_features, n_labels)
    table = csr_matrix(labels.numpy().astype(np.float32))
    versus(
        lambda: ops.label_centroids(features, sparse),
        lambda: paper.centroids_by_scipy(features.numpy(), table),
        what="`label_centroids`, CSR labels",
        size=f"{n_songs} x {n_features}, {n_labels} labels",
        instead="scipy `csr.T @ X`",
        limit=("sum over the features", lambda: features.sum(0)),
        same=_close,
    )


def test_label_centroids_against_pandas(versus):
    features, labels, sparse = _multi_hot(9949, 22, 56)
    tags = [f"tag{i}" for i in range(labels.shape[1])]
    table = pd.DataFrame(features.numpy(), columns=[f"f{i}" for i in range(features.shape[1])])
    table = pd.concat([table, pd.DataFrame(labels.numpy(), columns=tags)], axis=1)
    versus(
        lambda: ops.label_centroids(features, sparse),
        lambda: paper.centroids_of_table(table, tags),
        what="`label_centroids`, CSR labels",
        size="9949 x 22, 56 labels",
        instead="pandas, tag by tag, as the paper",
        same=_close,
    )


def _multi_hot(n_songs, n_features, n_labels):
    """Return features and about 1.8 labels a song, dense and as CSR."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(n_songs, n_features, generator=generator)
    labels = torch.rand(n_songs, n_labels, generator=generator) < 1.8 / n_labels
    return features, labels, labels.to_sparse_csr()


def _close(actual, expected):
    torch.testing.assert_close(
        torch.as_tensor(actual), torch.as_tensor(expected), rtol=1e-4, atol=1e-4
    )
