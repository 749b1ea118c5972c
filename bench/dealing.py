"""dk-means as one writes it in numpy: the baselines of bench_partition.py.

All return the points in the order they are taken, (n,) int64, the seeds first.
"""

import numpy as np
import pandas as pd


def by_the_text(points: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Compute every centroid and all distances anew at each turn, as the paper says it."""
    clusters = [[int(seed)] for seed in seeds]
    free = np.setdiff1d(np.arange(len(points)), seeds)
    order = [*seeds.tolist()]
    while len(free):
        cluster = clusters[len(order) % len(seeds)]
        distance = np.linalg.norm(points[free] - points[cluster].mean(axis=0), axis=1)
        at = int(distance.argmax())
        cluster.append(int(free[at]))
        order.append(int(free[at]))
        free = np.delete(free, at)
    return np.array(order)


def by_the_authors(table: pd.DataFrame, firsts: np.ndarray) -> np.ndarray:
    """Deal as the paper's published notebook does: one label of a DataFrame after another.

    At each turn every row of the table is measured, the taken ones among them, by numpy on
    pandas' rows, from the middle of the last two points of the cluster; the free row that is
    farthest is taken, the first of several.

    Args:
        table: (n, d), one row a point.
        firsts: (2 K,) the two points each cluster begins with, one cluster after another.
    """
    clusters = [list(pair) for pair in table.index[firsts].to_numpy().reshape(-1, 2)]
    free = [name for name in table.index if name not in set(table.index[firsts])]
    order = list(table.index[firsts])
    while free:
        cluster = clusters[(len(order) - len(firsts)) % len(clusters)]
        middle = (table.loc[cluster[-1]] + table.loc[cluster[-2]]) / 2
        farthest, largest = None, -1.0
        for name, row in table.iterrows():
            distance = np.linalg.norm(middle - row.to_numpy())
            if distance > largest and name in free:
                farthest, largest = name, np.linalg.norm(middle - row.to_numpy())
        cluster.append(farthest)
        order.append(farthest)
        free.remove(farthest)
    return table.index.get_indexer(order)


def by_one_product_a_turn(points: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Keep running sums; a matrix-vector product over all points, taken ones masked."""
    points = points - points.mean(axis=0)
    sums, order = points[seeds].copy(), [*seeds.tolist()]
    squares = np.einsum("nd,nd->n", points, points)
    squares[seeds] = -np.inf
    for turn in range(len(points) - len(seeds)):
        cluster, size = turn % len(seeds), 1 + turn // len(seeds)
        point = int(np.argmax(squares - points @ (sums[cluster] * (2 / size))))
        sums[cluster] += points[point]
        squares[point] = -np.inf
        order.append(point)
    return np.array(order)


def by_a_gram_matrix(points: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Multiply all points by all at once, and keep running sums of its rows: O(n^2) memory."""
    points = points - points.mean(axis=0)
    gram = points @ points.T
    sums, order = gram[seeds].copy(), [*seeds.tolist()]
    squares = gram.diagonal().copy()
    squares[seeds] = -np.inf
    for turn in range(len(points) - len(seeds)):
        cluster, size = turn % len(seeds), 1 + turn // len(seeds)
        point = int(np.argmax(squares - sums[cluster] * (2 / size)))
        sums[cluster] += gram[point]
        squares[point] = -np.inf
        order.append(point)
    return np.array(order)


def by_one_product_a_round(points: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Multiply the free points by the centroids of all clusters at once, a round of turns."""
    points = points - points.mean(axis=0)
    sums, order = points[seeds].copy(), [*seeds.tolist()]
    size, rows, index = 1, points, np.arange(len(points))
    squares = np.einsum("nd,nd->n", points, points)
    squares[seeds] = -np.inf
    while len(order) < len(points):
        if len(points) - len(order) < 0.75 * len(index):
            keep = np.isfinite(squares)
            index, rows, squares = index[keep], np.ascontiguousarray(rows[keep]), squares[keep]
        scores = (sums * (-2 / size)) @ rows.T + squares
        best, taken = scores.argmax(axis=1), []
        for cluster in range(min(len(seeds), len(points) - len(order))):
            row = int(best[cluster])
            if row in taken:
                scores[cluster, taken] = -np.inf
                row = int(scores[cluster].argmax())
            taken.append(row)
            sums[cluster] += rows[row]
            squares[row] = -np.inf
            order.append(int(index[row]))
        size += 1
    return np.array(order)
