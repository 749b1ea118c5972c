"""What a backbone is, and the names under which they are built."""

from collections.abc import Callable

from torch import Tensor, nn

from fastmte.models.stages import Stage

BANDS = 96  # of every mel this project makes; a backbone's poolings count on it


class Backbone(nn.Module):
    """K members of one architecture, side by side in one network.

    Member k owns rows ``[k * C, (k + 1) * C)`` of dimension 0 of every parameter
    and buffer of the state, whatever C is, so that members are cut out and put
    together by rows alone.

    Shape:
        - Input: (B, 96, F) mels in dB, F in [``min_frames``, ``max_frames``].
        - Output: (B, K, ``n_features``).
    """

    name: str
    origin: str  # where the architecture is from, one line
    n_features: int
    min_frames: int
    max_frames: int | None = None  # None: no limit
    dropout: float = 0.0  # between features and head
    channels_last: bool = False  # trains faster in this layout on a CPU
    # What its authors trained it with, and so what ``fastmte train`` does unless told otherwise.
    early_stop_patience: int | None = None  # epochs; None: train to the last epoch and keep it
    epochs: int = 100
    batch_size: int = 64
    learning_rate: float = 1e-4  # Adam's

    def __init__(self, members: int) -> None:
        super().__init__()
        if isinstance(members, bool) or not isinstance(members, int) or members < 1:
            raise ValueError(f"members must be an integer of at least 1, got {members!r}")
        self.members = members

    def forward(self, mels: Tensor) -> Tensor:
        """Return the features of every member.

        Raises:
            ValueError: the mels' shape is one the architecture cannot take.
        """
        self.check(mels.shape)
        return self.features(mels[:, None])

    def features(self, x: Tensor) -> Tensor:
        """Return (B, K, ``n_features``) of mels (B, 1, 96, F)."""
        for stage in self.stages():
            x = stage(x)
        return self.summary(x)

    def stages(self) -> tuple[Stage, ...]:
        """Return the trunk, from the mels to the last map; empty if it is more than stages.

        A plan (``fastmte.plan``) runs what it finds here in its own way.
        """
        return ()

    def summary(self, x: Tensor) -> Tensor:
        """Return (B, K, ``n_features``) of the last map (B, K * C, H, W)."""
        raise NotImplementedError

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse mels of a shape the architecture cannot take.

        Raises:
            ValueError: not (B, 96, F), or too few or too many frames.
        """
        if len(shape) != 3 or shape[1] != BANDS:
            raise ValueError(f"{self.name}: mels must be (B, {BANDS}, F), got {tuple(shape)}")
        if shape[2] < self.min_frames or (self.max_frames and shape[2] > self.max_frames):
            raise ValueError(f"{self.name}: mels must have {self.frames}, got {shape[2]}")

    @property
    def frames(self) -> str:
        """The numbers of frames it takes, in words."""
        if self.max_frames is None:
            return f"at least {self.min_frames} frames"
        return f"{self.min_frames} to {self.max_frames} frames"


Builder = Callable[[int], Backbone]
_BUILDERS: dict[str, Builder] = {}


def register(build: Builder) -> Builder:
    """Make ``build`` reachable under its own name, underscores written as hyphens.

    Raises:
        ValueError: the name is taken.
    """
    name = build.__name__.replace("_", "-")
    if name in _BUILDERS:
        raise ValueError(f"backbone {name!r} is already registered")
    _BUILDERS[name] = build
    return build


def backbones() -> list[str]:
    """Return the names of all backbones, sorted."""
    return sorted(_BUILDERS)


def create_backbone(name: str, members: int = 1) -> Backbone:
    """Build ``members`` copies of a backbone, each with its own random weights, as one network.

    Raises:
        ValueError: no backbone has this name, or ``members`` is no positive integer.
    """
    if name not in _BUILDERS:
        raise ValueError(f"backbone must be one of {', '.join(backbones())}, got {name!r}")
    backbone = _BUILDERS[name](members)
    backbone.name = name
    return backbone
