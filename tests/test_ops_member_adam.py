"""member_adam_ on the tier of this process: the bits of torch's operators."""

import pytest
import torch
from op_cases import on_threads, refuses

from fastmte import reference_training
from fastmte import training_ops as ops

DTYPES = [torch.float32, torch.float64]
SHAPES = [(1,), (7,), (5, 1), (3, 0), (6, 17), (64, 1, 3, 3), (40, 33, 3, 3), (8, 3000)]
BETAS, EPS = (0.9, 0.999), 1e-8


def case_of(shape, dtype=torch.float32, device="cpu", spread=1.0):
    """Parameter, gradient, exp_avg, exp_avg_sq, and a step size a row."""
    generator = torch.Generator().manual_seed(len(shape) + shape[0])
    tensors = [torch.randn(shape, generator=generator, dtype=dtype) for _ in range(4)]
    tensors[1:3] = [t * spread for t in tensors[1:3]]
    tensors[3] = tensors[3].square() * spread**2
    sizes = -torch.rand(shape[0], generator=generator, dtype=torch.float64) / 100
    return [t.to(device) for t in tensors], sizes.to(device)


def options(step):
    return *BETAS, (1 - BETAS[1] ** step) ** 0.5, EPS


@pytest.mark.parametrize("spread", [1.0, 1e-12, 1e12])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_bits_are_those_of_torchs_operators(shape, dtype, spread, device):
    mine, sizes = case_of(shape, dtype, device, spread)
    torchs = [t.clone() for t in mine]
    for step in (1, 2, 1000):
        ops.member_adam_(*mine, sizes, *options(step))
        reference_training.member_adam_(*torchs, sizes, *options(step))
        for a, b in zip(mine, torchs, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_one_rate_move_as_torchs_adam(dtype, device):
    (parameter, gradient, *_), _ = case_of((6, 40, 3, 3), dtype, device)
    moments = torch.zeros_like(parameter), torch.zeros_like(parameter)
    theirs = parameter.clone().requires_grad_()
    adam = torch.optim.Adam([theirs], 3e-3, foreach=False)
    for step in range(1, 20):
        theirs.grad = gradient.clone()
        adam.step()
        sizes = torch.full((6,), -3e-3 / (1 - BETAS[0] ** step), dtype=torch.float64, device=device)
        ops.member_adam_(parameter, gradient, *moments, sizes, *options(step))
        gradient = gradient.roll(1, 0) * 0.7
    if device == "cpu":
        assert torch.equal(parameter, theirs)
    torch.testing.assert_close(parameter, theirs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinity_move_what_they_would(dtype, device):
    mine, sizes = case_of((4, 37), dtype, device)
    for i, value in enumerate((float("nan"), float("inf"), -float("inf"))):
        mine[1][i, i * 7] = value
    torchs = [t.clone() for t in mine]
    ops.member_adam_(*mine, sizes, *options(3))
    reference_training.member_adam_(*torchs, sizes, *options(3))
    for a, b in zip(mine, torchs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    assert mine[0][0, 0].isnan() and mine[0].isnan().sum() == 3


LAYOUTS = {
    "channels last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "rows last": lambda t: t.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "every other": lambda t: t.repeat_interleave(2, 3)[..., ::2],
    "every other row": lambda t: t.repeat_interleave(2, 0)[::2],
}


@pytest.mark.parametrize("gradient_layout", LAYOUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_gives_the_same(layout, gradient_layout, device):
    plain, sizes = case_of((6, 5, 3, 3), device=device)
    strided = [LAYOUTS[layout](t.clone()) for t in plain]
    strided[1] = LAYOUTS[gradient_layout](plain[1].clone())
    ops.member_adam_(*plain, sizes, *options(2))
    ops.member_adam_(*strided, sizes, *options(2))
    for a, b in zip(strided, plain, strict=True):
        assert torch.equal(a, b)


def test_the_bits_do_not_depend_on_threads():
    def run(n_threads):
        tensors, sizes = case_of((5, 70_000))
        on_threads(n_threads, lambda: ops.member_adam_(*tensors, sizes, *options(5)))
        return tensors

    for a, b in zip(run(1), run(2), strict=True):
        assert torch.equal(a, b)


P, S = torch.zeros(3, 2), torch.zeros(3, dtype=torch.float64)
ERRORS = {
    "0-D": (dict(parameter=torch.zeros(())), "parameter must have a dimension, of rows, got 0-D"),
    "half": (dict(parameter=P.half()), "parameter must be Float or Double, got Half"),
    "gradient": (dict(gradient=P.double()), "gradient must be Float, got Double"),
    "exp_avg": (dict(exp_avg=P[0]), "exp_avg must be 2-D, got 1-D"),
    "exp_avg_sq": (
        dict(exp_avg_sq=P[:, :1]),
        "parameter.size(1) and exp_avg_sq.size(1) must be equal, got 2 and 1",
    ),
    "sizes": (dict(sizes=S.float()), "sizes must be Double, got Float"),
    "rows": (
        dict(sizes=S[:2]),
        "parameter.size(0) and sizes.size(0) must be equal, got 3 and 2",
    ),
}


@pytest.mark.parametrize("side", ["dispatched", "reference"])
@pytest.mark.parametrize("name", ERRORS)
def test_member_adam_refuses(name, side):
    changed, text = ERRORS[name]
    case = dict(parameter=P, gradient=P, exp_avg=P, exp_avg_sq=P, sizes=S) | changed
    tier = torch.ops.fastmte if side == "dispatched" else reference_training
    with refuses(f"member_adam_: {text}"):
        tier.member_adam_(*case.values(), *options(1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype, device):
    tensors, sizes = case_of((4, 5), dtype, device)
    torch.library.opcheck(torch.ops.fastmte.member_adam_.default, (*tensors, sizes, *options(2)))
