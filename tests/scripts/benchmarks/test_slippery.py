"""Published intervals of Slippery-Ant, its agents, and the humanoids beside it."""

from dataclasses import replace

import pytest

from plasticity.agents.ppo.config import PRESETS
from plasticity.scripts.config.benchmarks import BENCHMARKS

ANTS = {"slippery-ant": "bullet", "slippery-ant-mujoco": "mujoco", "slippery-ant-warp": "warp"}


def test_the_published_intervals_and_agents():
    """Nature (2024) changes the friction every 2 million steps, and syre's Fig. 6 every 5 million."""
    for name, engine in ANTS.items():
        benchmark = BENCHMARKS[name]
        assert benchmark.config.stream.engine == engine
        for preset, steps in (("nature", 2_000_000), ("syre", 5_000_000), ("small", 100_000)):
            assert benchmark.with_presets({"preset": preset}).config.stream.change_every == steps
        for agent in ("standard", "non-stationary"):
            assert benchmark.with_presets({"agent": agent}).config.agent == PRESETS[agent]


@pytest.mark.parametrize("name", ["slippery-humanoid", "slippery-humanoid-warp"])
def test_the_humanoids_have_the_ants_intervals_and_normalized_observations(name):
    benchmark = BENCHMARKS[name]
    assert benchmark.config.stream.change_every == 100_000
    assert benchmark.with_presets({"preset": "nature"}).config.stream.change_every == 2_000_000
    assert benchmark.config.agent.normalize_observations
    assert benchmark.config.agent.learning_rate == PRESETS["standard"].learning_rate


def test_the_humanoids_on_a_device_differ_in_engine_and_number_only():
    host, device = (
        BENCHMARKS[name].config for name in ("slippery-humanoid", "slippery-humanoid-warp")
    )
    assert (host.stream.engine, device.stream.engine) == ("mujoco", "warp")
    stream = replace(host.stream, engine="warp", num_envs=32)
    assert replace(host, benchmark="slippery-humanoid-warp", stream=stream) == device
