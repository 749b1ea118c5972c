"""Fused training: members side by side, each as if it were alone."""

from fastmte.train.adam import MemberAdam
from fastmte.train.config import TrainConfig
from fastmte.train.loop import fit
from fastmte.train.schedule import Plateau, Stopping

__all__ = ["MemberAdam", "Plateau", "Stopping", "TrainConfig", "fit"]
