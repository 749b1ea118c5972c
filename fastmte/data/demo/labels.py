"""Why a demo song has a label: one rule on its latents for each label."""

from collections.abc import Callable
from dataclasses import dataclass

from fastmte.data.demo.latents import Latents


@dataclass(frozen=True)
class Cause:
    """The musical cause of a label, in words and as a rule.

    Attributes:
        text: what a listener would hear.
        holds: tells whether a song has the label.
    """

    text: str
    holds: Callable[[Latents], bool]


CAUSES: dict[str, Cause] = {
    "calm": Cause(
        "no drums, and few notes",
        lambda song: song.beat == "none" and song.density * song.tempo <= 135,
    ),
    "children": Cause("played on a music box", lambda song: song.instrument == "music box"),
    "christmas": Cause("sleigh bells", lambda song: song.has_sleigh_bells),
    "dark": Cause("muffled: nothing sounds high up", lambda song: song.brightness <= 0.35),
    "dream": Cause("long, strong reverb", lambda song: song.reverb >= 0.5),
    "energetic": Cause(
        "drums, quick and not quiet",
        lambda song: song.beat != "none" and song.tempo >= 115 and song.level >= -24,
    ),
    "epic": Cause("the deep drums and the rolls of a march", lambda song: song.beat == "march"),
    "fast": Cause("at least 128 beats a minute", lambda song: song.tempo >= 128),
    "groovy": Cause("syncopated, swinging drums", lambda song: song.beat == "groove"),
    "happy": Cause("major, and not slow", lambda song: song.is_major and song.tempo >= 95),
    "meditative": Cause("a drone under the melody", lambda song: song.texture == "drone"),
    "nature": Cause("birds sing along", lambda song: song.has_birds),
    "party": Cause("a bass drum on every beat", lambda song: song.beat == "four on the floor"),
    "powerful": Cause("loud, with much bass", lambda song: song.level >= -21 and song.bass >= 0.45),
    "retro": Cause("the square waves of an old game", lambda song: song.instrument == "chip"),
    "sad": Cause("minor, and not fast", lambda song: not song.is_major and song.tempo < 125),
    "slow": Cause("at most 92 beats a minute", lambda song: song.tempo <= 92),
    "soft": Cause("quiet", lambda song: song.level <= -26),
}


def labels_of(song: Latents) -> tuple[str, ...]:
    """Return the tags of a song, alphabetically, without the task's prefix."""
    return tuple(tag for tag, cause in CAUSES.items() if cause.holds(song))
