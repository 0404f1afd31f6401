"""Accuracy-degradation profiles of a real sweep's front."""

import json

import pytest

from analysis.table import load
from sweeps.views.run_folder import open_run


def test_every_member_of_the_front_and_the_base_model_have_one(ran) -> None:
    table = load(ran).frame.set_index("point")
    opened = open_run(ran)
    members = ["base", *opened.front.members]
    assert set(table.index[table["test_profile"].notna()]) == set(members)
    for name in members:
        profile = json.loads(table.loc[name, "test_profile"])
        assert profile == sorted(profile, reverse=True), "the worst of more blocks is no better"
        assert len(profile) == 4, "400 samples, in blocks of 50 or more"
        if name != "base":
            assert profile[0] == pytest.approx(table.loc[name, "test/accuracy"])


def test_what_the_cache_gave_is_in_the_meta_file(ran) -> None:
    cache = load(ran).meta["cache"]
    recalled = [record.recalled for record in open_run(ran).state.records]
    assert cache["hits"] == sum(each.hits for each in recalled)
    assert cache["misses"] == sum(each.misses for each in recalled) > 0
    assert cache["seconds_saved"] == pytest.approx(sum(each.seconds_saved for each in recalled))
