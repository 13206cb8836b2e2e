"""Environments of runs, and the parts of their state that belong to each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plasticity.agents.ppo.environments import Environments, environment_seeds
from plasticity.agents.ppo.host_environments import HostEnvironments
from plasticity.agents.sb3 import SB3Config
from plasticity.containers import mapped
from plasticity.scripts.config.run_config import ControlRunConfig
from plasticity.seeds import child_seed


def make_environments(configs: Sequence[ControlRunConfig]) -> Environments:
    """Return the environments of some runs, run after run.

    Each run's draw the same numbers as if it were alone.

    Args:
        configs: Configurations, equal except for methods and seeds.

    Raises:
        ModuleNotFoundError: if a package that they need is not installed.
        torch.cuda.OutOfMemoryError: if they do not fit into the memory of their device.
    """
    stream = configs[0].stream
    # the algorithms of Stable-Baselines3 keep observations on the host, wherever their networks are
    device = "cpu" if isinstance(configs[0].agent, SB3Config) else configs[0].device
    resets = [seed for run in configs for seed in environment_seeds(run.seed, stream.num_envs)]
    tasks = [child_seed(run.seed, "stream") for run in configs for _ in range(stream.num_envs)]
    if stream.on_device:
        made: Environments = stream.make_on_device(resets, tasks, device)
        return made
    return HostEnvironments(stream.make_vector(tasks), resets, device)


def part(state: Mapping[str, Any], run: int, num_envs: int) -> dict[str, Any]:
    """Return the state of one run's environments, from that of all.

    Args:
        state: State whose entries have one element for each environment.
        run: Index of the run.
        num_envs: Number of environments of each run.
    """
    own = slice(run * num_envs, (run + 1) * num_envs)
    return {
        name: value[own].clone() if isinstance(value, Tensor) else value[own]
        for name, value in state.items()
    }


def joined(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the state of all environments, from those of each run's, as their `state_dict` gave it."""
    found: dict[str, Any] = {}
    for name in states[0]:
        values = [each[name] for each in states]
        if isinstance(values[0], Tensor):
            found[name] = torch.cat(values)
        else:
            found[name] = [_with_arrays(entry) for value in values for entry in value]
    return found


def with_tensors(state: Any) -> Any:
    """Return a copy with tensors for arrays, which `torch.load` reads with `weights_only=True`."""
    return mapped(
        lambda leaf: torch.from_numpy(leaf) if isinstance(leaf, np.ndarray) else leaf, state
    )


def _with_arrays(state: Any) -> Any:
    """Return a copy with the arrays that `with_tensors` replaced."""
    return mapped(lambda leaf: leaf.numpy() if isinstance(leaf, Tensor) else leaf, state)
