"""Which descriptors ``fastmte features`` writes, and what makes them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import numpy as np

from fastmte.extras import missing

Rows = Iterator[tuple[tuple[str, ...], np.ndarray] | str]
"""Names and values of each song's descriptors, or why it has none."""


def kind_of(source: str | None, model: Path | None, svm_models: Path | None) -> str | None:
    """Return the kind of descriptors that is asked for, or None where the data decide.

    Raises:
        click.UsageError: more than one is asked for.
        click.BadParameter: Essentia is needed and not installed.
    """
    options = {"--source": source, "--model": model, "--svm-models": svm_models}
    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(given)} exclude each other; give one of them")
    if source == "essentia" or svm_models is not None:
        reason = missing("essentia")
        if reason:
            raise click.BadParameter(reason, param_hint=given[0])
    return "embedding" if model else "svm" if svm_models else source


def described(
    paths: Sequence[Path],
    kind: str,
    preset: str,
    model: Path | None,
    svm_models: Path | None,
    workers: int | None,
) -> tuple[str, Rows]:
    """Return the descriptors' source, as their file names it, and those of each song.

    Raises:
        InputError: the folder of models lacks some, or is no model.
    """
    if kind == "acousticbrainz":
        from fastmte.data.descriptors import describe_json
        from fastmte.features import ACOUSTICBRAINZ_KEYS

        return kind, _named(ACOUSTICBRAINZ_KEYS, describe_json(paths))
    if kind == "mel":
        from fastmte.data.describe import describe_songs
        from fastmte.features import MEL_DESCRIPTORS
        from fastmte.mel import MelConfig

        rows = describe_songs(paths, MelConfig.of(preset), workers)
        return f"mel:{preset}", _named(MEL_DESCRIPTORS, rows)
    if kind == "embedding" and model is not None:
        from fastmte import checkpoint, embed, predict

        trained = checkpoint.load(model)
        digest = predict.model_hash(trained.ensemble)[:12]
        rows = embed.embed_songs(paths, trained, workers)
        label = f"embedding:{trained.ensemble.backbone_name}:{digest}"
        return label, _named(embed.embedding_names(trained), rows)
    from fastmte.data.extractor import extract_songs, svm_files

    return kind, extract_songs(paths, svm_files(svm_models) if svm_models else (), workers)


def _named(names: tuple[str, ...], rows: Iterator[np.ndarray | str]) -> Rows:
    return (row if isinstance(row, str) else (names, row) for row in rows)
