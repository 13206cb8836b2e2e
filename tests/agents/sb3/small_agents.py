"""Small agents of every algorithm, and the environments that they learn in."""

import pytest

from plasticity.agents.ppo.environments import environment_seeds
from plasticity.agents.ppo.host_environments import HostEnvironments
from plasticity.agents.sb3 import ALGORITHMS, SB3PPOConfig
from plasticity.agents.sb3.agent import SB3Agent
from plasticity.tasks.control.classic import ClassicControlConfig

SMALL = {
    "sb3:ppo": {"rollout_steps": 32, "batch_size": 16, "epochs": 2},
    "sb3:dqn": {"target_update_every": 20, "exploration_steps": 60},
    "sb3:qrdqn": {"target_update_every": 20, "exploration_steps": 60, "num_quantiles": 5},
    "sb3:sac": {"train_freq": 2},
    "sb3:td3": {},
    "sb3:tqc": {"num_quantiles": 5, "train_freq": 2},
    "sb3:crossq": {"critic_hidden": (8, 8), "train_freq": 2},
}
"""Settings of small agents that learn within a few steps."""


def small(name, **settings):
    """Return the settings of a small agent of an algorithm."""
    kind = ALGORITHMS[name]
    if kind.source.startswith("sb3_contrib"):
        pytest.importorskip("sb3_contrib", reason="needs sb3-contrib: pip install sb3-contrib")
    shared = {"hidden": (8, 8)}
    if kind is not SB3PPOConfig:
        shared |= {"batch_size": 8, "buffer_size": 50, "learning_starts": 10}
    return kind(**{**shared, **SMALL[name], **settings})


def stream_for(config, num_envs=1, **settings):
    """Return the family of environments that an algorithm can learn in, with short episodes."""
    environment = "pendulum" if config.actions == "continuous" else "cartpole"
    shared = {"num_steps": 1000, "change_every": 20 * num_envs, "max_episode_steps": 9}
    return ClassicControlConfig(
        environment=environment,
        changes="physics",
        num_envs=num_envs,
        **{**shared, **settings},
    )


def make_environments(config, num_envs=1, seed=3, **settings):
    """Return environments whose tasks change every 20 steps of each."""
    vector = stream_for(config, num_envs, **settings).make_vector([5] * num_envs)
    return HostEnvironments(vector, environment_seeds(seed, num_envs))


def make_agent(config, method=(), num_envs=1, seed=1, **settings):
    """Return a new agent in environments of its own."""
    return SB3Agent(make_environments(config, num_envs), config, method, seed=seed, **settings)
