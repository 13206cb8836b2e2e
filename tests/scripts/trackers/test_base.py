"""The trackers that there are."""

import sys

import pytest

from plasticity.scripts.trackers.base import TRACKERS, open_tracker, require_trackers


def test_a_run_is_named_by_its_method_and_seed(tracked):
    assert tracked.name == "syre/seed_3"


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_whose_package_is_missing_is_refused_with_the_extra(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    with pytest.raises(
        ValueError, match=rf"--track {name} needs .*pip install 'plasticity\[{name}\]'"
    ):
        require_trackers((name,))


def test_a_tracker_is_made_from_its_name(memory, tracked):
    assert open_tracker("memory", tracked, "before").identifier == "before"
