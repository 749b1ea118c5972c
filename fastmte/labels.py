"""The 56 mood and theme tags of the task, and their split by hand."""

PREFIX = "mood/theme---"

_THEMES = """
action adventure advertising background ballad children christmas commercial corporate
documentary drama dream film game holiday love movie nature party retro soundscape space sport
summer trailer travel
"""
_MOODS = """
calm cool dark deep dramatic emotional energetic epic fast fun funny groovy happy heavy hopeful
inspiring meditative melancholic melodic motivational positive powerful relaxing romantic sad
sexy slow soft upbeat uplifting
"""

THEME_TAGS: tuple[str, ...] = tuple(_THEMES.split())
"""The 26 tags the authors count as themes.

Reference: plan ``fixed_ensemble_vggish_manually_2`` of dbis-uibk/MediaEval2021.
"""

MOOD_TAGS: tuple[str, ...] = tuple(_MOODS.split())
"""The 30 tags the authors count as moods."""

MOOD_THEME_TAGS: tuple[str, ...] = tuple(sorted(THEME_TAGS + MOOD_TAGS))
"""All 56 tags in the task's order, which is the alphabetical one; columns of every score."""


def strip_prefix(tag: str) -> str:
    """Return a tag without MTG-Jamendo's category: ``mood/theme---action`` gives ``action``.

    Tags of other categories (``genre---rock``) and bare tags are returned as they are.
    """
    return tag.removeprefix(PREFIX)
