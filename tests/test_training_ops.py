"""The operators of training: torch's own layers are the judge, in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastmte import training_ops

POOLS = [((2, 4), (2, 4), (0, 0)), ((3, 5), (3, 5), (0, 0)), ((3, 3), (2, 2), (1, 1))]
ACTIVATIONS = {"elu": F.elu, "relu": F.relu, "none": lambda x: x}


def plain(x, residual, weight, bias, activation, pool=None):
    y = F.batch_norm(x.permute(0, 3, 1, 2), None, None, weight, bias, True, 0.1, 1e-5)
    if residual is not None:
        y = y + residual.permute(0, 3, 1, 2)
    y = ACTIVATIONS[activation](y)
    return (y if pool is None else F.max_pool2d(y, *pool)).permute(0, 2, 3, 1)


def leaves(*values: Tensor, dtype=torch.float64) -> list[Tensor]:
    return [value.detach().to(dtype).requires_grad_() for value in values]


def errors(found: list[Tensor], exact: list[Tensor]) -> list[float]:
    pairs = zip(found, exact, strict=True)
    return [float((a.grad.double() - b.grad).abs().max() / b.grad.abs().max()) for a, b in pairs]


@pytest.fixture
def maps():
    random = torch.Generator().manual_seed(0)
    x = torch.randn(3, 13, 22, 37, generator=random) * 2 + 5
    residual = torch.randn(x.shape, generator=random)
    return x, residual, torch.randn(37, generator=random), torch.randn(37, generator=random)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_bn_act_pool_is_as_exact_as_torch(maps, pool, activation):
    x, _, weight, bias = maps  # half the weights are negative: the largest x is not what wins
    exact, eager = leaves(x, weight, bias), leaves(x, weight, bias, dtype=torch.float32)
    own = leaves(x, weight, bias, dtype=torch.float32)
    expected = plain(exact[0], None, *exact[1:], activation, pool)
    gradient = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).double()
    expected.backward(gradient)
    plain(eager[0], None, *eager[1:], activation, pool).backward(gradient.float())
    kernel, stride, padding = pool
    out, mean, variance = training_ops.bn_act_pool(*own, 1e-5, kernel, activation, stride, padding)
    out.backward(gradient.float())
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    for found, limit in zip(errors(own, exact), errors(eager, exact), strict=True):
        assert found <= max(2 * limit, 1e-6)
    variances, means = torch.var_mean(x.double(), (0, 1, 2), correction=0)
    torch.testing.assert_close((mean, variance), (means, variances), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("has_residual", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_bn_add_relu_is_as_exact_as_torch(maps, has_residual, activation):
    x, residual, weight, bias = maps
    values = (x, weight, bias, *([residual] if has_residual else []))
    exact, eager = leaves(*values), leaves(*values, dtype=torch.float32)
    own = leaves(*values, dtype=torch.float32)
    rest = [each[3] if has_residual else None for each in (exact, eager, own)]
    expected = plain(exact[0], rest[0], *exact[1:3], activation)
    gradient = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).double()
    expected.backward(gradient)
    plain(eager[0], rest[1], *eager[1:3], activation).backward(gradient.float())
    out, *_ = training_ops.bn_add_relu(own[0], rest[2], *own[1:3], 1e-5, activation)
    out.backward(gradient.float())
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    for found, limit in zip(errors(own, exact), errors(eager, exact), strict=True):
        assert found <= max(2 * limit, 1e-6)


def stem(x, scale, shift, weight, norm_weight, norm_bias):
    outs = []
    for k in range(len(scale)):
        w, g, b = (value.chunk(len(scale))[k] for value in (weight, norm_weight, norm_bias))
        y = F.conv2d((scale[k] * x + shift[k])[:, None], w, padding=1)
        y = F.batch_norm(y, None, None, g, b, True, 0.1, 1e-5)
        outs.append(F.max_pool2d(F.elu(y), (2, 4)).permute(0, 2, 3, 1))
    return torch.stack(outs)


@pytest.mark.parametrize(
    ("n_members", "channels", "size"), [(3, 20, (2, 10, 27)), (1, 64, (1, 4, 8))]
)
def test_the_stem_is_as_exact_as_torch(n_members, channels, size):
    random = torch.Generator().manual_seed(0)
    x = torch.randn(size, generator=random)
    rows = n_members * channels
    shapes = [(n_members,), (n_members,), (rows, 1, 3, 3), (rows,), (rows,)]
    values = [torch.randn(shape, generator=random) * 0.4 + 0.1 for shape in shapes]
    exact, eager = leaves(*values), leaves(*values, dtype=torch.float32)
    own, wide = leaves(*values, dtype=torch.float32), leaves(*values)
    expected = stem(x.double(), *exact)
    gradient = torch.randn(expected.shape, generator=random).double()
    expected.backward(gradient)
    stem(x, *eager).backward(gradient.float())
    moments = training_ops.patch_moments(x)
    out, *_ = training_ops.vgg_stem_train(x, *own, *moments)
    out.backward(gradient.float())
    training_ops.vgg_stem_train(x.double(), *wide, *moments, dtype=torch.float64)[0].backward(
        gradient
    )
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=2e-6)
    for found, limit in zip(errors(own, exact), errors(eager, exact), strict=True):
        assert found <= max(2 * limit, 1e-6)
    assert max(errors(wide, exact)) < 1e-11


@pytest.mark.parametrize("size", [(2, 2, 4), (3, 3, 5), (2, 10, 27)])
def test_the_moments_are_those_of_the_patches(size):
    x = torch.randn(size, generator=torch.Generator().manual_seed(0)) + 1
    both = [x.double(), torch.ones(size, dtype=torch.float64)]
    patches = torch.cat([F.unfold(F.pad(y, (1, 1, 1, 1))[:, None], 3) for y in both], 1)
    patches = patches.transpose(0, 1).flatten(1)
    mean, covariance = training_ops.patch_moments(x)
    torch.testing.assert_close(mean, patches.mean(1))
    torch.testing.assert_close(covariance, patches.cov(correction=0), rtol=0, atol=1e-13)
