"""Layers of which every one holds all members of an ensemble."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmte import synchronised
from fastmte.exchange import Exchange


def stream(seed: int, *index: int) -> int:
    """Return a 63-bit seed for the random stream ``index`` (each at least 0) of a run's seed."""
    state = np.random.SeedSequence([seed % 2**64, *index]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


class Conv2d(nn.Conv2d):
    """One convolution a member, as one grouped convolution, "same" padded.

    Args:
        members: number of members.
        inputs: channels each member reads.
        outputs: channels each member writes.
        kernel: side of the square kernel, odd.
        stride: step in both directions.
        bias: adds a bias.
        shared_input: all members read the same ``inputs`` channels, which makes
            the convolution dense instead of grouped; the weights are the same.
    """

    def __init__(
        self,
        members: int,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        *,
        bias: bool = True,
        shared_input: bool = False,
    ) -> None:
        groups = 1 if shared_input else members
        super().__init__(
            groups * inputs,
            members * outputs,
            kernel,
            stride,
            padding=kernel // 2,
            groups=groups,
            bias=bias,
        )
        self.members = members

    @torch.no_grad()
    def reset_kaiming(self) -> None:
        """Draw weights as He et al. do for ReLU: normal, variance 2 / fan-out of ONE member."""
        fan_out = self.out_channels // self.members * self.kernel_size[0] * self.kernel_size[1]
        self.weight.normal_(0.0, (2.0 / fan_out) ** 0.5)

    @torch.no_grad()
    def reset_glorot(self) -> None:
        """Draw weights as Keras does: uniform, variance 2 / (fan-in + fan-out) of ONE member."""
        fans = self.weight[0].numel() * (1 + self.out_channels / self.members / self.weight.size(1))
        self.weight.uniform_(-((6.0 / fans) ** 0.5), (6.0 / fans) ** 0.5)
        if self.bias is not None:
            self.bias.zero_()


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation of each member's channels.

    Channels never mix, so only the count of batches differs from torch's: one a
    member, (K,) int64. Members that stopped at different epochs keep their own.

    Attributes:
        exchange: the processes whose songs are normalised together in training; None for
            this process's alone.
    """

    running_mean: Tensor  # (K * C,)
    running_var: Tensor  # (K * C,)
    num_batches_tracked: Tensor  # (K,)
    momentum: float
    exchange: Exchange | None

    def __init__(
        self, members: int, channels: int, eps: float = 1e-5, momentum: float = 0.1
    ) -> None:
        super().__init__(members * channels, eps, momentum)
        self.exchange = None
        self.register_buffer("num_batches_tracked", torch.zeros(members, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, K * C, H, W) normalised."""
        if self.exchange is None or not self.training:
            return super().forward(x)
        count = self.exchange.count(x[:, 0].numel())
        norm = self.weight, self.bias, self.eps
        x, weight, bias, mean, variance = synchronised.own_norm(x, *norm, self.exchange, dim=1)
        self.track(mean, variance, count)
        return F.batch_norm(x, None, None, weight, bias, training=True, eps=self.eps)

    @torch.no_grad()
    def track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Let the running statistics see a batch, as torch's module does.

        Args:
            mean: (K * C,).
            variance: (K * C,), biased; what is kept is the unbiased.
            count: values a channel, at least 2.
        """
        seen = mean, variance * (count / (count - 1))
        for running, batch in zip((self.running_mean, self.running_var), seen, strict=True):
            running.mul_(1 - self.momentum).add_(batch.to(running.dtype), alpha=self.momentum)
        self.num_batches_tracked.add_(1)


class SharedInputNorm(BatchNorm2d):
    """Batch normalisation, once a member, of one input channel that all members share.

    It does not normalise K times: it returns the input normalised in a way all
    members share, and for each member the affine map from there to its own
    normalised input, ``scale[k] * x + shift[k]``, for the next layer to absorb.

    Shape:
        - Input: (B, 1, M, F).
        - Output: x (B, 1, M, F), scale (K,), shift (K,).
    """

    # About the mean and deviation of music's mels in dB. In evaluation members may have different
    # statistics; from this common origin scale and shift stay near 1 and 0 in any precision.
    ORIGIN, SPREAD = -24.0, 19.0

    def __init__(self, members: int) -> None:
        super().__init__(members, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """Return the shared normalised input and each member's affine map."""
        if self.training:
            return self._with_batch_statistics(x), self.weight, self.bias
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        shift = self.bias + (self.ORIGIN - self.running_mean) * scale
        return (x - self.ORIGIN) / self.SPREAD, scale * self.SPREAD, shift

    def _with_batch_statistics(self, x: Tensor) -> Tensor:
        if self.exchange is not None:
            mean, variance, count = synchronised.input_moments(x[:, 0], self.exchange)
            self.track(mean, variance, count)
            return (x - mean.to(x.dtype)) * torch.rsqrt(variance + self.eps).to(x.dtype)
        mean, variance = self.running_mean.new_zeros(1), self.running_var.new_zeros(1)
        # With momentum 1 the running statistics are this batch's.
        x = F.batch_norm(x, mean, variance, training=True, momentum=1.0, eps=self.eps)
        with torch.no_grad():
            for running, batch in ((self.running_mean, mean), (self.running_var, variance)):
                running.mul_(1 - self.momentum).add_(batch, alpha=self.momentum)
            self.num_batches_tracked.add_(1)
        return x


def normalised_conv(x: Tensor, norm: SharedInputNorm, conv: Conv2d) -> Tensor:
    """Return ``conv(norm(x))`` of every member as one dense convolution.

    ``w * (a x + c)`` is ``[a w, c w] * [x, 1]``. The channel of ones is padded with
    zeros like x, which keeps the border exact; folding c into the bias would not.

    Args:
        x: (B, 1, M, F) input all members share.
        norm: the members' input normalisation.
        conv: the members' first convolution, of one shared input channel.

    Returns:
        (B, K * C, M, F).
    """
    x, scale, shift = norm(x)
    per_output = conv.out_channels // conv.members
    affine = torch.stack([scale, shift], 1).repeat_interleave(per_output, 0)  # (K * C, 2)
    weight = conv.weight * affine[:, :, None, None]
    return F.conv2d(
        torch.cat([x, torch.ones_like(x)], 1), weight, conv.bias, conv.stride, conv.padding
    )


class Dropout(nn.Module):
    """Dropout whose mask depends on seed, member id, step, layer and element alone.

    No generator has a state, so a member's masks are the same on every device,
    alone or among others, and after other members have been retired.

    Args:
        member_ids: the id of each member's stream.
        p: share of elements set to 0, to 1 / 65536; the others grow by 1 / (1 - p).
        layer: number of the layer in its network.

    Shape:
        - Input and output: (B, K, D), or a map (B, K * C, H, W).
    """

    key: Tensor  # (K,) int64

    def __init__(self, member_ids: Sequence[int], p: float, layer: int = 0) -> None:
        super().__init__()
        self.member_ids = tuple(member_ids)
        self.p, self.layer = p, layer
        self.has_key = False
        self.first = 0
        key = torch.zeros(len(self.member_ids), dtype=torch.int64, device="cpu")
        self.register_buffer("key", key, persistent=False)

    def set_key(self, seed: int, step: int, first: int = 0) -> None:
        """Choose the masks of one training step (at least 0).

        Args:
            seed: of the training.
            step: number of the step.
            first: place in the step's batch of the first song that this process has of it.
        """
        keys = [stream(seed, member, step, self.layer) for member in self.member_ids]
        self.key.copy_(torch.tensor(keys, dtype=torch.int64, device="cpu"))
        self.has_key, self.first = True, first

    def forward(self, x: Tensor) -> Tensor:
        """Return x with its dropped elements set to 0; in evaluation x itself.

        Raises:
            RuntimeError: in training, before any key was set.
        """
        if not self.training or self.p == 0:
            return x
        if not self.has_key:
            raise RuntimeError("dropout has no key: call set_dropout_key(seed, step) every step")
        return x.masked_fill(self._dropped(x.shape, x.device), 0).div_(1 - self.p)

    def _dropped(self, shape: torch.Size, device: torch.device) -> Tensor:
        """Return a bool mask; every hash decides on four elements that follow each other."""
        n_songs, n_members = shape[0], len(self.member_ids)
        each = shape[1:].numel() // n_members  # elements of a song and member
        n_words = -(-each // 4)
        dropped = torch.empty(n_members, n_songs, 4 * n_words, dtype=torch.bool, device=device)
        least = round(self.p * 2**16) - 2**15
        # Few hashes at a time stay in the cache of a CPU.
        room = 2**15 if device.type == "cpu" else 2**24
        step = max(1, room // n_members)
        for start in range(0, n_songs * n_words, step):
            end = min(start + step, n_songs * n_words)
            word = self.first * n_words + torch.arange(start, end, device=device)
            bits = _mixed(self.key[:, None] + word * _GOLDEN).view(torch.int16)
            torch.lt(bits, least, out=dropped.flatten(1)[:, 4 * start : 4 * end])
        return dropped[..., :each].transpose(0, 1).reshape(shape)

    def extra_repr(self) -> str:
        """Return what ``print`` shows."""
        return f"p={self.p}, member_ids={self.member_ids}"


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _mixed(z: Tensor) -> Tensor:
    """Return 64 random bits as the hash of each int64 of ``z``, which it overwrites.

    int64 wraps on every device; ``>>`` copies the sign, so each shift is masked.

    Reference: Steele, Lea, Flood 2014, SplitMix64's output function.
    """
    for shift, factor in ((30, _MIX_1), (27, _MIX_2)):
        z.bitwise_xor_((z >> shift).bitwise_and_(2 ** (64 - shift) - 1)).mul_(factor)
    return z.bitwise_xor_((z >> 31).bitwise_and_(2**33 - 1))
