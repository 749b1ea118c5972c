"""What there is to report of a run folder; whatever is missing is named, not fatal."""

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fastmte import metrics, runs
from fastmte.data.parts import Tagged, read_tagged
from fastmte.data.task_files import read_array, read_thresholds
from fastmte.errors import InputError
from fastmte.partition import Cover, Partition, load_split
from fastmte.partition.compare import Compared

TAGGED = "tagged"  # folder in a run that is looked at without being named


@dataclass(frozen=True)
class Contents:
    """A run as far as it got.

    Attributes:
        folder: the run.
        manifest: what made it; empty where unknown.
        partition: the labels of each member.
        centroids: (L, D) float64, the labels as points.
        epochs: the records of ``metrics.jsonl``.
        results: the task's metrics of the test songs, by name.
        tags: a row of metrics for each tag, as ``metrics.per_tag``, with its member and
            threshold.
        tagged: songs tagged with the run's model.
        missing: what is left out and why, a sentence each.
        title: of the page; by default it is made of the manifest.
        comparison: the partition beside others.
        pairs: (L, L) int64, how many songs have both of two labels.
    """

    folder: Path
    manifest: dict[str, Any] = field(default_factory=dict)
    partition: Partition | Cover | None = None
    centroids: np.ndarray | None = None
    epochs: tuple[dict[str, Any], ...] = ()
    results: dict[str, float] = field(default_factory=dict)
    tags: tuple[dict[str, Any], ...] = ()
    tagged: Tagged | None = None
    missing: tuple[str, ...] = ()
    title: str = ""
    comparison: tuple[Compared, ...] = ()
    pairs: np.ndarray | None = None


def read_contents(folder: Path, tagged: Path | None = None) -> Contents:
    """Read what there is of a run.

    Args:
        folder: a run, or a folder of tagged songs.
        tagged: a folder of tagged songs; by default ``tagged`` in the run, or none.

    Raises:
        InputError: the folder is neither, ``tagged`` is no such folder, or a file is damaged.
        OSError: a file cannot be read.
    """
    missing: list[str] = []
    if not any((folder / name).is_file() for name in _PIECES):
        return _of_tagged(folder)

    def piece(name: str, what: str, read: Callable[[Path], Any], nothing: Any) -> Any:
        if (folder / name).is_file():
            return read(folder / name)
        missing.append(f"{what}: there is no {name}")
        return nothing

    manifest = piece(runs.MANIFEST, "how it was made", lambda _: runs.read_manifest(folder), {})
    partition = piece(runs.PARTITION, "the members' labels", load_split, None)
    centroids = piece(runs.CENTROIDS, "Figure 1", _centroids, None)
    epochs = piece("metrics.jsonl", "the course of the training", _records, ())
    scores = piece("predictions.npy", "the metrics", read_array, None)
    truth = piece("groundtruth.npy", "the metrics", read_array, None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        results, tags = _evaluated(folder, partition, scores, truth)
    missing += [f"some metrics: {warning.message}" for warning in caught]
    if partition is not None and "elbow" not in partition.details:
        missing.append("the elbow: the partition was made without the labels as points")
    if tagged is None and (folder / TAGGED / "manifest.json").is_file():
        tagged = folder / TAGGED
    songs = None if tagged is None else read_tagged(tagged)
    if songs is None:
        missing.append("tagged songs: none were named (--tagged), and the run has none")
    return Contents(
        folder, manifest, partition, centroids, epochs, results, tags, songs, tuple(missing)
    )


_PIECES = (runs.MANIFEST, runs.PARTITION, "metrics.jsonl", "predictions.npy")


def _of_tagged(folder: Path) -> Contents:
    if not (folder / "manifest.json").is_file():
        raise InputError(f"{folder}: holds neither a run nor tagged songs")
    return Contents(folder, tagged=read_tagged(folder))


def _centroids(path: Path) -> np.ndarray:
    centroids = read_array(path)
    if centroids.ndim != 2 or not np.isfinite(centroids).all():
        raise InputError(f"{path}: must be finite numbers, a row a label")
    return centroids.astype(np.float64)


def _records(path: Path) -> tuple[dict[str, Any], ...]:
    """Return the lines of a file of JSON objects; a last one that was cut off does not count."""
    lines = path.read_text(encoding="utf-8").split("\n")
    try:
        records = [json.loads(line) for line in lines[:-1]]
    except ValueError as error:
        raise InputError(f"{path}: not JSON lines ({error})") from None
    return tuple(record for record in records if isinstance(record, dict))


def _evaluated(
    folder: Path,
    partition: Partition | Cover | None,
    scores: np.ndarray | None,
    truth: np.ndarray | None,
) -> tuple[dict[str, float], tuple[dict[str, Any], ...]]:
    """Return the metrics of the test songs, and a row of them for each tag."""
    if scores is None or truth is None:
        return {}, ()
    tags = partition.tags if partition is not None else tuple(map(str, range(scores.shape[-1])))
    path = folder / "decisions.npy"
    decisions = read_array(path) if path.is_file() else None
    results = metrics.evaluate(scores, truth, decisions, tags)
    rows = metrics.per_tag(scores, truth, tags, decisions)
    thresholds = folder / "thresholds.txt"
    if partition is not None:
        of_label: list[list[int]] = [[] for _ in tags]
        for label, member in zip(
            partition.label_of_output.tolist(), partition.member_of_output.tolist(), strict=True
        ):
            of_label[label].append(member)
        for row, members in zip(rows, of_label, strict=True):
            row["member"] = members[0] if len(members) == 1 else ", ".join(map(str, members))
        if thresholds.is_file():
            for row, value in zip(rows, read_thresholds(thresholds, tags).tolist(), strict=True):
                row["threshold"] = value
    return results, tuple(rows)
