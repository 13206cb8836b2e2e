"""Page of the command line: what the parsers know, and nothing that they do not."""

import os

import pytest

from plasticity.scripts.main import COMMANDS
from plasticity.scripts.reference.command_line import command_line_page, help_text


@pytest.fixture(scope="module")
def page():
    return command_line_page()


def test_every_command_has_its_section(page):
    sections = [line for line in page.splitlines() if line.startswith("## ")]
    assert sections == [f"## plasticity {name}" for name in COMMANDS]


def test_it_has_the_options_of_the_parsers(page):
    # The first two are of `run`, the others of `tune`, `compare`, `report` and `video`.
    for option in (
        "--methods",
        "--stack",
        "--budget",
        "--tuning-seeds",
        "--baseline",
        "--episodes",
    ):
        assert option in page, option
    assert "Number of episodes to play" in page
    assert "--redo.tau" not in page  # a setting, which has its own page


def test_a_help_text_is_as_wide_as_the_page_and_leaves_the_environment_alone(monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    text = help_text("status")
    assert text.startswith("usage: plasticity status")
    assert os.environ["COLUMNS"] == "50"
    assert max(map(len, help_text("report").splitlines()[-3:])) == 96  # the frame of the options


def test_an_unknown_command_is_refused():
    with pytest.raises(ValueError, match="Did you mean 'report'"):
        help_text("reports")
