"""Benchmarks of games whose screens are images, one after another."""

from __future__ import annotations

from plasticity.agents.ppo.config import PPOConfig
from plasticity.scripts.config.benchmark import Benchmark, Preset, Presets
from plasticity.scripts.config.run_config import ControlRunConfig, ControlTracking
from plasticity.tasks.games.minatar import MinAtarConfig

MINATAR_PPO = PPOConfig(
    image_network="minatar",
    hidden=(128,),
    initialization="orthogonal",
    rollout_steps=1024,
    epochs=4,
    minibatch_size=128,
    learning_rate=5e-4,
    epsilon=1e-5,
    entropy_coefficient=0.01,
    value_coefficient=0.5,
    normalize_advantages="minibatch",
    max_gradient_norm=0.5,
)
"""Settings of PPO in MinAtar: of our own choice, after those that are usual in Atari.

C-CHAIN's agent (Tang et al., 2025) is a double DQN. The network is that of MinAtar's authors, whose one
convolution and one dense layer its Q-network has too; here, actor and critic have one each.
"""

BENCHMARKS = (
    Benchmark(
        description="MinAtar: games one after another, on planes of 10 x 10 (C-CHAIN); PPO",
        config=ControlRunConfig(
            benchmark="minatar-sequence",
            stream=MinAtarConfig(num_steps=1_228_800, change_every=409_600),
            agent=MINATAR_PPO,
            tracking=ControlTracking(measure_every=20_480),
        ),
        methods=("none", "syre", "redo"),
        presets={
            "preset": Presets(
                help="Length: small, 409,600 steps of each of three games; quick, 20,480, to see it run;"
                " c-chain, the published two million.",
                default="small",
                groups={
                    "small": Preset(values={}),
                    "quick": Preset(
                        values={
                            "stream.num_steps": 61_440,
                            "stream.change_every": 20_480,
                            "tracking.measure_every": 5_120,
                        },
                        description="space_invaders - asterix - seaquest, 20,480 steps each",
                    ),
                    "c-chain": Preset(
                        values={"stream.num_steps": 6_000_000, "stream.change_every": 2_000_000},
                        description="space_invaders - asterix - seaquest, two million steps each; C-CHAIN",
                    ),
                },
            )
        },
    ),
)
"""Benchmarks of this family."""
