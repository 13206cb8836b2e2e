"""Environments that replay their episode: a toy whose simulator hides its state, counted by hand."""

import copy
import pickle

import gymnasium
import numpy as np
import pytest

from plasticity.tasks import FrictionTask
from plasticity.tasks.control.replay import ReplayedEnv
from plasticity.tasks.control.slippery.friction import FrictionSchedule


class Hidden(ReplayedEnv[FrictionTask]):
    """Sum of what is drawn at the start and of the actions, in a closure that nobody can read or set."""

    max_episode_steps, step_seconds = 10, 0.1

    def _load(self):
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float64)
        self.played = 0
        self.begin, self.add = self.simulator()

    def simulator(self):
        total = 0.0

        def begin(start):
            nonlocal total
            total = start
            return np.array([total])

        def add(number):
            nonlocal total
            total = 2 * total + number
            return np.array([total])

        return begin, add

    def _checked(self, action):
        return np.asarray(action)

    def _begin(self, task):
        return self.begin(self.np_random.random() + task.friction)

    def _play(self, action):
        self.played += 1
        observation = self.add(float(action[0]) + self.np_random.random())
        return observation, float(observation[0]), bool(action[0] > 0.9)

    def _free(self):
        pass


def make():
    return Hidden(FrictionSchedule(task_seed=1, change_every=15))


def rollout(env, actions):
    seen = []
    for action in actions:
        seen.append(env.step(action))
        if seen[-1][2] or seen[-1][3]:
            seen.append(env.reset())
    return str(seen)


ACTIONS = np.linspace(-1, 1, 100).reshape(10, 10).T.reshape(100, 1)


@pytest.mark.parametrize("saved_after", [0, 1, 9, 10, 14, 33])
def test_a_state_is_the_start_of_the_episode_and_its_actions(saved_after):
    env = make()
    env.reset(seed=0)
    rollout(env, ACTIONS[:saved_after])
    state = pickle.loads(pickle.dumps(env.state_dict()))
    steps = env._episode_steps
    assert len(state["actions"]) == steps
    expected = rollout(env, ACTIONS[saved_after:])
    other = make()
    other.load_state_dict(state)
    assert other.played == steps  # no more than the episode
    assert rollout(other, ACTIONS[saved_after:]) == expected


def test_an_environment_that_was_never_reset_is_saved_as_such():
    env, other = make(), make()
    state = env.state_dict()
    assert (state["generator_at_start"], len(state["actions"])) == (None, 0)
    other.reset(seed=0)
    other.step([0.5])
    other.load_state_dict(state)
    with pytest.raises(gymnasium.error.ResetNeeded):
        other.step([0.5])


def test_a_saved_state_does_not_change_with_the_environment():
    env = make()
    env.reset(seed=0)
    action = np.array([0.25])
    env.step(action)
    action[:] = 7.0  # a caller may reuse its memory
    state = env.state_dict()
    env.step(np.array([0.5]))
    assert state["actions"].tolist() == [[0.25]]
    twin = copy.deepcopy(env)
    assert rollout(twin, ACTIONS[:5]) == rollout(env, ACTIONS[:5])
