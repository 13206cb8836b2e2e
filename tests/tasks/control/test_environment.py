"""Environments that change: the first reset after the interval, and states, of one that only counts."""

import copy
import pickle
from dataclasses import dataclass

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence as equal

from plasticity.tasks.control.environment import ChangingEnv
from plasticity.tasks.control.schedule import TaskSchedule


@dataclass(frozen=True)
class Pace:
    """Task in which a step has a size."""

    index: int
    pace: float

    def values(self):
        return {"pace": self.pace}


@dataclass(frozen=True, kw_only=True)
class Paces(TaskSchedule[Pace]):
    pace: float | None = None

    @property
    def constant(self):
        return None if self.pace is None else Pace(0, self.pace)

    def make_task(self, seed, index):
        return Pace(index, seed + index)


class Walk(ChangingEnv[Pace]):
    """Walk along a line from a random start: it terminates beyond 10, and is truncated after 4 steps."""

    max_episode_steps = 4
    step_seconds = 1.0

    def _load(self):
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float64)
        self.action_space = gymnasium.spaces.Discrete(2)
        self.place = 0.0

    def _checked(self, action):
        if action not in (0, 1):
            raise ValueError(f"The action must be 0 or 1: {action!r}.")
        return action

    def _start(self, task):
        self.place = self.np_random.uniform()
        return np.array([self.place])

    def _move(self, action):
        self.place += action * self._task.pace
        return np.array([self.place]), float(action), self.place > 10

    def _save(self):
        return {"place": self.place, "episode_steps": self._episode_steps}

    def _episode_steps_of(self, state):
        return state["episode_steps"]

    def _restore(self, state, task):
        self.place = state["place"]

    def _free(self):
        pass


STREAM = {"task_seed": 1, "change_every": 6}


def walked(env, actions):
    seen = []
    for action in actions:
        seen.append(env.step(action))
        if seen[-1][2] or seen[-1][3]:
            seen.append(env.reset())
    return seen


def test_the_task_changes_at_the_first_reset_after_the_interval():
    env = Walk(Paces(**STREAM))
    _, info = env.reset(seed=0)
    assert info == {"task": 0, "pace": 1}
    # Episodes of 4 steps: the interval of 6 ends in the second one, which keeps its task.
    infos = [entry[-1] for entry in walked(env, [1] * 12)]
    assert [info["task"] for info in infos] == [0] * 4 + [0] + [0] * 4 + [1] + [1] * 4 + [2]
    assert infos[-1] == {"task": 2, "pace": 3}


def test_ends_are_terminations_and_truncations():
    env = Walk(Paces(pace=4))
    env.reset(seed=0)
    # 4, 8, 12 > 10: a termination after three steps; without moving, a truncation after four.
    assert [env.step(1)[2:4] for _ in range(3)] == [(False, False)] * 2 + [(True, False)]
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(1)
    env.reset()
    assert [env.step(0)[2:4] for _ in range(4)] == [(False, False)] * 3 + [(False, True)]


@pytest.mark.parametrize("saved_after", [0, 1, 5, 7, 9])
def test_a_resumed_environment_equals_an_uninterrupted_one(saved_after):
    actions = np.random.default_rng(0).integers(0, 2, 30)
    env = Walk(Paces(**STREAM))
    env.reset(seed=2)
    walked(env, actions[:saved_after])
    saved = copy.deepcopy(env.state_dict())
    twin = pickle.loads(pickle.dumps(env))
    expected = walked(env, actions[saved_after:])
    other = Walk(Paces(**STREAM))
    other.load_state_dict(saved)
    for each in (other, twin):
        assert equal(walked(each, actions[saved_after:]), expected, exact=True)


def test_a_state_of_another_stream_is_refused():
    env, other = Walk(Paces(**STREAM)), Walk(Paces(task_seed=2, change_every=6))
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"task 0 with pace 1, but .* has task 0 with pace 2"):
        other.load_state_dict(env.state_dict())


def test_wrong_uses_are_refused():
    with pytest.raises(ValueError, match=r"rgb_array.*ansi"):
        Walk(Paces(pace=1), render_mode="ansi")
    env = Walk(Paces(pace=1))
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(0)
    env.reset()
    with pytest.raises(ValueError, match="The action must be 0 or 1: 2"):
        env.step(2)
    assert env.render() is None
    env.close()
    with pytest.raises(gymnasium.error.ClosedEnvironmentError, match="make a new one"):
        env.reset()
