"""label_centroids on every tier: means, edges, errors."""

import math

import pytest
import torch
from op_cases import csr, on_threads, refuses, songs
from torch.testing import assert_close

from fastmte import ops, reference

INF, NAN = math.inf, math.nan


def centroids_of(tier, form, features, labels):
    if form == "dense":
        return tier.label_centroids(features, labels)
    csr_function = getattr(tier, "label_centroids_csr", None) or tier.label_centroids.csr
    return csr_function(features, *csr(labels))


SIZES = [(1, 1, 1), (7, 3, 5), (500, 22, 56), (64, 300, 9), (20_001, 5, 12), (4, 0, 2), (0, 3, 0)]


@pytest.mark.parametrize("form", ["dense", "csr"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_songs, n_features, n_labels", SIZES)
def test_label_centroids_are_means(tier, n_songs, n_features, n_labels, dtype, form, device):
    features, labels = songs(n_songs, n_features, n_labels, dtype, device)
    centroids = centroids_of(tier, form, features, labels)
    assert centroids.shape == (n_labels, n_features)
    assert centroids.dtype == dtype
    for label in range(n_labels):
        mean = features[labels[:, label]].double().cpu().numpy().mean(0)
        assert_close(centroids[label].double().cpu().numpy(), mean, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_songs", [100, 20_001, 600_000])
def test_label_centroids_has_one_order_of_sums(tier, n_songs, dtype):
    features, labels = songs(n_songs, 3, 4, dtype)
    expected = reference.label_centroids(features, labels)
    assert torch.equal(tier.label_centroids(features, labels), expected)


def test_label_centroids_by_hand(tier, device):
    features = torch.tensor([[0.0, 2.0], [4.0, 6.0]], device=device)
    labels = torch.tensor([[True, True], [False, True]], device=device)
    expected = torch.tensor([[0.0, 2.0], [2.0, 4.0]], device=device)
    assert torch.equal(tier.label_centroids(features, labels), expected)


def test_label_centroids_sums_in_float64(tier):
    features = torch.tensor([[1e8], [1.0], [-1e8]])  # 1e8 + 1 is 1e8 in float32
    centroids = tier.label_centroids(features, torch.ones(3, 1, dtype=torch.bool))
    assert_close(centroids, torch.tensor([[1 / 3]]))


@pytest.mark.parametrize("n_songs, n_chunks", [(8192, 1), (8193, 2), (64 * 8192 + 1, 64)])
def test_songs_are_summed_in_at_most_64_chunks(n_songs, n_chunks):
    assert math.ceil(n_songs / reference.songs_per_chunk(n_songs)) == n_chunks


@pytest.mark.parametrize("form", ["dense", "csr"])
def test_label_centroids_of_strided_tensors(tier, form, device):
    features, labels = songs(40, 22, 5, device=device)
    expected = centroids_of(tier, form, features, labels)
    strided = features.T.contiguous().T, labels.T.contiguous().T
    assert torch.equal(centroids_of(tier, form, *strided), expected)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
def test_label_centroids_takes_sparse_tensors(index_dtype, device):
    features, labels = songs(50, 4, 6, device=device)
    crow, col, _ = csr(labels)
    tables = crow.to(index_dtype), col.to(index_dtype), torch.ones(len(col), device=device)
    sparse = torch.sparse_csr_tensor(*tables, tuple(labels.shape), check_invariants=True)
    expected = ops.label_centroids(features, labels)
    assert torch.equal(ops.label_centroids(features, sparse), expected)
    sparse.values()[3] = 0.0
    with refuses("label_centroids: labels must store no zero, got one in its values"):
        ops.label_centroids(features, sparse)


@pytest.mark.parametrize("form", ["dense", "csr"])
def test_label_centroids_does_not_depend_on_threads(form):
    features, labels = songs(30_000, 22, 56)
    one, two = (
        on_threads(n, lambda: centroids_of(torch.ops.fastmte, form, features, labels))
        for n in (1, 2)
    )
    assert torch.equal(one, two)


LABELS = torch.tensor([[1, 0], [1, 1], [0, 1]]).bool()
CENTROID_ERRORS = {
    "features 1-D": ((torch.zeros(3), LABELS), "features must be 2-D, got 1-D"),
    "half": ((torch.zeros(3, 2).half(), LABELS), "features must be Float or Double, got Half"),
    "float labels": ((torch.zeros(3, 2), LABELS.float()), "labels must be Bool, got Float"),
    "labels 1-D": ((torch.zeros(3, 2), LABELS[0]), "labels must be 2-D, got 1-D"),
    "songs": (
        (torch.zeros(3, 2), LABELS[:2]),
        "features.size(0) and labels.size(0) must be equal, got 3 and 2",
    ),
    "no song": (
        (torch.zeros(3, 2), torch.tensor([[1, 0, 1, 0]] * 3).bool()),
        "labels must give every label a song, got none for label 1",
    ),
    "no songs": (
        (torch.zeros(0, 2), LABELS[:0]),
        "labels must give every label a song, got none for label 0",
    ),
}


@pytest.mark.parametrize("name", CENTROID_ERRORS)
def test_label_centroids_refuses(tier, name, device):
    args, text = CENTROID_ERRORS[name]
    with refuses(f"label_centroids: {text}"):
        tier.label_centroids(*(x.to(device) for x in args))


CSR_ERRORS = {  # crow, col, n_labels of 3 songs
    "crow": ([0, 1, 3], [0, 0, 1], 2,
             "features.size(0) + 1 and crow.size(0) must be equal, got 4 and 3"),
    "n_labels": ([0, 0, 0, 0], [], -1, "n_labels must be at least 0, got -1"),
    "start": ([1, 1, 2, 3], [0, 0, 1], 2, "crow must start at 0, got 1"),
    "falls": ([0, 2, 1, 3], [0, 1, 1], 2, "crow must not decrease, got 1 after 2 at [2]"),
    "end": ([0, 1, 2, 4], [0, 0, 1], 2, "crow must end at 3, got 4"),
    "col": ([0, 1, 2, 3], [0, 2, 1], 2, "col must be in [0, 2), got 2 at [1]"),
    "twice": ([0, 1, 3, 3], [0, 1, 1], 2, "col must increase within a song, got 1 after 1 at [2]"),
    "order": ([0, 0, 1, 3], [0, 1, 0], 2, "col must increase within a song, got 0 after 1 at [2]"),
    "no song": ([0, 1, 2, 3], [0, 2, 2], 3,
                "labels must give every label a song, got none for label 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", CSR_ERRORS)
def test_label_centroids_refuses_csr(tier, name, device):
    crow, col, n_labels, text = CSR_ERRORS[name]
    csr_function = getattr(tier, "label_centroids_csr", None) or tier.label_centroids.csr
    tables = (torch.tensor(t, dtype=torch.int64, device=device) for t in (crow, col))
    with refuses(f"label_centroids: {text}"):
        csr_function(torch.zeros(3, 2, device=device), *tables, n_labels)


def test_label_centroids_refuses_a_csr_of_other_types(tier):
    csr_function = getattr(tier, "label_centroids_csr", None) or tier.label_centroids.csr
    crow, col, n_labels = csr(LABELS)
    features = torch.zeros(3, 2)
    with refuses("label_centroids: features must be Float or Double, got Long"):
        csr_function(features.long(), crow, col, n_labels)
    with refuses("label_centroids: crow must be Long, got Int"):
        csr_function(features, crow.int(), col, n_labels)
    with refuses("label_centroids: col must be 1-D, got 2-D"):
        csr_function(features, crow, col[None], n_labels)


@pytest.mark.parametrize("form", ["dense", "csr"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value, text", [(NAN, "nan"), (INF, "inf"), (-INF, "-inf")])
def test_label_centroids_refuses_what_is_not_finite(tier, value, text, dtype, form, device):
    features, labels = songs(9000, 9, 2, dtype, device)
    features[3, 7] = features[5, 0] = features[8500, 1] = value
    with refuses(f"label_centroids: features must be finite, got {text} at [3, 7]"):
        centroids_of(tier, form, features, labels)


@pytest.mark.parametrize("n_songs, n_features, n_labels", [(5, 22, 2), (5, 3, 0), (5, 0, 1)])
def test_label_centroids_opcheck(n_songs, n_features, n_labels, device):
    features, labels = songs(n_songs, n_features, n_labels, device=device)
    op = torch.ops.fastmte.label_centroids
    torch.library.opcheck(op.default, (features, labels))
    torch.library.opcheck(op.csr, (features, *csr(labels)))
