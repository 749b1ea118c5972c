"""label_centroids beside scipy, numpy and pandas, with 1.8 or 4.4 labels a song as in MTG-Jamendo.

Process time. The limit is a read of features and labels by torch's sums of them.
"""

from time import process_time

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix

from bench import paper
from fastmte import ops
from fastmte.partition import LabelCentroids

SIZES = [
    (9949, 22, 56, 1.8, 25),
    (22_666, 22, 183, 4.4, 15),
    (100_000, 22, 56, 1.8, 15),
    (1_000_000, 22, 56, 1.8, 9),
    (500_000, 200, 56, 1.8, 9),
    (150_000, 512, 56, 1.8, 9),
    (150_000, 512, 183, 4.4, 9),
]


@pytest.mark.parametrize("n_songs, n_features, n_labels, n_of_song, rounds", SIZES)
def test_label_centroids_against_scipy(versus, n_songs, n_features, n_labels, n_of_song, rounds):
    features, labels = _multi_hot(n_songs, n_features, n_labels, n_of_song)
    sparse = labels.to_sparse_csr()
    table = csr_matrix(labels.numpy().astype(np.float32))
    rows = features.numpy()
    lists = sparse.crow_indices(), sparse.col_indices()
    versus(
        lambda: ops.label_centroids(features, sparse),
        lambda: paper.centroids_by_scipy(rows, table),
        what="`label_centroids`, CSR labels",
        size=f"{n_songs} x {n_features}, {n_labels} labels",
        instead="scipy `csr.T @ X`",
        limit=("read of both", lambda: [x.sum() for x in (features, *lists)]),
        same=_close,
        rounds=rounds,
        clock=process_time,
    )


@pytest.mark.parametrize(
    "n_songs, n_features, rounds", [(9949, 22, 15), (100_000, 22, 9), (500_000, 200, 4)]
)
def test_label_centroids_against_numpy(versus, n_songs, n_features, rounds):
    features, labels = _multi_hot(n_songs, n_features, 56, 1.8)
    rows, has = features.numpy(), labels.numpy()
    versus(
        lambda: ops.label_centroids(features, labels),
        lambda: np.stack([rows[column].mean(axis=0) for column in has.T]),
        what="`label_centroids`, dense labels",
        size=f"{n_songs} x {n_features}, 56 labels",
        instead="numpy, label by label",
        same=_close,
        rounds=rounds,
        clock=process_time,
    )


def test_label_centroids_against_pandas(versus):
    features, labels = _multi_hot(9949, 22, 56, 1.8)
    tags = [f"tag{i}" for i in range(labels.shape[1])]
    table = pd.DataFrame(features.numpy(), columns=[f"f{i}" for i in range(features.shape[1])])
    table = pd.concat([table, pd.DataFrame(labels.numpy(), columns=tags)], axis=1)
    sparse = labels.to_sparse_csr()
    versus(
        lambda: ops.label_centroids(features, sparse),
        lambda: paper.centroids_of_table(table, tags),
        what="`label_centroids`, CSR labels",
        size="9949 x 22, 56 labels",
        instead="pandas, tag by tag, as the paper",
        same=_close,
        clock=process_time,
    )


def test_label_centroids_in_numba(versus):
    kernels = pytest.importorskip("fastmte._kernels")
    features, labels = _multi_hot(100_000, 22, 56, 1.8)
    versus(
        lambda: ops.label_centroids(features, labels),
        lambda: kernels.label_centroids(features, labels),
        what="`label_centroids`, dense labels",
        size="100000 x 22, 56 labels",
        instead="its numba tier",
        same=torch.testing.assert_close,
        clock=process_time,
    )


def test_label_centroids_of_a_file(versus, tmp_path):
    features, labels = _multi_hot(500_000, 64, 56, 1.8)
    paths = tmp_path / "features.npy", tmp_path / "labels.npy"
    for path, array in zip(paths, (features, labels), strict=True):
        np.save(path, array.numpy())
    versus(
        lambda: LabelCentroids().fit(*(np.load(path, mmap_mode="r") for path in paths)).centroids_,
        lambda: LabelCentroids().fit(*(np.load(path) for path in paths)).centroids_,
        what="`LabelCentroids` of a mapped .npy",
        size="500000 x 64, 56 labels",
        instead="the same after `np.load`",
        same=_close,
        rounds=7,
        clock=process_time,
    )


def _multi_hot(n_songs, n_features, n_labels, n_of_song):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((n_songs, n_features), np.float32)
    labels = rng.random((n_songs, n_labels), np.float32) < n_of_song / n_labels
    return torch.from_numpy(features), torch.from_numpy(labels)


def _close(actual, expected):
    torch.testing.assert_close(
        torch.as_tensor(actual), torch.as_tensor(expected), rtol=1e-4, atol=1e-4
    )
