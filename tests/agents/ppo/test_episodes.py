"""Episodes counted by hand, and tasks as reported by vector environments."""

import numpy as np
import pytest

from plasticity.agents.ppo.episodes import Episode, RunningEpisodes


def test_episodes_counted_by_hand():
    episodes = RunningEpisodes(2)
    for rewards in ((1.0, 10.0), (2.0, 20.0), (3.0, 30.0)):
        episodes.add(np.array(rewards))
    assert episodes.end(0, 6) == Episode(6, 0, 6.0, 3, None, None)
    episodes.add(np.array([0.5, 0.5]))
    assert episodes.end(1, 8) == Episode(8, 1, 60.5, 4, None, None)
    assert episodes.end(0, 8) == Episode(8, 0, 0.5, 1, None, None)
    assert (episodes.newest_task, episodes.newest_friction) == (None, None)


def test_an_episode_keeps_the_task_that_it_began_under():
    episodes = RunningEpisodes(3)
    everywhere = {"task": np.array([0, 0, 0]), "friction": np.array([0.5, 0.5, 0.5])}
    episodes.read_task(everywhere)
    # environment 2 ends, and its reset brings the next task
    ended = episodes.end(2, 3)
    there = np.array([False, False, True])
    episodes.read_task(
        {
            "task": np.array([0, 0, 1]),
            "_task": there,
            "friction": np.array([0.0, 0.0, 0.1]),
            "_friction": there,
        }
    )
    assert (ended.task, ended.friction) == (0, 0.5)
    assert (episodes.newest_task, episodes.newest_friction) == (1, 0.1)
    assert (episodes.end(0, 3).task, episodes.end(0, 3).friction) == (0, 0.5)
    assert (episodes.end(2, 6).task, episodes.end(2, 6).friction) == (1, 0.1)
    episodes.read_task({})  # nothing new
    assert episodes.newest_task == 1


def test_the_arrays_of_the_environments_are_copied():
    episodes, tasks = RunningEpisodes(1), np.array([3])
    episodes.read_task({"task": tasks})
    tasks[0] = 9
    assert episodes.end(0, 1).task == 3


def test_friction_without_a_task():
    episodes = RunningEpisodes(2)
    episodes.read_task({"friction": np.array([0.3, 0.3])})
    assert (episodes.newest_task, episodes.newest_friction) == (None, 0.3)


def test_a_friction_first_reported_as_an_integer_may_become_a_fraction():
    episodes = RunningEpisodes(2)
    episodes.read_task({"friction": np.array([1, 1]), "task": np.array([0, 0], np.int32)})
    there = np.array([False, True])
    episodes.read_task(
        {
            "friction": np.array([0.0, 0.25], np.float32),
            "_friction": there,
            "task": np.array([0, 2**40]),
            "_task": there,
        }
    )
    ended = [episodes.end(environment, 2) for environment in (0, 1)]
    assert [(each.task, each.friction) for each in ended] == [(0, 1.0), (2**40, 0.25)]


@pytest.mark.parametrize(
    "reported",
    [
        np.array(["reach-v2", "push-v2"]),
        np.array([None, {}], object),
        np.array([[1, 2], [3, 4]]),
        np.array([True, False]),
        {"name": np.array([1, 2])},
    ],
    ids=["string", "object", "rows", "bool", "dict"],
)
def test_values_that_are_not_numbers_count_as_none(reported):
    episodes = RunningEpisodes(2)
    episodes.read_task({"task": np.array([1, 1]), "friction": np.array([0.5, 0.5])})
    episodes.read_task({"task": reported, "friction": reported})
    assert (episodes.newest_task, episodes.newest_friction) == (None, None)
    ended = episodes.end(0, 2)
    assert (ended.task, ended.friction) == (None, None)
    episodes.read_task({"task": np.array([1.5, 2.0])})
    assert episodes.newest_task is None


def test_continues_from_its_state():
    first = RunningEpisodes(2)
    first.read_task({"task": np.array([1, 2])})
    first.add(np.array([0.1, 0.2]))
    state = first.state_dict()
    first.add(np.array([1.0, 1.0]))
    second = RunningEpisodes(2)
    second.load_state_dict(state)
    second.add(np.array([1.0, 1.0]))
    for environment in (0, 1):
        assert first.end(environment, 4) == second.end(environment, 4)
    assert second.newest_task == 2
    with pytest.raises(ValueError, match="state has 2 environments, but there are 3 here"):
        RunningEpisodes(3).load_state_dict(state)
