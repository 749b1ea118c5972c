"""Compare a table of scores with the published ones: SCORES.csv EXPECTED.csv.

Every expected song must be there, and every score within 1e-3.
"""

import csv
import sys
from pathlib import Path

TOLERANCE = 1e-3
NO_TAGS = {"path", "samples_12k", "frames", "start_frame"}


def read(path: str) -> dict[str, dict[str, str]]:
    """Return the rows of a table by their path."""
    with Path(path).open(newline="", encoding="utf-8") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


def main(scores: str, expected: str) -> int:
    """Print the largest difference, and return 1 when it is too large or a song is missing."""
    got, wanted = read(scores), read(expected)
    missing = sorted(wanted.keys() - got.keys())
    tags = set(next(iter(wanted.values()))) - NO_TAGS
    worst = max(
        (abs(float(got[path][tag]) - float(row[tag])), path, tag)
        for path, row in wanted.items()
        if path in got
        for tag in tags
    )
    print(f"{len(wanted)} songs expected, {len(got)} scored, {len(missing)} missing: {missing[:3]}")
    print(f"largest difference {worst[0]:.2e} ({worst[1]}, {worst[2]}), tolerance {TOLERANCE:.0e}")
    return int(bool(missing) or worst[0] > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
