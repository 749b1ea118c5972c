"""Pictures, tables and the HTML page of a run."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from fastmte import runs
from fastmte.data.inputs import SongFile
from fastmte.data.parts import VERSION, Row, path_fields, read_tagged, schema_of, write_part
from fastmte.errors import InputError
from fastmte.partition import Partition, make_partition
from fastmte.report import _markup, figures, tables
from fastmte.report.contents import Contents, read_contents
from fastmte.report.html import page

TAGS = ("action", "calm", "<b>&\"'", "dream", "epic", "fast")
VOID = {"meta", "link", "img", "input", "br", "hr"}


class Page(HTMLParser):
    """The elements of a page; fails on a tag that closes what is not open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sections: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "section":
            self.sections.append(str(dict(attrs)["id"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif self.open and self.open[-1] != "style":
            self.text += data

    def songs(self) -> dict[str, Any]:
        return json.loads(next(text for text in self.scripts if text.startswith("{")))


def record(epoch: int) -> dict[str, Any]:
    member = {"learning_rate": 1e-3, "train_loss": 0.5 / epoch, "validation_loss": 0.6 / epoch}
    member |= {"roc_auc": 0.5 + 0.1 * epoch, "best_epoch": epoch, "retired": False}
    return {"epoch": epoch, "seconds": 2.0, "members": [{"member": k, **member} for k in (0, 1)]}


@pytest.fixture
def run(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A finished run of six tags and two members."""
    folder = tmp_path / "run"
    folder.mkdir()
    centroids = rng.normal(size=(6, 4))
    make_partition("dkmeans", TAGS, centroids, 2).save(folder / runs.PARTITION)
    np.save(folder / runs.CENTROIDS, centroids)
    truth = np.add.outer(3 * np.arange(10), np.arange(6)) % 4 == 0
    scores = np.clip(0.6 * truth + 0.4 * rng.random((10, 6)), 0, 1)
    ids = [f"track_{n}" for n in range(10)]
    runs.write_results(folder, TAGS, ids, scores, truth, np.full(6, 0.5))
    lines = "".join(json.dumps(record(epoch)) + "\n" for epoch in (1, 2, 3))
    (folder / "metrics.jsonl").write_text(lines)
    manifest = {
        "format": runs.FORMAT,
        "status": "finished",
        "command": ["fastmte", "train", "--data", "my </script> songs"],
        "settings": {"backbone": "resnet18", "partition": "dkmeans", "data": "<data>"},
        "data": {"songs": {"train": 20, "validation": 5, "test": 10}},
    }
    (folder / runs.MANIFEST).write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def tagged(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Four songs: two with scores, one of them quiet about its bytes, and two failures."""
    folder = tmp_path / "songs"
    (folder / "parts").mkdir(parents=True)
    manifest = {
        "format": "fastmte tagged songs",
        "version": VERSION,
        "tags": list(TAGS),
        "thresholds": [0.5] * 6,
        "fingerprint": "f" * 64,
        **path_fields("root", b"/music"),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))

    def row(name: bytes, status: str, **more: Any) -> Row:
        return Row(SongFile(name, b"/music/" + name, 1, 1), status, **more)

    high = np.array([0.9, 0.1, 0.8, 0.2, 0.3, 0.4], np.float32)
    low = np.array([0.3, 0.1, 0.2, 0.25, 0.05, 0.0], np.float32)
    rows = [
        row(b"<img src=x>&.ogg", "ok", duration_s=7.25, scores=high),
        row(b"caf\xe9\xff.mp3", "ok_short", message="2.0 s", duration_s=2.0, scores=low),
        row(b"none.ogg", "error", code="EMPTY", message="has no bytes"),
        row(b"z</script>.ogg", "crash", code="DECODER_CRASH", message="<died>"),
    ]
    schema = schema_of(TAGS, manifest["fingerprint"])
    write_part(folder / "parts" / "part-000000.parquet", rows, schema)
    return folder


# Pictures


def png_size(png: bytes) -> tuple[int, int]:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert png[-8:-4] == b"IEND"
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


@pytest.mark.parametrize("n_members", [1, 4, 13])
def test_figure1_is_a_picture(n_members: int, rng: np.random.Generator) -> None:
    tags = tuple(f"tag {n}" for n in range(26))
    centroids = rng.normal(size=(26, 22))
    png = figures.figure1(make_partition("random", tags, None, n_members), centroids)
    assert png_size(png) == (1200, 930)
    assert len(png) > 10_000


def test_figure1_is_a_function_of_its_data(rng: np.random.Generator) -> None:
    partition, centroids = make_partition("linear", TAGS, None, 2), rng.normal(size=(6, 3))
    assert figures.figure1(partition, centroids) == figures.figure1(partition, centroids)


@pytest.mark.parametrize("shape", [(6, 1), (6, 22)])
def test_figure1_draws_flat_and_equal_centroids(shape: tuple[int, int]) -> None:
    partition = make_partition("linear", TAGS, None, 2)
    png_size(figures.figure1(partition, np.zeros(shape)))
    png_size(figures.figure1(partition, np.arange(float(np.prod(shape))).reshape(shape)))


def test_figure1_refuses_other_centroids() -> None:
    with pytest.raises(InputError, match="one row for each of the 6 labels, got 5"):
        figures.figure1(make_partition("single", TAGS), np.zeros((5, 2)))


def test_names_of_points_do_not_overlap(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes: list[np.ndarray] = []
    place = figures._best_place

    def watched(*args: Any) -> tuple[np.ndarray, np.ndarray, bool]:
        made = place(*args)
        boxes.append(made[1])
        return made

    monkeypatch.setattr(figures, "_best_place", watched)
    tags = tuple(f"a long tag {n}" for n in range(40))
    figures.figure1(make_partition("linear", tags, None, 4), rng.normal(size=(40, 5)))
    assert len(boxes) == 40
    shared = [figures._overlap(box, np.array(boxes[:n])) for n, box in enumerate(boxes) if n]
    sizes = [np.prod(box[2:] - box[:2]) for box in boxes]
    assert sum(shared) < 0.01 * sum(sizes)


def test_principal_plane_is_that_of_the_covariance(rng: np.random.Generator) -> None:
    points = rng.normal(size=(30, 5)) @ np.diag([5.0, 3.0, 1.0, 0.5, 0.1])
    plane, shares = figures.principal_plane(points)
    values = np.linalg.eigvalsh(np.cov(points.T))[::-1]
    np.testing.assert_allclose(plane.var(axis=0, ddof=1), values[:2])
    np.testing.assert_allclose(shares, values[:2] / values.sum())
    assert plane[np.abs(plane).argmax(axis=0), [0, 1]].min() > 0


def test_elbow_is_a_picture() -> None:
    curve = {"k": [1, 2, 3, 4], "inertia": [10.0, 4.0, 3.0, 2.5], "elbow": 2}
    assert png_size(figures.elbow(curve)) == (1200, 660)
    assert png_size(figures.elbow({"k": [1], "inertia": [0.0], "elbow": 1})) == (1200, 660)
    without = figures.elbow(curve | {"elbow": None})
    assert png_size(without) == (1200, 660) and without != figures.elbow(curve)


def test_pictures_without_matplotlib_name_the_extra(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    partition = make_partition("dkmeans", TAGS, rng.normal(size=(6, 2)), 2)
    with pytest.raises(InputError, match=re.escape("pip install 'fastmte[plot]'")):
        figures.figure1(partition, np.zeros((6, 2)))
    figure1, elbow, missing = figures.pictures(partition, np.zeros((6, 2)))
    assert figure1 is None
    assert elbow is None
    assert "fastmte[plot]" in missing[0]


# Tables


def shown(table: Any) -> str:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    return console.export_text()


def test_tables_hold_the_numbers(run: Path) -> None:
    contents = read_contents(run)
    assert contents.partition is not None
    text = shown(tables.metrics_table(contents.results))
    for name, value in contents.results.items():
        assert re.search(rf"{name}\s.*{value:.6f}", text)
    text = shown(tables.tag_table(contents.tags))
    assert all(tag in text for tag in TAGS)
    text = shown(tables.partition_table(contents.partition))
    assert all(", ".join(part) in text for part in contents.partition.parts())
    assert shown(tables.tag_table([])) != ""


@pytest.mark.parametrize(
    ("value", "text"), [(0.12345, "0.123"), (7, "7"), (None, "-"), (float("nan"), "-"), ("a", "a")]
)
def test_numbers_as_text(value: Any, text: str) -> None:
    assert tables.number(value, 3) == text


# The page


def whole(run: Path, tagged: Path | None = None) -> Page:
    """Return the page of a run, with bytes for pictures where it has what they show."""
    contents = read_contents(run, tagged)
    has_figure1 = contents.partition is not None and contents.centroids is not None
    has_elbow = contents.partition is not None and "elbow" in contents.partition.details
    return Page(page(contents, b"1" if has_figure1 else None, b"2" if has_elbow else None))


def test_page_has_every_section(run: Path, tagged: Path) -> None:
    parsed = whole(run, tagged)
    assert parsed.sections == [
        *("metrics", "partition", "figure1", "elbow", "training"),
        *("tags", "songs", "failures", "provenance"),
    ]
    for name, value in read_contents(run).results.items():
        assert name in parsed.text
        assert f"{value:.6f}" in parsed.text
    assert "3 epochs in 6 s" in parsed.text
    assert "20 train, 5 validation, 10 test songs" in parsed.text
    assert sum(tag == "polyline" for tag, _ in parsed.elements) == 3 * 2


def test_page_loads_nothing(run: Path, tagged: Path) -> None:
    for tag, attributes in whole(run, tagged).elements:
        for name in ("src", "href", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/png;base64,", "#")), tag
    css = (Path(_markup.__file__).parent / "page.css").read_text()
    assert "url(" not in css
    assert "@import" not in css


def test_page_holds_the_pictures(run: Path) -> None:
    images = [a["src"] for tag, a in whole(run).elements if tag == "img"]
    assert [base64.b64decode(str(src).partition(",")[2]) for src in images] == [b"1", b"2"]


def test_page_escapes_what_others_named(run: Path, tagged: Path) -> None:
    contents = read_contents(run, tagged)
    html = page(contents)
    assert "<b>&" not in html
    assert "<img src=x" not in html
    assert "<died>" not in html
    assert html.count("</script>") == html.count("<script")
    parsed = Page(html)
    assert "<b>&\"'" in parsed.text
    assert "z</script>.ogg" in parsed.text
    assert "fastmte train --data 'my </script> songs'" in parsed.text
    assert parsed.songs()["names"] == ["<img src=x>&.ogg", "caf\\xe9\\xff.mp3"]


def test_songs_of_the_page_have_their_scores_and_tags(run: Path, tagged: Path) -> None:
    songs = whole(run, tagged).songs()
    levels = np.frombuffer(base64.b64decode(songs["scores"]), "<u2").reshape(2, 6)
    expected = read_tagged(tagged).scores()[:2]
    np.testing.assert_allclose(levels / 65535, expected, atol=1e-5)
    assert songs["tags"] == list(TAGS)
    assert songs["given"] == [[0, 2], []]
    assert songs["best"][1][:3] == [0, 3, 2]
    assert songs["seconds"] == [7.25, 2.0]
    assert songs["notes"] == ["", "2.0 s"]


def test_failures_are_listed_with_what_to_do(run: Path, tagged: Path) -> None:
    text = whole(run, tagged).text
    assert "EMPTY" in text
    assert "has no bytes" in text
    assert "fetch or rip it again" in text
    assert "DECODER_CRASH" in text


@pytest.mark.parametrize(
    ("names", "section", "sentence"),
    [
        (["metrics.jsonl"], "training", "the course of the training: there is no metrics.jsonl"),
        (["centroids.npy"], "figure1", "Figure 1: there is no centroids.npy"),
        (["predictions.npy"], "metrics", "the metrics: there is no predictions.npy"),
        (["groundtruth.npy"], "tags", "the metrics: there is no groundtruth.npy"),
        (["partition.json"], "partition", "the members' labels: there is no partition.json"),
        (["run.json"], "provenance", "how it was made: there is no run.json"),
    ],
)
def test_missing_pieces_are_left_out_and_named(
    run: Path, names: list[str], section: str, sentence: str
) -> None:
    for name in names:
        (run / name).unlink()
    parsed = whole(run)
    assert section not in parsed.sections
    assert sentence in parsed.text
    assert "tagged songs: none were named" in parsed.text


def test_run_that_has_only_begun(tmp_path: Path) -> None:
    Partition(TAGS, np.zeros(6, np.int64), "file").save(tmp_path / runs.PARTITION)
    parsed = whole(tmp_path)
    assert parsed.sections == ["partition", "missing"]
    assert "the elbow: the partition was made without" in parsed.text


def test_last_record_that_was_cut_off_does_not_count(run: Path) -> None:
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 4, "mem')
    assert len(read_contents(run).epochs) == 3


def test_tagged_songs_alone_make_a_page(tagged: Path) -> None:
    parsed = Page(page(read_contents(tagged)))
    assert parsed.sections == ["songs", "failures", "provenance"]


def test_tagged_folder_in_a_run_is_found(run: Path, tagged: Path) -> None:
    tagged.rename(run / "tagged")
    assert "songs" in whole(run).sections


def test_songs_without_scores_and_without_failures(run: Path, tagged: Path) -> None:
    part = tagged / "parts" / "part-000000.parquet"
    schema = schema_of(TAGS, "f" * 64)
    silent = Row(SongFile(b"a.ogg", b"/music/a.ogg", 1, 1), "silent", message="is silent")
    write_part(part, [silent], schema)
    parsed = whole(run, tagged)
    assert "No song has scores." in parsed.text
    assert "No song failed." in parsed.text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metrics.jsonl", "no\n", "not JSON lines"),
        ("run.json", "{}", "not of the format"),
        ("partition.json", "[]", "partition.json"),
        ("predictions.npy", "no", "predictions.npy: not a NumPy array file"),
    ],
)
def test_damaged_pieces_are_named(run: Path, name: str, text: str, message: str) -> None:
    (run / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_contents(run)


def test_tags_no_song_has_are_named(run: Path) -> None:
    truth = np.load(run / "groundtruth.npy")
    truth[:, 1] = False
    np.save(run / "groundtruth.npy", truth)
    contents = read_contents(run)
    assert any(s.startswith("some metrics: left out") and "calm" in s for s in contents.missing)
    assert contents.tags[1]["ROC-AUC"] is None
    Page(page(contents))


def test_folder_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds neither a run nor tagged songs"):
        read_contents(tmp_path)


# Its pieces


def test_text_and_data_survive_any_name() -> None:
    assert _markup.text("a\udcff<&\"'") == "a\\udcff&lt;&amp;&quot;&#x27;"
    assert json.loads(_markup.data({"a": "</script><!--&"})) == {"a": "</script><!--&"}
    assert "<" not in _markup.data("</script>")


def test_chart_spans_its_values_and_skips_gaps() -> None:
    chart = _markup.line_chart("Loss", [[0.1, None, 0.3], [float("nan"), 0.2]], first=5)
    assert [*re.findall(r'text-anchor="middle">(\d+)<', chart)] == ["5", "6", "7"]
    assert chart.count("<polyline") == 1
    assert chart.count("<circle") == 1
    values = [float(v) for v in re.findall(r'text-anchor="end">([\d.]+)<', chart)]
    assert min(values) <= 0.1
    assert max(values) >= 0.3
    assert _markup.line_chart("Loss", [[None], []]) == ""
    Page(_markup.line_chart("Flat", [[0.5, 0.5]]))


def test_contents_of_nothing_still_make_a_page(tmp_path: Path) -> None:
    assert Page(page(Contents(tmp_path))).sections == []
