"""A benchmark: its presets, and the settings that mitigations have with it."""

import re
from dataclasses import replace

import pytest

from plasticity.agents.networks import MLP
from plasticity.agents.ppo.config import PRESETS
from plasticity.agents.sb3 import ALGORITHMS, DQNConfig, SACConfig, SB3PPOConfig
from plasticity.mitigations import MITIGATIONS, Syre
from plasticity.scripts.config.benchmark import Benchmark, Preset, Presets, tuned_settings
from plasticity.scripts.config.benchmarks import BENCHMARKS


def test_tuned_settings_are_settings_of_mitigations():
    for searched in tuned_settings().values():
        for name, values in searched.items():
            MITIGATIONS[name](**values)


def test_a_mitigation_has_its_tuned_settings():
    # strength 3e-3 and sigma 0.5: the best of 21 settings with 10 seeds (docs/results.md)
    assert BENCHMARKS["permuted-digits"].mitigation("syre") == Syre(strength=3e-3, sigma=0.5)
    assert BENCHMARKS["permuted-fashion"].mitigation("syre") == Syre(strength=3e-3, sigma=1.0)
    with pytest.raises(ValueError, match=re.escape("Unknown method 'sire'. Did you mean 'syre'")):
        BENCHMARKS["permuted-digits"].mitigation("sire")


def test_a_benchmark_that_was_not_tuned_has_the_mitigations_own_settings():
    plain = Benchmark(description="one", config=BENCHMARKS["permuted-mnist"].config)
    other = replace(plain, config=replace(plain.config, benchmark="other"))
    assert other.mitigation("syre") == Syre()
    assert plain.mitigation("syre") != Syre()


def test_presets_change_their_values_and_nothing_else():
    ant = BENCHMARKS["slippery-ant"]
    found = ant.with_presets({"preset": "nature", "agent": "non-stationary"}).config
    assert found.stream.change_every == 2_000_000
    assert found.agent == PRESETS["non-stationary"]
    assert found.tracking == ant.config.tracking
    for chosen, message in (
        ({"preset": "natur"}, "Unknown preset 'natur'. Did you mean 'nature'?"),
        ({"agents": "standard"}, "--agents standard means nothing to slippery-ant: leave it out."),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            ant.with_presets(chosen)


def test_a_preset_gives_mitigations_their_published_settings():
    digits = BENCHMARKS["permuted-digits"]
    paper = Preset(
        values={"network": MLP(hidden=(5, 5)), "agent.learning_rate": 0.5},
        mitigations={"syre": {"strength": 0.1}},
    )
    found = replace(
        digits, presets={"preset": Presets(help="…", default="own", groups={"paper": paper})}
    ).with_presets({"architecture": "mlp", "preset": "paper"})
    assert found.config.network == MLP(hidden=(5, 5))  # an architecture begins with the preset's
    assert found.config.agent.learning_rate == 0.5
    assert found.mitigation("syre") == Syre(strength=0.1)
    assert found.mitigation("weight-decay") == digits.mitigation("weight-decay")
    assert found.presets["preset"].default == "paper"


def test_the_agent_of_a_control_benchmark_is_chosen():
    pole, ant = BENCHMARKS["offset-cartpole"], BENCHMARKS["slippery-ant"]
    assert list(pole.all_presets["agent"].groups) == ["ppo", *ALGORITHMS]
    assert list(ant.all_presets["agent"].groups) == [*PRESETS, *ALGORITHMS]
    assert [each.all_presets["agent"].default for each in (pole, ant)] == ["ppo", "standard"]
    assert "agent" not in BENCHMARKS["permuted-digits"].all_presets
    assert pole.with_presets({"agent": "ppo"}).config == pole.config
    found = ant.with_presets({"agent": "sb3:sac"})
    assert found.config.agent == SACConfig()
    assert found.all_presets["agent"].default == "sb3:sac"
    # Stable-Baselines3's defaults are for one environment; the rest is the benchmark's.
    assert found.config.stream == replace(ant.config.stream, num_envs=1)
    assert found.config.tracking == ant.config.tracking


def test_an_agent_begins_with_the_settings_of_other_presets():
    pole = BENCHMARKS["offset-cartpole"]
    found = pole.with_presets({"agent": "sb3:ppo", "preset": "c-chain"}).config
    # C-CHAIN has iterations of 800 steps, rows every 8000, and one environment.
    assert found.agent == SB3PPOConfig(rollout_steps=800)
    assert found.tracking.measure_every == 8000
    found = pole.with_presets({"agent": "sb3:dqn", "preset": "c-chain"}).config
    assert (found.agent, found.stream.max_episode_steps) == (DQNConfig(), 400)


@pytest.mark.parametrize(
    "name", [n for n, each in BENCHMARKS.items() if each.all_presets.get("agent")]
)
def test_every_benchmark_has_every_agent_or_says_why(name):
    benchmark = BENCHMARKS[name]
    for agent in ALGORITHMS:
        if benchmark.config.stream.on_device:
            with pytest.raises(ValueError, match=f"those of {agent} learn one by one on the host"):
                benchmark.with_presets({"agent": agent})
        else:
            assert benchmark.with_presets({"agent": agent}).config.agent.algorithm == agent
