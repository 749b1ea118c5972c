"""Partitions by name of the method."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastmte.errors import InputError
from fastmte.labels import MOOD_TAGS, THEME_TAGS
from fastmte.partition.cover import Cover, load_split
from fastmte.partition.dkmeans import DKMeans, dkmeans_published
from fastmte.partition.elbow import LARGEST, KMeansElbow, kmeans
from fastmte.partition.partition import Partition


class _Task(NamedTuple):
    """What a method works on."""

    tags: tuple[str, ...]
    centroids: np.ndarray | None  # (L, D) float64
    n_members: int
    seed: int
    seeds: np.ndarray | None  # (K,) int64
    n_init: int
    refine: str | None


_Made = tuple[np.ndarray, dict[str, Any]]  # member of each label, details


def make_partition(
    method: str,
    tags: Sequence[str],
    centroids: np.ndarray | None = None,
    n_members: int | str = 4,
    seed: int = 0,
    seeds: Sequence[str] | None = None,
    *,
    n_init: int = 1,
    refine: str | None = None,
    k_max: int = 10,
    elbow: bool | None = None,
) -> Partition:
    """Return a partition of the tags by a method of the paper, or from a file.

    Args:
        method: ``dkmeans`` (the paper's text), ``dkmeans-published`` (the authors' code),
            ``kmeans``, ``linear`` (runs of the alphabet), ``moodtheme`` (the authors' split by
            hand), ``single`` (one member), ``random`` (equal sizes), or a file's path.
        tags: the labels in the order of the scores.
        centroids: (L, D), each label's place in the label space; the first three methods and
            ``n_members="auto"`` need it.
        n_members: number of members, or ``"auto"`` for the elbow of k-means. ``moodtheme``,
            ``single`` and a file have their own and do not look at it.
        seed: of the random choices.
        seeds: the tags the two dk-means methods start from; drawn at random by default.
        n_init: random starts of ``dkmeans``, of which it keeps the best, as ``DKMeans``.
        refine: ``"variance"`` or ``"diversity"``, exchanges that refine ``dkmeans``.
        k_max: where the curve ends whose elbow is looked for.
        elbow: put the curve of k-means and its elbow into the details. By default where there
            are centroids of at most 500 labels, for the curve takes ``10 k_max`` runs.

    Raises:
        InputError: the method is unknown, needs centroids that are not there, or cannot split
            these tags; ``n_members`` is beyond their number; a file holds no partition of them.

    Warns:
        UserWarning: ``n_members`` is ``"auto"`` and the curve has no elbow.

    Reference: M. Mayerl, M. Vötter, A. Peintner, G. Specht and E. Zangerle, MediaEval 2021,
        section 2.2.
    """
    tags = tuple(tags)
    if method not in METHODS:
        return _load(method, tags)
    centroids = None if centroids is None else _checked_centroids(centroids, len(tags))
    if elbow is None:
        elbow = centroids is not None and len(tags) <= MOST_FOR_ELBOW
    curve = None
    if centroids is not None and (elbow or n_members == "auto"):
        curve = _curve(centroids, seed, k_max, is_warned=n_members == "auto" and seeds is None)
    if method in OWN_NUMBER:
        n_members = 1
    n_members = _n_members(n_members, len(tags), curve, seeds)
    starts = None if seeds is None else _seed_indices(method, seeds, tags, n_members)
    if method in NEEDS_CENTROIDS and centroids is None:
        raise InputError(f"{method}: needs the labels' centroids; give features of the songs")
    if method != "dkmeans" and (refine is not None or n_init != 1):
        name = "refinement" if refine is not None else "number of starts"
        raise InputError(f"{method}: takes no {name}; only dkmeans does")
    task = _Task(tags, centroids, n_members, seed, starts, n_init, refine)
    member, details = METHODS[method](task)
    if curve is not None:
        details["elbow"] = curve.curve()
    return Partition(tags, member, method, details)


def split_names(method: str) -> list[str]:
    """Return the methods and files that ``method`` joins with ``+``: one, for a partition."""
    is_one = method in METHODS or Path(method).is_file()
    return [method] if is_one else method.split("+")


def make_split(
    method: str,
    tags: Sequence[str],
    centroids: np.ndarray | None,
    n_members: int | str,
    seed: int,
    merge: str | None = None,
) -> Partition | Cover:
    """Return a partition of the tags, or a cover by the members of several partitions.

    Args:
        method: as ``make_partition``, or several joined with ``+``, whose members are all taken.
        tags: the labels in the order of the scores.
        centroids: as ``make_partition``.
        n_members: of each partition, likewise.
        seed: of the random choices of each.
        merge: how the scores of members become one where a file lets them share labels
            (required then), or methods are joined (``"mean"`` by default).

    Raises:
        InputError: as ``make_partition``, or ``merge`` is for members that share no label.

    Warns:
        UserWarning: as ``make_partition``.
    """
    names = split_names(method)
    if len(names) == 1 and merge is not None:
        if method in METHODS:
            raise InputError(
                f"{method}: its members share no labels, so there is nothing to merge; "
                "join methods with +, or name a file"
            )
        return load_split(method, tags, merge)
    if len(names) == 1 and method not in METHODS and Path(method).is_file():
        return load_split(method, tags)
    made = [make_partition(name, tags, centroids, n_members, seed) for name in names]
    return made[0] if len(made) == 1 else Cover.of_partitions(made, merge or "mean")


def with_elbow(
    partition: Partition, centroids: np.ndarray, seed: int, k_max: int = 10
) -> Partition:
    """Return the partition with the curve of k-means and its elbow in the details."""
    curve = _curve(centroids, seed, k_max, is_warned=False).curve()
    return replace(partition, details={**partition.details, "elbow": curve})


def _curve(centroids: np.ndarray, seed: int, k_max: int, is_warned: bool) -> KMeansElbow:
    """Return the curve of k-means; only who asked for its elbow hears that there is none."""
    with warnings.catch_warnings():
        if not is_warned:
            warnings.simplefilter("ignore", UserWarning)
        return KMeansElbow(k_max, random_state=seed).fit(centroids)


def _dkmeans(task: _Task) -> _Made:
    init = "random" if task.seeds is None else task.seeds
    model = DKMeans(
        task.n_members,
        init=init,
        n_init=task.n_init,
        refine=task.refine,
        random_state=task.seed,
    ).fit(task.centroids)
    return model.labels_, {
        "seed": task.seed,
        "n_init": task.n_init,
        "refine": task.refine,
        "seeds": [task.tags[label] for label in model.seed_indices_],
        "order": model.order_.tolist(),
        "tie_tol": model.tie_tol,
        "between_ss": model.between_ss_,
        "balance": model.balance_,
    }


def _dkmeans_published(task: _Task) -> _Made:
    assert task.centroids is not None
    member, order = dkmeans_published(
        task.centroids, task.n_members, seeds=task.seeds, random_state=task.seed
    )
    first = [task.tags[order[member[order] == part][0]] for part in range(task.n_members)]
    return member, {"seed": task.seed, "seeds": first, "order": order.tolist()}


def _kmeans(task: _Task) -> _Made:
    assert task.centroids is not None
    n_places = len(np.unique(task.centroids, axis=0))
    if n_places < task.n_members:
        raise InputError(
            f"kmeans: the labels have only {n_places} distinct centroids, too few for "
            f"{task.n_members} members"
        )
    model = kmeans(task.n_members, task.seed).fit(task.centroids)
    member = _numbered_by_first_label(model.labels_)
    return member, {"seed": task.seed, "inertia": float(model.inertia_)}


def _linear(task: _Task) -> _Made:
    return _equal_sizes(np.arange(len(task.tags)), task.n_members), {}


def _moodtheme(task: _Task) -> _Made:
    unknown = [tag for tag in task.tags if tag not in MOOD_TAGS + THEME_TAGS]
    if unknown:
        raise InputError(f"moodtheme: neither mood nor theme of the task: {', '.join(unknown)}")
    is_mood = np.array([tag in MOOD_TAGS for tag in task.tags])
    if is_mood.all() or not is_mood.any():
        kind = "moods" if is_mood.all() else "themes"
        raise InputError(f"moodtheme: all {len(is_mood)} tags are {kind}; use single")
    return is_mood.astype(np.int64), {"names": ["theme", "mood"]}


def _single(task: _Task) -> _Made:
    return np.zeros(len(task.tags), np.int64), {}


def _random(task: _Task) -> _Made:
    order = np.random.default_rng(task.seed).permutation(len(task.tags))
    return _equal_sizes(order, task.n_members), {"seed": task.seed, "order": order.tolist()}


METHODS: dict[str, Callable[[_Task], _Made]] = {
    "dkmeans": _dkmeans,
    "dkmeans-published": _dkmeans_published,
    "kmeans": _kmeans,
    "linear": _linear,
    "moodtheme": _moodtheme,
    "single": _single,
    "random": _random,
}
"""Every method by name; a file's path is one more."""

MOST_FOR_ELBOW = 500  # labels, whose curve takes 2 s
NEEDS_CENTROIDS = ("dkmeans", "dkmeans-published", "kmeans")
OWN_NUMBER = ("moodtheme", "single")  # of members; n_members says nothing to them


def _load(method: str, tags: tuple[str, ...]) -> Partition:
    if not Path(method).is_file():
        raise InputError(f"partition must be one of {', '.join(METHODS)} or a file, got {method!r}")
    return Partition.load(method, tags)


def _checked_centroids(centroids: np.ndarray, n_labels: int) -> np.ndarray:
    centroids = np.asarray(centroids, np.float64)
    if centroids.ndim != 2 or len(centroids) != n_labels or not centroids.shape[1]:
        raise InputError(
            f"centroids must be one row of numbers for each of the {n_labels} labels, "
            f"got shape {centroids.shape}"
        )
    bad = np.argwhere(~np.isfinite(centroids))
    if len(bad):
        raise InputError(f"centroids must be finite, got {centroids[tuple(bad[0])]} at {bad[0]}")
    if np.abs(centroids).max() > LARGEST:
        raise InputError(
            f"centroids must be at most {LARGEST:g}, so that squares have a float64, got "
            f"{np.abs(centroids).max():g}"
        )
    return centroids


def _n_members(
    n_members: int | str, n_labels: int, elbow: KMeansElbow | None, seeds: Sequence[str] | None
) -> int:
    if n_members == "auto":
        if seeds is not None:
            return len(seeds)
        if elbow is None:
            raise InputError("auto: the elbow needs the labels' centroids; give a number instead")
        return int(elbow.n_clusters_)
    if not isinstance(n_members, int) or not 1 <= n_members <= n_labels:
        raise InputError(
            f"number of members must be in [1, {n_labels}], the number of labels, or auto, "
            f"got {n_members}"
        )
    return n_members


def _seed_indices(
    method: str, seeds: Sequence[str], tags: tuple[str, ...], n_members: int
) -> np.ndarray:
    if not method.startswith("dkmeans"):
        raise InputError(f"{method}: takes no seeds; only dkmeans and dkmeans-published do")
    unknown = [tag for tag in seeds if tag not in tags]
    if unknown:
        raise InputError(f"seeds must be labels, got {', '.join(unknown)}")
    if len(seeds) != n_members or len(set(seeds)) != n_members:
        raise InputError(f"seeds must be {n_members} distinct labels, got {', '.join(seeds)}")
    return np.array([tags.index(tag) for tag in seeds], np.int64)


def _equal_sizes(order: np.ndarray, n_members: int) -> np.ndarray:
    """Return the member of each label when runs of ``order`` go to the members in turn."""
    member = np.empty(len(order), np.int64)
    for index, part in enumerate(np.array_split(order, n_members)):
        member[part] = index
    return member


def _numbered_by_first_label(member: np.ndarray) -> np.ndarray:
    """Return the same groups, numbered in the order of their first label."""
    _, first, inverse = np.unique(member, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)
