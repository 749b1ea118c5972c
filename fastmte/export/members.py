"""A model's members as K models of their own, which also plain torch.nn code can load."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np

import fastmte
from fastmte.checkpoint import Checkpoint, save
from fastmte.crop import BANDS
from fastmte.data.shards import check_way
from fastmte.ensemble import FusedEnsemble, unfuse
from fastmte.errors import InputError
from fastmte.files import atomic_write, whole_folder
from fastmte.partition import Cover, Partition

PARTITION, README = "partition.json", "README.md"

# backbone -> the network elsewhere that has its names, what that calls its last layer, and
# whether all it has is in the file: the paper's code also registers layers it never calls.
_ELSEWHERE = {
    "vgg": ("`CNN` of MTG/mtg-jamendo-dataset, `scripts/baseline/model.py`", "dense", True),
    "custom-vgg": ("`CustomCNN` of dbis-uibk/MediaEval2021", "dense", True),
    "resnet18": ("torchvision's `resnet18` with a `conv1` of one input channel", "fc", True),
    "resnet34": ("torchvision's `resnet34` with a `conv1` of one input channel", "fc", True),
    "resnet18-uibk": ("`ResNet` of dbis-uibk/MediaEval2021, 18 layers", "fc", False),
    "resnet34-uibk": ("`ResNet` of dbis-uibk/MediaEval2021, 34 layers", "fc", False),
}
_TEXT = """\
# The members of an ensemble

{n_members} networks, {backbone}, each of which scores its own labels: `tags` in its `config.json`,
in the order of its scores. Written by fastmte {version}. Each folder is a model by itself:

```sh
fastmte tag MUSIC/ --model {first} -o TAGGED
```

## In fastmte

```python
from fastmte.checkpoint import load
from fastmte.ensemble import fuse
from fastmte.partition import load_split

split = load_split("partition.json")
members = [load(name).ensemble for name in {names}]
{fuse}
```

## In PyTorch alone

`model.safetensors` holds plain tensors under the names of {network}, with `backbone.` before them
and the last layer called `head`:

```python
from safetensors.torch import load_file

state = {{}}
for name, value in load_file("{first}/model.safetensors").items():
    name = name.removeprefix("backbone.").replace("head.", "{head}.")
    state[name] = value.reshape(()) if name.endswith("num_batches_tracked") else value
model.load_state_dict(state{strict})
model.eval()
```

The input is mel spectrograms in dB, {bands} bands of {frames} frames, made as `mel` in
`config.json` says; a song has the tags whose scores, the sigmoid of the last layer, are above
`thresholds`.
"""


_FUSE = "ensemble = fuse(members, split.member_of_label)  # the same bits"
_FUSE_SHARED = """\
ensemble = fuse(members, split.member_of_output)  # the same bits
ensemble.set_merge(split.merging())\
"""


def write_members(checkpoint: Checkpoint, folder: str | Path) -> list[Path]:
    """Write each member as a model folder, ``member-0`` and so on, into a new folder.

    Beside them are the partition, with which ``fuse`` makes the ensemble again, and a
    README that tells how torch.nn code without fastmte loads a member. A new folder
    appears whole or not at all.

    Args:
        checkpoint: the model.
        folder: where to write; new, or empty.

    Returns:
        The members' folders.

    Raises:
        InputError: the folder is not free.
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    check_way(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder}: is not empty; export into another folder")
    members = unfuse(checkpoint.ensemble)
    digits = len(str(len(members) - 1))
    names = [f"member-{k:0{digits}}" for k in range(len(members))]
    with nullcontext(folder) if folder.is_dir() else whole_folder(folder) as new:
        for k, (name, member) in enumerate(zip(names, members, strict=True)):
            save(_checkpoint(checkpoint, member, k), new / name)
        _split(checkpoint).save(new / PARTITION)
        with atomic_write(new / README) as file:
            file.write(_readme(checkpoint, names))
    return [folder / name for name in names]


def _split(checkpoint: Checkpoint) -> Partition | Cover:
    """Return which labels each member has."""
    ensemble = checkpoint.ensemble
    owners = ensemble.member_of_label.numpy()
    if ensemble.merge is None:
        return Partition(checkpoint.tags, owners, "file")
    membership = np.zeros((ensemble.n_members, ensemble.n_scores), dtype=bool)
    membership[owners, list(ensemble.merge.label_of_output)] = True
    return Cover(checkpoint.tags, membership, ensemble.merge.how, "file")


def _checkpoint(checkpoint: Checkpoint, member: FusedEnsemble, k: int) -> Checkpoint:
    """Return a member with what belongs to its own labels."""
    labels, thresholds = member.label_index.numpy(), checkpoint.thresholds
    if (merge := checkpoint.ensemble.merge) is not None:
        labels = np.array(merge.label_of_output)[labels]
    place = {"member": k, "of_members": checkpoint.ensemble.n_members}
    return Checkpoint(
        member,
        tuple(checkpoint.tags[label] for label in labels),
        checkpoint.mel,
        checkpoint.frames,
        None if thresholds is None else thresholds[labels],
        {**checkpoint.provenance, **place},
    )


def _readme(checkpoint: Checkpoint, names: list[str]) -> str:
    """Return how to use the members, with and without fastmte."""
    backbone = checkpoint.ensemble.backbone_name
    network, head, is_whole = _ELSEWHERE.get(
        backbone, ("the network in `fastmte.models`", "head", True)
    )
    return _TEXT.format(
        n_members=len(names),
        backbone=backbone,
        version=fastmte.__version__,
        names=names,
        first=names[0],
        fuse=_FUSE if checkpoint.ensemble.merge is None else _FUSE_SHARED,
        network=network,
        head=head,
        strict="" if is_whole else ", strict=False",
        bands=BANDS,
        frames=checkpoint.frames,
    )
