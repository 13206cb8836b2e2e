"""TaskFollower sets boundaries where the first environment changes; episodes count for their first task."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plasticity.sb3.tasks import TaskFollower


def follower(num_envs=2, **settings):
    follower = TaskFollower(**settings)
    follower.begin(num_envs, reset=True)
    return follower


def ended(total, length):
    return {"episode": {"r": total, "l": length, "t": 0.0}}


def test_the_first_environment_to_change_sets_the_boundary():
    tasks = follower()
    seen = []
    for first, second in [(0, 0), (0, 0), (0, 1), (0, 1), (1, 1), (1, 1), (2, 1), (2, 2)]:
        new = tasks.new_task([{"task": first}, {"task": second}], [False, False])
        if new is not None:
            tasks.change(new)
        seen.append(new)
    assert seen == [None, None, 1, None, None, None, 2, None]
    assert tasks.task == 2


def boundaries(*tasks_by_environment):
    """Return the new tasks at boundaries if each environment reports these tasks, step by step."""
    tasks = follower(len(tasks_by_environment))
    seen = []
    for step in zip(*tasks_by_environment, strict=True):
        new = tasks.new_task([{"task": task} for task in step], [False] * len(step))
        if new is not None:
            tasks.change(new)
            seen.append(new)
    return seen


def test_a_late_environment_in_earlier_tasks_makes_no_boundary():
    # The second reports task 1 when the first is already at 2.
    assert boundaries([0, 1, 1, 2, 2, 2, 2], [0, 0, 0, 0, 1, 1, 2]) == [1, 2]
    # It may skip a task and take the lead; then the first is late.
    assert boundaries([0, 1, 2, 2, 2, 2, 3, 4], [0, 0, 0, 2, 3, 4, 4, 4]) == [1, 2, 3, 4]
    # One that reports no task at first is late, too.
    assert boundaries([0, 1, 2, 2], [None, None, 0, 1]) == [1, 2]
    # If both change in the same step and one gets further, the other is late.
    assert boundaries([0, 1, 1, 2], [0, 2, 3, 3]) == [2, 3]


def test_tasks_may_return_while_an_environment_is_late():
    first = ["ice", "sand", "sand", "ice", "ice", "ice", "sand"]
    second = ["ice", "ice", "sand", "sand", "sand", "ice", "ice"]
    assert boundaries(first, second) == ["sand", "ice", "sand"]


@given(
    lasts=st.lists(st.lists(st.integers(1, 5), min_size=6, max_size=6), min_size=1, max_size=4),
    names=st.lists(st.integers(0, 2), min_size=6, max_size=6),
)
def test_environments_with_different_paces_give_each_task_once(lasts, names):
    # Neighbours differ, since a task that does not change is not new.
    names = list(itertools.accumulate(names, lambda last, name: (last + 1 + name % 2) % 3))
    paces = [
        [name for name, last in zip(names, each, strict=True) for _ in range(last)]
        for each in lasts
    ]
    longest = max(map(len, paces))
    stretched = [pace + pace[-1:] * (longest - len(pace)) for pace in paces]
    assert boundaries(*stretched) == names[1:]


def test_tasks_may_return_and_have_names():
    tasks = follower(1)
    seen = []
    for name in ["ice", "ice", "sand", "ice"]:
        new = tasks.new_task([{"task": name}], [False])
        if new is not None:
            tasks.change(new)
        seen.append(new)
    assert seen == [None, None, "sand", "ice"]


def test_different_tasks_at_the_start_make_no_boundary():
    tasks = follower()
    assert tasks.new_task([{"task": 3}, {"task": 5}], [False, False]) is None
    assert tasks.task == 3


def test_infos_without_a_task_make_no_boundary():
    tasks = follower(1)
    for info in ({}, {}):
        assert tasks.new_task([info], [False]) is None
    assert tasks.task is None
    tasks = follower(1)
    for info in ({"task": 1}, {}, {"task": 1}):
        assert tasks.new_task([info], [False]) is None
    assert tasks.task == 1


def test_another_task_key_or_none():
    tasks = follower(1, task_key="level")
    tasks.new_task([{"level": 7, "task": [1, 2]}], [False])
    assert tasks.task == 7
    tasks = follower(1, task_key=None)
    assert tasks.new_task([{"task": 1}], [False]) is None
    assert tasks.new_task([{"task": 2}], [False]) is None
    assert tasks.task is None


def test_a_task_that_ended_between_two_calls_of_learn_is_a_boundary():
    tasks = follower(1)
    tasks.new_task([{"task": 4}], [False])
    tasks.begin(1, reset=False)
    assert tasks.new_task([{"task": 4}], [False]) is None
    tasks.begin(1, reset=False)
    assert tasks.new_task([{"task": 5}], [False]) == 5


@pytest.mark.parametrize("task", [np.int64(3), np.array(3), torch.tensor(3), 3])
def test_integers_of_any_kind_are_kept_as_int(task):
    tasks = follower(1)
    tasks.new_task([{"task": task}], [False])
    assert type(tasks.task) is int
    assert tasks.task == 3


@pytest.mark.parametrize("task", [0.5, np.arange(2), [1]])
def test_other_types_of_task_raise_an_error_with_a_remedy(task):
    with pytest.raises(TypeError, match=r"info\['task'\] must be an integer or a string.*task_key"):
        follower(1).new_task([{"task": task}], [False])


def test_episodes_count_for_the_task_they_began_under():
    tasks = follower()
    # Both begin under task 0. The first ends with return 10 in 4 steps; its next episode is in task 1.
    tasks.new_task([{"task": 0}, {"task": 0}], [False, False])
    tasks.new_task([{"task": 0, **ended(10.0, 4)}, {"task": 0}], [True, False])
    new = tasks.new_task([{"task": 1}, {"task": 0}], [False, False])
    assert new == 1
    assert tasks.take_episodes() == {"episodes": 1, "episode_return": 10.0, "episode_length": 4.0}
    tasks.change(new)
    # The second ends late, under task 0, and is not counted. The first ends twice under task 1.
    tasks.new_task([{"task": 1, **ended(1.0, 2)}, {"task": 0, **ended(99.0, 9)}], [True, True])
    tasks.new_task([{"task": 1, **ended(4.0, 1)}, {"task": 1}], [True, False])
    # (1 + 4) / 2 = 2.5; (2 + 1) / 2 = 1.5
    assert tasks.take_episodes() == {"episodes": 2, "episode_return": 2.5, "episode_length": 1.5}
    assert tasks.take_episodes() == {"episodes": 0, "episode_return": None, "episode_length": None}


def test_an_episode_in_which_the_task_changes_belongs_to_the_earlier_task():
    tasks = follower(1)
    tasks.new_task([{"task": 0}], [False])
    tasks.change(tasks.new_task([{"task": 1}], [False]))
    tasks.new_task([{"task": 1, **ended(1.0, 3)}], [True])
    assert tasks.take_episodes()["episodes"] == 0


def test_an_episode_continues_in_the_next_call_of_learn():
    tasks = follower(1)
    tasks.new_task([{"task": 0}], [False])
    tasks.begin(1, reset=False)
    tasks.change(tasks.new_task([{"task": 1, **ended(1.0, 2)}], [True]))
    assert tasks.take_episodes()["episodes"] == 0  # of task 0
    tasks.begin(1, reset=True)
    tasks.new_task([{"task": 1, **ended(1.0, 2)}], [True])
    assert tasks.take_episodes()["episodes"] == 1


def test_info_values_are_those_of_the_current_task():
    tasks = follower(info_keys=["friction", "name"])
    assert tasks.info_values == {"friction": None, "name": None}
    infos = [{"task": 0, "friction": np.float32(0.5), "name": "ice"}, {"task": 1, "friction": 2.0}]
    tasks.new_task(infos, [False, False])
    tasks.follow_values(infos)
    assert tasks.info_values == {"friction": 0.5, "name": "ice"}
    assert type(tasks.info_values["friction"]) is float
    tasks.change(1)
    tasks.follow_values(infos)
    assert tasks.info_values == {"friction": 2.0, "name": None}
    with pytest.raises(TypeError, match=r"info\['name'\] must be a number or a string"):
        tasks.follow_values([{}, {"name": []}])


def test_invalid_keys_are_rejected():
    with pytest.raises(TypeError, match="brackets"):
        TaskFollower(info_keys="friction")
    with pytest.raises(ValueError, match="every row has"):
        TaskFollower(info_keys=["episode_return"])
