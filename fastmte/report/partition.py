"""The report of a partition alone: Figure 1, the elbow, and other partitions beside it."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from fastmte.files import atomic_write, write_json
from fastmte.partition import Partition
from fastmte.partition.compare import Compared, compare
from fastmte.partition.make import with_elbow
from fastmte.report import figures
from fastmte.report.contents import Contents
from fastmte.report.html import page

MOST_FOR_ELBOW = 2000  # labels, whose curve takes 10 s


def is_page(path: Path) -> bool:
    """Tell a page to write from a folder, by the name's ending."""
    return path.suffix.lower() in (".html", ".htm")


def write_report(
    partition: Partition,
    points: np.ndarray,
    pairs: np.ndarray | None,
    path: Path,
    n_draws: int | None = None,
    seed: int = 0,
    progress: Callable[[str], None] = lambda name: None,
) -> tuple[list[Path], tuple[Compared, ...], tuple[str, ...]]:
    """Write what there is to see of a partition.

    Args:
        partition: of L labels.
        points: (L, D) float, finite.
        pairs: (L, L) int, how many songs have both of two labels, where known.
        path: a page where it ends in ``.html``; else a folder, made where it is not there, for
            ``report.html``, ``figure1.png``, ``elbow.png`` and ``comparison.json``.
        n_draws: seeds of each method, as ``compare``.
        seed: the first of them, and that of the elbow.
        progress: called with the name of each step before it starts.

    Returns:
        The files written, the comparison, and what was left out and why.

    Raises:
        OSError: a file cannot be written.
    """
    if not is_page(path):
        path.mkdir(parents=True, exist_ok=True)
    rows, missing = compare(partition, points, pairs, n_draws, seed, progress)
    progress("elbow")
    if "elbow" not in partition.details and len(points) <= MOST_FOR_ELBOW:
        partition = with_elbow(partition, points, seed)
    if "elbow" not in partition.details:
        missing = (*missing, f"the elbow: takes long for {len(points)} labels; -k auto makes it")
    progress("pictures")
    figure1, elbow, undrawn = figures.pictures(partition, points)
    contents = Contents(
        path.parent if is_page(path) else path,
        partition=partition,
        centroids=points,
        missing=(*missing, *undrawn),
        title=f"{len(points)} labels split by {partition.method} into {partition.n_members}",
        comparison=rows,
        pairs=pairs,
    )
    return _written(path, contents, figure1, elbow), rows, contents.missing


def _written(
    path: Path, contents: Contents, figure1: bytes | None, elbow: bytes | None
) -> list[Path]:
    """Write a page, or a folder of a page, the pictures and the comparison; return the files."""
    whole = page(contents, figure1, elbow).encode()
    if is_page(path):
        _write(path, whole)
        return [path]
    pieces = {"report.html": whole, "figure1.png": figure1, "elbow.png": elbow}
    there = {path / name: content for name, content in pieces.items() if content is not None}
    for file, content in there.items():
        _write(file, content)
    write_json(path / "comparison.json", [_plain(row) for row in contents.comparison])
    return [*there, path / "comparison.json"]


def _write(path: Path, content: bytes) -> None:
    with atomic_write(path, "wb") as file:
        file.write(content)


def _plain(value: Any) -> Any:
    """Return a row for JSON, which has no NaN and no infinity: both become null."""
    if isinstance(value, Compared):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value
