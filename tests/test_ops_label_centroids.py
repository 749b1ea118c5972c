"""label_centroids on every tier: means, edges, errors."""

import math

import numpy as np
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


SIZES = [
    *((1, 1, 1), (7, 3, 5), (500, 22, 56), (64, 300, 9), (20_001, 5, 12), (4, 0, 2), (0, 3, 0)),
    *((30, 2, n_labels) for n_labels in (16, 17, 31, 64, 65, 150)),
]


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


@pytest.mark.parametrize("form", ["dense", "csr"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "n_songs, n_features, n_labels",
    [(100, 3, 4), (20_001, 3, 70), (300, 64, 2), (9000, 65, 3), (50, 200, 20), (400, 537, 5)],
)
def test_label_centroids_has_one_order_of_sums(tier, n_songs, n_features, n_labels, dtype, form):
    features, labels = songs(n_songs, n_features, n_labels, dtype)
    features *= 10.0 ** torch.linspace(-6, 6, n_features)  # sums that show their order
    expected = reference.label_centroids(features, labels)
    assert torch.equal(centroids_of(tier, form, features, labels), expected)


def summed_in_words(features, labels):
    """The sums of the docstring, one addition after another."""
    in_groups = features.dtype == np.float32 and features.shape[1] > 64
    sums = np.zeros((labels.shape[1], features.shape[1]))
    for label, total in enumerate(sums):
        for chunk in range(0, len(features), 8192):
            rows = features[chunk : chunk + 8192][labels[chunk : chunk + 8192, label]]
            part = np.zeros_like(total)
            size = 16 if in_groups else 1
            for i in range(0, len(rows), size):
                group = np.zeros(rows.shape[1], rows.dtype)
                for row in rows[i : i + size]:
                    group += row
                part += group
            total += part
    return sums


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_features", [3, 70])
def test_label_centroids_are_the_sums_in_words(tier, n_features, dtype):
    features, labels = songs(8300, n_features, 2, dtype)
    sums = summed_in_words(features.numpy(), labels.numpy())
    expected = torch.from_numpy(sums / labels.sum(0)[:, None].numpy()).to(dtype)
    assert torch.equal(tier.label_centroids(features, labels), expected)


@pytest.mark.parametrize("kind", ["normal", "positive"])
@pytest.mark.parametrize("n_features", [22, 65])
@pytest.mark.parametrize("dtype, bound", [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_label_centroids_are_as_exact_as_they_say(n_features, dtype, bound, kind):
    features, labels = songs(30_000, n_features, 3, dtype)
    if kind == "positive":
        features = features.sigmoid()
    exact = labels.T.double() @ features.double() if dtype == torch.float32 else None
    if exact is None:
        exact = np.longdouble(labels.T.numpy()) @ np.longdouble(features.numpy())
        exact = torch.from_numpy(exact.astype(np.float64))
    counts = labels.sum(0)[:, None]
    magnitude = labels.T.double() @ features.double().abs() / counts
    error = ops.label_centroids(features, labels) - exact / counts
    assert (error.abs() / magnitude).max() <= bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_label_centroids_do_not_overflow_in_float32(tier, dtype):
    features = torch.full((40, 70), 1.5 * 2.0**127, dtype=dtype)
    features[:, 1] *= -1
    features[20:, 2] = 1.0
    labels = torch.ones(40, 2, dtype=torch.bool)
    centroids = tier.label_centroids(features, labels)
    assert torch.equal(centroids[:, 0], features[:2, 0])
    assert torch.equal(centroids[:, 1], features[:2, 1])
    assert_close(centroids[:, 2], features[:2, 0] / 2)


@pytest.mark.parametrize("form", ["dense", "csr"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_features", [5, 65])
def test_songs_in_pieces_have_the_bits_of_all_at_once(tier, n_features, dtype, form, device):
    features, labels = songs(20_000, n_features, 4, dtype, device)
    sums = torch.zeros(4, n_features, dtype=torch.float64, device=device)
    counts = torch.zeros(4, dtype=torch.int64, device=device)
    for begin, end in ((0, 8192), (8192, 8192), (8192, 20_000)):
        piece = features[begin:end], labels[begin:end]
        if form == "dense":
            add = getattr(tier, "label_centroids_add", None) or tier.label_centroids.add
            add(*piece, sums, counts)
        else:
            add = getattr(tier, "label_centroids_add_csr", None) or tier.label_centroids.add_csr
            add(piece[0], *csr(piece[1])[:2], sums, counts)
    assert torch.equal(counts, labels.sum(0))
    expected = tier.label_centroids(features, labels)
    assert torch.equal((sums / counts[:, None]).to(dtype), expected)


def test_songs_that_are_refused_are_not_added(tier):
    features, labels = songs(9000, 3, 2)
    features[8500, 1] = NAN
    sums, counts = torch.ones(2, 3, dtype=torch.float64), torch.ones(2, dtype=torch.int64)
    add = getattr(tier, "label_centroids_add", None) or tier.label_centroids.add
    with refuses("label_centroids: features must be finite, got nan at [8500, 1]"):
        add(features, labels, sums, counts)
    assert bool((sums == 1).all()) and bool((counts == 1).all())


SUMS_ERRORS = {
    "dtype": (torch.zeros(2, 3), None, "sums must be Double, got Float"),
    "counts": (None, torch.zeros(2), "counts must be Long, got Float"),
    "labels": (torch.zeros(1, 3).double(), None,
               "sums.size(0) and the number of labels must be equal, got 1 and 2"),
    "features": (torch.zeros(2, 4).double(), None,
                 "sums.size(1) and features.size(1) must be equal, got 4 and 3"),
    "sizes": (None, torch.zeros(3).long(),
              "counts.size(0) and the number of labels must be equal, got 3 and 2"),
    "strided": (torch.zeros(3, 2).double().T, None, "sums must be contiguous"),
    "strided counts": (None, torch.zeros(4).long()[::2], "counts must be contiguous"),
}  # fmt: skip


@pytest.mark.parametrize("name", SUMS_ERRORS)
def test_label_centroids_refuses_sums(tier, name, device):
    sums, counts, text = SUMS_ERRORS[name]
    sums = torch.zeros(2, 3, dtype=torch.float64) if sums is None else sums
    counts = torch.zeros(2, dtype=torch.int64) if counts is None else counts
    features, labels = songs(5, 3, 2, device=device)
    add = getattr(tier, "label_centroids_add", None) or tier.label_centroids.add
    with refuses(f"label_centroids: {text}"):
        add(features, labels, sums.to(device), counts.to(device))


def test_label_centroids_by_hand(tier, device):
    features = torch.tensor([[0.0, 2.0], [4.0, 6.0]], device=device)
    labels = torch.tensor([[True, True], [False, True]], device=device)
    expected = torch.tensor([[0.0, 2.0], [2.0, 4.0]], device=device)
    assert torch.equal(tier.label_centroids(features, labels), expected)


def test_label_centroids_sums_in_float64(tier):
    features = torch.tensor([[1e8], [1.0], [-1e8]])  # 1e8 + 1 is 1e8 in float32
    centroids = tier.label_centroids(features, torch.ones(3, 1, dtype=torch.bool))
    assert_close(centroids, torch.tensor([[1 / 3]]))


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
    sums = torch.zeros(6, 4, dtype=torch.float64, device=device)
    counts = torch.zeros(6, dtype=torch.int64, device=device)
    ops.label_centroids_add_(features, sparse, sums, counts)
    ops.label_centroids_add_(features, labels, sums, counts)
    assert torch.equal(counts, 2 * labels.sum(0))
    assert_close((sums / counts[:, None]).float(), expected)
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
    sums = torch.zeros(n_labels, n_features, dtype=torch.float64, device=device)
    counts = torch.zeros(n_labels, dtype=torch.int64, device=device)
    torch.library.opcheck(op.add, (features, labels, sums, counts))
    torch.library.opcheck(op.add_csr, (features, *csr(labels)[:2], sums, counts))
