"""Pieces of an HTML page: text that is safe to show, tables and line charts."""

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastmte.report.figures import colour
from fastmte.report.tables import number

_WIDTH, _HEIGHT = 360, 220  # of a chart, in its own units
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 12, 34
_DASHES = ("", "6 3", "2 2", "8 3 2 3")  # members in greyscale


def text(value: Any) -> str:
    """Return a value as HTML text; bytes of file names that are no UTF-8 become escapes."""
    return html.escape(str(value).encode("utf-8", "backslashreplace").decode())


def data(value: Any) -> str:
    """Return a value as JSON that cannot end the script element it stands in."""
    dumped = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return dumped.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def table(
    columns: Sequence[str],
    rows: Iterable[Mapping[str, Any]],
    numbers: Iterable[str] = (),
    bars: Iterable[str] = (),
    kind: str = "sortable",
) -> str:
    """Return an HTML table.

    Args:
        columns: keys of the rows and heads of the columns.
        rows: what stands in them; floats get four decimals.
        numbers: columns that are set right and sorted as numbers.
        bars: columns of values in [0, 1] that are drawn as bars too.
        kind: the table's class.
    """
    numbers, bars = set(numbers), set(bars)
    heads = (
        f'<th scope="col"{" class=number" if name in numbers else ""}>{text(name)}</th>'
        for name in columns
    )
    lines = []
    for row in rows:
        cells = (_cell(row.get(name), name in numbers, name in bars) for name in columns)
        lines.append(f"<tr>{''.join(cells)}</tr>")
    body = "\n".join(lines)
    return (
        f'<table class="{kind}"><thead><tr>{"".join(heads)}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table>"
    )


def _cell(value: Any, is_number: bool, has_bar: bool) -> str:
    names = " ".join(["number"] * is_number + ["bar"] * has_bar)
    attributes = f' class="{names}"' if names else ""
    if has_bar:
        share = value if isinstance(value, float) and math.isfinite(value) else 0.0
        attributes += f' style="--share:{share:.4f}"'
    return f"<td{attributes}>{text(number(value, 4))}</td>"


def line_chart(title: str, lines: Sequence[Sequence[float | None]], first: int = 1) -> str:
    """Return a chart of one line a member as SVG; the x axis counts epochs.

    Args:
        title: what is drawn.
        lines: (K, E) values; None and NaN leave a gap.
        first: number of the first epoch.
    """
    values = [v for line in lines for v in line if v is not None and math.isfinite(v)]
    n_epochs = max((len(line) for line in lines), default=0)
    if not values or not n_epochs:
        return ""
    low, high, step = _ticks(min(values), max(values))
    plot_width, plot_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x(index: int) -> float:
        return _LEFT + plot_width * (index / (n_epochs - 1) if n_epochs > 1 else 0.5)

    def y(value: float) -> float:
        return _TOP + plot_height * (1 - (value - low) / (high - low))

    parts = []
    for tick in range(round((high - low) / step) + 1):
        at = low + tick * step
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(at):.1f}" y2="{y(at):.1f}" '
            'stroke="#e3e6ea"/>'
            f'<text x="{_LEFT - 6}" y="{y(at) + 4:.1f}" text-anchor="end">{_short(at)}</text>'
        )
    for index in sorted({0, (n_epochs - 1) // 2, n_epochs - 1}):
        parts.append(
            f'<text x="{x(index):.1f}" y="{_HEIGHT - 16}" text-anchor="middle">'
            f"{first + index}</text>"
        )
    parts.append(
        f'<text x="{_LEFT + plot_width / 2}" y="{_HEIGHT - 2}" text-anchor="middle">epoch</text>'
    )
    for member, line in enumerate(lines):
        points = [(x(i), y(v)) for i, v in enumerate(line) if v is not None and math.isfinite(v)]
        parts.append(_line(points, member))
    return (
        f'<figure><h3>{text(title)}</h3><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{text(title)}">{"".join(parts)}</svg></figure>'
    )


def _line(points: Sequence[tuple[float, float]], member: int) -> str:
    """Return one member's line; a single value is a dot."""
    if len(points) == 1:
        x, y = points[0]
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour(member)}"/>'
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    style = f'fill="none" stroke="{colour(member)}" stroke-width="2"'
    dash = _DASHES[member % len(_DASHES)]
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<polyline points="{path}" {style}{dashes}/>'


def _ticks(low: float, high: float) -> tuple[float, float, float]:
    """Return round ends of an axis around the values, and the step between its ticks."""
    span = high - low or abs(high) or 1.0
    raw = span / 4
    size = 10.0 ** math.floor(math.log10(raw))
    step = size * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * size >= raw * 0.999)
    bottom, top = math.floor(low / step) * step, math.ceil(high / step) * step
    return bottom, top if top > bottom else bottom + step, step


def _short(value: float) -> str:
    return f"{value:.4g}" if abs(value) >= 1e-9 else "0"
