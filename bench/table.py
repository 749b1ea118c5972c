"""Write the benchmark tables from the files in bench/results.

python -m bench.table            writes bench/results/README.md, and the README's choice of its rows
python -m bench.table --check    fails when one of the two has another table
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"
HEAD = """# All benchmarks

Made by `make bench` from the files beside this one.
"""

# The README's rows: what, how its size and what it replaces begin; the sizes one meets in use.
MEMBERS = "vgg, K = 4", "resnet18-uibk, K = 4"
TUNED = "the models in turn, tuned malloc"
SONG, SONGS = "song of 264 s", "64 x 96 x 1366"
HEADLINES: list[tuple[str, str, str]] = [
    *((f"inference, {who}, {p}", "8 x", TUNED) for who in MEMBERS for p in ("fp32", "bf16")),
    ("inference plan, vgg, K = 4, fp32", "8 x", "OpenVINO"),
    ("inference plan, vgg, K = 4, bf16", "8 x", "OpenVINO"),
    ("training step, vgg, K = 4, fp32", "8 x", "the models in turn in fp32, tuned malloc"),
    ("training step, vgg, K = 4, bf16", "8 x", "the models in turn in fp32, tuned malloc"),
    ("mp3 of 320 kbit/s to (96, 1366), `mtg2019`", SONG, "Essentia, as MTG in 2019"),
    (
        "mp3 of 320 kbit/s to (96, 1366), `mtg2019`",
        SONG,
        "soundfile from the crop's start + soxr + `torch.stft`",
    ),
    ("`resample`, libsamplerate's medium sinc", "29.14 s", "Essentia, quality 1"),
    ("`mel_db`: Fourier transform, mel bands, decibels", "29.12 s", "librosa"),
    ("a batch of crops from the float16 store", SONGS, "`np.load` of whole mels + slice"),
    ("a batch of crops from MTG's .npy, in place", SONGS, "`np.load` of whole mels + slice"),
    ("`label_centroids`, CSR labels", "9949 x 22", "pandas, tag by tag, as the paper"),
    ("`label_centroids`, CSR labels", "1000000 x 22", "scipy `csr.T @ X`"),
    ("`dkmeans_assign`", "56 x 22", "the paper's text in numpy"),
    ("`dkmeans_assign`, the authors' variant", "56 x 22", "the loop of the authors' notebook"),
    ("`dkmeans_assign`", "20000 x 22", "numpy, a product a round"),
]


def rows(folder: Path = RESULTS) -> list[dict]:
    """Return what each benchmark noted, with the machine it ran on, in the files' order."""
    found = []
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text())
        machine = result["machine_info"]
        name = f"{machine['cpu']}, Python {machine['python']}, torch {machine['torch']}"
        found += [bench["extra_info"] | {"machine": name} for bench in result["benchmarks"]]
    return found


def headlines(every: list[dict], chosen: list[tuple[str, str, str]] | None = None) -> list[dict]:
    """Return the README's rows, in its order.

    Raises:
        ValueError: a row is not among the results, or is there twice.
    """
    found = []
    for what, size, instead in HEADLINES if chosen is None else chosen:
        same = [r for r in every if r["what"] == what and r["size"].startswith(size)]
        same = [r for r in same if r["instead"].startswith(instead)]
        if len(same) != 1:
            raise ValueError(f"{len(same)} results of {what}, {size}, instead of {instead}")
        found += same
    return found


def table(chosen: list[dict]) -> str:
    """Return the Markdown table of results, and the machines they are from."""
    lines = [
        "| what | size | instead of | ratio (quartiles) | time or memory | of the limit |",
        "|---|---|---|---|---|---|",
        *(_row(info) for info in chosen),
    ]
    notes = "; ".join(dict.fromkeys(info["machine"] for info in chosen))
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


def texts() -> dict[Path, str]:
    """Return both files as they should be."""
    every, readme = rows(), ROOT / "README.md"
    return {
        RESULTS / "README.md": f"{HEAD}\n{table(every)}\n",
        readme: replaced(readme.read_text(), table(headlines(every))),
    }


def stale(wanted: dict[Path, str]) -> list[Path]:
    """Return the files that have another text."""
    return [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]


def main() -> int:
    """Write or check both files."""
    wanted = texts()
    old = stale(wanted)
    if "--check" in sys.argv:
        for path in old:
            print(f"{path.relative_to(ROOT)} has another table than the results: make bench-table")
        return int(bool(old))
    for path in old:
        path.write_text(wanted[path])
    return 0


if __name__ == "__main__":
    sys.exit(main())
