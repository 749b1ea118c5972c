"""A partition beside others, and the labels it parts, as sections of the page."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastmte.partition import Cover, Partition, co_occurrence
from fastmte.partition.compare import Compared
from fastmte.report._markup import table, text
from fastmte.report.tables import comparison_rows

_MEANINGS = (
    (
        "balance",
        "0: all members see labels alike on average; 1: a random partition; above: clusters",
    ),
    ("R2", "share of the labels' variance that lies between the members"),
    ("diversity", "sum of the distances of the labels within a member"),
    ("gain", "diversity on the way from random (0) to the best one drawn (1); equal sizes only"),
    ("dispersion", "the two most similar labels of one member"),
    ("together", "labels of one song that one member learns, beside chance: below 1 kept apart"),
    ("agreement", "of two seeds (adjusted Rand index): 1 the same partition, 0 chance"),
)
_MOST_PAIRS = 12


def comparison(rows: Sequence[Compared]) -> str:
    """Return the table of a comparison as HTML, with what its columns mean."""
    if not rows:
        return ""
    shown = comparison_rows(rows)
    columns = list(shown[0])
    meanings = "; ".join(
        f"<b>{name}</b> {text(what)}" for name, what in _MEANINGS if name in columns
    )
    return (
        '<p class="soft">The partition beside what other methods make of the same labels with as '
        "many members: mean and standard deviation over seeds.</p>"
        f"{table(columns, shown, numbers=columns[1:], kind='plain')}"
        f'<p class="soft">{meanings}.</p>'
    )


def together(partition: Partition | Cover | None, pairs: np.ndarray | None) -> str:
    """Return the pairs of labels that most songs have, kept by one member and parted."""
    if pairs is None or not pairs.any() or not isinstance(partition, Partition):
        return ""  # where members share labels, none is parted
    member = partition.member_of_label
    kept = co_occurrence(pairs, member)
    note = (
        f"{100 * kept.share:.0f} % of the pairs of labels of one song are of one member; "
        f"chance would give {100 * kept.expected:.0f} %."
    )
    is_kept = np.equal.outer(member, member)
    tables = "".join(
        f"<div><h3>{title}</h3>{_pairs(partition, pairs * mask)}</div>"
        for title, mask in (("Learnt by one member", is_kept), ("Parted", ~is_kept))
    )
    return f'<p class="soft">{note}</p><div class="pair">{tables}</div>'


def _pairs(partition: Partition, counts: np.ndarray) -> str:
    """Return a table of the pairs that most songs have; of equal ones the first."""
    first, second = np.triu_indices(len(counts), 1)
    songs = counts[first, second]
    order = np.argsort(-songs, kind="stable")[:_MOST_PAIRS]
    rows: list[dict[str, Any]] = [
        {
            "labels": f"{partition.tags[first[i]]}, {partition.tags[second[i]]}",
            "songs": int(songs[i]),
        }
        for i in order
        if songs[i]
    ]
    return table(("labels", "songs"), rows, numbers=["songs"], kind="plain")
