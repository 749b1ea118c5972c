"""A trained ensemble as a folder: config.json + model.safetensors."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from fastmte.ensemble import FusedEnsemble
from fastmte.errors import InputError
from fastmte.files import atomic_write, whole_folder
from fastmte.mel import MelConfig
from fastmte.merge import Merge

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMAT_VERSION = 1


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained ensemble and what its input and its scores mean.

    Attributes:
        ensemble: the network.
        tags: (L,) the labels' texts, in the order of the scores.
        mel: the definition of its mels, ``MelConfig.to_dict()``.
        frames: length of a crop.
        thresholds: (L,) float64, or None; a song has a tag if its score is above.
        provenance: where the weights are from, for people.

    Raises:
        ValueError: the parts do not belong together.
    """

    ensemble: FusedEnsemble
    tags: tuple[str, ...]
    mel: Mapping[str, Any]
    frames: int
    thresholds: np.ndarray | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.tags) != self.ensemble.n_scores:
            raise ValueError(f"{len(self.tags)} tags for {self.ensemble.n_scores} labels")
        if len(set(self.tags)) != len(self.tags):
            twice = next(tag for tag in self.tags if self.tags.count(tag) > 1)
            raise ValueError(f"tags must be different, got {twice!r} twice")
        bands = MelConfig.from_dict(dict(self.mel)).bands
        self.ensemble.backbone.check((1, bands, self.frames))
        if self.thresholds is None:
            return
        if self.thresholds.shape != (len(self.tags),):
            raise ValueError(f"{self.thresholds.size} thresholds for {len(self.tags)} tags")
        if not np.isfinite(self.thresholds).all():
            raise ValueError("thresholds must be finite")


def save(checkpoint: Checkpoint, folder: str | Path) -> None:
    """Write ``config.json`` and ``model.safetensors``.

    A new folder appears whole or not at all. In a folder that exists, such as a
    run's, the two files are replaced and others stay; a crash in between leaves the
    old checkpoint, the new one, or no config, never one's config with the other's weights.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    ensemble = checkpoint.ensemble
    state = {name: value.cpu().contiguous() for name, value in ensemble.state_dict().items()}
    weights = safetensors.torch.save(state, metadata={"format": "pt"})
    config = _config_text(checkpoint).encode()
    if folder.exists():
        _replace(folder, config, weights)
        return
    with whole_folder(folder) as new:
        _replace(new, config, weights)


def _replace(folder: Path, config: bytes, weights: bytes) -> None:
    with (
        atomic_write(folder / CONFIG, "wb") as new_config,
        atomic_write(folder / WEIGHTS, "wb") as new_weights,  # takes its name first
    ):
        new_config.write(config)
        new_weights.write(weights)
        for file in (new_config, new_weights):
            file.flush()
            os.fsync(file.fileno())
        # A full disk has shown by now; what is left to do is to rename.
        if _read(folder / CONFIG) not in (b"", config):
            (folder / CONFIG).unlink()


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _config_text(checkpoint: Checkpoint) -> str:
    ensemble, thresholds = checkpoint.ensemble, checkpoint.thresholds
    config = {
        "model_type": "fastmte",
        "format_version": FORMAT_VERSION,
        "backbone": ensemble.backbone_name,
        "tags": list(checkpoint.tags),
        **_members_text(ensemble),
        "mel": dict(checkpoint.mel),
        "frames": checkpoint.frames,
        "thresholds": None if thresholds is None else thresholds.tolist(),
        "provenance": dict(checkpoint.provenance),
    }
    return json.dumps(config, indent=1, ensure_ascii=False) + "\n"


def _members_text(ensemble: FusedEnsemble) -> dict[str, Any]:
    """Return which members have which labels; a list for each label where they may share them."""
    members = ensemble.member_of_label.tolist()
    if ensemble.merge is None:
        return {"member_of_label": members}
    of_label: list[list[int]] = [[] for _ in range(ensemble.n_scores)]
    for member, label in zip(members, ensemble.merge.label_of_output, strict=True):
        of_label[label].append(member)
    return {"members_of_label": of_label, "merge": ensemble.merge.how}


def fingerprint(folder: str | Path) -> str:
    """Return the SHA-256, in hex, of a checkpoint's two files.

    Raises:
        OSError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        data = (Path(folder) / name).read_bytes()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def load(folder: str | Path) -> Checkpoint:
    """Read a checkpoint; the ensemble is in evaluation mode, on the CPU, in float32.

    Raises:
        InputError: not a checkpoint, damaged, or of another version or architecture.
        OSError: a file cannot be read.
    """
    folder = Path(folder)
    config = _read_config(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise InputError(f"{folder}: there is no {WEIGHTS}, so this is no model folder")
    try:
        state = safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path}: damaged or not a safetensors file ({error})") from error
    try:
        members, merge = _members(config)
        ensemble = ensemble_from(config["backbone"], members, state)
        ensemble.set_merge(merge)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except ValueError as error:
        raise InputError(f"{folder / CONFIG}: {error}") from error
    thresholds = config["thresholds"]
    try:
        return Checkpoint(
            ensemble.eval(),
            tuple(config["tags"]),
            config["mel"],
            config["frames"],
            None if thresholds is None else np.array(thresholds, np.float64),
            config["provenance"],
        )
    except ValueError as error:
        raise InputError(f"{folder / CONFIG}: {error}") from error


def _is_list(value: Any, *kinds: type) -> bool:
    return isinstance(value, list) and all(type(item) in kinds for item in value)


_FIELDS = {  # name -> what it must be, and whether it is
    "backbone": ("a name", lambda v: isinstance(v, str)),
    "tags": ("a list of texts", lambda v: _is_list(v, str)),
    "mel": ("an object", lambda v: isinstance(v, dict)),
    "frames": ("an integer", lambda v: type(v) is int),
    "thresholds": ("a list of numbers or null", lambda v: v is None or _is_list(v, int, float)),
    "provenance": ("an object", lambda v: isinstance(v, dict)),
}


_SHARED_FIELDS = {  # instead of member_of_label, where members share labels
    "members_of_label": (
        "a list of lists of integers",
        lambda v: isinstance(v, list) and all(_is_list(each, int) for each in v),
    ),
    "merge": ("a name", lambda v: isinstance(v, str)),
}
_OWN_FIELDS = {"member_of_label": ("a list of integers", lambda v: _is_list(v, int))}


def _members(config: dict[str, Any]) -> tuple[list[int], Merge | None]:
    """Return the member of each output, and how outputs become scores.

    Raises:
        ValueError: a label has no member, or there is no such merge.
    """
    if "merge" not in config:
        return config["member_of_label"], None
    of_label = config["members_of_label"]
    if [] in of_label:
        raise ValueError(f"members_of_label must name a member of label {of_label.index([])}")
    if any(sorted(set(members)) != members for members in of_label):
        raise ValueError("members_of_label must name a label's members once, in rising order")
    labels = [label for label, members in enumerate(of_label) for _ in members]
    return [m for members in of_label for m in members], Merge(tuple(labels), config["merge"])


def _read_config(folder: Path) -> dict[str, Any]:
    """Return the fields of config.json, each of the type it must have."""
    path = folder / CONFIG
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    if not path.is_file():
        raise InputError(f"{folder}: there is no {CONFIG}, so this is no model folder")
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error})") from error
    if not isinstance(config, dict) or config.get("model_type") != "fastmte":
        raise InputError(f"{path}: this is not the configuration of a fastmte model")
    if config.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{path}: format_version must be {FORMAT_VERSION}, "
            f"got {config.get('format_version')}; another fastmte wrote it"
        )
    own = _SHARED_FIELDS if "merge" in config else _OWN_FIELDS
    for name, (meaning, holds) in {**_FIELDS, **own}.items():
        if name not in config or not holds(config[name]):
            raise InputError(f"{path}: {name} must be {meaning}, got {config.get(name)!r:.60}")
    return config


def ensemble_from(
    backbone: str, member_of_label: list[int], state: dict[str, Tensor]
) -> FusedEnsemble:
    """Build an ensemble of exactly the tensors of ``state``, copied as float32 on the CPU.

    Raises:
        InputError: the tensors are another architecture's, or not finite.
        ValueError: no such backbone, or ``member_of_label`` is no partition.
    """
    with torch.device("meta"):
        expected = FusedEnsemble(backbone, member_of_label).state_dict()
    n_members = max(member_of_label) + 1
    n_found = _n_members(state, n_members)
    if n_found != n_members:
        raise InputError(
            f"the weights are of {n_found} members, not of the {n_members} that member_of_label "
            "names"
        )
    if difference := _difference(expected, state):
        raise InputError(f"the weights are not those of {backbone}: {difference}")
    copy = {name: state[name].to("cpu", value.dtype, copy=True) for name, value in expected.items()}
    for name, value in copy.items():
        if not value.isfinite().all():
            raise InputError(f"{name} has values that are not finite; the weights are unusable")
    return FusedEnsemble.from_state(backbone, member_of_label, copy)


def _n_members(state: dict[str, Tensor], default: int) -> int:
    """Return how many members the weights are of: each counts its batches."""
    counts = (len(v) for k, v in state.items() if k.endswith("num_batches_tracked") and v.dim())
    return next(counts, default)


def _difference(expected: dict[str, Tensor], got: dict[str, Tensor]) -> str:
    """Return in one line what ``got`` lacks, has in excess, or has otherwise; "" if nothing."""
    lacks = [name for name in expected if name not in got]
    excess = [name for name in got if name not in expected]
    other = [
        f"{name} is {_kind(got[name])} instead of {_kind(value)}"
        for name, value in expected.items()
        if name in got and _kind(got[name]) != _kind(value)
    ]
    parts = []
    if lacks:
        parts.append(f"{len(lacks)} missing (first {lacks[0]})")
    if excess:
        parts.append(f"{len(excess)} unknown (first {excess[0]})")
    if other:
        parts.append(other[0] + (f", and {len(other) - 1} more" if len(other) > 1 else ""))
    return "; ".join(parts)


def _kind(tensor: Tensor) -> str:
    number = "numbers" if tensor.is_floating_point() else "integers"
    return f"{tuple(tensor.shape)} {number}"
