"""Benchmarks of games whose screens are images, one after another."""

from __future__ import annotations

from plasticity.agents.ppo.config import PPOConfig
from plasticity.scripts.config.benchmark import Benchmark, Preset, Presets
from plasticity.scripts.config.run_config import ControlRunConfig, ControlTracking
from plasticity.tasks.games.ale import ALEConfig
from plasticity.tasks.games.minatar import MinAtarConfig
from plasticity.tasks.games.procgen import ProcgenConfig

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

ALE_PPO = PPOConfig(
    image_network="nature",
    hidden=(512,),
    initialization="orthogonal",
    rollout_steps=1024,
    epochs=4,
    minibatch_size=256,
    learning_rate=2.5e-4,
    epsilon=1e-5,
    clip_range=0.1,
    entropy_coefficient=0.01,
    value_coefficient=0.25,  # there, 0.5 times half the mean squared error
    normalize_advantages="minibatch",
    normalize_rewards=True,
    max_gradient_norm=0.5,
)
"""Settings of PPO in Atari (Schulman et al., 2017; Huang et al., 2022), with a constant learning rate.

Our form differs from theirs in these: actor and critic have a network each, so that each has its own
optimizer and mitigations (as in Moalla et al., 2024); rewards are scaled by the running deviation of the
return rather than clipped to their sign; a lost life ends no episode; actions are sticky.
"""

PROCGEN_PPO = PPOConfig(
    image_network="impala",
    hidden=(256,),
    initialization="xavier",
    rollout_steps=1000,
    epochs=3,
    minibatch_size=125,
    learning_rate=1e-3,
    epsilon=1e-5,
    gamma=0.999,
    value_clip_range=0.2,
    entropy_coefficient=0.01,
    value_coefficient=0.25,
    normalize_rewards=True,
    max_gradient_norm=0.5,
)
"""Settings of PPO in Procgen of TRAC (Muppidi et al., 2024) and C-CHAIN (Tang et al., 2025).

Our form differs from theirs in these: actor and critic have a network each; the scale of the rewards goes on
when the levels change, where theirs begins anew; a rollout goes on where the last one ended. Their value loss
is half of half of the mean squared error, so a quarter of it here.
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
        minutes=80.0,
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
                        minutes=4.0,
                    ),
                    "c-chain": Preset(
                        values={"stream.num_steps": 6_000_000, "stream.change_every": 2_000_000},
                        description="space_invaders - asterix - seaquest, two million steps each; C-CHAIN",
                        minutes=380.0,
                    ),
                },
            )
        },
    ),
    Benchmark(
        description="Atari: games one after another, on four grey screens (CORA); PPO",
        config=ControlRunConfig(
            benchmark="ale-sequence",
            stream=ALEConfig(num_steps=6_144_000, change_every=1_024_000),
            agent=ALE_PPO,
            tracking=ControlTracking(measure_every=102_400),
        ),
        methods=("none", "syre", "redo"),
        minutes=5_400.0,
        presets={
            "preset": Presets(
                help="Length: small, a million steps of each of six games; quick, 4,096 of each of three, to"
                " see it run; cora, the published 12.5 million of each, five times.",
                default="small",
                groups={
                    "small": Preset(values={}),
                    "quick": Preset(
                        values={
                            "stream.games": ("space_invaders", "krull", "beam_rider"),
                            "stream.num_steps": 12_288,
                            "stream.change_every": 4_096,
                            "stream.max_episode_steps": 500,
                            "tracking.measure_every": 2_048,
                        },
                        description="space_invaders - krull - beam_rider, 4,096 steps each, episodes of 500",
                        minutes=11.0,
                    ),
                    "cora": Preset(
                        values={
                            "stream.num_steps": 375_000_000,
                            "stream.change_every": 12_500_000,
                            "stream.max_episode_steps": 10_000,
                        },
                        description="six games, 50 million frames each, five times; CORA",
                        minutes=330_000.0,
                    ),
                },
            )
        },
    ),
    Benchmark(
        description="Procgen: one game, whose levels change, on screens of 64 x 64 (TRAC, C-CHAIN); PPO",
        config=ControlRunConfig(
            benchmark="procgen-levels",
            stream=ProcgenConfig(num_steps=1_000_000, change_every=100_000),
            agent=PROCGEN_PPO,
            tracking=ControlTracking(measure_every=10_000),
        ),
        methods=("none", "syre", "layer-norm"),
        minutes=400.0,
        presets={
            "preset": Presets(
                help="Length: small, 100,000 steps of each of ten levels; quick, 4,000 of each of three, to"
                " see it run; c-chain, the published two million of each of levels 20 to 29.",
                default="small",
                groups={
                    "small": Preset(values={}),
                    "quick": Preset(
                        values={
                            "stream.num_steps": 12_000,
                            "stream.change_every": 4_000,
                            "tracking.measure_every": 2_000,
                        },
                        description="three levels, 4,000 steps each",
                        minutes=5.0,
                    ),
                    "c-chain": Preset(
                        values={
                            "stream.num_steps": 20_000_000,
                            "stream.change_every": 2_000_000,
                            "stream.num_envs": 1,
                            "stream.start_level": 20,
                            "tracking.measure_every": 100_000,
                        },
                        description="levels 20 to 29, two million steps each, one environment; C-CHAIN",
                        minutes=8_000.0,
                    ),
                },
            )
        },
    ),
)
"""Benchmarks of this family."""
