"""Mel spectrograms of batches of waveforms, on the device where they are."""

import torch
from torch import Tensor, nn

from fastmte import ops
from fastmte.audio.resample import low_pass, n_resampled
from fastmte.mel import MelConfig, n_frames, tables


class MelSpectrogram(nn.Module):
    """The mels that the networks were trained on, of whole songs of one length.

    On a CPU they have the bits of ``fastmte.mel.mel_spectrogram``. It has no parameters and
    saves nothing, and gradients do not pass it.

    Args:
        sample_rate: of the waveforms, Hz.
        config: what to compute; None for ``mtg2019``.

    Shape:
        - Input: (B, S) float32, mono.
        - Output: (B, M, T) float32, dB: a frame every ``config.hop`` samples at
          ``config.sample_rate``. Songs without samples have no frames, and a frame that sees NaN
          or infinity is NaN.

    Raises:
        ValueError: the sample rate is not positive, or too far from the config's.
        InputError: of this config, a band would stay empty.

    Reference:
        Essentia; see ``fastmte.ops.resample`` and ``fastmte.ops.mel_db``.
    """

    window: Tensor
    weights: Tensor
    first_bins: Tensor
    splits: Tensor
    filter: Tensor | None

    def __init__(self, sample_rate: int, config: MelConfig | None = None) -> None:
        super().__init__()
        self.sample_rate, self.config = sample_rate, config or MelConfig.of("mtg2019")
        self._n_resampled(0)  # refuses a rate that no song can have
        names = "window", "weights", "first_bins", "splits"
        for name, table in zip(names, tables(self.config), strict=True):
            self.register_buffer(name, torch.tensor(table), persistent=False)
        is_sinc = self.config.resampler == "sinc"
        filter = torch.tensor(low_pass()) if is_sinc else None
        self.register_buffer("filter", filter, persistent=False)

    def forward(self, waves: Tensor) -> Tensor:
        """Return the mels of waves.

        Raises:
            ValueError: waves have not two dimensions.
            RuntimeError: waves are not float32, or not on the module's device.
        """
        if waves.dim() != 2:
            raise ValueError(f"waves must have 2 dimensions, got {waves.dim()}")
        config, n_samples = self.config, self._n_resampled(waves.size(1))
        with torch.no_grad():
            if self.sample_rate != config.sample_rate:
                rates = self.sample_rate, config.sample_rate
                songs = [ops.resample(w, self.filter, *rates, 0, 0, n_samples) for w in waves]
                waves = torch.stack(songs) if songs else waves.new_empty(0, n_samples)
            return ops.mel_db(
                waves,
                self.window,
                self.weights,
                self.first_bins,
                self.splits,
                config.hop,
                -(config.frame_size // 2),
                n_frames(n_samples, config),
                config.db_per_decade,
                config.floor_db,
            )

    def extra_repr(self) -> str:
        """Return what ``repr`` shows."""
        return f"sample_rate={self.sample_rate}, preset={self.config.preset}"

    def _n_resampled(self, n_samples: int) -> int:
        config = self.config
        return n_resampled(n_samples, self.sample_rate, config.sample_rate, config.resampler)
