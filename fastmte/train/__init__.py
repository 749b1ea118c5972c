"""Fused training: members side by side, each as if it were alone."""

from fastmte.train.adam import MemberAdam
from fastmte.train.config import TrainConfig
from fastmte.train.loop import SmallerBatchesError, fit
from fastmte.train.schedule import Plateau, Stopping

__all__ = ["MemberAdam", "Plateau", "SmallerBatchesError", "Stopping", "TrainConfig", "fit"]
