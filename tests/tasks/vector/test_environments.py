"""Vector environment, against Gymnasium's own as oracle, for several numbers of workers."""

import operator
import sys
from functools import partial

import cloudpickle
import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import data_equivalence as equal
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from plasticity.tasks import VectorEnvironments

# A worker cannot import the tests: the environments below are pickled by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Countdown(gymnasium.Env):
    """Environment that ends after a random number of steps; its info has every kind of entry."""

    observation_space = spaces.Box(-1, 1000, (3,), np.float64)
    action_space = spaces.Discrete(5)

    def __init__(self, talkative):
        self.talkative = talkative

    def _seen(self, action):
        info = {"task": self.length % 2, "share": self.left / self.length}
        if self.talkative:
            info |= {"name": f"of {self.length}", "parts": {"left": self.left}}
            info["array"] = np.array([self.left, action])
        return np.array([self.left, self.length, action], np.float64), info

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = self.length = int(self.np_random.integers(2, 7)) + (options or {}).get(
            "more", 0
        )
        return self._seen(-1)

    def step(self, action):
        self.left -= 1
        observation, info = self._seen(action)
        ended = self.left == 0
        return observation, action / 7, ended and self.length % 3 == 0, ended, info

    def state_dict(self):
        return {
            "left": self.left,
            "length": self.length,
            "bits": self.np_random.bit_generator.state,
        }

    def load_state_dict(self, state):
        self.left, self.length = state["left"], state["length"]
        self.np_random.bit_generator.state = state["bits"]


def countdowns(talkative=True):
    # One is not talkative: an entry that not all environments have is masked.
    return [partial(Countdown, talkative and number != 2) for number in range(5)]


def rollout(envs, steps, seed=0, **reset):
    rng = np.random.default_rng(seed)
    shape, dtype = envs.action_space.shape, envs.action_space.dtype
    seen = [envs.reset(seed=seed, **reset)]
    for _ in range(steps):
        actions = rng.integers(0, 5, shape) if dtype == np.int64 else rng.uniform(-1, 1, shape)
        seen.append(envs.step(actions.astype(dtype)))
    return seen


@pytest.mark.parametrize(
    ("num_workers", "talkative"), [(0, True), (0, False), (1, True), (2, False), (3, True)]
)
def test_equals_gymnasiums_own(num_workers, talkative):
    sync = SyncVectorEnv(countdowns(talkative), autoreset_mode=AutoresetMode.SAME_STEP)
    envs = VectorEnvironments(countdowns(talkative), num_workers)
    for name in ("num_envs", "observation_space", "action_space", "single_action_space"):
        assert getattr(envs, name) == getattr(sync, name)
    assert envs.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    for reset in ({}, {"options": {"more": 2}}):
        for ours, expected in zip(
            rollout(envs, 30, **reset), rollout(sync, 30, **reset), strict=True
        ):
            assert equal(ours, expected, exact=True)
    seeds = [3, None, 5, 4, 9]
    assert equal(envs.reset(seed=seeds), sync.reset(seed=seeds), exact=True)
    assert equal(envs.reset(), sync.reset(), exact=True)
    for same in (np.int64(3), np.arange(3, 8)):
        assert equal(envs.reset(seed=same), sync.reset(seed=3), exact=True)
    envs.close()
    sync.close()


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("name", ["CartPole-v1", "Countdown"])
def test_without_copies_the_arrays_are_views_of_the_shared_memory(name, num_workers):
    env_fns = countdowns() if name == "Countdown" else [partial(gymnasium.make, name)] * 5
    views = VectorEnvironments(env_fns, num_workers, copy=False)
    copies = VectorEnvironments(env_fns, num_workers)
    first, infos = views.reset(seed=1)
    assert equal((first, infos), copies.reset(seed=1), exact=True)
    rng, before, ended = np.random.default_rng(0), None, 0
    for _ in range(60):
        actions = rng.integers(0, views.single_action_space.n, 5)
        ours, expected = views.step(actions), copies.step(actions)
        assert equal(ours, expected, exact=True)
        assert ours[0] is first
        assert before is None or all(map(operator.is_, ours[:4], before[:4]))
        before = ours
        if "final_obs" in ours[-1]:
            ended += 1
    assert ended
    views.close()
    assert np.array_equal(first, expected[0])  # the memory lives as long as a view of it
    copies.close()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_returned_arrays_are_never_overwritten(num_workers):
    envs = VectorEnvironments(countdowns(talkative=False), num_workers)
    other = VectorEnvironments(countdowns(talkative=False))
    kept = []
    for ours, expected in zip(
        [envs.reset(seed=0), *(envs.step(np.ones(5)) for _ in range(3))],
        [other.reset(seed=0), *(other.step(np.ones(5)) for _ in range(3))],
        strict=True,
    ):
        kept.append((ours, expected))
    # Three steps later, the first results are unchanged …
    for ours, expected in kept:
        assert equal(ours, expected, exact=True)
        # … and writing into them does not affect later steps.
        *arrays, infos = ours
        for array in (*arrays, *infos.values()):
            if isinstance(array, np.ndarray) and array.dtype != object:
                array[...] = 1
    assert equal(envs.step(np.ones(5)), other.step(np.ones(5)), exact=True)
    envs.close()
    other.close()


def test_actions_are_cast_and_their_shape_is_checked():
    envs = VectorEnvironments(countdowns())
    envs.reset(seed=0)
    with pytest.raises(ValueError, match=r"shape \(5,\): \(4,\)"):
        envs.step(np.zeros(4))
    rewards = envs.step([0.0, 1.0, 2.0, 3.0, 4.0])[1]
    np.testing.assert_allclose(rewards, np.arange(5) / 7)
    envs.close()


@pytest.mark.parametrize("actions", [np.ones(5) * 1j, [None] * 5, ["1"] * 5])
def test_actions_that_are_not_real_numbers_are_refused(actions):
    envs = VectorEnvironments(countdowns())
    envs.reset(seed=0)
    with pytest.raises(TypeError, match="must be real numbers, not of type"):
        envs.step(actions)
    envs.step(np.ones(5))  # the environments are still open
    envs.close()


def test_a_wrong_number_of_seeds_is_refused():
    envs = VectorEnvironments(countdowns())
    with pytest.raises(ValueError, match="5 environments need 5 seeds, one for each: 2"):
        envs.reset(seed=[1, 2])
    envs.close()


def test_a_state_of_another_number_of_environments_is_refused():
    envs, fewer = VectorEnvironments(countdowns()), VectorEnvironments(countdowns()[:2])
    envs.reset(seed=0)
    with pytest.raises(ValueError, match="5 environments, not of 2"):
        fewer.load_state_dict(envs.state_dict())
    envs.close()
    fewer.close()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_wrapper_that_cannot_save_its_state_is_refused(num_workers):
    """Refuse TimeLimit, whose count of steps would be lost; the environments stay usable."""
    wrapped = [lambda: TimeLimit(Countdown(talkative=False), 3)] * 2
    envs, bare = VectorEnvironments(wrapped, num_workers), VectorEnvironments(countdowns()[:2])
    envs.reset(seed=0), bare.reset(seed=0)
    with pytest.raises(TypeError, match=r"TimeLimit.* no state_dict of its own.*bare class"):
        envs.state_dict()
    with pytest.raises(TypeError, match=r"TimeLimit.* no load_state_dict of its own"):
        envs.load_state_dict(bare.state_dict())
    envs.step(np.zeros(2))
    envs.close(), bare.close()


def test_gymnasiums_wrappers_work():
    envs = RecordEpisodeStatistics(VectorEnvironments(countdowns(talkative=False)))
    lengths = [
        infos["episode"]["l"][infos["_episode"]]
        for *_, infos in rollout(envs, 40)[1:]
        if "episode" in infos
    ]
    assert set(np.concatenate(lengths)) <= set(range(2, 7))
    envs.close()


def test_closed_environments_raise_an_error():
    envs = VectorEnvironments(countdowns())
    envs.reset(seed=0)
    envs.close()
    envs.close()
    with pytest.raises(gymnasium.error.ClosedEnvironmentError, match="make new ones"):
        envs.step(np.zeros(5))


@pytest.mark.parametrize(
    ("env_fns", "num_workers", "error", "message"),
    [
        ([], 0, ValueError, "number of environments must be at least 1"),
        (
            countdowns(),
            6,
            ValueError,
            "num_workers must be at most the number of environments, 5: 6",
        ),
        (countdowns(), -1, ValueError, "num_workers must be at least 0"),
        (countdowns(), 1.5, TypeError, "num_workers must be an integer"),
        (
            [partial(gymnasium.make, "CartPole-v1"), partial(gymnasium.make, "Pendulum-v1")],
            0,
            ValueError,
            "same observation_space",
        ),
        ([partial(gymnasium.make, "Blackjack-v1")], 0, TypeError, "observation must be an array"),
    ],
)
def test_wrong_arguments_are_refused(env_fns, num_workers, error, message):
    with pytest.raises(error, match=message):
        VectorEnvironments(env_fns, num_workers)


def test_copy_is_true_or_false():
    with pytest.raises(TypeError, match="copy must be True or False: 1"):
        VectorEnvironments(countdowns(), copy=1)
