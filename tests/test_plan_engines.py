"""OpenVINO, onnxruntime and torch.compile run the ensemble's own trunk."""

import re
import shutil
import sys

import pytest
import torch
from networks import mels_of, randomise
from staged import Staged
from tiny import Tiny
from torch.testing import assert_close

from fastmte import extras
from fastmte.ensemble import FusedEnsemble
from fastmte.errors import InputError
from fastmte.models import _registry
from fastmte.plan import engines
from fastmte.plan.engines import ENGINES, engine_runner
from fastmte.plan.network import FoldedNetwork

LABELS = [0, 1, 2, 1]


@pytest.fixture(params=ENGINES)
def engine(request):
    """The name of an engine that is installed."""
    if reason := engines.missing(request.param):
        pytest.skip(reason)
    return request.param


@pytest.fixture
def ensemble(monkeypatch):
    monkeypatch.setitem(_registry._BUILDERS, "staged", Staged)
    return made("staged")


def made(backbone, labels=LABELS):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ensemble = FusedEnsemble(backbone, labels).eval()
        randomise(ensemble)
        for name, value in ensemble.backbone.named_parameters():
            if "bn_" in name and name.endswith("weight"):
                value.data[::3] *= -1  # the larger of two values is then the smaller of two maps
    return ensemble


def exact(ensemble, mels):
    """Return features in float64, and how far the module's own in float32 are from them."""
    with torch.inference_mode():
        single = ensemble.backbone(mels)
        double = ensemble.double().backbone(mels.double())
    ensemble.float()
    return double, (single.double() - double).abs().max().item()


def test_an_engine_gives_the_ensembles_features(engine, ensemble):
    run = engine_runner(engine, ensemble, torch.float32)
    shapes = [(3, 57), (1, 40), (3, 40)]
    for n_songs, frames in shapes[:1] if engine == "compile" else shapes:  # compiles each: slow
        mels = mels_of("staged", n_songs, frames=frames)
        expected, error = exact(ensemble, mels)
        features = run(mels)
        assert (features.shape, features.dtype) == ((n_songs, 3, 12), torch.float32)
        assert_close(features.double(), expected, rtol=0, atol=2 * error)
        assert expected.std() > 0.1


@pytest.mark.parametrize("backbone", ["vgg", "crnn", "resnet18", "resnet18-uibk"])
@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_an_engine_runs_every_family(engine, backbone):
    if reason := engines.missing(engine):
        pytest.skip(reason)
    ensemble = made(backbone, [0, 1, 0])
    mels = mels_of(backbone, 2)
    expected, error = exact(ensemble, mels)
    features = engine_runner(engine, ensemble, torch.float32)(mels)
    assert_close(features.double(), expected, rtol=0, atol=4 * error)


@pytest.mark.parametrize("backbone", ["staged", "resnet18-uibk"])  # with and without a norm first
@pytest.mark.parametrize("language", ["torch", "onnx", "openvino"])
def test_one_trunk_of_groups_gives_the_same_features(language, backbone, ensemble):
    ensemble = made(backbone)
    network = FoldedNetwork(ensemble.backbone, grouped=True)
    mels = mels_of(backbone, 2, frames=48)
    expected, error = exact(ensemble, mels)
    if language == "torch":
        run = network
    else:
        if reason := engines.missing(language):
            pytest.skip(reason)
        run = engines._RUNNERS[language](network, torch.float32)
    assert [m.groups for m in network.modules() if isinstance(m, torch.nn.Conv2d)][-1] == 3
    assert_close(run(mels).double(), expected, rtol=0, atol=4 * error)


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_results_are_not_overwritten_and_weights_are_kept(engine, ensemble):
    if reason := engines.missing(engine):
        pytest.skip(reason)
    run = engine_runner(engine, ensemble, torch.float32)
    mels = mels_of("staged", 2, frames=40)
    first = run(mels)
    kept = first.clone()
    run(mels.flip(0))
    with torch.no_grad():
        ensemble.backbone.conv_1.weight.zero_()
    assert torch.equal(first, kept)
    assert torch.equal(run(mels), kept)


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_a_songs_features_do_not_depend_on_its_neighbours(engine, ensemble):
    if reason := engines.missing(engine):
        pytest.skip(reason)
    run = engine_runner(engine, ensemble, torch.float32)
    mels = mels_of("staged", 5, frames=61)
    features = run(mels)
    assert torch.equal(run(mels.roll(2, 0)), features.roll(2, 0))
    mels[1:] = 0.0
    assert torch.equal(run(mels)[0], features[0])


def test_openvino_is_told_precision_and_threads(ensemble):
    pytest.importorskip("openvino")
    from fastmte.plan.openvino_graph import compiled

    model = compiled(FoldedNetwork(ensemble.backbone), (2, 96, 40), torch.float32)
    assert model.get_property("INFERENCE_NUM_THREADS") == torch.get_num_threads()
    assert str(model.get_property("INFERENCE_PRECISION_HINT")) == "<Type: 'float32'>"
    assert model.input(0).names == {"mels"} or model.input(0).any_name


def test_the_folded_network_is_plain_and_folded(ensemble):
    network = FoldedNetwork(ensemble.backbone)
    mels = mels_of("staged", 2, frames=40)
    expected, error = exact(ensemble, mels)
    assert_close(network(mels).double(), expected, rtol=0, atol=2 * error)
    kinds = {type(module).__name__ for module in network.modules()}
    assert "BatchNorm2d" not in kinds and "PlainConv" in kinds
    names = [name for name, _ in network.trunks[1].named_children()]
    assert names[:4] == ["conv_1/norm", "conv_1", "conv_1/pool", "conv_1/elu"]
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_bfloat16_is_near_float32(ensemble):
    network = FoldedNetwork(ensemble.backbone)
    mels = mels_of("staged", 2, frames=40)
    expected = network(mels)
    network.set_dtype(torch.bfloat16)
    assert network.trunks[0].conv_2.weight.dtype == torch.bfloat16
    assert network.trunks[0].get_submodule("conv_1/norm").scale.dtype == torch.float32
    features = network(mels)
    assert features.dtype == torch.float32
    assert_close(features, expected, rtol=0.05, atol=0.05 * expected.std().item())


class Greatest(Staged):
    def summary(self, x):
        return x.amax((2, 3)).view(len(x), self.members, self.n_features)


@pytest.mark.parametrize("backbone", [Tiny, Greatest])
def test_a_backbone_that_is_more_than_stages_and_a_mean_is_refused(backbone):
    network = backbone(2)
    network.name = "mine"
    with pytest.raises(InputError, match="mine is more than convolutions and a mean"):
        FoldedNetwork(network)


@pytest.mark.parametrize(
    "engine, packages, text",
    [
        ("openvino", ["openvino"], "openvino is not installed: pip install 'fastmte[openvino]'"),
        ("onnx", ["onnxruntime"], "onnxruntime is not installed: pip install 'fastmte[onnx]'"),
        ("onnx", ["onnx", "onnxruntime"], "onnx and onnxruntime are not installed: pip install"),
    ],
)
def test_an_engine_that_is_not_installed_names_its_extra(
    engine, packages, text, ensemble, monkeypatch
):
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name in packages else object())
    with pytest.raises(InputError, match=re.escape(text)):
        engine_runner(engine, ensemble, torch.float32)


def test_an_engine_that_is_broken_is_one_line(ensemble, monkeypatch):
    pytest.importorskip("onnx")
    monkeypatch.setattr(extras, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match="the engine onnx is installed but broken: import of onn"):
        engine_runner("onnx", ensemble, torch.float32)


def test_compiling_needs_a_compiler(ensemble, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match=r"needs a C\+\+ compiler, and none is on PATH"):
        engine_runner("compile", ensemble, torch.float32)


def test_wrong_arguments_are_named(engine, ensemble):
    with pytest.raises(ValueError, match=r"must be one of compile, onnx, openvino, got 'tensorrt'"):
        engines.missing("tensorrt")
    with pytest.raises(ValueError, match=r"does not compute in torch\.float64"):
        engine_runner(engine, ensemble, torch.float64)


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_engines_of_the_cpu_refuse_a_model_elsewhere(engine, ensemble):
    if reason := engines.missing(engine):
        pytest.skip(reason)
    with pytest.raises(InputError, match=f"{engine} runs on the CPU here, got a model on meta"):
        engine_runner(engine, ensemble.to("meta"), torch.float32)
