"""Partitions of the labels: which member of an ensemble learns which label."""

from fastmte.partition.centroids import LabelCentroids, label_space
from fastmte.partition.cover import Cover, load_split
from fastmte.partition.dkmeans import DKMeans, dkmeans_published
from fastmte.partition.elbow import KMeansElbow, chord_elbow
from fastmte.partition.exchange import refine
from fastmte.partition.make import METHODS, make_partition, make_split, split_names
from fastmte.partition.partition import Partition
from fastmte.partition.quality import Quality, agreement, co_occurrence, judge, pair_counts
from fastmte.partition.stability import stability

__all__ = [
    "METHODS",
    "Cover",
    "DKMeans",
    "KMeansElbow",
    "LabelCentroids",
    "Partition",
    "Quality",
    "agreement",
    "chord_elbow",
    "co_occurrence",
    "dkmeans_published",
    "judge",
    "label_space",
    "load_split",
    "make_partition",
    "make_split",
    "pair_counts",
    "refine",
    "split_names",
    "stability",
]
