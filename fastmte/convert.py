"""Published .pth weights as checkpoints."""

import hashlib
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastmte.checkpoint import CONFIG, WEIGHTS, Checkpoint, ensemble_from, save
from fastmte.crop import FRAMES
from fastmte.data.shards import check_tags, check_way
from fastmte.data.task_files import check_regular, read_lines
from fastmte.errors import InputError
from fastmte.labels import MOOD_THEME_TAGS, strip_prefix
from fastmte.mel import MelConfig

# Registered in each block of the paper's ResNet, called in none.
_DEAD = re.compile(r"layer\d+\.\d+\.(conv1|bn1)\.")


def convert_pth(
    path: str | Path,
    folder: str | Path,
    tags: Sequence[str] | None = None,
    thresholds: np.ndarray | None = None,
    force: bool = False,
) -> Checkpoint:
    """Write a checkpoint of the weights in a .pth file, and return it.

    Known layouts: MTG-Jamendo's baseline (which is the paper's VGG), the paper's
    CustomCNN, ResNet-18 and -34, torchvision's with one input channel. All tensors must be
    there and all are used, but the paper's ResNets lose the layers they never call.
    Only plain tensors are read; nothing in the file is run.

    Args:
        path: the weights; a state dict, alone or under ``model_state_dict`` or ``state_dict``.
        folder: checkpoint folder to write.
        tags: (L,) the labels' texts; the task's 56 mood and theme tags by default.
        thresholds: (L,) float64, above which a song has the tag.
        force: write into a folder that has files; a model in it is replaced, others stay.

    Raises:
        InputError: not plain weights, an unknown layout, another number of tags, a tag that
            tagged songs have no room for, or a folder that is not free.
        OSError: a file cannot be read or written.
    """
    path = Path(path)
    _check_free(Path(folder), force)
    raw = _read_state(path)
    backbone, head = _recognise(path, raw)
    state, dropped = _renamed(raw, head, drop_dead=backbone.endswith("-uibk"))
    if "head.bias" not in state:
        raise InputError(f"{path}: scores no labels, as {head}.bias is missing")
    n_labels = len(state["head.bias"])
    if tags is None and n_labels != len(MOOD_THEME_TAGS):
        raise InputError(
            f"{path}: scores {n_labels} labels, which are not the task's "
            f"{len(MOOD_THEME_TAGS)} mood and theme tags; give theirs with --tags FILE"
        )
    tags = MOOD_THEME_TAGS if tags is None else tuple(tags)
    if len(tags) != n_labels:
        raise InputError(f"{path}: scores {n_labels} labels, but there are {len(tags)} tags")
    check_tags(tags)
    try:
        ensemble = ensemble_from(backbone, [0] * n_labels, state)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    provenance = {
        "converted_from": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "unused_tensors_dropped": dropped,
    }
    mel = MelConfig.of("mtg2019").to_dict()
    checkpoint = Checkpoint(ensemble.eval(), tags, mel, FRAMES, thresholds, provenance)
    save(checkpoint, folder)
    return checkpoint


def _check_free(folder: Path, force: bool) -> None:
    check_way(folder)
    if force or not folder.is_dir() or not any(folder.iterdir()):
        return
    has_model = any((folder / name).exists() for name in (CONFIG, WEIGHTS))
    what = "has a model already" if has_model else "is not empty"
    raise InputError(f"{folder}: {what}; convert into another folder, or add --force")


def _read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .pth file by name."""
    check_regular(path)
    if not path.stat().st_size:
        raise InputError(f"{path}: empty")
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd pickles, refused in a line below
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError,
        LookupError, AttributeError, AssertionError, OverflowError, MemoryError, struct.error,
    ) as error:  # fmt: skip  # what a damaged or foreign pickle raises
        if not (isinstance(error, pickle.UnpicklingError) and _may_be_pickle(path)):
            raise InputError(
                f"{path}: damaged or cut off, or no file of torch.save; nothing in it was run"
            ) from error
        raise InputError(
            f"{path}: not a file of plain weights, so nothing in it was run; "
            "it must be made with torch.save(model.state_dict(), FILE)"
        ) from error
    for key in ("model_state_dict", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(map(_is_plain, state.values())):
        raise InputError(f"{path}: must hold a dict of tensors by name, a model's state_dict()")
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def _may_be_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) == b"\x80" or zipfile.is_zipfile(path)


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta


def _recognise(path: Path, names: dict[str, Tensor]) -> tuple[str, str]:
    """Return the backbone of a layout and the name of its head."""
    if "bn_init.weight" in names and "dense.weight" in names:
        return "custom-vgg" if "conv_6.weight" in names else "vgg", "dense"
    depth = 34 if "layer1.2.conv2.weight" in names else 18
    if "fc.weight" in names and "layer1.0.conv3.weight" in names:
        return f"resnet{depth}-uibk", "fc"
    if "fc.weight" in names and "layer1.0.conv2.weight" in names:
        return f"resnet{depth}", "fc"
    first = next(iter(names), "nothing")
    raise InputError(
        f"{path}: unknown layout (first name: {first}); known are MTG-Jamendo's baseline, "
        "the paper's CustomCNN, ResNet-18 and -34, and torchvision's resnet18 and resnet34"
    )


def _renamed(raw: dict[str, Tensor], head: str, drop_dead: bool) -> tuple[dict[str, Tensor], int]:
    """Return the tensors under an ensemble's names, and how many dead ones were left out."""
    state = {}
    for name, value in raw.items():
        if drop_dead and _DEAD.match(name):
            continue
        part, _, rest = name.partition(".")
        new = f"head.{rest}" if part == head else f"backbone.{name}"
        state[new] = value.reshape(1) if value.dim() == 0 else value  # one count a member
    return state, len(raw) - len(state)


def read_tags(path: str | Path) -> tuple[str, ...]:
    """Return the tags of a text file, one a line, without the task's prefix.

    Raises:
        InputError: no tag, or one twice; names the line.
    """
    tags: list[str] = []
    for number, line in enumerate(read_lines(path), start=1):
        tag = strip_prefix(line.strip())
        if tag in tags:
            raise InputError(f"{path}:{number}: tag {tag!r} is there twice")
        if tag:
            tags.append(tag)
    if not tags:
        raise InputError(f"{path}: there is no tag in it; write one a line")
    return tuple(tags)
