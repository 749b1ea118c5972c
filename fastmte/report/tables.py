"""A run's numbers as tables for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from fastmte.partition import Partition


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


def partition_table(partition: Partition) -> Table:
    """Return the tags of each member."""
    table = Table(title=Text(f"Labels split by {partition.method}"), title_justify="left")
    table.add_column("member", justify="right")
    table.add_column("labels", justify="right")
    table.add_column("tags")
    for member, part in enumerate(partition.parts()):
        table.add_row(str(member), str(len(part)), Text(", ".join(part)))
    return table


def number(value: Any, decimals: int) -> str:
    """Return a value as text: floats with so many decimals, what is missing as a dash."""
    if value is None or value != value:
        return "-"
    return f"{value:.{decimals}f}" if isinstance(value, float) else str(value)
