import numpy as np
import pytest
import torch

from fastmte import MelConfig, MelSpectrogram
from fastmte.audio.resample import resample
from fastmte.mel import PRESETS, mel_spectrogram


def waves_of(shape, seed=0):
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def expected(wave, sample_rate, config):
    samples = resample(wave.numpy(), sample_rate, config.sample_rate, config.resampler)
    return mel_spectrogram(samples, config)


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("sample_rate", [8000, 12000, 44100, 48000])
def test_every_song_has_the_mel_it_has_alone(sample_rate, preset):
    config = MelConfig.of(preset)
    waves = waves_of((3, sample_rate + 77))
    mels = MelSpectrogram(sample_rate, config)(waves)
    assert mels.dtype == torch.float32
    for wave, mel in zip(waves, mels, strict=True):
        np.testing.assert_array_equal(mel.numpy(), expected(wave, sample_rate, config))


@pytest.mark.parametrize("n_samples", [0, 1, 2, 255, 256, 257, 511, 512, 513])
@pytest.mark.parametrize("sample_rate", [12000, 44100])
def test_short_songs(sample_rate, n_samples):
    waves = waves_of((2, n_samples))
    mels = MelSpectrogram(sample_rate)(waves)
    want = expected(waves[0], sample_rate, MelConfig.of("mtg2019"))
    assert mels.shape == (2, *want.shape)
    np.testing.assert_array_equal(mels[0].numpy(), want)


@pytest.mark.parametrize("sample_rate", [12000, 44100])
def test_no_songs(sample_rate):
    assert MelSpectrogram(sample_rate)(torch.zeros(0, 44100)).shape[:2] == (0, 96)


def test_waves_that_are_not_contiguous():
    waves = waves_of((2, 2 * 44100))[:, ::2]
    front_end = MelSpectrogram(44100)
    assert torch.equal(front_end(waves), front_end(waves.contiguous()))


def test_nan_stays_within_its_song():
    waves = waves_of((2, 44100))
    front_end = MelSpectrogram(44100)
    clean = front_end(waves)
    waves[0, 20000] = torch.nan
    mels = front_end(waves)
    assert mels[0].isnan().any()
    assert torch.equal(mels[1], clean[1])


def test_a_device_gives_the_mels_of_the_cpu(device):
    waves = waves_of((2, 2 * 44100))
    mels = MelSpectrogram(44100).to(device)(waves.to(device))
    assert mels.device.type == device
    torch.testing.assert_close(mels.cpu(), MelSpectrogram(44100)(waves), rtol=0, atol=1e-3)


def test_it_goes_where_it_is_moved_and_saves_nothing():
    front_end = MelSpectrogram(44100).to("meta")
    mels = front_end(torch.empty(2, 44100, device="meta"))
    assert (mels.device.type, tuple(mels.shape)) == ("meta", (2, 96, 48))
    assert not front_end.state_dict() and not list(front_end.parameters())


def test_waves_that_need_gradients_get_none():
    waves = waves_of((1, 44100)).requires_grad_()
    assert not MelSpectrogram(44100)(waves).requires_grad


def test_repr_names_rate_and_preset():
    assert repr(MelSpectrogram(44100)) == "MelSpectrogram(sample_rate=44100, preset=mtg2019)"


@pytest.mark.parametrize("sample_rate", [0, 1, 100_000_000])
def test_sample_rates_that_no_song_has(sample_rate):
    with pytest.raises(ValueError, match="sample rates must be"):
        MelSpectrogram(sample_rate)


def test_one_wave_without_a_batch():
    with pytest.raises(ValueError, match="waves must have 2 dimensions, got 1"):
        MelSpectrogram(44100)(torch.zeros(44100))


def test_waves_of_another_dtype():
    with pytest.raises(RuntimeError, match="samples must be Float"):
        MelSpectrogram(44100)(torch.zeros(1, 44100, dtype=torch.float64))
