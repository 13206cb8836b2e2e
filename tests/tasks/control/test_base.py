"""Settings of a family of environments, and the vector that a family makes of its single environments."""

import re
from dataclasses import dataclass

import gymnasium
import numpy as np
import pytest

from plasticity.tasks.control.base import EnvironmentConfig
from plasticity.tasks.streams.base import Stream

WHOLE = {"num_steps": 4096, "change_every": 1024}


class Echo(gymnasium.Env):
    """Environment that observes its arguments."""

    observation_space = gymnasium.spaces.Box(0, 10**6, (2,), np.float64)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, task_seed, change_every):
        self.seen = np.array([task_seed, change_every], np.float64)

    def reset(self, *, seed=None, options=None):
        return self.seen, {}


class Weights(Stream):
    """Stream of weights."""

    def describe(self, index):
        return {"weight": float(index)}


@dataclass(frozen=True, kw_only=True)
class EchoConfig(EnvironmentConfig):
    def make_env(self, values=None, **arguments):
        return Echo(**arguments)


@pytest.mark.parametrize(
    ("key", "value", "error", "message"),
    [
        ("num_steps", 0, ValueError, "num_steps must be at least 1"),
        ("num_envs", 1.5, TypeError, "num_envs must be an integer"),
        ("cores", 0, ValueError, "cores must be at least 1"),
        ("cores", True, TypeError, "cores must be an integer"),
        ("change_every", 1023, ValueError, "change_every must be a multiple of num_envs, 8"),
    ],
)
def test_wrong_values_are_refused(key, value, error, message):
    with pytest.raises(error, match=re.escape(message)):
        EnvironmentConfig(**{**WHOLE, key: value})


def test_a_run_by_itself_uses_one_core():
    assert EnvironmentConfig(**WHOLE).num_cores == 1
    assert EnvironmentConfig(**WHOLE, cores=3).num_cores == 3


# More cores than environments are no error: the machine's cores are shared among the runs.
@pytest.mark.parametrize(("cores", "workers"), [(None, 0), (1, 0), (2, 2), (16, 3)])
def test_a_vector_of_environments_that_share_the_interval(cores, workers):
    config = EchoConfig(num_steps=90, change_every=30, num_envs=3, cores=cores)
    envs = config.make_vector([7, 7, 8])
    assert envs.num_workers == workers
    seen, _ = envs.reset()
    assert seen.tolist() == [[7, 10], [7, 10], [8, 10]]
    envs.close()


def test_a_family_without_pictures_or_device():
    config = EnvironmentConfig(**WHOLE)
    assert config.view is None
    assert config.on_device is False


def test_rows_are_described_by_the_keys_of_the_stream():
    class Described(EnvironmentConfig):
        def make_stream(self, num_tasks, seed):
            return Weights(num_tasks, seed)

    assert Described(**WHOLE).described == ("weight",)
