"""Benchmarks of walkers on ground whose friction changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from plasticity.agents.ppo.config import PRESETS, PPOConfig
from plasticity.scripts.config.benchmark import Benchmark, Preset, Presets
from plasticity.scripts.config.run_config import ControlRunConfig
from plasticity.tasks import SCHEDULES
from plasticity.tasks.control.ant.config import SlipperyAntConfig
from plasticity.tasks.control.humanoid.config import SlipperyHumanoidConfig
from plasticity.tasks.control.slippery.config import SlipperyConfig

_ANT_PRESETS = {
    "preset": Presets(
        help="Steps between two changes of friction: "
        + ", ".join(f"{name} {steps:,}" for name, steps in SCHEDULES.items())
        + ". It sets --change-every and nothing else.",
        default="small",
        groups={
            name: Preset(values={"stream.change_every": steps}) for name, steps in SCHEDULES.items()
        },
    ),
    "agent": Presets(
        help="Published settings of PPO, as the defaults of the options below: standard, or non-stationary"
        " (Adam's betas 0.99 and 0.99).",
        default="standard",
        groups={name: Preset(values={"agent": agent}) for name, agent in PRESETS.items()},
    ),
}

_CHANGE_EVERY = SCHEDULES[_ANT_PRESETS["preset"].default]


def _ant(
    name: str, description: str, engine: str, num_envs: int = 8, minutes: float | None = None
) -> Benchmark:
    stream = SlipperyAntConfig(
        engine=engine, num_steps=2_000_000, change_every=_CHANGE_EVERY, num_envs=num_envs
    )
    agent = PRESETS[_ANT_PRESETS["agent"].default]
    # Bullet's ant was searched with one seed, over 1e-4, 1e-3 and 1e-2; the other ants and l2-init were not.
    return _slippery(name, description, stream, agent, _ANT_PRESETS, minutes)


def _humanoid(
    name: str, description: str, engine: str, num_envs: int = 8, minutes: float | None = None
) -> Benchmark:
    stream = SlipperyHumanoidConfig(
        engine=engine, num_steps=2_000_000, change_every=_CHANGE_EVERY, num_envs=num_envs
    )
    # Inertias and forces in the observation are up to a thousand times its angles.
    agent = replace(PRESETS["standard"], normalize_observations=True)
    return _slippery(name, description, stream, agent, {"preset": _ANT_PRESETS["preset"]}, minutes)


def _slippery(
    name: str,
    description: str,
    stream: SlipperyConfig,
    agent: PPOConfig,
    presets: Mapping[str, Presets],
    minutes: float | None,
) -> Benchmark:
    return Benchmark(
        description=description,
        config=ControlRunConfig(benchmark=name, stream=stream, agent=agent),
        methods=("none", "weight-decay", "syre"),
        tuned_as="slippery-ant",
        presets=presets,
        minutes=minutes,
    )


_WARP_ENVS = 32
"""Environments on a device: 64 could not share the 100,000 steps of the small schedule evenly."""

BENCHMARKS = (
    _ant(
        "slippery-ant",
        "PyBullet's ant, whose ground friction changes (syre, Fig. 6); PPO",
        "bullet",
        minutes=26.0,
    ),
    _ant(
        "slippery-ant-mujoco",
        "MuJoCo's ant on the CPU; schedule and agent of slippery-ant",
        "mujoco",
        minutes=21.0,
    ),
    _ant(
        "slippery-ant-warp",
        "MuJoCo's ants on the GPU, many runs at once; otherwise as slippery-ant-mujoco",
        "warp",
        num_envs=_WARP_ENVS,
    ),
    _humanoid(
        "slippery-humanoid",
        "MuJoCo's humanoid on the CPU, whose ground friction changes; PPO",
        "mujoco",
        minutes=29.0,
    ),
    _humanoid(
        "slippery-humanoid-warp",
        "MuJoCo's humanoids on the GPU, many runs at once; otherwise as slippery-humanoid",
        "warp",
        num_envs=_WARP_ENVS,
    ),
)
"""Benchmarks of this family."""
