"""Which way an ensemble is run: the name of a candidate, and how many songs a pass."""

import re
from dataclasses import dataclass

from fastmte.errors import InputError


@dataclass(frozen=True)
class Choice:
    """A way to run an ensemble.

    Attributes:
        name: of the candidate.
        chunk: most songs a pass; None for a whole batch.
    """

    name: str
    chunk: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Choice":
        """Return the choice written as ``NAME`` or ``NAME:CHUNK``.

        Raises:
            InputError: it is written otherwise.
        """
        found = re.fullmatch(r"([a-z]+(?:\+graph)?)(?::([1-9]\d{0,5}))?", text)
        if found is None:
            raise InputError(f"a plan is written NAME or NAME:CHUNK, as separate:4, got {text!r}")
        name, chunk = found.groups()
        return cls(name, None if chunk is None else int(chunk))

    def __str__(self) -> str:
        return self.name if self.chunk is None else f"{self.name}:{self.chunk}"

    def songs_a_pass(self, n_songs: int) -> int:
        """Return how many songs each pass over a batch takes: all passes are of one size."""
        if self.chunk is None or n_songs <= self.chunk:
            return n_songs
        n_passes = -(-n_songs // self.chunk)
        return -(-n_songs // n_passes)
