"""The built-in demo collection: short songs whose labels have a musical cause."""

from fastmte.data.demo.labels import CAUSES, Cause, labels_of
from fastmte.data.demo.latents import Latents
from fastmte.data.demo.recipe import DEMO_RECIPE
from fastmte.data.demo.synth import synthesise
from fastmte.data.demo.voices import SAMPLE_RATE
from fastmte.data.demo.writer import DEMO_SONGS, write_demo

__all__ = [
    "CAUSES",
    "DEMO_RECIPE",
    "DEMO_SONGS",
    "SAMPLE_RATE",
    "Cause",
    "Latents",
    "labels_of",
    "synthesise",
    "write_demo",
]
