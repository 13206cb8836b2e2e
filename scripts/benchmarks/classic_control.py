"""Benchmarks of Gymnasium's small environments that change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plasticity.agents.ppo.config import PPOConfig
from plasticity.scripts.config.benchmark import Benchmark, Preset, Presets
from plasticity.scripts.config.run_config import ControlRunConfig, ControlTracking
from plasticity.tasks.control.classic import ClassicControlConfig


def _classic(
    name: str,
    description: str,
    environment: str,
    changes: str,
    *,
    presets: Mapping[str, Presets] | None = None,
    minutes: float | None = None,
    **agent: Any,
) -> Benchmark:
    return Benchmark(
        description=description,
        config=ControlRunConfig(
            benchmark=name,
            stream=ClassicControlConfig(
                environment=environment,
                changes=changes,
                num_steps=1_000_000,
                change_every=50_000,
            ),
            agent=PPOConfig(
                hidden=(64, 64),
                initialization="orthogonal",
                rollout_steps=1024,
                learning_rate=1e-3,
                max_gradient_norm=0.5,
                **agent,
            ),
            tracking=ControlTracking(measure_every=10_240),
        ),
        methods=("none", "weight-decay", "syre"),
        tuned_as="continual-cartpole",  # searched with one seed, over 1e-6 and 1e-5; the others were not
        presets=presets or {},
        minutes=minutes,
    )


C_CHAIN = PPOConfig(
    hidden=(256, 256, 256),
    activation="leaky-relu-0.1",
    initialization="torch",
    rollout_steps=800,
    epochs=5,
    minibatch_size=32,
    learning_rate=1e-3,
    entropy_coefficient=0.01,
    value_coefficient=0.5,
    reward_scale=1 / 20,
)
"""Settings of PPO in C-CHAIN's Gym control (Tang et al., ICML 2025; its code, `crl_gym_classic_control`).

The rest are our defaults: Adam's, discount 0.99, lambda 0.95, clipping at 0.2, advantages normalized over an
iteration, no clipping of gradients or values. Our form differs from the published one in these:

- An episode that is running at the end of an iteration goes on in the next one, and the offset changes when
  it ends. There, every iteration of 800 steps begins with a reset, and an episode of less than 400 steps may
  be cut; the last state of a cut episode has a value in both.
- The critic learns returns of lambda 0.95, advantage plus value. There, it learns discounted sums of the
  rewards, with the value of the last state at a cut.
- The reset of an environment is seeded, and the offsets are those of the run's stream. There, an environment
  has no seed.
- LunarLander-v3 instead of v2, as Gymnasium has no v2 any more.
"""


def _offset(
    name: str,
    description: str,
    environment: str,
    *,
    minutes: float | None = None,
    published_minutes: float | None = None,
) -> Benchmark:
    """Return a benchmark whose observations get an offset, with the settings of C-CHAIN as a preset."""
    published = Preset(
        values={
            "stream.num_steps": 1_600_000,
            "stream.change_every": 160_000,
            "stream.num_envs": 1,
            "stream.max_episode_steps": 400,
            "agent": C_CHAIN,
            "tracking.measure_every": 8000,
        },
        description="10 offsets x 200 iterations of 800 steps, at most 400 steps an episode; C-CHAIN",
        minutes=published_minutes,
    )
    presets = Presets(
        help="Settings of the run: small, ours, with Gymnasium's time limit; or c-chain, published.",
        default="small",
        groups={"small": Preset(values={}), "c-chain": published},
    )
    return _classic(
        name,
        description,
        environment,
        "observations",
        presets={"preset": presets},
        minutes=minutes,
    )


BENCHMARKS = (
    _classic(
        "continual-cartpole",
        "Gymnasium's CartPole, whose gravity, pole length and force change; PPO",
        "cartpole",
        "physics",
        minutes=2.6,
    ),
    _classic(
        "continual-pendulum",
        "Gymnasium's Pendulum, whose gravity, length and mass change; PPO, continuous actions",
        "pendulum",
        "physics",
        minutes=2.7,
        gamma=0.9,
    ),
    _offset(
        "offset-cartpole",
        "Gymnasium's CartPole, whose observations get another offset (TRAC, C-CHAIN); PPO",
        "cartpole",
        minutes=2.6,
        published_minutes=15.0,
    ),
    _offset(
        "offset-acrobot",
        "Gymnasium's Acrobot, whose observations get another offset (TRAC, C-CHAIN); PPO",
        "acrobot",
        minutes=3.2,
        published_minutes=16.0,
    ),
    _offset(
        "offset-mountaincar",
        "Gymnasium's MountainCar, whose observations get another offset (C-CHAIN); PPO",
        "mountaincar",
        minutes=2.3,
        published_minutes=16.0,
    ),
    _offset(
        "offset-lunarlander",
        "Gymnasium's LunarLander, whose observations get another offset (TRAC, C-CHAIN); PPO",
        "lunarlander",
    ),
)
"""Benchmarks of this family."""
