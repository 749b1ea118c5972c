"""dk-means as one writes it in numpy: the baselines of bench_partition.py.

All return the points in the order they are taken, (n,) int64, the seeds first.
"""

import numpy as np


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


def by_a_loop(points: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Measure one point after another in Python."""
    clusters = [[int(seed)] for seed in seeds]
    free = [i for i in range(len(points)) if i not in set(seeds.tolist())]
    order = [*seeds.tolist()]
    while free:
        cluster = clusters[len(order) % len(seeds)]
        farthest, largest = free[0], -1.0
        for point in free:
            distance = np.linalg.norm(points[point] - np.mean(points[cluster], axis=0))
            if distance > largest:
                farthest, largest = point, distance
        free.remove(farthest)
        cluster.append(farthest)
        order.append(farthest)
    return np.array(order)


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
