"""A model as one ONNX graph, from mels in dB to scores in label order."""

import json
from pathlib import Path

import numpy as np
import onnx
import torch

import fastmte
from fastmte.checkpoint import Checkpoint
from fastmte.crop import BANDS
from fastmte.ensemble import FusedEnsemble
from fastmte.errors import InputError
from fastmte.extras import missing
from fastmte.files import atomic_write
from fastmte.mel import MelConfig
from fastmte.merge import Merge
from fastmte.plan.network import FoldedNetwork
from fastmte.plan.onnx_graph import OnnxBuilder, session, write_mels_to_features

TOLERANCE = 1e-5  # between scores in [0, 1]
_MOST_BYTES = 2**31 - 2**20  # of a protocol buffer, less some room for all but weights


def write_onnx(checkpoint: Checkpoint, path: str | Path) -> float | None:
    """Write a model as one ONNX graph, if onnxruntime gives its scores or is not installed.

    The graph is ``scores_model``'s. The file appears only when it is whole and checked.

    Args:
        checkpoint: the model.
        path: the file.

    Returns:
        The largest difference of a score of onnxruntime's; None without onnxruntime.

    Raises:
        InputError: a score differs by more than 1e-5, or the model cannot be written.
        OSError: the file cannot be written.
    """
    data = scores_model(checkpoint).SerializeToString()
    with atomic_write(path, "wb") as file:
        file.write(data)
        if missing("onnxruntime"):
            return None
        difference = _difference(checkpoint, data)
        if not difference <= TOLERANCE:  # NaN is no small difference
            raise InputError(
                f"{path}: not written, as onnxruntime's scores of the graph differ from the "
                f"model's by {difference:.1e}, more than {TOLERANCE:.0e}"
            )
    return difference


def scores_model(checkpoint: Checkpoint) -> onnx.ModelProto:
    """Return the graph from ``mels`` (batch, 96, frames) in dB to ``scores`` (batch, L).

    Batch norms are folded, poolings come before activations, members are separate
    convolutions, the batch is of any size, the frames are the model's. Its metadata hold
    tags, thresholds, the mels' definition and the partition as JSON.

    Raises:
        InputError: the backbone is one that ``FoldedNetwork`` refuses, or the graph is larger
            than ONNX files can be.
    """
    ensemble = checkpoint.ensemble
    _check_size(ensemble)
    builder, features = write_mels_to_features(FoldedNetwork(ensemble.backbone), checkpoint.frames)
    _write_head(builder, ensemble, features)
    mels, scores = ("batch", BANDS, checkpoint.frames), ("batch", ensemble.n_scores)
    model = builder.model(mels, "scores", scores)
    onnx.helper.set_model_props(model, _metadata(checkpoint))
    onnx.checker.check_model(model, full_check=True)
    return model


def _check_size(ensemble: FusedEnsemble) -> None:
    size = 4 * sum(parameter.numel() for parameter in ensemble.parameters())
    if size > _MOST_BYTES:
        raise InputError(
            f"{ensemble.n_members} members of {ensemble.backbone_name} have {size / 2**30:.1f} GiB "
            "of weights, and one ONNX file holds 2; export them as members"
        )


def _write_head(builder: OnnxBuilder, ensemble: FusedEnsemble, features: list[str]) -> None:
    """Write each member's linear layer, the order of the labels and the sigmoid."""
    head, members = ensemble.head, ensemble.member_of_label
    logits = []
    for k, feature in enumerate(features):
        name = f"member_{k}.head"
        weight, bias = (
            builder.constant(f"{name}.{kind}", value[members == k].detach().float().numpy())
            for kind, value in (("weight", head.weight), ("bias", head.bias))
        )
        logits.append(builder.op("Gemm", name, [feature, weight, bias], transB=1))
    by_member = builder.op("Concat", "logits.by_member", logits, axis=1)
    order = builder.constant("label_order", members.argsort(stable=True).argsort().numpy())
    builder.op("Gather", "logits", [by_member, order], axis=1)
    if ensemble.merge is None:
        builder.op("Sigmoid", "scores", ["logits"])
    else:
        _write_merge(builder, ensemble.merge)


def _write_merge(builder: OnnxBuilder, merge: Merge) -> None:
    """Write the mean over each label's outputs, of sigmoids or of logits before the sigmoid."""
    labels = np.array(merge.label_of_output)
    columns = [np.flatnonzero(labels == label) for label in range(merge.n_labels)]
    is_logit = merge.how == "logit"
    values = "logits" if is_logit else builder.op("Sigmoid", "outputs", ["logits"])
    terms = []
    for turn in range(max(map(len, columns))):
        # A label without so many has its first again, times 0: what is not finite stays its own.
        index = np.array([own[turn] if turn < len(own) else own[0] for own in columns])
        share = np.array([(turn < len(own)) / len(own) for own in columns], np.float32)
        name = f"merge_{turn}"
        column = builder.constant(f"{name}.column", index)
        part = builder.op("Gather", f"{name}.outputs", [values, column], axis=1)
        terms.append(builder.op("Mul", name, [part, builder.constant(f"{name}.share", share)]))
    if is_logit:
        builder.op("Sigmoid", "scores", [builder.op("Sum", "merged", terms)])
    else:
        builder.op("Sum", "scores", terms)


def _metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """Return what a reader needs to make mels and to name scores; values but words are JSON."""
    thresholds, merge = checkpoint.thresholds, checkpoint.ensemble.merge
    mel = _mel(checkpoint)
    shared = {}
    if merge is not None:  # member_of_label and logits are then of outputs
        shared = {"label_of_output": json.dumps(merge.label_of_output), "merge": merge.how}
    return {
        "fastmte_version": fastmte.__version__,
        "backbone": checkpoint.ensemble.backbone_name,
        "mel_preset": mel.preset,
        "mel": json.dumps(mel.to_dict()),
        "frames": str(checkpoint.frames),
        "tags": json.dumps(checkpoint.tags, ensure_ascii=False),
        "member_of_label": json.dumps(checkpoint.ensemble.member_of_label.tolist()),
        "thresholds": json.dumps(None if thresholds is None else thresholds.tolist()),
        **shared,
    }


def _mel(checkpoint: Checkpoint) -> MelConfig:
    return MelConfig.from_dict(dict(checkpoint.mel))


def _difference(checkpoint: Checkpoint, data: bytes) -> float:
    """Return the largest difference of scores of random mels and of silence, in two batches."""
    engine = session(data)
    generator = torch.Generator().manual_seed(0)
    mels = torch.randn(3, BANDS, checkpoint.frames, generator=generator) * 18 - 23
    mels[1] = _mel(checkpoint).floor_db
    differences = []
    for batch in mels.split(2):
        with torch.inference_mode():
            ensemble = checkpoint.ensemble
            expected = ensemble.scores(ensemble(batch)).numpy()
        (scores,) = engine.run(None, {"mels": batch.numpy()})
        differences.append(np.abs(scores - expected).max())
    return float(np.max(differences))
