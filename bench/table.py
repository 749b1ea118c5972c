"""Write the benchmark table of the README from the files in bench/results.

python -m bench.table            writes the table between the marks in README.md
python -m bench.table --check    fails when the README has another table
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"


def table(folder: Path = RESULTS) -> str:
    """Return the Markdown table of all results, and the machine they are from."""
    lines = [
        "| what | size | instead of | ratio (quartiles) | time or memory | of the limit |",
        "|---|---|---|---|---|---|",
    ]
    machines = []
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text())
        machine = result["machine_info"]
        machines.append(f"{machine['cpu']}, Python {machine['python']}, torch {machine['torch']}")
        lines += [_row(bench["extra_info"]) for bench in result["benchmarks"]]
    notes = "; ".join(dict.fromkeys(machines))
    return "\n".join([*lines, "", f"One thread, paired rounds, medians. {notes}."])


def _row(info: dict) -> str:
    low, high = info["speedup_quartiles"]
    limit = f"{info['of_limit']:.0%} of a {info['limit']}" if "limit" in info else ""
    return (
        f"| {info['what']} | {info['size']} | {info['instead']} "
        f"| {info['speedup']:.2f}x ({low:.2f}-{high:.2f}) | {_cost(info)} | {limit} |"
    )


def _cost(info: dict) -> str:
    return f"{info['bytes'] / 1e6:.3g} MB" if "bytes" in info else _seconds(info["seconds"])


def _seconds(value: float) -> str:
    for unit, scale in (("s", 1), ("ms", 1e3), ("µs", 1e6)):
        if value * scale >= 1 or unit == "µs":
            return f"{value * scale:.3g} {unit}"
    raise AssertionError


def replaced(readme: str, new: str) -> str:
    """Return the README's text with the table between the marks replaced."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{new}\n{END}{rest.split(END)[1]}"


def main() -> int:
    """Write or check the README's table."""
    path = ROOT / "README.md"
    old = path.read_text()
    new = replaced(old, table())
    if "--check" in sys.argv:
        if old != new:
            print("README.md: the benchmark table is not that of bench/results: make bench-table")
        return int(old != new)
    path.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
