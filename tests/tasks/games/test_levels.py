"""Sets of levels: disjoint, a function of seed and index alone, and bad ones."""

import pytest

from plasticity.tasks.games.levels import (
    NUM_LEVELS,
    LevelSchedule,
    LevelSets,
    LevelStream,
    LevelTask,
    parsed_levels,
)


def test_sets_follow_each_other_from_a_given_level():
    stream = LevelStream(3, 0, LevelSets(start_level=20, levels_per_task=5))
    assert [each["levels"] for each in map(stream.describe, range(3))] == [
        "20-24",
        "25-29",
        "30-34",
    ]
    single = LevelStream(3, 7, LevelSets(start_level=20))
    assert [each["levels"] for each in map(single.describe, range(3))] == ["20", "21", "22"]


def test_sets_of_a_seed_are_disjoint_and_differ_between_seeds():
    sets = LevelSets(levels_per_task=4)
    levels = {}
    for seed in (0, 1):
        tasks = [LevelStream(9, seed, sets)[index] for index in (8, 2, 0, 5)]
        levels[seed] = [each.first + number for each in tasks for number in range(each.count)]
        assert len(set(levels[seed])) == 16
        assert tasks[1] == LevelStream(3, seed, sets)[2]
    assert not set(levels[0]) & set(levels[1])


def test_the_schedule_is_the_streams():
    sets = LevelSets(levels_per_task=2)
    schedule = LevelSchedule(sets=sets, task_seed=3, change_every=10, num_tasks=4)
    stream = LevelStream(4, 3, sets)
    assert [schedule.task_at(steps) for steps in (0, 9, 10, 39, 99)] == [
        stream[index] for index in (0, 0, 1, 3, 3)
    ]
    constant = LevelSchedule(sets=sets, task=LevelTask(0, 6, 1))
    assert constant.task_at(10**6).values() == {"levels": "6"}


@pytest.mark.parametrize("levels", ["0", "23", "400-449", f"{NUM_LEVELS - 1}"])
def test_levels_are_read_as_a_row_has_them(levels):
    assert parsed_levels(levels).values() == {"levels": levels}


@pytest.mark.parametrize("levels", ["", "a", "-3", "5-", "7-6", "3 - 4", "٣", f"{NUM_LEVELS}"])
def test_bad_levels(levels):
    with pytest.raises(ValueError, match="levels must be a level from 0 to 2147483646"):
        parsed_levels(levels)


def test_a_number_is_no_text():
    with pytest.raises(TypeError, match="levels must be a name, not 23"):
        parsed_levels(23)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start_level": -1}, "start_level must be at least 0"),
        ({"start_level": NUM_LEVELS}, "start_level must be at least 0 and at most 2147483646"),
        ({"levels_per_task": 0}, "levels_per_task must be at least 1"),
        ({"levels_per_task": 2 * 10**9}, "levels_per_task must be at least 1 and at most"),
    ],
)
def test_bad_sets(settings, message):
    with pytest.raises(ValueError, match=message):
        LevelSets(**settings)


def test_more_levels_than_there_are():
    sets = LevelSets(start_level=NUM_LEVELS - 6, levels_per_task=3)
    assert LevelStream(2, 0, sets)[1].first == NUM_LEVELS - 3  # the last three
    with pytest.raises(ValueError, match="Task 2 would have levels from 2147483647 to 2147483649"):
        LevelStream(3, 0, sets)
