"""How even, and how arbitrary, partitions of the real labels are.

``python -m bench.label_space SHARED`` writes the table: the label space is the mean of the
paper's published VGG predictions over the songs of each label, of the 4,231 test songs of
MTG-Jamendo, and each way splits its 56 labels into four with 200 seeds. SHARED is the folder
with ``data/mediaeval2021`` and ``data/clustering``.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastmte.data.space import LabelSpace, space_of_arrays
from fastmte.partition import DKMeans, Partition, make_partition
from fastmte.partition.compare import Compared, measure
from fastmte.report.tables import comparison_rows

N_MEMBERS = 4
_PLANS = {
    "plan dikmeans_4": "2021/fixed_ensemble_vggish_dikmeans_4",
    "plan kmeans": "2021/fixed_ensemble_vggish_kmeans",
}
_WAYS: dict[str, dict[str, Any]] = {
    "dk-means": {},
    "dk-means, k-means++ starts": {"init": "k-means++"},
    "dk-means, farthest starts": {"init": "farthest"},
    "dk-means, best of 10": {"n_init": 10},
    "dk-means + exchange, variance": {"refine": "variance"},
    "dk-means + exchange, diversity": {"refine": "diversity"},
}


def space(shared: Path) -> LabelSpace:
    """Return the label space of the published predictions."""
    folder = shared / "data/mediaeval2021"
    predictions = folder / "published/baseline_vggish_all_predictions.npy"
    return space_of_arrays(predictions, folder / "groundtruth.npy")


def table(shared: Path, n_draws: int = 200) -> tuple[Compared, ...]:
    """Return a row for each way to split the labels."""
    labels = space(shared)
    points = labels.centroids
    assert points is not None
    plans = json.loads((shared / "data/clustering/all_published_partitions.json").read_text())

    def made(method: str, n: int, **options: Any) -> list[np.ndarray]:
        parts = (
            make_partition(method, labels.tags, points, N_MEMBERS, seed, elbow=False, **options)
            for seed in range(n)
        )
        return [part.member_of_label for part in parts]

    drawn: dict[str, Sequence[np.ndarray]] = {
        "random": made("random", n_draws),
        "linear": made("linear", 1),
    }
    for name, plan in _PLANS.items():
        drawn[name] = [Partition.of_parts(plans[plan], labels.tags).member_of_label]
    drawn["dk-means, authors' code"] = made("dkmeans-published", n_draws)
    for name, options in _WAYS.items():
        models = (DKMeans(N_MEMBERS, random_state=seed, **options) for seed in range(n_draws))
        drawn[name] = [model.fit(points).labels_ for model in models]
    drawn["k-means, 10 starts"] = made("kmeans", n_draws)
    return measure(points, drawn, labels.pairs)


def main() -> None:
    """Print the table as Markdown."""
    rows = comparison_rows(table(Path(sys.argv[1])))
    columns = list(rows[0])
    print(" | ".join(["", *columns, ""]).strip())
    print(" | ".join(["", *["---"] * len(columns), ""]).strip())
    for row in rows:
        print(" | ".join(["", *row.values(), ""]).strip())


if __name__ == "__main__":
    main()
