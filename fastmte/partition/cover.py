"""A cover of the labels: like a partition, but members may share labels."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fastmte.errors import InputError
from fastmte.files import write_json
from fastmte.labels import strip_prefix
from fastmte.merge import OF_MODELS, Merge
from fastmte.partition.partition import FORMAT as PARTITION_FORMAT
from fastmte.partition.partition import Partition, check_parts, read_json, read_parts

FORMAT = "fastmte-cover-1"


@dataclass(frozen=True, eq=False)
class Cover:
    """Every label and the members that learn it, at least one.

    An ensemble over a cover has an output for each label of each member; ``merge`` makes a
    label's outputs its score.

    Attributes:
        tags: the labels' texts, in the order of the scores.
        membership: (K, L) bool; every member has a label, and every label a member.
        merge: ``"mean"`` or ``"logit"``, as ``Merge``.
        method: how it was made; ``"file"`` when by hand.
        details: what JSON can hold of the making.

    Raises:
        ValueError: an argument is no cover of the tags.
    """

    tags: tuple[str, ...]
    membership: np.ndarray
    merge: str
    method: str
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        membership = np.array(self.membership)
        if membership.ndim != 2 or membership.dtype != bool or not len(membership):
            raise ValueError(
                f"membership must be (K, {len(self.tags)}) bool, "
                f"got {membership.shape} {membership.dtype}"
            )
        if membership.shape[1] != len(self.tags) or len(set(self.tags)) != len(self.tags):
            raise ValueError(
                f"tags must be {membership.shape[1]} distinct texts, got {len(set(self.tags))}"
            )
        if not membership.any(axis=1).all():
            raise ValueError("membership must give every member a label")
        bare = [self.tags[label] for label in np.flatnonzero(~membership.any(axis=0))]
        if bare:
            raise ValueError(f"membership must give every label a member, got none of {bare}")
        if self.merge not in OF_MODELS:
            raise ValueError(f"merge must be one of {', '.join(OF_MODELS)}, got {self.merge!r}")
        membership.flags.writeable = False
        object.__setattr__(self, "tags", tuple(self.tags))
        object.__setattr__(self, "membership", membership)

    @property
    def n_members(self) -> int:
        """Number of members, K."""
        return len(self.membership)

    @property
    def member_of_output(self) -> np.ndarray:
        """(E,) int64, each output's member; outputs are in the order of the labels."""
        return self.membership.T.nonzero()[1]

    @property
    def label_of_output(self) -> np.ndarray:
        """(E,) int64, each output's label."""
        return self.membership.T.nonzero()[0]

    def parts(self) -> list[list[str]]:
        """Return the tags of each member, in the order of the labels."""
        return [
            [tag for tag, is_own in zip(self.tags, row, strict=True) if is_own]
            for row in self.membership.tolist()
        ]

    def merging(self) -> Merge:
        """Return how outputs become scores."""
        return Merge(tuple(self.label_of_output.tolist()), self.merge)

    @classmethod
    def of_parts(
        cls,
        parts: Sequence[Sequence[str]],
        tags: Sequence[str],
        merge: str,
        method: str = "file",
        details: dict[str, Any] | None = None,
        source: str = "parts",
    ) -> "Cover":
        """Return the cover whose members have these tags.

        Args:
            parts: the tags of each member; MTG's ``mood/theme---`` before a tag is dropped.
            tags: all labels, in the order of the scores.
            merge: how the scores of members become one.
            method: how it was made.
            details: what to keep of the making.
            source: what the parts come from; an error starts with it.

        Raises:
            InputError: a tag is missing, unknown or twice in one part, or a part is empty.
        """
        parts = [[strip_prefix(tag) for tag in part] for part in parts]
        check_parts(parts, tags, source, may_share=True)
        membership = np.array([[tag in set(part) for tag in tags] for part in parts])
        return cls(tuple(tags), membership, merge, method, {**(details or {})})

    @classmethod
    def of_partitions(cls, partitions: Sequence[Partition], merge: str) -> "Cover":
        """Return the cover by the members of several partitions of the same tags.

        Raises:
            ValueError: the tags differ.
        """
        tags = partitions[0].tags
        if any(partition.tags != tags for partition in partitions):
            raise ValueError("partitions must be of the same tags")
        membership = np.concatenate(
            [np.eye(p.n_members, dtype=bool)[p.member_of_label].T for p in partitions]
        )
        details = {"partitions": [p.to_json() for p in partitions]}
        return cls(tags, membership, merge, "+".join(p.method for p in partitions), details)

    def to_json(self) -> dict[str, Any]:
        """Return what ``save`` writes, as plain lists, numbers and strings."""
        return {
            "format": FORMAT,
            "method": self.method,
            "merge": self.merge,
            "tags": list(self.tags),
            "parts": self.parts(),
            "details": self.details,
        }

    def save(self, path: str | Path) -> None:
        """Write the cover as JSON.

        Raises:
            OSError: the folder cannot be written.
        """
        write_json(path, self.to_json())


def load_split(
    path: str | Path, tags: Sequence[str] | None = None, merge: str | None = None
) -> Partition | Cover:
    """Read a partition or a cover from JSON.

    Args:
        path: the file, written by ``save``, or a list of lists of tags.
        tags: as in ``Partition.from_json``.
        merge: how scores become one where members share labels; without it a list of lists
            must be a partition, and a cover has its own.

    Raises:
        InputError: the file is no JSON, or holds no partition or cover of the tags.
        OSError: the file cannot be read.
    """
    value = read_json(path)
    is_cover = isinstance(value, dict) and value.get("format") == FORMAT
    if not is_cover and merge is None:
        return Partition.from_json(value, tags, str(path))
    own: Any = value if isinstance(value, dict) else {}
    if own.get("format", FORMAT) not in (FORMAT, PARTITION_FORMAT):
        raise InputError(f"{path}: format must be {FORMAT}, got {own['format']}")
    parts = read_parts(own.get("parts") if own else value, str(path))
    merge = merge or own.get("merge")
    if merge not in OF_MODELS:
        raise InputError(f"{path}: merge must be one of {', '.join(OF_MODELS)}, got {merge!r}")
    if tags is None:
        tags = own.get("tags") or sorted({strip_prefix(tag) for part in parts for tag in part})
    method, details = str(own.get("method", "file")), own.get("details", {})
    if not isinstance(details, dict):
        raise InputError(f"{path}: details must be a JSON object")
    return Cover.of_parts(parts, tags, merge, method, details, str(path))
