"""The training pass of an ensemble: its members in turn, each by the fused operators."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmte import synchronised
from fastmte import training_ops as ops
from fastmte._library import has_kernel
from fastmte.ensemble import FusedEnsemble
from fastmte.models.layers import BatchNorm2d, Conv2d
from fastmte.models.stages import Activation, ConvStage, Stage
from fastmte.plan.shared_input import SharedInput, shared_input
from fastmte.plan.tiled import fits_tiles

TrainChoice = Literal["auto", "fused", "module"]
_MOST_POINTS = 256  # of a pooling window of ``bn_act_pool``


class TrainPlan:
    """One way to run an ensemble in training, with the answers and gradients of its module.

    Members are run one after the other on maps of their own, (B, H, W, C) contiguous, which
    on a CPU is faster than grouped convolutions over all of them. Batch norm, activation and
    pooling are one operator; the first convolution of a VGG never writes its map, which is
    eight times as large as what is pooled of it. Convolutions leave out the bias that batch
    norm takes away again: its gradient is 0, and here None.

    Args:
        ensemble: gets the gradients, and its normalisations the running statistics.
        dtype: of activations and of the convolutions' weights, float32, float64 or bfloat16;
            parameters, statistics and the head keep their own. None: the parameters'.
        choice: ``"fused"``; ``"module"``, the ensemble itself, under autocast where
            ``dtype`` is bfloat16; ``"auto"``, fused where the device has the kernels and the
            backbone consists of stages.

    Raises:
        ValueError: ``"fused"`` is asked of a backbone that has no stages, or begins with a
            residual block.
    """

    def __init__(
        self,
        ensemble: FusedEnsemble,
        dtype: torch.dtype | None = None,
        choice: TrainChoice = "auto",
    ) -> None:
        self.ensemble, self.choice = ensemble, choice
        self.stages = ensemble.backbone.stages()
        self.dtype = ensemble.head.weight.dtype if dtype is None else dtype
        can_fuse = bool(self.stages) and isinstance(self.stages[0], ConvStage)
        if choice == "fused" and not can_fuse:
            raise ValueError(f"{ensemble.backbone_name}: has no stages, which a fused plan needs")
        is_best = can_fuse and has_kernel("bn_act_pool", ensemble.head.weight.device.type)
        self.is_fused = choice == "fused" or (choice == "auto" and is_best)

    def shared(self, mels: Tensor) -> SharedInput:
        """Return what the members share of a batch (B, 96, F), for any plan of this backbone.

        Raises:
            ValueError: as when called.
        """
        self.ensemble.backbone.check(tuple(mels.shape))
        _check_count(mels.numel())
        assert isinstance(self.stages[0], ConvStage)
        return shared_input(self.stages[0], mels, self.dtype)

    def __call__(self, mels: Tensor, shared: SharedInput | None = None) -> Tensor:
        """Return logits (B, L) of mels (B, 96, F) in dB; in evaluation, the module's.

        Args:
            mels: on the ensemble's device, of its dtype.
            shared: ``shared(mels)`` of any fused plan of the backbone; None: made here.

        Raises:
            ValueError: mels of a shape the backbone cannot take, or one value a channel.
            RuntimeError: with dropout, before ``set_dropout_key``.
        """
        ensemble = self.ensemble
        if self.is_fused and ensemble.training:
            features = self._features(self.shared(mels) if shared is None else shared)
        else:
            is_half = self.dtype == torch.bfloat16
            with torch.autocast(mels.device.type, torch.bfloat16, enabled=is_half):
                features = ensemble.backbone(mels)
        return ensemble.head(ensemble.dropout(features.to(ensemble.head.weight.dtype)))

    def _features(self, shared: SharedInput) -> Tensor:
        run = _Run(self.ensemble.n_members, self.dtype, shared)
        maps = [run.member(k, self.stages) for k in range(self.ensemble.n_members)]
        run.track()
        whole = (maps[0] if len(maps) == 1 else torch.cat(maps, 3)).permute(0, 3, 1, 2)
        return self.ensemble.backbone.summary(whole.to(self.ensemble.head.weight.dtype))


class _Run:
    """One forward pass: the members' maps, and what the normalisations saw of the batch."""

    def __init__(self, n_members: int, dtype: torch.dtype, shared: SharedInput) -> None:
        self.n_members, self.dtype, self.shared = n_members, dtype, shared
        self._rows: dict[int, tuple[Tensor, ...]] = {}
        self._seen: dict[BatchNorm2d, list[_Seen]] = {}

    def member(self, k: int, stages: Sequence[Stage]) -> Tensor:
        """Return the last map (B, H, W, C) of member k."""
        first, *others = stages
        assert isinstance(first, ConvStage)
        x = self._first(first, k)
        for stage in others:
            x = self._stage(stage, k, x)
        return x

    def track(self) -> None:
        """Update running statistics and counts as the modules would have."""
        for norm, seen in self._seen.items():
            _track(norm, seen)

    def _first(self, stage: ConvStage, k: int) -> Tensor:
        shared, weight = self.shared, self._own(stage.conv.weight, k)
        affine = None
        if stage.input_norm is not None:
            assert shared.mean is not None and shared.variance is not None
            self._see(stage.input_norm, shared.mean, shared.variance, shared.count)
            affine = self._own(stage.input_norm.weight, k), self._own(stage.input_norm.bias, k)
        if shared.patches is None:
            assert affine is not None
            return self._vgg_stem(stage, k, weight, affine)
        if affine is not None:
            weight = weight * torch.stack(affine, 1)[..., None, None]  # of mels, and of ones
        return self._after(stage, k, F.linear(shared.patches, weight.flatten(1).to(self.dtype)))

    def _vgg_stem(
        self, stage: ConvStage, k: int, weight: Tensor, affine: tuple[Tensor, Tensor]
    ) -> Tensor:
        norm, shared = stage.norm, self.shared
        assert shared.x is not None and shared.moments is not None
        norm_weight, norm_bias = self._own(norm.weight, k), self._own(norm.bias, k)
        out, mean, variance = ops.vgg_stem_train(
            *(shared.x, *affine, weight, norm_weight, norm_bias),
            *shared.moments,
            norm.eps,
            self.dtype,
        )
        self._see(norm, self._biased(mean, stage.conv, k), variance, shared.count)
        return out.squeeze(0)

    def _stage(self, stage: Stage, k: int, x: Tensor) -> Tensor:
        if isinstance(stage, ConvStage):
            return self._after(stage, k, self._convolved(stage, k, x))
        y = x
        for part in stage.branch[:-1]:
            y = self._stage(part, k, y)
        last = stage.branch[-1]
        y = self._convolved(last, k, y)
        shortcut = x if stage.shortcut is None else self._stage(stage.shortcut, k, x)
        return self._normalised(last, k, y, shortcut, "relu")

    def _convolved(self, stage: ConvStage, k: int, x: Tensor) -> Tensor:
        """Return the stage's convolution (B, H, W, C) without its bias."""
        conv, weight = stage.conv, self._own(stage.conv.weight, k)
        if fits_tiles("map_conv_weights", weight, self.dtype):
            return ops.map_conv(x, weight, conv.stride, conv.padding)  # type: ignore[arg-type]
        if conv.kernel_size == (1, 1) and conv.stride == (1, 1):
            return F.linear(x, weight.flatten(1).to(self.dtype))
        y = F.conv2d(x.permute(0, 3, 1, 2), weight.to(self.dtype), None, conv.stride, conv.padding)
        return y.permute(0, 2, 3, 1).contiguous()  # as it is, but for float64

    def _after(self, stage: ConvStage, k: int, y: Tensor) -> Tensor:
        """Return batch norm, pooling and activation of a convolution."""
        pool = stage.pool
        if pool is None:
            return self._normalised(stage, k, y, None, stage.activation)
        if math.prod(pool.kernel) > _MOST_POINTS:
            y = self._normalised(stage, k, y, None, stage.activation)
            return pool(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).contiguous()
        y, weight, bias, moments = self._norm(stage.norm, k, y)
        out, *own = ops.bn_act_pool(
            y,
            weight,
            bias,
            stage.norm.eps,
            pool.kernel,
            stage.activation,
            pool.stride,
            pool.padding,
        )
        self._see_map(stage, k, y, moments or own)
        return out

    def _normalised(
        self, stage: ConvStage, k: int, y: Tensor, shortcut: Tensor | None, activation: Activation
    ) -> Tensor:
        y, weight, bias, moments = self._norm(stage.norm, k, y)
        out, *own = ops.bn_add_relu(y, shortcut, weight, bias, stage.norm.eps, activation)
        self._see_map(stage, k, y, moments or own)
        return out

    def _norm(
        self, norm: BatchNorm2d, k: int, y: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Return y, weight and bias for an operator, and the moments if others have songs too."""
        own = self._own(norm.weight, k), self._own(norm.bias, k)
        if norm.exchange is None:
            return y, *own, []
        y, weight, bias, *moments = synchronised.own_norm(y, *own, norm.eps, norm.exchange, dim=3)
        return y, weight, bias, moments

    def _own(self, value: Tensor, k: int) -> Tensor:
        """Return a member's rows; all are cut at once, so that their gradients are joined once."""
        if self.n_members == 1:
            return value
        if id(value) not in self._rows:
            self._rows[id(value)] = value.chunk(self.n_members)
        return self._rows[id(value)][k]

    def _biased(self, mean: Tensor, conv: Conv2d, k: int) -> Tensor:
        """Return the mean a channel would have with the bias that was left out."""
        return mean if conv.bias is None else mean + self._own(conv.bias, k).detach()

    def _see(self, norm: BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
        _check_count(count)
        self._seen.setdefault(norm, []).append(_Seen(mean, variance, count))

    def _see_map(self, stage: ConvStage, k: int, y: Tensor, moments: list[Tensor]) -> None:
        count, exchange = y[..., 0].numel(), stage.norm.exchange
        mean, variance = moments
        self._see(
            stage.norm,
            self._biased(mean, stage.conv, k),
            variance,
            count if exchange is None else exchange.count(count),
        )


@dataclass(frozen=True)
class _Seen:
    """Statistics of one member's channels over a batch: (C,) mean, biased variance, values each."""

    mean: Tensor
    variance: Tensor
    count: int


def _check_count(count: int) -> None:
    if count < 2:
        raise ValueError(f"batch normalisation needs more than 1 value a channel, got {count}")


def _track(norm: BatchNorm2d, seen: list[_Seen]) -> None:
    mean = torch.cat([member.mean for member in seen])
    norm.track(mean, torch.cat([member.variance for member in seen]), seen[0].count)
