import pytest
import torch
from networks import NETWORKS, mels_of, network, settle, state_of
from torch import nn
from torch.testing import assert_close

from fastmte.ensemble import FusedEnsemble
from fastmte.models import _registry, backbones, create_backbone, register
from fastmte.models.layers import (
    BatchNorm2d,
    Conv2d,
    Dropout,
    SharedInputNorm,
    normalised_conv,
    stream,
)
from fastmte.models.recurrent import GRU

PARAMETERS = {  # of one member that scores 56 labels: ours, and with the paper's dead layers
    "vgg": (448_122, 448_122),
    "custom-vgg": (4_089_146, 4_089_146),
    "crnn": (394_296, 394_296),
    "resnet18": (11_198_968, 11_198_968),
    "resnet34": (21_307_128, 21_307_128),
    "resnet18-uibk": (5_637_496, 6_167_544),
    "resnet34-uibk": (11_260_152, 12_356_920),
}


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_backbones_are_listed_sorted():
    assert backbones() == sorted(PARAMETERS)


def test_an_unknown_backbone_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"one of crnn, .*vgg, got 'resnet19'"):
        create_backbone("resnet19")


@pytest.mark.parametrize("members", [0, -1, 2.0, True, "4"])
def test_members_must_be_a_positive_integer(members):
    with pytest.raises(ValueError, match="members must be an integer of at least 1, got"):
        create_backbone("vgg", members)


def test_register_takes_a_name_once(monkeypatch):
    monkeypatch.setattr(_registry, "_BUILDERS", dict(_registry._BUILDERS))

    def my_vgg(members):
        return create_backbone("vgg", members)

    assert register(my_vgg) is my_vgg
    assert create_backbone("my-vgg", 2).name == "my-vgg"
    with pytest.raises(ValueError, match="backbone 'my-vgg' is already registered"):
        register(my_vgg)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_the_papers(name):
    with torch.device("meta"):
        ensemble, plain = FusedEnsemble(name, [0] * 56), NETWORKS[name](56)
    assert (count(ensemble), count(plain)) == PARAMETERS[name]


def test_training_defaults_are_the_papers():
    assert create_backbone("vgg").early_stop_patience is None
    assert create_backbone("vgg").dropout == 0.5
    assert create_backbone("resnet18").early_stop_patience == 30
    assert create_backbone("resnet18").dropout == 0
    assert create_backbone("crnn").early_stop_patience is None
    settings = {
        name: (backbone.epochs, backbone.batch_size, backbone.learning_rate)
        for name in ("vgg", "resnet18-uibk", "custom-vgg", "crnn")
        for backbone in [create_backbone(name)]
    }
    assert settings == {
        "vgg": (100, 64, 1e-4),
        "resnet18-uibk": (100, 64, 1e-4),
        "custom-vgg": (100, 32, 1e-4),
        "crnn": (32, 64, 1e-3),
    }


def without_dropout(ensemble):
    for layer in ensemble._dropouts():
        layer.p = 0.0


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_member_equals_the_plain_network(name):
    plain, mels = network(name, 5), mels_of(name)
    with torch.no_grad():
        settle(plain, mels)  # or the gates of a GRU are open or shut whatever the song
    ensemble = FusedEnsemble.from_state(name, [0] * 5, state_of(plain)).eval()
    with torch.no_grad():
        assert_close(ensemble(mels), plain(mels), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["vgg", "custom-vgg", "crnn", "resnet18", "resnet18-uibk"])
def test_training_updates_the_running_statistics_as_the_plain_network(name):
    plain = network(name, 5).train()
    ensemble = FusedEnsemble.from_state(name, [0] * 5, state_of(plain)).train()
    without_dropout(ensemble)
    mels = mels_of(name)
    with torch.no_grad():
        ensemble.backbone(mels)
        plain(mels)
    expected = state_of(plain)
    for key, value in ensemble.state_dict().items():
        assert_close(value, expected[key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["custom-vgg", "crnn"])
def test_gradients_are_the_plain_networks(name):
    plain = network(name, 3).double().train()
    ensemble = FusedEnsemble.from_state(name, [0] * 3, state_of(plain)).train()
    without_dropout(ensemble)
    mels, weights = mels_of(name).double(), torch.randn(2, 3).double()
    (ensemble(mels) * weights).sum().backward()
    (plain(mels) * weights).sum().backward()
    for key, parameter in plain.named_parameters():
        got = ensemble.state_dict(keep_vars=True)[ensemble_name(key)].grad
        # Biases before a normalisation have no gradient but rounding.
        atol = max(1e-8 * parameter.grad.norm().item(), 1e-10)
        assert_close(got, parameter.grad, rtol=1e-8, atol=atol)


def ensemble_name(key):
    part, _, rest = key.partition(".")
    return f"head.{rest}" if part in ("dense", "output") else f"backbone.{key}"


@pytest.mark.parametrize(
    "name, frames, text",
    [
        ("vgg", 1279, "1280 to 2559 frames, got 1279"),
        ("vgg", 2560, "1280 to 2559 frames, got 2560"),
        ("custom-vgg", 1279, "1280 to 2559 frames, got 1279"),
        ("crnn", 95, "96 to 1440 frames, got 95"),
        ("crnn", 1441, "96 to 1440 frames, got 1441"),
        ("resnet18", 31, "at least 32 frames, got 31"),
        ("resnet18-uibk", 0, "at least 32 frames, got 0"),
    ],
)
def test_too_few_or_too_many_frames_are_refused(name, frames, text):
    with pytest.raises(ValueError, match=f"{name}: mels must have {text}"):
        create_backbone(name)(torch.zeros(1, 96, frames))


@pytest.mark.parametrize(
    "name, frames",
    [
        *(("vgg", 1280), ("vgg", 2559), ("custom-vgg", 2559)),
        *(("crnn", 96), ("crnn", 1440), ("resnet18", 32)),
    ],
)
def test_the_outermost_lengths_work(name, frames):
    backbone = create_backbone(name, 2).eval()
    with torch.no_grad():
        assert backbone(mels_of(name, 1, frames=frames)).shape == (1, 2, backbone.n_features)


@pytest.mark.parametrize("shape", [(96, 1366), (1, 95, 1366), (1, 1, 96, 1366)])
def test_mels_must_be_96_bands(shape):
    with pytest.raises(ValueError, match=r"vgg: mels must be \(B, 96, F\), got"):
        create_backbone("vgg")(torch.zeros(shape))


@pytest.mark.parametrize(
    "name, n_features", [("vgg", 64), ("custom-vgg", 512), ("crnn", 32), ("resnet18", 512)]
)
def test_an_empty_batch_gives_no_features(name, n_features):
    with torch.no_grad():
        features = create_backbone(name, 3).eval()(torch.zeros(0, 96, 1280))
    assert features.shape == (0, 3, n_features)


def test_he_weights_count_the_fan_of_one_member():
    torch.manual_seed(0)
    for members in (1, 3):
        conv = create_backbone("resnet18", members).layer2[1].conv2
        assert conv.weight.shape == (members * 128, 128, 3, 3)
        assert conv.weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.01)


@pytest.mark.parametrize("name", ["vgg", "resnet18-uibk"])
def test_other_weights_start_as_torchs(name):
    torch.manual_seed(0)
    backbone = create_backbone(name, 2)
    conv = backbone.conv_2 if name == "vgg" else backbone.layer1[0].conv2
    bound = (64 * 9) ** -0.5
    assert 0.99 * bound < conv.weight.abs().max().item() <= bound
    assert conv.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.01)


def test_crnn_weights_start_as_keras():
    torch.manual_seed(0)
    crnn = create_backbone("crnn", 3)
    bound = (6 / ((64 + 128) * 9)) ** 0.5
    assert 0.99 * bound < crnn.conv2.weight.abs().max().item() <= bound
    bound = (6 / ((1 + 64) * 9)) ** 0.5
    assert 0.99 * bound < crnn.conv1.weight.abs().max().item() <= bound
    for one in crnn.gru2.weight_hh_l0.chunk(3):
        assert_close(one.mT @ one, torch.eye(32), rtol=0, atol=1e-5)
    bound = (6 / (128 + 96)) ** 0.5
    for one in crnn.gru1.weight_ih_l0.chunk(3):
        assert 0.99 * bound < one.abs().max().item() <= bound
    assert not any(p.any() for name, p in crnn.named_parameters() if "conv" in name and "b" in name)
    assert not any(p.any() for name, p in crnn.named_parameters() if "bias_" in name)


@pytest.mark.parametrize("n_songs", [0, 1, 3])
def test_gru_is_torchs_for_each_member(n_songs):
    layer = GRU(3, 5, 4).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    x = torch.randn(3, 7, n_songs, 5).double().requires_grad_()
    weights = torch.randn(3, 7, n_songs, 4).double()
    got = layer(x)
    (got * weights).sum().backward()
    for k in range(3):
        plain = nn.GRU(5, 4).double()
        own = {name: p.detach().chunk(3)[k] for name, p in layer.named_parameters()}
        plain.load_state_dict(own)
        inputs = x.detach()[k].clone().requires_grad_()
        expected, _ = plain(inputs)
        assert_close(got[k], expected, rtol=1e-12, atol=1e-12)
        (expected * weights[k]).sum().backward()
        assert_close(x.grad[k], inputs.grad, rtol=1e-12, atol=1e-12)
        for name, parameter in layer.named_parameters():
            expected = dict(plain.named_parameters())[name].grad
            assert_close(parameter.grad.chunk(3)[k], expected, rtol=1e-11, atol=1e-11)


def norm_and_conv(members):
    generator = torch.Generator().manual_seed(1)
    norm = SharedInputNorm(members).double()
    conv = Conv2d(members, 1, 4, 3, shared_input=True).double()
    with torch.no_grad():
        norm.running_mean.normal_(-30, 5, generator=generator)
        norm.running_var.uniform_(100, 500, generator=generator)
        norm.weight.normal_(generator=generator)  # also negative ones
        norm.bias.normal_(generator=generator)
    return norm, conv


def plain_norm_then_conv(x, norm, conv, k):
    y = nn.functional.batch_norm(
        x,
        norm.running_mean[k : k + 1].clone(),
        norm.running_var[k : k + 1].clone(),
        norm.weight[k : k + 1],
        norm.bias[k : k + 1],
        training=norm.training,
    )
    return nn.functional.conv2d(
        y, conv.weight[4 * k : 4 * k + 4], conv.bias[4 * k : 4 * k + 4], 1, 1
    )


@pytest.mark.parametrize("training", [False, True])
def test_the_dense_stem_is_exact_at_the_padded_border(training):
    norm, conv = norm_and_conv(3)
    norm.train(training)
    x = mels_of("any", 2).double()[:, None, :7, :9].contiguous()
    expected = torch.cat([plain_norm_then_conv(x, norm, conv, k) for k in range(3)], 1)
    assert_close(normalised_conv(x, norm, conv), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("training", [False, True])
def test_the_dense_stem_has_the_gradients_of_norm_then_conv(training):
    norm, conv = norm_and_conv(2)
    norm.train(training)
    x = mels_of("any", 2).double()[:, None, :7, :9].contiguous().requires_grad_()
    inputs = [x, norm.weight, norm.bias, conv.weight, conv.bias]
    expected = torch.cat([plain_norm_then_conv(x, norm, conv, k) for k in range(2)], 1)
    got = normalised_conv(x, norm, conv)
    weights = torch.randn(got.shape, generator=torch.Generator().manual_seed(2)).double()
    for a, b in zip(
        torch.autograd.grad((got * weights).sum(), inputs),
        torch.autograd.grad((expected * weights).sum(), inputs),
        strict=True,
    ):
        assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_shared_input_statistics_are_torchs():
    shared, plain = SharedInputNorm(2), nn.BatchNorm2d(1)
    for step in range(3):
        x = mels_of("any", 2, seed=step)[:, None]
        shared(x)
        plain(x)
    assert_close(shared.running_mean, plain.running_mean.repeat(2))
    assert_close(shared.running_var, plain.running_var.repeat(2))
    assert shared.num_batches_tracked.tolist() == [3, 3]


def test_batch_norm_counts_batches_a_member():
    norm = BatchNorm2d(3, 2)
    norm.num_batches_tracked.copy_(torch.tensor([5, 7, 0]))
    norm(torch.randn(2, 6, 4, 4))
    assert norm.num_batches_tracked.tolist() == [6, 8, 1]


# ------------------------------------------------------------------------------------- dropout


def dropout(ids=(0, 1, 2), p=0.5, seed=3, step=4):
    layer = Dropout(ids, p).train()
    layer.set_key(seed, step)
    return layer


def test_dropout_drops_its_share_and_scales_the_rest(device):
    kept = dropout(p=0.3).to(device)(torch.ones(400, 3, 64, device=device))
    assert set(kept.unique().tolist()) == {0.0, torch.tensor(1.0).div(0.7).item()}
    share = (kept == 0).float().mean((0, 2))
    assert ((share - 0.3).abs() < 0.015).all()  # 5 sigma


def test_a_mask_depends_on_seed_member_step_and_element_alone(device):
    x = torch.ones(8, 3, 64, device=device)
    mask = dropout().to(device)(x)
    assert torch.equal(mask, dropout().to(device)(x))  # and not on what was drawn before
    assert torch.equal(mask.cpu(), dropout()(x.cpu()))  # nor on the device
    assert torch.equal(mask[:, 2:], dropout([2]).to(device)(x[:, 2:]))  # nor on other members
    assert torch.equal(mask[:5], dropout().to(device)(x[:5]))  # nor on songs behind it
    later = Dropout(range(3), 0.5, layer=1).train()
    later.set_key(3, 4)
    for other in (dropout(seed=5), dropout(step=5), dropout([3, 4, 5]), later):
        agreement = (other.to(device)(x) == mask).float().mean((0, 2))
        assert ((agreement - 0.5).abs() < 0.12).all()


@pytest.mark.parametrize("shape", [(5, 3, 7), (5, 6, 3, 5), (0, 3, 4), (2, 3, 40_001)])
def test_masks_of_maps_are_a_members_own_and_follow_the_place_in_the_batch(device, shape):
    x = torch.ones(shape, device=device)
    mask = dropout().to(device)(x)
    assert mask.shape == shape
    assert x.numel() == 0 or 0.3 < (mask == 0).float().mean() < 0.7
    each = shape[1] // 3
    for k in range(3):
        own = x[:, k * each : (k + 1) * each]
        assert torch.equal(dropout([k]).to(device)(own), mask[:, k * each : (k + 1) * each])
    rest = Dropout(range(3), 0.5).train()
    rest.set_key(3, 4, first=2)
    assert torch.equal(rest.to(device)(x[2:]), mask[2:])
    if x.dim() == 4:
        assert torch.equal(dropout().to(device)(x.to(memory_format=torch.channels_last)), mask)


def test_masks_of_neighbours_are_unrelated():
    x = torch.ones(64, 4, 64)
    masks = torch.stack([dropout(range(4), step=s)(x) for s in range(4)]).transpose(0, 2)
    bits = (masks != 0).double().flatten(0, 1).flatten(1)  # members and songs against the rest
    correlation = torch.corrcoef(bits)
    correlation.fill_diagonal_(0)
    assert correlation.abs().max() < 6 / bits.shape[1] ** 0.5
    # Shifted by one element a hash of a counter must not repeat itself.
    line = (dropout([0])(torch.ones(4096, 1, 64)) != 0).double().flatten() - 0.5
    for lag in (1, 2, 64):
        assert abs((line[lag:] * line[:-lag]).mean() * 4) < 0.01


def test_dropout_is_nothing_in_evaluation_or_at_zero():
    x = torch.randn(2, 3, 4)
    assert dropout().eval()(x) is x
    assert Dropout([0, 1, 2], 0.0).train()(x) is x


def test_dropout_without_a_key_says_what_to_do():
    with pytest.raises(RuntimeError, match=r"call set_dropout_key\(seed, step\) every step"):
        Dropout([0], 0.5).train()(torch.ones(1, 1, 2))


def test_dropout_removes_nan_and_infinity_with_the_element():
    x = torch.full((4, 3, 64), torch.inf)
    mask = dropout()(torch.ones_like(x))
    assert torch.equal(dropout()(x) == 0, mask == 0)


def test_streams_differ_and_take_any_seed():
    seeds = {stream(s, a, b) for s in (-1, 0, 1, 2**63) for a in range(4) for b in range(4)}
    assert len(seeds) == 64
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert stream(7, 1) == stream(7, 1)
