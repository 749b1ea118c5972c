"""What a training is made of."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from fastmte.crop import FRAMES
from fastmte.plan.precision import Precision
from fastmte.plan.training import TrainChoice


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a training; the defaults are the paper's.

    Attributes:
        epochs: at most so many passes over the training songs.
        batch_size: songs a step.
        learning_rate: Adam's, of all members, or one a member.
        patience: epochs without a better validation ROC-AUC after which a member stops and
            takes back its best weights; None: every member runs to the end and keeps its
            last weights; ``"backbone"``: what the backbone's authors did.
        plateau_patience: epochs without a lower validation loss that a member's learning
            rate survives.
        plateau_factor: what its learning rate is then multiplied by.
        frames: width of the crops.
        crop: ``"centre"`` of each song, or ``"random"``, anew each epoch. Validation
            always looks at the centre.
        clip: a member's gradient is scaled down to this norm, as
            ``torch.nn.utils.clip_grad_norm_`` does; None: never.
        seed: of the order of songs, the random crops and the dropout.
        plan: how members are run, as ``TrainPlan``.
        precision: of the maps and the convolutions' weights of a float32 ensemble; its
            parameters, moments and statistics stay float32. ``"auto"``: bf16 where the
            device computes it by units of its own.

    Raises:
        ValueError: a value is out of range.

    Reference: Mayerl et al. 2021 and dbis-uibk/MediaEval2021, ``models/wrapper.py``.
    """

    epochs: int = 100
    batch_size: int = 64
    learning_rate: float | tuple[float, ...] = 1e-4
    patience: int | Literal["backbone"] | None = "backbone"
    plateau_patience: int = 10
    plateau_factor: float = 0.1
    frames: int = FRAMES
    crop: Literal["centre", "random"] = "centre"
    clip: float | None = None
    seed: int = 0
    plan: TrainChoice = "auto"
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.batch_size < 2:
            raise ValueError(f"batch_size must be at least 2, got {self.batch_size}")
        if isinstance(self.patience, int) and self.patience < 1:
            raise ValueError(f"patience must be at least 1, or None, got {self.patience}")
        if isinstance(self.patience, str) and self.patience != "backbone":
            raise ValueError(f"patience must be a number, None or 'backbone', got {self.patience}")
        if self.plateau_patience < 0 or not 0 < self.plateau_factor < 1:
            raise ValueError(
                "plateau_patience must be at least 0 and plateau_factor between 0 and 1, "
                f"got {self.plateau_patience} and {self.plateau_factor}"
            )
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise ValueError(f"clip must be a positive number, or None, got {self.clip}")
        if self.crop not in ("centre", "random"):
            raise ValueError(f"crop must be centre or random, got {self.crop!r}")
        for name, known in (("plan", TrainChoice), ("precision", Precision)):
            if getattr(self, name) not in get_args(known):
                names = ", ".join(get_args(known))
                raise ValueError(f"{name} must be one of {names}, got {getattr(self, name)!r}")
        if not all(rate > 0 for rate in self.rates(1)):
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")

    def rates(self, n_members: int) -> list[float]:
        """Return each member's first learning rate."""
        if isinstance(self.learning_rate, int | float):
            return [float(self.learning_rate)] * n_members
        return [float(rate) for rate in self.learning_rate]
