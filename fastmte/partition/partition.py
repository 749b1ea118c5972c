"""A partition of the labels among the members of an ensemble, and its file."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from fastmte.errors import InputError
from fastmte.files import write_json
from fastmte.labels import strip_prefix

FORMAT = "fastmte-partition-1"


@dataclass(frozen=True, eq=False)
class Partition:
    """Every label and the one member that learns it.

    Attributes:
        tags: the labels' texts, in the order of the scores.
        member_of_label: (L,) int64, each label's member; every member in ``[0, K)`` has a label.
        method: how it was made, as given to ``make_partition``; ``"file"`` when by hand.
        details: what JSON can hold of the making: seeds, elbow, feature names. ``"order"``,
            a list of all label indices, is the order in which labels were assigned.

    Raises:
        ValueError: an argument is no partition of the tags.
    """

    tags: tuple[str, ...]
    member_of_label: np.ndarray
    method: str
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        member = np.array(self.member_of_label)
        if member.shape != (len(self.tags),) or not np.issubdtype(member.dtype, np.integer):
            raise ValueError(
                f"member_of_label must be {len(self.tags)} integers, one a tag, "
                f"got shape {member.shape} of {member.dtype}"
            )
        if len(set(self.tags)) != len(self.tags):
            raise ValueError(f"tags must be distinct, got {_repeated(self.tags)} more than once")
        used = np.unique(member)
        if not np.array_equal(used, np.arange(len(used))) or not len(used):
            raise ValueError(
                "member_of_label must use the members 0, 1, ... each at least once, "
                f"got {used.tolist()}"
            )
        if "order" in self.details and not _is_permutation(self.details["order"], len(self.tags)):
            raise ValueError("details['order'] must hold every label index once")
        member = member.astype(np.int64)
        member.flags.writeable = False
        object.__setattr__(self, "tags", tuple(self.tags))
        object.__setattr__(self, "member_of_label", member)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Partition):
            return NotImplemented
        return self.tags == other.tags and np.array_equal(
            self.member_of_label, other.member_of_label
        )

    def __hash__(self) -> int:
        return hash((self.tags, self.member_of_label.tobytes()))

    @property
    def n_members(self) -> int:
        """Number of members, K."""
        return int(self.member_of_label.max()) + 1

    @property
    def member_of_output(self) -> np.ndarray:
        """(L,) int64, each output's member: outputs are labels, as members share none."""
        return self.member_of_label

    @property
    def label_of_output(self) -> np.ndarray:
        """(L,) int64, each output's label."""
        return np.arange(len(self.tags))

    def merging(self) -> None:
        """Return that there is nothing to merge; see ``Cover.merging``."""

    def parts(self) -> list[list[str]]:
        """Return the tags of each member, in the order of assignment where it is known."""
        parts: list[list[str]] = [[] for _ in range(self.n_members)]
        for label in self.details.get("order", range(len(self.tags))):
            parts[self.member_of_label[label]].append(self.tags[label])
        return parts

    @classmethod
    def of_parts(
        cls,
        parts: Sequence[Sequence[str]],
        tags: Sequence[str],
        method: str = "file",
        details: dict[str, Any] | None = None,
        source: str = "parts",
    ) -> "Partition":
        """Return the partition whose members have these tags.

        Args:
            parts: the tags of each member; MTG's ``mood/theme---`` before a tag is dropped.
            tags: all labels, in the order of the scores.
            method: how it was made.
            details: what to keep of the making.
            source: what the parts come from; an error starts with it.

        Raises:
            InputError: a tag is missing, unknown or in it twice, or a part is empty.
        """
        parts = [[strip_prefix(tag) for tag in part] for part in parts]
        check_parts(parts, tags, source)
        label = {tag: index for index, tag in enumerate(tags)}
        member = np.empty(len(tags), np.int64)
        for index, part in enumerate(parts):
            member[[label[tag] for tag in part]] = index
        made = cls(tuple(tags), member, method, {**(details or {})})
        if made.parts() == parts:
            return made
        order = [label[tag] for part in parts for tag in part]
        return replace(made, details={**made.details, "order": order})

    def to_json(self) -> dict[str, Any]:
        """Return what ``save`` writes, as plain lists, numbers and strings."""
        return {
            "format": FORMAT,
            "method": self.method,
            "tags": list(self.tags),
            "member_of_label": self.member_of_label.tolist(),
            "parts": self.parts(),
            "details": self.details,
        }

    @classmethod
    def from_json(
        cls, value: Any, tags: Sequence[str] | None = None, source: str = "partition"
    ) -> "Partition":
        """Return the partition in parsed JSON: what ``to_json`` gives, or a list of lists of tags.

        Args:
            value: the parsed JSON.
            tags: the labels it has to be a partition of, in the order of the scores; by default
                the ones it has, in its own order, or alphabetically for a list of lists.
            source: what the value comes from; an error starts with it.

        Raises:
            InputError: the value is of another form, or is no partition of the tags.
        """
        if isinstance(value, dict) and value.get("format") == FORMAT:
            return _from_object(value, tags, source)
        if isinstance(value, dict) and isinstance(value.get("format"), str):
            raise InputError(f"{source}: format must be {FORMAT}, got {value['format']}")
        parts = read_parts(value, source)
        if tags is None:
            tags = sorted({strip_prefix(tag) for part in parts for tag in part})
        return cls.of_parts(parts, tags, source=source)

    def save(self, path: str | Path) -> None:
        """Write the partition as JSON.

        Raises:
            OSError: the folder cannot be written.
        """
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path, tags: Sequence[str] | None = None) -> "Partition":
        """Read a partition from JSON: one that ``save`` wrote, or a list of lists of tags.

        Args:
            path: the file.
            tags: as in ``from_json``.

        Raises:
            InputError: the file is no JSON, or holds no partition of the tags.
            OSError: the file cannot be read.
        """
        return cls.from_json(read_json(path), tags, str(path))


def read_json(path: str | Path) -> Any:
    """Return what is in a file of a partition or a cover, whatever its form.

    Raises:
        InputError: the file is no JSON.
        OSError: the file cannot be read.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: no JSON, so no partition ({error})") from error


def _from_object(value: dict[str, Any], tags: Sequence[str] | None, source: str) -> Partition:
    parts = read_parts(value.get("parts"), source)
    own = value.get("tags")
    if not isinstance(own, list) or not all(isinstance(tag, str) for tag in own):
        raise InputError(f"{source}: tags must be a list of strings")
    if not isinstance(value.get("details", {}), dict):
        raise InputError(f"{source}: details must be a JSON object")
    details = dict(value.get("details", {}))
    wanted = own if tags is None else tags
    label = {tag: index for index, tag in enumerate(wanted)}
    order = details.pop("order", None)
    if _is_permutation(order, len(own)) and set(own) == set(label):
        details["order"] = [label[own[index]] for index in order]
    method = str(value.get("method", "file"))
    partition = Partition.of_parts(parts, wanted, method, details, source=source)
    listed = value.get("member_of_label")
    if listed != partition.member_of_label[[label[tag] for tag in own if tag in label]].tolist():
        raise InputError(f"{source}: member_of_label and parts disagree; correct one of them")
    return partition


def _is_permutation(order: Any, n: int) -> bool:
    is_indices = isinstance(order, list) and all(isinstance(index, int) for index in order)
    return is_indices and sorted(order) == list(range(n))


def read_parts(value: Any, source: str) -> list[list[str]]:
    """Return parsed JSON that is a list of lists of tags.

    Raises:
        InputError: it is not.
    """
    is_parts = isinstance(value, list) and all(
        isinstance(part, list) and all(isinstance(tag, str) for tag in part) for part in value
    )
    if not is_parts:
        raise InputError(
            f"{source}: no partition: must be a list of lists of tags, or what "
            "`fastmte partition -o` writes"
        )
    return value


def check_parts(
    parts: Sequence[Sequence[str]], tags: Sequence[str], source: str, may_share: bool = False
) -> None:
    """Refuse parts that are no partition of the tags, or no cover where they may share tags.

    Raises:
        InputError: names the tags that are unknown, missing or repeated.
    """
    if not parts or not all(parts):
        raise InputError(f"{source}: every part must have a tag, got {[len(p) for p in parts]}")
    known = {tag for part in parts for tag in part}
    within = {tag for part in parts for tag in _repeated(part)}
    faults = {
        "unknown": sorted(known - set(tags)),
        "more than once": sorted(within) if may_share else _repeated(chain(*parts)),
        "missing": [tag for tag in tags if tag not in known],
    }
    if any(faults.values()):
        text = "; ".join(f"{name}: {_first_few(found)}" for name, found in faults.items() if found)
        kind = "cover" if may_share else "partition"
        hint = ""
        if faults["more than once"] and not may_share and not within:
            hint = "; train's --merge mean|logit lets members share labels"
        raise InputError(f"{source}: no {kind} of the {len(tags)} labels ({text}){hint}")


def _first_few(names: Sequence[str]) -> str:
    more = len(names) - 5
    return ", ".join(names[:5]) + (f" and {more} more" if more > 0 else "")


def _repeated(items: Iterable[str]) -> list[str]:
    return sorted(item for item, count in Counter(items).items() if count > 1)
