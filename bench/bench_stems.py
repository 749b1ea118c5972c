"""The layers of the backbones: vgg_stem, resnet_stem, conv_pool_act, residual_blocks, pool_act.

The other side is what a network of torch.nn does with the same weights, in turn for
each of K members. The limit of a stem is a matrix product of as many operations, that of
a pooling one pass over its input. `make bench` runs it with the allocator settings of
bench_ensemble.py: else page faults would be most of the other side.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastmte import ops
from fastmte.packing import packed
from fastmte.plan.convolution import PackedConvolution
from fastmte.plan.precision import has_bf16

MEMBERS, CHANNELS, BANDS, FRAMES = 4, 64, 96, 1366
EPS = 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("batch", [1, 8])
def test_vgg_stem(versus, batch, dtype):
    x = _random(batch, BANDS, FRAMES)
    scale, shift = 1 + _random(MEMBERS) / 4, _random(MEMBERS)
    norm, weight, bias, folded, offset = _layer(3)

    def sequential() -> Tensor:
        maps = []
        for k in range(MEMBERS):
            mine = slice(k * CHANNELS, (k + 1) * CHANNELS)
            y = F.conv2d(scale[k] * x[:, None] + shift[k], weight[mine], bias[mine], padding=1)
            y = F.elu(F.batch_norm(y, *(value[mine] for value in norm), eps=EPS))
            maps.append(F.max_pool2d(y, (2, 4)))
        return torch.stack(maps).permute(0, 1, 3, 4, 2)

    versus(
        lambda: ops.vgg_stem(x, scale, shift, folded, offset, dtype),
        sequential,
        what=f"`vgg_stem`, K = {MEMBERS}, {_name(dtype)}",
        size=f"{batch} x {BANDS} x {FRAMES}",
        instead="affine, conv, batch norm, ELU, max-pool in float32",
        limit=_product(2 * 9 * MEMBERS * CHANNELS * batch * BANDS * FRAMES),
        same=_close,
        rounds=7,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("batch", [1, 8])
def test_resnet_stem(versus, batch, dtype):
    x = _random(batch, BANDS, FRAMES)
    norm, weight, bias, folded, offset = _layer(7)

    def sequential() -> Tensor:
        maps = []
        for k in range(MEMBERS):
            mine = slice(k * CHANNELS, (k + 1) * CHANNELS)
            y = F.conv2d(x[:, None], weight[mine], bias[mine], stride=2, padding=3)
            y = F.relu(F.batch_norm(y, *(value[mine] for value in norm), eps=EPS))
            maps.append(F.max_pool2d(y, 3, 2, padding=1))
        return torch.stack(maps).permute(0, 1, 3, 4, 2)

    versus(
        lambda: ops.resnet_stem(x, folded, offset, dtype, MEMBERS),
        sequential,
        what=f"`resnet_stem`, K = {MEMBERS}, {_name(dtype)}",
        size=f"{batch} x {BANDS} x {FRAMES}",
        instead="conv, batch norm, ReLU, max-pool in float32",
        limit=_product(2 * 49 * MEMBERS * CHANNELS * batch * (BANDS // 2) * (FRAMES // 2)),
        same=_close,
        rounds=7,
    )


# (B, H, W, I), O, kernel, pool: a VGG's second layer, residual blocks in the middle and at the end
CONVOLUTIONS = {
    "vgg": ((1, 48, 341, 64), 128, 3, (2, 4)),
    "middle": ((4, 6, 86, 256), 256, 3, (1, 1)),
    "end": ((4, 3, 43, 512), 512, 3, (1, 1)),
}


@pytest.mark.skipif(not has_bf16(torch.device("cpu")), reason="this CPU has no AMX")
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_conv_pool_act(versus, name):
    shape, outputs, side, pool = CONVOLUTIONS[name]
    x, bias = _random(*shape).bfloat16(), _random(outputs)
    weight = (_random(outputs, shape[3], side, side) / (shape[3] ** 0.5 * side)).bfloat16()
    tiles, one, pad = packed(weight), (1, 1), (side // 2,) * 2
    other = PackedConvolution(weight, bias.bfloat16(), one, pad, 1, is_relu=False)

    def separately() -> Tensor:
        with torch.inference_mode():
            y = other(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            return ops.pool_act(y.contiguous(), pool, "elu")

    def near(actual: Tensor, expected: Tensor) -> None:  # whose map is rounded before the pooling
        torch.testing.assert_close(actual, expected, rtol=2.0**-6, atol=2.0**-6)

    size = " x ".join(map(str, shape))
    versus(
        lambda: ops.conv_pool_act(x, tiles, bias, None, one, pad, pool, "elu"),
        separately,
        what="`conv_pool_act`, ELU, bfloat16",
        size=f"{size} -> {outputs}, {pool[0]} x {pool[1]}",
        instead="oneDNN's prepacked convolution, then `pool_act`",
        limit=_product(2 * side**2 * shape[3] * outputs * shape[0] * shape[1] * shape[2]),
        same=near,
        rounds=15,
    )


@pytest.mark.skipif(not has_bf16(torch.device("cpu")), reason="this CPU has no AMX")
def test_residual_blocks(versus):
    """The first stage of the paper's ResNet: two blocks, the first with a projected shortcut."""
    x = _random(1, 24, 342, 64).bfloat16()
    shapes = ((64, 64, 3, 3), (64, 64, 1, 1), (64, 64, 1, 1))
    conv, project, shortcut = (
        (_random(*shape) / (shape[1] * shape[2] ** 2) ** 0.5).bfloat16() for shape in shapes
    )
    tiles, bias = [[packed(w)] * 2 for w in (conv, project)], [_random(64) / 4] * 4
    own = [packed(shortcut), x.new_empty(0)]
    half = bias[0].bfloat16()
    others = [
        PackedConvolution(w, b, (1, 1), (w.size(2) // 2,) * 2, 1, is_relu=is_relu)
        for w, b, is_relu in (
            (conv, half, True),
            (project, half, True),
            (shortcut, torch.zeros_like(half), False),
        )
    ]

    def separately() -> Tensor:
        with torch.inference_mode():
            maps = x.permute(0, 3, 1, 2)
            y = others[1](others[0](maps), others[2](maps))
            return others[1](others[0](y), y).permute(0, 2, 3, 1)

    def near(actual: Tensor, expected: Tensor) -> None:  # whose shortcut is rounded before the sum
        torch.testing.assert_close(actual, expected, rtol=2.0**-5, atol=2.0**-5)

    n_products = 2 * conv.numel() + 2 * project.numel() + shortcut.numel()
    versus(
        lambda: ops.residual_blocks(x, *tiles, own, bias, [1, 1]),
        separately,
        what="`residual_blocks`, two of 64 channels, bfloat16",
        size="1 x 24 x 342 x 64",
        instead="oneDNN's prepacked convolutions",
        limit=_product(2 * n_products * x[0, :, :, 0].numel()),
        same=near,
        rounds=15,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_pool_act(versus, dtype):
    x = _random(4, 48, 341, 128).to(dtype)
    channels_last = x.permute(0, 3, 1, 2)
    versus(
        lambda: ops.pool_act(x, (2, 4), "elu"),
        lambda: F.elu(F.max_pool2d(channels_last, (2, 4))).permute(0, 2, 3, 1),
        what=f"`pool_act`, ELU, {_name(dtype)}",
        size="4 x 48 x 341 x 128, 2 x 4",
        instead="max-pool, ELU, channels last",
        limit=("pass over the map", lambda: x.view(torch.int64).sum()),
    )


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


def _layer(side: int) -> tuple[list[Tensor], Tensor, Tensor, Tensor, Tensor]:
    """Return batch norm (mean, variance, weight, bias), a convolution, and the two folded."""
    n = MEMBERS * CHANNELS
    generator = torch.Generator().manual_seed(side)
    mean, norm_weight, norm_bias, bias = torch.randn(4, n, generator=generator) / 4
    variance = 0.5 + torch.rand(n, generator=generator)
    weight = torch.randn(n, 1, side, side, generator=generator) / side
    norm_weight += 1
    gain = norm_weight * torch.rsqrt(variance + EPS)
    folded = weight * gain[:, None, None, None]
    return (
        [mean, variance, norm_weight, norm_bias],
        weight,
        bias,
        folded,
        (norm_bias + (bias - mean) * gain),
    )


def _product(operations: float):
    """Return torch.mm of two square matrices that takes this many operations."""
    n = round((operations / 2) ** (1 / 3))
    a, b = _random(2, n, n)
    return f"{n} x {n} x {n} matrix product", lambda: torch.mm(a, b)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _close(actual: Tensor, expected: Tensor) -> None:
    limit = 1e-4 if actual.dtype == torch.float32 else 2.0**-7
    torch.testing.assert_close(actual.float(), expected, rtol=limit, atol=1e-4)
