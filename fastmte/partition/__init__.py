"""Partitions of the labels: which member of an ensemble learns which label."""

from fastmte.partition.centroids import LabelCentroids, label_space
from fastmte.partition.dkmeans import DKMeans, dkmeans_published
from fastmte.partition.elbow import KMeansElbow, chord_elbow
from fastmte.partition.make import METHODS, make_partition
from fastmte.partition.partition import Partition

__all__ = [
    "METHODS",
    "DKMeans",
    "KMeansElbow",
    "LabelCentroids",
    "Partition",
    "chord_elbow",
    "dkmeans_published",
    "label_space",
    "make_partition",
]
