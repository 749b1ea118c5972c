"""How much of a partition is chance: what two seeds have in common."""

from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_random_state

from fastmte.partition.quality import agreement


def stability(
    estimator: Any,
    X: Any,
    n_seeds: int = 20,
    random_state: int | np.random.RandomState | None = 0,
) -> float:
    """Return how well an estimator's clusters of the same points agree from seed to seed.

    1 where every seed gives the same clusters, 0 where two agree no more than random ones
    do. dk-means of the 56 labels has 0.03: one run of it is one draw of many.

    Args:
        estimator: a clusterer of scikit-learn's kind with ``random_state``, such as ``DKMeans``
            or ``KMeans``; it is cloned and stays as it is.
        X: (n_samples, n_features) float.
        n_seeds: how many seeds, 2 or more.
        random_state: draws the seeds.

    Returns:
        The mean adjusted Rand index over all pairs of seeds, as ``agreement``.

    Raises:
        ValueError: ``n_seeds`` is below 2, or the estimator has no ``random_state``.
    """
    if n_seeds < 2:
        raise ValueError(f"n_seeds must be 2 or more, got {n_seeds}")
    if "random_state" not in estimator.get_params():
        raise ValueError(f"estimator must have a random_state, got {estimator!r}")
    random = check_random_state(random_state)
    seeds = random.randint(2**31 - 1, size=n_seeds)
    models = (clone(estimator).set_params(random_state=int(seed)) for seed in seeds)
    return agreement([model.fit(X).labels_ for model in models])
