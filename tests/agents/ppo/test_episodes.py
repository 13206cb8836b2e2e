"""Episodes counted from whole rollouts: by hand, and compared with a count step by step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity.agents.ppo.episodes import Episode, RunningEpisodes


def rollout(rewards, ended, tasks=None):
    """Return the arrays of one agent; rows are steps."""
    rewards = np.array(rewards, np.float64)
    tasks = np.full((len(rewards) + 1, rewards.shape[1]), -1) if tasks is None else np.array(tasks)
    return rewards, np.array(ended, bool), tasks


def test_episodes_counted_by_hand():
    episodes = RunningEpisodes(2)
    first = rollout([[1, 10], [2, 20], [3, 30]], [[0, 0], [0, 0], [1, 0]])
    assert episodes.read(*first, [0]) == [(Episode(6, 0, 6.0, 3, None),)]
    # the second environment's episode goes on in the next rollout
    ((one, other),) = episodes.read(*rollout([[0.5, 0.5]], [[1, 1]]), [6])
    assert one == Episode(8, 0, 0.5, 1, None)
    assert other == Episode(8, 1, 60.5, 4, None)
    assert episodes.newest_task() is None


def test_an_episode_keeps_the_task_that_it_began_under():
    episodes = RunningEpisodes(3)
    # environment 2 ends at the first step, and its reset brings the next task
    tasks = [[0, 0, 0], [0, 0, 1], [0, 0, 1]]
    found = rollout(np.zeros((2, 3)), [[0, 0, 1], [1, 0, 1]], tasks)
    ((first, *others),) = episodes.read(*found, [0])
    assert (first.environment, first.task) == (2, 0)
    assert [(each.environment, each.task) for each in others] == [(0, 0), (2, 1)]
    assert episodes.newest_task() == 1


def test_a_task_may_be_large():
    episodes = RunningEpisodes(1)
    ((episode,),) = episodes.read(*rollout([[0]], [[1]], [[2**40], [2**40 + 1]]), [0])
    assert (episode.task, episodes.newest_task()) == (2**40, 2**40 + 1)


def by_steps(state, rewards, ended, tasks, num_steps):
    """Count the episodes of one agent step by step, continuing returns and lengths in `state`."""
    found = []
    returns, lengths = state
    for step, row in enumerate(rewards):
        returns += row
        lengths += 1
        num_steps += len(row)
        for index in np.flatnonzero(ended[step]).tolist():
            task = None if tasks[step, index] < 0 else tasks[step, index]
            found.append(Episode(num_steps, index, returns[index], lengths[index], task))
            returns[index] = lengths[index] = 0
    return tuple(found)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    num_agents=st.integers(1, 3),
    num_envs=st.integers(1, 3),
    steps=st.integers(1, 12),
    known=st.booleans(),
)
def test_stacked_agents_are_counted_step_by_step(seed, num_agents, num_envs, steps, known):
    generator = np.random.default_rng(seed)
    ours = RunningEpisodes(num_envs, num_agents)
    theirs = [(np.zeros(num_envs), np.zeros(num_envs, np.int64)) for _ in range(num_agents)]
    done = [100 * index for index in range(num_agents)]
    for _ in range(3):
        shape = (num_agents, steps, num_envs)
        rewards, ended = generator.normal(size=shape), generator.random(shape) < 0.2
        tasks = generator.integers(0, 5, (num_agents, steps + 1, num_envs)) if known else None
        if tasks is None:
            tasks = np.full((num_agents, steps + 1, num_envs), -1)
        found = ours.read(rewards, ended, tasks, done)
        for index, state in enumerate(theirs):
            own = rewards[index], ended[index], tasks[index], done[index]
            assert found[index] == by_steps(state, *own)
            assert ours.newest_task(index) == (tasks[index, -1].max() if known else None)
            saved = ours.state_dict(index)
            assert saved["returns"].tolist() == state[0].tolist()
            assert saved["lengths"].tolist() == state[1].tolist()
        done = [steps_done + steps * num_envs for steps_done in done]


def test_continues_from_its_state():
    first, second = RunningEpisodes(2), RunningEpisodes(2, num_agents=3)
    first.read(*rollout([[0.1, 0.2]], [[0, 0]], [[1, 2], [1, 2]]), [0])
    state = first.state_dict()
    first.read(*rollout([[1, 1]], [[0, 0]]), [2])  # does not change what was saved
    second.load_state_dict(state, 1)
    assert [second.newest_task(index) for index in range(3)] == [None, 2, None]
    parts = np.ones((3, 1, 2)), np.ones((3, 1, 2), bool), np.ones((3, 2, 2), np.int64)
    found = second.read(*parts, [2, 2, 2])
    assert [each.episode_return for each in found[1]] == [1.1, 1.2]
    assert [each.episode_length for each in found[1]] == [2, 2]
    assert [each.episode_length for each in found[0]] == [1, 1]
    with pytest.raises(ValueError, match="state has 2 environments, but there are 3 here"):
        RunningEpisodes(3).load_state_dict(state)
