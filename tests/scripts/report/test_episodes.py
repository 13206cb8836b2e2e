"""Returns per task from files of episodes: complete, growing, and broken."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plasticity.scripts.report.episodes import read_episodes, task_means

EPISODES = [(0, 10.0), (0, 20.0), (1, 5.0), (0, 60.0), (1, None)]


def line(task, value):
    return (
        json.dumps({"step": 8, "task": task, "episode_return": value, "episode_length": 4}) + "\n"
    )


def write(tmp_path, *lines):
    file = tmp_path / "episodes.jsonl"
    file.write_text("".join(lines))
    return file


def test_each_task_has_the_mean_of_its_episodes(tmp_path):
    file = write(tmp_path, *(line(*episode) for episode in EPISODES))
    # (10 + 20 + 60) / 3; of task 1 only one return is finite.
    assert task_means(read_episodes(file)) == {0: 30.0, 1: 5.0}


def test_rows_of_a_run_are_weighted_by_their_episodes():
    rows = [
        {"task": 0, "episode_return": 10.0, "episodes": 3},
        {"task": 0, "episode_return": 50.0, "episodes": 1},
        {"task": 0, "episode_return": None, "episodes": 0},
        {"task": 1, "episode_return": None, "episodes": 0},
        {"task": 2, "episodes": 4},
    ]
    assert task_means(rows) == {0: 20.0}  # (3 * 10 + 50) / 4


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-1e6, 1e6), st.integers(0, 5)), min_size=1))
def test_rows_and_episodes_agree(groups):
    """Check n episodes of the same return, in n rows or in one."""
    rows = [{"task": t, "episode_return": value, "episodes": n} for t, value, n in groups]
    single = [{"task": t, "episode_return": value} for t, value, n in groups for _ in range(n)]
    assert task_means(rows) == pytest.approx(task_means(single), rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("keep", range(len(line(1, 5.0))))
def test_an_incomplete_last_line_is_left_out(tmp_path, keep):
    file = write(tmp_path, line(0, 1.0), line(1, 5.0)[:keep])
    assert task_means(read_episodes(file)) == {0: 1.0}


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ('{"task": 1,\n', "line 2, is not JSON"),
        ("[1]\n", "line 2: 'task' must be an integer, not None"),
        ('{"task": true}\n', "line 2: 'task' must be an integer, not True"),
        (
            '{"task": 1, "episode_return": "5"}\n',
            "line 2: 'episode_return' must be a number or null, not '5'",
        ),
    ],
)
def test_a_broken_line_is_named(tmp_path, broken, message):
    file = write(tmp_path, line(0, 1.0), broken, line(0, 1.0))
    with pytest.raises(ValueError, match=re.escape(f"{file}, {message}")):
        list(read_episodes(file))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match=re.escape(f"Cannot read {tmp_path}")):
        list(read_episodes(tmp_path))
