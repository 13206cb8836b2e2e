"""Published intervals of Slippery-Ant, its agents, and the humanoid beside it."""

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


def test_the_humanoid_has_the_ants_intervals_and_normalized_observations():
    benchmark = BENCHMARKS["slippery-humanoid"]
    assert benchmark.config.stream.change_every == 100_000
    assert benchmark.with_presets({"preset": "nature"}).config.stream.change_every == 2_000_000
    assert benchmark.config.agent.normalize_observations
    assert benchmark.config.agent.learning_rate == PRESETS["standard"].learning_rate
