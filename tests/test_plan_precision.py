"""What number format is used where."""

import warnings

import pytest
import torch

from fastmte.plan import precision

CPU = torch.device("cpu")


def test_auto_takes_bf16_where_it_has_units_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for has_units, expected in ((False, "fp32"), (True, "bf16")):
        monkeypatch.setattr(
            torch.cpu, "_is_amx_tile_supported", lambda has=has_units: has, raising=False
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert precision.resolve("auto", CPU) == expected
            assert precision.resolve("fp32", CPU) == "fp32"


def test_bf16_falls_back_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    with pytest.warns(UserWarning, match=r"bf16 would be slow here \(the CPU has no AMX\): fp32"):
        assert precision.resolve("bf16", CPU) == "fp32"
    with pytest.warns(UserWarning, match=r"bf16 .* \(mps has none\)"):
        assert precision.resolve("bf16", torch.device("mps")) == "fp32"


def test_a_torch_that_does_not_tell_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    assert not precision.has_bf16(CPU)
    assert isinstance(precision.has_bf16(CPU), bool)
