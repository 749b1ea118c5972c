"""A run's numbers as tables for a terminal."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from fastmte.partition import Cover, Partition
from fastmte.partition.compare import Compared

_MEASURES = {  # column -> measure, decimals
    "R2": ("r2", 4),
    "balance": ("balance", 3),
    "diversity": ("diversity", 2),
    "dispersion": ("dispersion", 4),
    "together": ("together", 3),
}
_IN_TERMINAL = ("method", "balance", "diversity", "gain", "together", "agreement")  # 80 columns


def metrics_table(results: Mapping[str, float]) -> Table:
    """Return the task's metrics, a row each, in the order given."""
    table = Table(title="Metrics of the test songs", title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in results.items():
        table.add_row(Text(name), number(value, 6))
    return table


def tag_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table with a row a tag; its columns are the keys of the first row."""
    table = Table(title="Metrics of each tag", title_justify="left")
    for name in rows[0] if rows else ():
        table.add_column(name, justify="left" if name == "tag" else "right")
    for row in rows:
        table.add_row(*(Text(number(value, 4)) for value in row.values()))
    return table


def partition_table(partition: Partition | Cover) -> Table:
    """Return the tags of each member."""
    table = Table(title=Text(f"Labels split by {partition.method}"), title_justify="left")
    table.add_column("member", justify="right")
    table.add_column("labels", justify="right")
    table.add_column("tags")
    for member, part in enumerate(partition.parts()):
        table.add_row(str(member), str(len(part)), Text(", ".join(part)))
    return table


def comparison_rows(rows: Iterable[Compared], has_spread: bool = True) -> list[dict[str, str]]:
    """Return a comparison as texts by column; what says nothing in any row has no column.

    Args:
        rows: the partition and the others.
        has_spread: add the standard deviation over the seeds to each mean.
    """
    made = []
    for row in rows:
        low, high = row.sizes
        cell = {
            "method": row.method,
            "seeds": str(row.n_draws),
            "sizes": str(low) if low == high else f"{low}-{high}",
        }
        for column, (measure, decimals) in _MEASURES.items():
            spread = row.spread[measure] if has_spread and row.n_draws > 1 else None
            cell[column] = _mean(row.mean[measure], decimals, spread)
        cell["gain"] = number(row.gain, 2)
        cell["agreement"] = number(row.stability, 3)
        made.append(cell)
    empty = [column for column in made[0] if all(cell[column] == "-" for cell in made)]
    return [{name: value for name, value in cell.items() if name not in empty} for cell in made]


def comparison_table(rows: Sequence[Compared]) -> Table:
    """Return what tells most of a partition beside others, means over seeds."""
    shown = comparison_rows(rows, has_spread=False)
    table = Table(title="The partition beside others, means over seeds", title_justify="left")
    table.box, table.show_edge, table.padding = SIMPLE, False, (0, 1, 0, 0)
    names = [name for name in _IN_TERMINAL if name in shown[0]]
    for name in names:
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    for row in shown:
        table.add_row(*(Text(row[name]) for name in names))
    return table


def number(value: Any, decimals: int) -> str:
    """Return a value as text: floats with so many decimals, what is missing as a dash."""
    if value is None or value != value:
        return "-"
    return f"{value:.{decimals}f}" if isinstance(value, float) else str(value)


def _mean(mean: float, decimals: int, spread: float | None = None) -> str:
    """Return a mean with its spread; what so many decimals cannot show in three digits."""
    if math.isnan(mean):
        return "-"
    if math.isinf(mean):
        return "none"
    form = f",.{decimals if abs(mean) < 1e4 else 0}f"
    if 1e-12 < abs(mean) < 10.0**-decimals or abs(mean) >= 1e9:
        form = ".3g"
    return f"{mean:{form}}" + ("" if spread is None else f" ± {spread:{form}}")
