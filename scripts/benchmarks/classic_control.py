"""Benchmarks of classic control that changes."""

from __future__ import annotations

from typing import Any

from plasticity.agents.ppo.config import PPOConfig
from plasticity.scripts.config.benchmark import Benchmark
from plasticity.scripts.config.run_config import ControlRunConfig, ControlTracking
from plasticity.tasks.control.classic import ClassicControlConfig


def _classic(
    name: str, description: str, environment: str, changes: str, **agent: Any
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
    )


BENCHMARKS = (
    _classic(
        "continual-cartpole",
        "Gymnasium's CartPole, whose gravity, pole length and force change; PPO",
        "cartpole",
        "physics",
    ),
    _classic(
        "continual-pendulum",
        "Gymnasium's Pendulum, whose gravity, length and mass change; PPO, continuous actions",
        "pendulum",
        "physics",
        gamma=0.9,
    ),
    _classic(
        "offset-cartpole",
        "Gymnasium's CartPole, whose observations get another offset (TRAC, C-CHAIN); PPO",
        "cartpole",
        "observations",
    ),
    _classic(
        "offset-acrobot",
        "Gymnasium's Acrobot, whose observations get another offset (TRAC, C-CHAIN); PPO",
        "acrobot",
        "observations",
    ),
)
"""Benchmarks of this family."""
