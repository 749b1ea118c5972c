"""The operator label_centroids; the others are in files of their own."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix

from bench import paper
from fastmte import ops


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
