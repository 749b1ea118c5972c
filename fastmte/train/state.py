"""The state of an unfinished training on disk: whole after any kill, and no pickle."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from fastmte.errors import InputError
from fastmte.files import write_json

SETTINGS, STATE, MEMORY = "state.json", "state.safetensors", "state.memory.json"
_WORKSHOP = ".state.tmp"  # a folder, as safetensors makes temporary files of its own


def save_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write what the training is of; it does not change while it runs."""
    write_json(folder / SETTINGS, settings)


def check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Refuse to go on with a training that was begun with other settings or data.

    Raises:
        InputError: names what differs, with both values.
    """
    path = folder / SETTINGS
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); train again with --force") from error
    settings = json.loads(json.dumps(settings))
    texts = [
        f"the {key} are not the same"
        if key.endswith(" songs")  # a hash, which tells a reader nothing
        else f"{key} was {_short(found.get(key))}, is {_short(settings.get(key))}"
        for key in {**found, **settings}
        if found.get(key) != settings.get(key)
    ]
    if texts:
        raise InputError(f"{folder}: cannot resume, {'; '.join(texts)}; train again with --force")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def save_state(folder: Path, progress: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write the tensors with the numbers that belong to them, as one file, in one step.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    path, workshop = folder / STATE, folder / _WORKSHOP
    packed = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    workshop.mkdir(exist_ok=True)
    try:
        temporary = workshop / STATE
        try:
            # Straight to the file: a state is gigabytes, twice is too much to hold.
            safetensors.torch.save_file(packed, temporary, {"progress": json.dumps(progress)})
        except safetensors.SafetensorError as error:
            raise OSError(f"{path}: cannot be written ({error})") from error
        shutil.copymode(folder / SETTINGS, temporary)  # safetensors lets nobody else read it
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        sweep(folder)


def save_batch_size(folder: Path, batch_size: int) -> None:
    """Note how many songs a step memory has room for, whatever the state says."""
    write_json(folder / MEMORY, {"batch_size": batch_size})


def batch_size_at_most(folder: Path, batch_size: int) -> int:
    """Return ``batch_size``, or what was noted if that is less."""
    path = folder / MEMORY
    if not path.is_file():
        return batch_size
    return min(batch_size, int(json.loads(path.read_text(encoding="utf-8"))["batch_size"]))


def sweep(folder: Path) -> None:
    """Remove what a save that was killed has left."""
    shutil.rmtree(folder / _WORKSHOP, ignore_errors=True)


def load_state(folder: Path, device: str) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Return the last saved progress and its tensors, or None if there is none yet.

    Raises:
        InputError: the file is no state of a training.
    """
    path = folder / STATE
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, "pt", device=device) as file:
            progress = json.loads((file.metadata() or {})["progress"])
            return progress, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path}: no state of a training ({error})") from error


def remove_state(folder: Path) -> None:
    """Remove what only an unfinished training needs."""
    for name in (STATE, SETTINGS, MEMORY):
        (folder / name).unlink(missing_ok=True)
