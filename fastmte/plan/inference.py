"""An ensemble in evaluation, run the way that is fastest on its device."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from functools import partial

import torch
from torch import Tensor

from fastmte.ensemble import FusedEnsemble
from fastmte.errors import InputError
from fastmte.models.stages import ConvStage
from fastmte.plan.choice import Choice
from fastmte.plan.cuda import Graphed, Streams
from fastmte.plan.engines import ENGINES, Runner, engine_runner, missing
from fastmte.plan.fold import fold
from fastmte.plan.trunk import Trunk


class InferencePlan:
    """One way to run an ensemble in evaluation, with the answers of its module.

    The trunk's weights are a snapshot, with batch norms folded in; the head stays the
    ensemble's. An ensemble whose weights or statistics were changed, or that was moved,
    needs a new plan.

    A song's features have the same bits at every place of a batch and whatever its
    neighbours are; batches of another size may change the last bits.

    Args:
        ensemble: on the device where it is run, in any mode.
        choice: the candidate and its songs a pass.
        dtype: of maps and weights: float32, float64, or bfloat16, in which sums and the head
            are float32 still.

    Raises:
        InputError: no such candidate, not one for this backbone, or an engine that is not
            installed.
        ValueError: an engine that does not compute in ``dtype``.
    """

    def __init__(
        self,
        ensemble: FusedEnsemble,
        choice: Choice,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.ensemble, self.choice, self.dtype = ensemble, choice, dtype
        check(ensemble, choice)
        name, _, graph = choice.name.partition("+")
        with torch.no_grad():
            make = RUNNERS.get(name) or partial(engine_runner, name)
            self._run = make(ensemble, dtype)
        if graph:
            self._run = Graphed(self._run)

    def with_chunk(self, chunk: int | None) -> "InferencePlan":
        """Return the same plan, on the same weights, with other passes."""
        plan = copy(self)
        plan.choice = Choice(self.choice.name, chunk)
        return plan

    def features(self, mels: Tensor) -> Tensor:
        """Return the features of every member, (B, K, D) float32 (float64 in a float64 plan).

        Args:
            mels: (B, 96, F) dB, on the ensemble's device.

        Raises:
            ValueError: mels of a shape the backbone cannot take.
        """
        self.ensemble.backbone.check(tuple(mels.shape))
        exact = torch.float64 if self.dtype == torch.float64 else torch.float32
        n_features = self.ensemble.backbone.n_features
        with evaluating(self.ensemble):
            mels = mels.to(exact)
            out = mels.new_empty(len(mels), self.ensemble.n_members, n_features)
            if not len(mels):
                return out
            each = self.choice.songs_a_pass(len(mels))
            for place, songs in zip(out.split(each), mels.split(each), strict=True):
                if len(songs) < each:  # every pass has one size, so that bits do not depend on it
                    songs = torch.cat([songs, songs.new_zeros(each - len(songs), *songs.shape[1:])])
                place.copy_(self._run(songs.contiguous())[: len(place)])
            return out

    def __call__(self, mels: Tensor) -> Tensor:
        """Return logits (B, L) of mels (B, 96, F) in dB, in the order of the labels.

        Raises:
            ValueError: mels of a shape the backbone cannot take.
        """
        features = self.features(mels)
        head = self.ensemble.head
        with torch.no_grad():
            # BLAS gives the rows of a product different last bits by their place in it.
            songs = [head(song.to(head.weight.dtype)) for song in features.split(1)]
            return torch.cat(songs) if songs else features.new_empty(0, self.ensemble.n_labels)


def candidates(ensemble: FusedEnsemble) -> list[str]:
    """Return the names of fastmte's own ways to run an ensemble where it is."""
    stages = ensemble.backbone.stages()
    names = ["module"]
    if stages and isinstance(stages[0], ConvStage):
        names += [name for name in RUNNERS if name != "module"]
    if _device(ensemble).type == "cuda":
        names += [f"{name}+graph" for name in names]
    return names


def check(ensemble: FusedEnsemble, choice: Choice) -> None:
    """Refuse a way to run an ensemble that there is not.

    Raises:
        InputError: no such candidate for this backbone where it is, or an engine that is
            not installed.
    """
    if choice.name in ENGINES:
        if reason := missing(choice.name):
            raise InputError(reason)
        return
    known = candidates(ensemble)
    if choice.name not in known:
        raise InputError(
            f"the plans of {ensemble.backbone_name} on {_device(ensemble).type} are "
            f"{', '.join([*known, *ENGINES])}; got {choice.name!r}"
        )


def default_choice(ensemble: FusedEnsemble, batch_size: int) -> Choice:
    """Return the candidate that is best on most machines."""
    names = candidates(ensemble)
    if "separate+graph" in names:
        return Choice("separate+graph")
    # Two songs share the weights on their way through the cache, which two songs' maps leave.
    return Choice("separate", min(2, batch_size)) if "separate" in names else Choice("module")


@contextmanager
def evaluating(ensemble: FusedEnsemble) -> Iterator[None]:
    """Run an ensemble without gradients and in evaluation mode, whatever mode it is in."""
    was_training = ensemble.training
    if was_training:
        ensemble.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if was_training:
            ensemble.train()


class _Module:
    """The ensemble's own module, for any backbone."""

    def __init__(self, ensemble: FusedEnsemble, dtype: torch.dtype) -> None:
        self._backbone, self._dtype = ensemble.backbone, dtype

    def __call__(self, mels: Tensor) -> Tensor:
        """Return (B, K, D) of mels (B, 96, F)."""
        is_half = self._dtype == torch.bfloat16
        with torch.autocast(mels.device.type, torch.bfloat16, enabled=is_half):
            return self._backbone(mels)


class _Trunks:
    """Folded trunks, each member's own or one of all members: in turn, or on CUDA at once."""

    def __init__(self, ensemble: FusedEnsemble, dtype: torch.dtype, n_trunks: int) -> None:
        self._backbone = ensemble.backbone
        stages = fold(self._backbone.stages(), ensemble.n_members)
        each = ensemble.n_members // n_trunks
        parts = [slice(k * each, (k + 1) * each) for k in range(n_trunks)]
        self._trunks = [Trunk([stage.of(part) for stage in stages], dtype) for part in parts]
        is_cuda = _device(ensemble).type == "cuda" and n_trunks > 1
        self._streams = Streams(n_trunks, _device(ensemble)) if is_cuda else None
        self._maps, self._shape = torch.empty(0), torch.Size()

    def __call__(self, mels: Tensor) -> Tensor:
        """Return (B, K, D) of mels (B, 96, F)."""
        passes: list[Callable[[], None]] = [
            partial(self._one, k, mels) for k in range(len(self._trunks))
        ]
        if self._streams is not None and self._shape == mels.shape:
            self._streams(passes)
        else:  # one after the other: the first makes room for the last maps of all
            for one in passes:
                one()
            self._shape = mels.shape
        return self._backbone.summary(self._maps.flatten(1, 2))

    def _one(self, k: int, mels: Tensor) -> None:
        maps = self._trunks[k](mels)
        shape = (len(maps), len(self._trunks), *maps.shape[1:])
        if self._maps.shape != shape:
            exact = torch.float64 if maps.dtype == torch.float64 else torch.float32
            songs, members, channels, height, width = shape
            last = maps.new_empty((songs, height, width, members, channels), dtype=exact)
            self._maps = last.permute(0, 3, 4, 1, 2)  # channels-last, as those of each trunk
        self._maps[:, k] = maps


def _separate(ensemble: FusedEnsemble, dtype: torch.dtype) -> Runner:
    return _Trunks(ensemble, dtype, ensemble.n_members)


def _grouped(ensemble: FusedEnsemble, dtype: torch.dtype) -> Runner:
    return _Trunks(ensemble, dtype, 1)


RUNNERS: dict[str, Callable[[FusedEnsemble, torch.dtype], Runner]] = {
    "module": _Module,
    "separate": _separate,
    "grouped": _grouped,
}


def _device(ensemble: FusedEnsemble) -> torch.device:
    return ensemble.head.weight.device
