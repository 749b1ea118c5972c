"""Fixtures of all tests."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported
os.environ.setdefault("FASTMTE_PLAN", "default")  # no test measures, or writes into ~/.cache

from pathlib import Path

import numpy as np
import pytest
import torch

HAVE_CUDA = torch.cuda.is_available()
if os.environ.get("FASTMTE_REQUIRE_CUDA") == "1" and not HAVE_CUDA:
    raise RuntimeError("FASTMTE_REQUIRE_CUDA=1, but torch sees no CUDA device")

SHARED = Path(os.environ.get("FASTMTE_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(
    params=["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not HAVE_CUDA, reason="no CUDA"))]
)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of published data, which a user's clone does not have."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the published data is not here (FASTMTE_SHARED)")
    return SHARED


@pytest.fixture(params=["dispatched", "reference", "numba"])
def tier(request: pytest.FixtureRequest):
    """The operators on one tier; ``dispatched`` is the one that torch chooses."""
    from fastmte import ops, reference  # noqa: F401  (ops registers the operators)

    if request.param == "numba":
        pytest.importorskip("numba")
        from fastmte import _kernels

        return _kernels
    return torch.ops.fastmte if request.param == "dispatched" else reference
