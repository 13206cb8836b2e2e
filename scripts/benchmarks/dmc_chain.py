"""Benchmark of chains of tasks of the DeepMind Control Suite."""

from __future__ import annotations

from typing import Any

from plasticity.agents.ppo.config import PPOConfig
from plasticity.scripts.config.benchmark import Benchmark, Preset, Presets
from plasticity.scripts.config.run_config import ControlRunConfig, ControlTracking
from plasticity.tasks.control.dmc.chains import DOMAINS
from plasticity.tasks.control.dmc.config import DMCChainConfig

C_CHAIN = PPOConfig(
    hidden=(256, 256),
    initialization="orthogonal",
    rollout_steps=2048,
    epochs=10,
    minibatch_size=64,
    learning_rate=3e-4,
    epsilon=1e-5,
    value_clip_range=0.2,
    value_coefficient=0.25,  # there, 0.5 times half the mean squared error
    normalize_advantages="minibatch",
    normalize_observations=True,
    normalize_rewards=True,
    max_gradient_norm=0.5,
)
"""Settings of PPO in C-CHAIN's continual DMC (Tang et al., ICML 2025; its code, `crl_dmc`).

Our form differs from the published one in these:

- The running statistics of observations and rewards go on when the task changes, and the agent is told
  nothing. There, they begin anew with every task, which tells the agent of the change.
- The last state of an episode has a value, as the time limit is not part of the task. There, it has none.
- A value that is clipped has no gradient. There, the larger of the two losses is taken.
- An episode runs over the end of a rollout in both.
"""


def _published(domain: str, minutes: float | None = None) -> Preset:
    chain = DOMAINS[domain].chain
    values: dict[str, Any] = {
        "stream.domain": domain,
        "stream.num_steps": 1_000_000 * len(chain),
        "stream.change_every": 1_000_000,
    }
    return Preset(
        values=values,
        description=f"{' - '.join(chain)}, a million steps each; C-CHAIN",
        minutes=minutes,
    )


BENCHMARKS = (
    Benchmark(
        description="DeepMind Control Suite: one body, whose task changes (C-CHAIN); PPO",
        config=ControlRunConfig(
            benchmark="dmc-chain",
            stream=DMCChainConfig(
                domain="walker", num_steps=600_000, change_every=200_000, num_envs=1
            ),
            agent=C_CHAIN,
            tracking=ControlTracking(measure_every=20_480),
        ),
        methods=("none", "weight-decay", "syre"),
        presets={
            "preset": Presets(
                help="Body and length: small, a walker with a fifth of the published steps, or the published"
                " chain of walker, quadruped or dog.",
                default="small",
                groups={"small": Preset(values={})}
                | {domain: _published(domain) for domain in DOMAINS},
            )
        },
    ),
)
"""Benchmarks of this family."""
