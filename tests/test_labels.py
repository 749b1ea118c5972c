"""The tags of the task and their split by hand."""

import json

import pytest

from fastmte.labels import MOOD_TAGS, MOOD_THEME_TAGS, THEME_TAGS, strip_prefix


def test_tags_are_the_tasks(shared):
    lines = (shared / "data/mtg-jamendo/moodtheme_tags.txt").read_text().split()
    assert [strip_prefix(line) for line in lines] == list(MOOD_THEME_TAGS)


def test_split_by_hand_is_the_published_plan(shared):
    plans = json.loads((shared / "data/clustering/all_published_partitions.json").read_text())
    assert plans["2021/fixed_ensemble_vggish_manually_2"] == [list(THEME_TAGS), list(MOOD_TAGS)]


def test_every_tag_is_mood_or_theme():
    assert len(MOOD_THEME_TAGS) == len(set(MOOD_THEME_TAGS)) == 56
    assert (len(THEME_TAGS), len(MOOD_TAGS)) == (26, 30)
    assert not set(THEME_TAGS) & set(MOOD_TAGS)


@pytest.mark.parametrize(
    ("tag", "bare"),
    [
        ("mood/theme---action", "action"),
        ("action", "action"),
        ("genre---rock", "genre---rock"),
        ("", ""),
    ],
)
def test_prefix_is_stripped(tag, bare):
    assert strip_prefix(tag) == bare
