"""Music mood and theme tagging: one fused ensemble over partitions of the label space.

Names resolve on first use, so ``import fastmte`` costs milliseconds and
``fastmte --help`` loads neither torch nor numba.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {  # public name -> module that defines it
    "Checkpoint": "checkpoint",
    "Cover": "partition",
    "DKMeans": "partition",
    "FusedEnsemble": "ensemble",
    "InputError": "errors",
    "KMeansElbow": "partition",
    "LabelCentroids": "partition",
    "MelConfig": "mel",
    "MelSpectrogram": "transforms",
    "Partition": "partition",
    "create_backbone": "models",
    "crop_mels": "ops",
    "dkmeans_assign": "ops",
    "fuse": "ensemble",
    "label_centroids": "ops",
    "make_partition": "partition",
    "unfuse": "ensemble",
}
__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fastmte' has no attribute {name!r}")
    return getattr(import_module(f"fastmte.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
