"""A run and its tagged songs as one HTML page that needs nothing beside it."""

import base64
import json
import shlex
from importlib.resources import files
from typing import Any

import numpy as np

import fastmte
from fastmte.data.parts import FAILURES, Tagged, shown_path
from fastmte.data.tables import hint, top_tags
from fastmte.partition import Cover
from fastmte.report import figures
from fastmte.report._markup import data, line_chart, table, text
from fastmte.report.comparison import comparison, together
from fastmte.report.contents import Contents
from fastmte.report.tables import number

_HEADLINES = ("ROC-AUC-macro", "PR-AUC-macro", "F-score-macro", "ROC-AUC-micro", "PR-AUC-micro")
_TAG_COLUMNS = (
    *("tag", "member", "songs", "ROC-AUC", "PR-AUC"),
    *("precision", "recall", "F-score", "decided", "threshold"),
)
_CURVES = {
    "Validation ROC-AUC": "roc_auc",
    "Validation loss": "validation_loss",
    "Training loss": "train_loss",
}
_BEST = 5  # highest scores shown of a song, where it has fewer tags


def page(contents: Contents, figure1: bytes | None = None, elbow: bytes | None = None) -> str:
    """Return the report as HTML with pictures, styles and scripts in it.

    What the run does not have is left out and named at the end.

    Args:
        contents: the run.
        figure1: the label centroids as PNG.
        elbow: the elbow of k-means as PNG.
    """
    made = {
        "metrics": ("Metrics", _metrics(contents)),
        "partition": ("Partition", _partition(contents)),
        "comparison": ("Comparison", comparison(contents.comparison)),
        "together": ("Labels of one song", together(contents.partition, contents.pairs)),
        "figure1": ("Figure 1", _picture(figure1, "Figure 1", _FIGURE1)),
        "elbow": ("Elbow", _picture(elbow, "Elbow", _ELBOW)),
        "training": ("Training", _training(contents)),
        "tags": ("Tags", _tags(contents)),
        "songs": ("Tagged songs", _songs(contents.tagged)),
        "failures": ("Failures", _failures(contents.tagged)),
        "provenance": ("Provenance", _provenance(contents)),
        "missing": ("Left out", _missing(contents)),
    }
    sections = {name: section for name, section in made.items() if section[1]}
    links = "".join(f'<a href="#{name}">{title}</a>' for name, (title, _) in sections.items())
    bodies = "\n".join(
        f'<section id="{name}"><h2>{title}</h2>\n{body}\n</section>'
        for name, (title, body) in sections.items()
    )
    title = _title(contents)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{_asset("page.css")}</style>
</head>
<body>
<header><h1>{title}</h1>
<p class="soft">{_subtitle(contents)}</p>
{_cards(contents)}</header>
<nav>{links}</nav>
<main>
{bodies}
</main>
<footer>Made by fastmte {text(fastmte.__version__)}; loads nothing from elsewhere.</footer>
<script>
{_asset("page.js")}</script>
</body>
</html>
"""


_FIGURE1 = (
    "Each point is a label, in a collection the mean of the descriptors of the training songs "
    "that have it, on the two axes on which the labels differ most. Colour and marker are the "
    "member that learns it."
)
_ELBOW = (
    "How well k-means describes the labels with so many groups. The elbow lies farthest below "
    "the line from the first value to the last: more groups gain little from there on. It depends "
    "on where the curve ends, and there is none where the curve is nearly straight."
)


def _asset(name: str) -> str:
    return (files("fastmte.report") / name).read_text(encoding="utf-8")


def _title(contents: Contents) -> str:
    if contents.title:
        return f"fastmte: {text(contents.title)}"
    settings = contents.manifest.get("settings", {})
    name = contents.folder.resolve().name or "run"
    if not settings:
        return f"fastmte: {text(name)}"
    return f"fastmte: {text(settings.get('backbone'))}, {text(settings.get('partition'))}"


def _subtitle(contents: Contents) -> str:
    """Return one line that says what the run was."""
    manifest = contents.manifest
    settings, songs = manifest.get("settings", {}), manifest.get("data", {}).get("songs", {})
    facts = [f"folder {contents.folder.resolve()}"]
    if settings:
        facts.append("built-in demo" if settings.get("is_demo") else f"data {settings.get('data')}")
    if songs:
        facts.append(", ".join(f"{count} {name}" for name, count in songs.items()) + " songs")
    if contents.partition is not None:
        facts.append(f"{len(contents.partition.tags)} tags")
        facts.append(f"{contents.partition.n_members} members")
    if manifest.get("status"):
        facts.append(str(manifest["status"]))
    return " · ".join(map(text, facts))


def _cards(contents: Contents) -> str:
    cards = [(name, number(contents.results.get(name), 4)) for name in _HEADLINES]
    shown = [(name, value) for name, value in cards if value != "-"]
    if contents.tagged is not None:
        shown.append(("songs tagged", str(contents.tagged.table.num_rows)))
    body = "".join(
        f'<div class="card"><b>{text(value)}</b><span>{text(name)}</span></div>'
        for name, value in shown
    )
    return f'<div class="cards">{body}</div>\n' if body else ""


def _metrics(contents: Contents) -> str:
    """Return a table of the macro averages and one of the micro averages, side by side."""
    if not contents.results:
        return ""
    averages: dict[str, list[dict[str, str]]] = {}
    for name, value in contents.results.items():
        row = {"metric": name, "value": number(value, 6)}
        averages.setdefault(name.rpartition("-")[2], []).append(row)
    tables = "".join(
        table(("metric", "value"), rows, numbers=["value"], kind="plain")
        for rows in averages.values()
    )
    note = "Of the test songs, by the names of the task. Macro: the mean over the tags."
    return f'<p class="soft">{note}</p><div class="pair">{tables}</div>'


_MERGED = {  # what a score is where members share labels
    "mean": "the mean of the members' scores",
    "logit": "the sigmoid of the mean of the members' logits",
}


def _partition(contents: Contents) -> str:
    partition = contents.partition
    if partition is None:
        return ""
    seeds = partition.details.get("seeds", [])
    members = []
    for member, part in enumerate(partition.parts()):
        chips = "".join(f'<span class="chip">{text(tag)}</span>' for tag in part)
        start = f", seed {text(seeds[member])}" if member < len(seeds) else ""
        members.append(
            f'<div class="member" style="--colour:{figures.colour(member)}">'
            f'<h3>Member {member}</h3><p class="soft">{len(part)} tags{start}</p>'
            f"{chips}</div>"
        )
    order = "Tags in the order they were assigned."
    if isinstance(partition, Cover):
        order = f"Members share tags; a score is {_MERGED[partition.merge]}."
    return (
        f'<p class="soft">Method: {text(partition.method)}. {order}</p>'
        f'<div class="members">{"".join(members)}</div>'
    )


def _picture(png: bytes | None, name: str, caption: str) -> str:
    if png is None:
        return ""
    source = f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
    return (
        f'<figure><img alt="{text(name)}" width="960" src="{source}">'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )


def _training(contents: Contents) -> str:
    """Return a chart of each quantity, one line a member."""
    epochs = contents.epochs
    n_members = max((len(epoch.get("members", ())) for epoch in epochs), default=0)
    if not n_members:
        return ""
    charts = []
    for title, key in _CURVES.items():
        lines = [
            [
                epoch["members"][k].get(key) if k < len(epoch["members"]) else None
                for epoch in epochs
            ]
            for k in range(n_members)
        ]
        charts.append(line_chart(title, lines, int(epochs[0].get("epoch", 1))))
    legend = "".join(
        f'<span><i class="dot" style="--colour:{figures.colour(k)}"></i>member {k}'
        f"{_best_epoch(epochs[-1]['members'], k)}</span>"
        for k in range(n_members)
    )
    seconds = sum(epoch.get("seconds") or 0.0 for epoch in epochs)
    note = f"{len(epochs)} epochs in {seconds:.0f} s."
    return (
        f'<p class="soft">{note}</p><div class="charts">{"".join(charts)}</div>'
        f'<div class="legend">{legend}</div>'
    )


def _best_epoch(members: list[dict[str, Any]], member: int) -> str:
    best = members[member].get("best_epoch") if member < len(members) else None
    return "" if best is None else f", best epoch {best}"


def _tags(contents: Contents) -> str:
    if not contents.tags:
        return ""
    columns = [name for name in _TAG_COLUMNS if name in contents.tags[0]]
    rates = [name for name in columns if name in ("ROC-AUC", "PR-AUC", "F-score")]
    note = "Of the test songs. A click on a column's head sorts."
    return f'<p class="soft">{note}</p>' + table(
        columns, contents.tags, numbers=columns[1:], bars=rates
    )


def _songs(tagged: Tagged | None) -> str:
    """Return the songs with scores as data that the page's script makes a table of."""
    if tagged is None:
        return ""
    scores = tagged.scores()
    rows = np.flatnonzero(~np.isnan(scores).any(axis=1))
    if not len(rows):
        return '<p class="warn">No song has scores.</p>'
    scores, tags = scores[rows], top_tags(tagged)
    columns = tagged.table.select(["duration_s", "message"]).take(rows).to_pydict()
    best = np.argsort(-scores, axis=1, kind="stable")[:, :_BEST]
    levels = np.rint(np.clip(scores, 0, 1) * 65535).astype("<u2")
    content = {
        "tags": list(tagged.tags),
        "names": [shown_path(tagged.names[row]) for row in rows],
        "seconds": [None if s is None else round(s, 2) for s in columns["duration_s"]],
        "notes": columns["message"],
        "given": [tags[row] for row in rows],
        "best": best.tolist(),
        "scores": base64.b64encode(levels.tobytes()).decode("ascii"),
    }
    choices = "".join(
        f'<option value="{index}">by {text(tag)}</option>' for index, tag in enumerate(tagged.tags)
    )
    rule = "the highest three" if tagged.thresholds is None else "those above the thresholds"
    return f"""<p class="soft">Blue tags are the song's: {rule}; others follow in grey.
Numbers are scores, not probabilities.</p>
<div class="tools"><input id="songs-find" type="search" placeholder="Find names and tags"
aria-label="Find names and tags"><select id="songs-tag" aria-label="Order">
<option value="">by name</option>{choices}</select><span id="songs-count" class="soft"></span></div>
<table><thead><tr><th scope="col">song</th><th scope="col" class="number">seconds</th>
<th scope="col">tags</th><th scope="col">remarks</th></tr></thead>
<tbody id="songs-rows"></tbody></table>
<button id="songs-more" class="more" hidden>Show more</button>
<noscript><p>The songs need JavaScript; the same are in scores.csv and tags.csv.</p></noscript>
<script type="application/json" id="songs-data">{data(content)}</script>"""


def _failures(tagged: Tagged | None) -> str:
    if tagged is None:
        return ""
    rows = tagged.table.select(["path", "status", "code", "message"]).to_pylist()
    failed = [
        {
            "song": shown_path(row["path"]),
            "code": row["code"],
            "what": row["message"],
            "what to do": hint(row["code"]),
        }
        for row in rows
        if row["status"] in FAILURES
    ]
    if not failed:
        return '<p class="soft">No song failed.</p>'
    return table(("song", "code", "what", "what to do"), failed)


def _provenance(contents: Contents) -> str:
    """Return the command and everything the manifests of run and tagged songs hold."""
    manifest, parts = contents.manifest, []
    if manifest.get("command"):
        parts.append(f"<p>This command gives the run again:</p><pre>{_shell(manifest)}</pre>")
    if manifest:
        parts.append(_details("run.json", manifest))
    if contents.tagged is not None:
        parts.append(_details("manifest.json of the tagged songs", contents.tagged.manifest))
    return "\n".join(parts)


def _shell(manifest: dict[str, Any]) -> str:
    return text(shlex.join(map(str, manifest["command"])))


def _details(title: str, value: dict[str, Any]) -> str:
    dumped = json.dumps(value, indent=2, ensure_ascii=False)
    return f"<details><summary>{text(title)}</summary><pre>{text(dumped)}</pre></details>"


def _missing(contents: Contents) -> str:
    if not contents.missing:
        return ""
    items = "".join(f"<li>{text(sentence)}</li>" for sentence in contents.missing)
    return f'<ul class="plain">{items}</ul>'
