"""A run folder: what a training was, what came out of it, and how to go on with it."""

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

import fastmte
from fastmte import checkpoint, metrics
from fastmte.errors import InputError
from fastmte.files import LOCK, atomic_write, read_object, write_json
from fastmte.labels import MOOD_THEME_TAGS, PREFIX
from fastmte.partition import split_names

FORMAT = "fastmte-run-1"
MANIFEST, PARTITION, CENTROIDS = "run.json", "partition.json", "centroids.npy"
RUNS = Path("runs")
RESULTS = (
    "predictions.npy",
    "groundtruth.npy",
    "decisions.npy",
    "thresholds.txt",
    "results.tsv",
    "test_ids.txt",
)
_OTHERS = ("metrics.jsonl", "state.json", "state.safetensors", "state.memory.json")
_REPORT = ("report.html", "figure1.png", "elbow.png")
_FILES = (
    *(MANIFEST, PARTITION, CENTROIDS, checkpoint.CONFIG, checkpoint.WEIGHTS),
    *RESULTS,
    *_OTHERS,
    *_REPORT,
)


@dataclass(frozen=True)
class RunSettings:
    """All that decides what a run becomes; the same settings and data give the same run.

    Attributes are the options of ``fastmte train``; ``is_demo`` tells that ``data`` is the
    built-in collection.
    """

    partition: str
    backbone: str
    data: str
    is_demo: bool
    split: int
    members: int | Literal["auto"]
    epochs: int
    batch_size: int
    learning_rate: float
    patience: int | None
    plateau_patience: int
    frames: int
    crop: Literal["centre", "random"]
    features: str | None
    store: str | None
    mel: str
    seed: int
    shuffle_labels: bool
    clip: float | None = None
    plan: Literal["auto", "fused", "module"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "fp32"  # of runs that do not say
    merge: Literal["mean", "logit"] | None = None

    def command(self, out: Path) -> list[str]:
        """Return the command line that gives this run again."""
        values: dict[str, Any] = {**asdict(self), "out": str(out)}
        values["data"] = "demo" if values.pop("is_demo") else values["data"]
        values["patience"] = self.patience or 0
        words = ["fastmte", "train"]
        for name, value in values.items():
            option = f"--{name.replace('_', '-')}"
            if value is True:
                words.append(option)
            elif value is not False and value is not None:
                words += [option, str(value)]
        return words


def free_folder(backbone: str, partition: str) -> Path:
    """Return ``runs/BACKBONE-PARTITION``, with the first number behind it that is not taken."""
    name = f"{backbone}-{split_title(partition)}"
    others = (RUNS / f"{name}-{number}" for number in count(2))
    return next(folder for folder in chain([RUNS / name], others) if not folder.exists())


def split_title(partition: str) -> str:
    """Return what ``--partition`` is called: files by their names alone."""
    return "+".join(Path(name).stem for name in split_names(partition))


def check_free(folder: Path, force: bool) -> None:
    """Refuse a folder in which something would be lost.

    Raises:
        InputError: the folder holds a run and ``force`` is not set, or it holds other things.
    """
    if not folder.exists() or all(path.name == LOCK for path in folder.iterdir()):
        return
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{folder}: is not empty and holds no run; name another folder with --out")
    if not force:
        raise InputError(
            f"{folder}: holds a run; --resume goes on with it, --force replaces it, "
            "--out names another folder"
        )


def begin(folder: Path, manifest: dict[str, Any]) -> None:
    """Make the folder and write its manifest; files of an earlier run there are removed.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        (folder / name).unlink(missing_ok=True)
    write_json(folder / MANIFEST, manifest)


def new_manifest(settings: RunSettings, folder: Path, data: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest of a run that begins."""
    return {
        "format": FORMAT,
        "status": "running",
        "command": settings.command(folder),
        "settings": asdict(settings),
        "data": data,
        "versions": {
            "fastmte": fastmte.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "machine": {"platform": platform.platform(), "threads": torch.get_num_threads()},
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a run.

    Raises:
        InputError: the folder holds no run.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"{folder}: holds no run (there is no {MANIFEST})")
    return read_object(path, FORMAT)


def settings_of(folder: Path) -> RunSettings:
    """Return the settings of a run.

    Raises:
        InputError: the folder holds no run, or one of another version.
    """
    try:
        return RunSettings(**read_manifest(folder)["settings"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / MANIFEST}: written by another version ({error})") from error


def write_results(
    folder: Path,
    tags: Sequence[str],
    ids: Sequence[str],
    scores: np.ndarray,
    truth: np.ndarray,
    thresholds: np.ndarray,
) -> dict[str, float]:
    """Write scores, decisions and metrics of the test songs in the task's forms.

    Args:
        folder: the run.
        tags: L labels.
        ids: N test songs.
        scores: (N, L) float64.
        truth: (N, L) bool.
        thresholds: (L,) float64.

    Returns:
        The metrics, as ``metrics.evaluate``.

    Raises:
        InputError: as ``metrics.evaluate``.
        OSError: the folder cannot be written.
    """
    decisions = metrics.decide(scores, thresholds)
    result = metrics.evaluate(scores, truth, decisions, tags)
    arrays = {"predictions": scores, "groundtruth": truth, "decisions": decisions}
    for name, array in arrays.items():
        save_array(folder / f"{name}.npy", array)
    prefix = PREFIX if set(tags) <= set(MOOD_THEME_TAGS) else ""
    pairs = zip(tags, thresholds.tolist(), strict=True)
    _write_lines(folder / "thresholds.txt", [f"{prefix}{tag}\t{value}" for tag, value in pairs])
    _write_lines(folder / "results.tsv", [f"{name}\t{v:.6f}" for name, v in result.items()])
    _write_lines(folder / "test_ids.txt", list(ids))
    return result


def save_array(path: Path, array: np.ndarray) -> None:
    """Write a ``.npy``, atomically.

    Raises:
        OSError: the folder cannot be written.
    """
    with atomic_write(path, "wb") as file:
        np.save(file, array, allow_pickle=False)


def _write_lines(path: Path, lines: list[str]) -> None:
    with atomic_write(path) as file:
        file.writelines(f"{line}\n" for line in lines)
