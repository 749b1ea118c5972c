"""Backbones: mel spectrograms in, one feature vector a member out."""

from fastmte.models import crnn, resnet, vgg  # noqa: F401  (a family registers its backbones)
from fastmte.models._registry import Backbone, backbones, create_backbone, register

__all__ = ["Backbone", "backbones", "create_backbone", "register"]
