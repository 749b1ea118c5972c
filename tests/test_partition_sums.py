"""Label centroids of songs in pieces, in files, in sparse tables: the same bits as in one piece."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import coo_matrix, csr_array, csr_matrix

from fastmte import ops
from fastmte.partition import LabelCentroids, label_space
from fastmte.partition.sums import LabelSums, NotFiniteError, check_finite, is_indicator


@pytest.fixture
def songs(rng):
    """20,000 songs of 3 features and 5 labels, of which the last labels none."""
    labels = rng.random((20_000, 5)) < 0.3
    labels[-100:] = False
    return rng.normal(size=(20_000, 3)), labels


def in_pieces(songs, cuts, **options):
    features, labels = songs
    model = LabelCentroids()
    for begin, end in zip([0, *cuts], [*cuts, len(features)], strict=True):
        model.partial_fit(features[begin:end], labels[begin:end], **options)
    return model


@pytest.mark.parametrize(
    "cuts", [[], [1, 2], [8192], [8191, 16_384], [5000, 10_000, 15_000], [300, 301, 17_000]]
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int16])
def test_pieces_have_the_bits_of_one(songs, cuts, dtype):
    features = (songs[0] * 100).astype(dtype)
    whole = LabelCentroids().fit(features, songs[1])
    model = in_pieces((features, songs[1]), cuts)
    np.testing.assert_array_equal(model.centroids_, whole.centroids_)
    np.testing.assert_array_equal(model.n_songs_, whole.n_songs_)
    exact = np.stack([features[has].astype(float).mean(0) for has in songs[1].T])
    np.testing.assert_allclose(whole.centroids_, exact, atol=1e-10)


@pytest.mark.parametrize("n_features", [3, 70])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_estimator_and_the_operator_agree(rng, n_features, dtype):
    features = rng.normal(size=(9000, n_features)).astype(dtype)
    labels = rng.random((9000, 4)) < 0.4
    expected = ops.label_centroids(torch.from_numpy(features), torch.from_numpy(labels))
    model = in_pieces((features, labels), [100, 8200])
    np.testing.assert_array_equal(model.centroids_.astype(dtype), expected.numpy())
    np.testing.assert_array_equal(
        label_space(features, labels, "abcd", standardise=False), model.centroids_
    )


FORMS = {
    "int": lambda y: y.astype(int),
    "uint8, other order": lambda y: np.asfortranarray(y.astype(np.uint8)),
    "float": lambda y: y.astype(np.float32),
    "csr": lambda y: csr_matrix(y.astype(float)),
    "csr array": lambda y: csr_array(y),
    "coo": lambda y: coo_matrix(y),
    "frame": lambda y: pd.DataFrame(y, columns=range(5)),
    "lists": lambda y: y.tolist(),
}


@pytest.mark.parametrize("form", FORMS)
def test_labels_of_any_form(songs, form):
    expected = LabelCentroids().fit(*songs)
    model = LabelCentroids().fit(songs[0], FORMS[form](songs[1]))
    np.testing.assert_array_equal(model.centroids_, expected.centroids_)
    assert model.label_names_.tolist() == list(range(5))
    cut = songs[0][:10_000], FORMS[form](songs[1][:10_000])
    model = LabelCentroids().partial_fit(*cut).partial_fit(songs[0][10_000:], songs[1][10_000:])
    np.testing.assert_array_equal(model.centroids_, expected.centroids_)


def test_sparse_labels_may_store_zeros_and_repeat():
    y = csr_matrix(([1.0, 0.0, 1.0, 1.0], [1, 0, 1, 0], [0, 2, 3, 4]), (3, 2))
    repeated = coo_matrix(([1, 1, 1, 1], ([0, 0, 1, 2], [1, 1, 1, 0])), (3, 2))
    for labels in (y, repeated):
        before = labels.copy()
        model = LabelCentroids().fit([[1.0], [3.0], [5.0]], labels)
        assert model.centroids_.tolist() == [[5.0], [2.0]]
        assert labels.nnz == before.nnz and (labels != before).nnz == 0


def test_classes_in_pieces():
    X = np.arange(6.0)[:, None]
    y = ["b", "a", "b", "c", "c", "a"]
    whole = LabelCentroids().fit(X, y)
    model = LabelCentroids().partial_fit(X[:3], y[:3], classes=["c", "a", "b"])
    assert model.label_names_.tolist() == ["a", "b", "c"] and model.n_songs_.tolist() == [1, 2, 0]
    assert np.isnan(model.centroids_[2]).all()
    with pytest.raises(ValueError, match="every label must have a song, got none with c"):
        model.transform(X)
    model.partial_fit(X[3:], y[3:])
    np.testing.assert_array_equal(model.centroids_, whole.centroids_)
    with pytest.raises(ValueError, match="y must be of the classes a, b, c, got d"):
        model.partial_fit(X[:1], ["d"])


def test_fit_forgets_and_partial_fit_goes_on(songs):
    model = in_pieces(songs, [500])
    model.fit(songs[0][:50], songs[1][:50])
    assert model.n_songs_.tolist() == songs[1][:50].sum(0).tolist()
    model.partial_fit(songs[0][50:], songs[1][50:])
    expected = LabelCentroids().fit(*songs)
    assert model.n_songs_.tolist() == expected.n_songs_.tolist()
    np.testing.assert_allclose(model.centroids_, expected.centroids_, atol=1e-12)


def test_names_stay_the_same_in_pieces():
    X = pd.DataFrame({"loud": [0.0, 2.0], "fast": [1.0, 3.0]})
    y = pd.DataFrame({"calm": [1, 0], "epic": [1, 1]})
    model = LabelCentroids().partial_fit(X, y).partial_fit(X, y)
    assert model.get_feature_names_out().tolist() == ["calm", "epic"]
    assert model.set_output(transform="pandas").transform(X).columns.tolist() == ["calm", "epic"]
    with pytest.raises(ValueError, match="y must have the labels calm, epic"):
        model.partial_fit(X, y[["epic", "calm"]])
    with pytest.raises(ValueError, match="y must have 2 labels, got 1"):
        model.partial_fit(X, np.ones((2, 1), bool))
    with pytest.raises(ValueError, match="feature names"):
        model.partial_fit(X[["fast", "loud"]], y)


@pytest.mark.parametrize("at", [0, 8000, 9000, 19_990])
@pytest.mark.parametrize("value, kind", [(np.nan, "NaN"), (-np.inf, "infinity")])
def test_a_piece_that_is_not_finite_is_not_added(songs, at, value, kind):
    model = in_pieces(songs, [1000])
    expected = in_pieces((np.vstack([songs[0]] * 2), np.vstack([songs[1]] * 2)), [1000, 20_000])
    bad = songs[0].copy()
    bad[at, 1] = value
    with pytest.raises(ValueError, match=rf"X contains {kind}.* at \[{at}, 1\]"):
        model.partial_fit(bad, songs[1])
    model.partial_fit(*songs)
    np.testing.assert_array_equal(model.centroids_, expected.centroids_)


def test_labels_that_are_no_labels():
    X = np.zeros((2, 1))
    with pytest.raises(ValueError, match="y of several columns must be 0 or 1, got int64 values"):
        LabelCentroids().fit(X, [[1, 2], [0, 1]])
    with pytest.raises(ValueError, match="Unknown label type"):
        LabelCentroids().fit(X, [[0.5, 1], [0, 1]])
    assert not is_indicator(np.array([[1.0, np.nan]]))
    with pytest.raises(NotFiniteError, match=r"must be finite, got inf at \[8200, 1\]"):
        check_finite(np.array([[0, 0]] * 8200 + [[0, np.inf]]))
    assert LabelSums(2, 0).total()[0].shape == (2, 0)


IN_LITTLE_MEMORY = """
import resource, sys
import numpy as np
from fastmte.data.space import space_of_arrays
from fastmte.partition import LabelCentroids, label_space, pair_counts
import torch
torch.set_num_threads(1)
small = np.eye(56)
LabelCentroids().fit(small, small.astype(bool))  # what is loaded at first use
label_space(small, small.astype(bool), range(56), False)
pair_counts(small)
now = int(open("/proc/self/statm").read().split()[5]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_DATA, (now + (48 << 20),) * 2)
try:
    np.ones(64 << 20, np.uint8)
    sys.exit("the limit has no effect")
except MemoryError:
    pass
for features, labels in zip(sys.argv[2:], sys.argv[1:2] * 2, strict=True):
    X, y = (np.load(path, mmap_mode="r") for path in (features, labels))
    assert X.nbytes > 96 << 20
    centroids = LabelCentroids().fit(X, y).centroids_
    assert np.array_equal(space_of_arrays(features, labels).centroids, centroids)
    half = len(X) // 2 + 5
    model = LabelCentroids().partial_fit(X[:half], y[:half]).partial_fit(X[half:], y[half:])
    assert np.array_equal(model.centroids_, centroids)
    print(centroids.sum())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux'")
def test_a_mapped_file_is_not_copied(tmp_path):
    n_songs = (100 << 20) // 320
    rows = np.linspace(0, n_songs - 1, 560).astype(int)
    labels = np.lib.format.open_memmap(tmp_path / "y.npy", "w+", bool, (n_songs, 56))
    labels[rows, np.arange(560) % 56] = 1
    paths = [tmp_path / "y.npy"]
    for dtype, width in ((np.float32, 80), (">f2", 160)):  # read in place, and converted
        paths.append(tmp_path / f"X{width}.npy")  # a sparse file
        features = np.lib.format.open_memmap(paths[-1], "w+", dtype, (n_songs, width))
        features[rows] = 0.25
        features.flush()
    labels.flush()
    done = subprocess.run(
        [sys.executable, "-c", IN_LITTLE_MEMORY, *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [float(line) for line in done.stdout.split()] == [56 * 80 * 0.25, 56 * 160 * 0.25]
