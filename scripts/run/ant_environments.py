"""Ants of Slippery-Ant runs, and the parts of their state that belong to each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plasticity.agents.ppo.environments import Environments, environment_seeds
from plasticity.agents.ppo.host_environments import HostEnvironments
from plasticity.scripts.config.run_config import ControlRunConfig
from plasticity.scripts.run.atomic_files import RunError
from plasticity.seeds import child_seed
from plasticity.tasks.control.ant.engines import (
    DEVICE_ENGINES,
    share_of_environment,
    slippery_ant_vector,
)


def make_environments(configs: Sequence[ControlRunConfig]) -> Environments:
    """Return the ants of some runs, run after run; each run's draw the same numbers as if it were alone.

    Args:
        configs: Configurations, equal except for methods and seeds; only one for the engines of a CPU.

    Raises:
        ImportError: if the physics engine is not installed.
        torch.cuda.OutOfMemoryError: if they do not fit into the memory, for Warp as well as for torch.
    """
    if configs[0].stream.engine in DEVICE_ENGINES:
        return _warp_ants(configs)
    (config,) = configs
    stream = config.stream
    envs = slippery_ant_vector(
        stream.num_envs,
        num_workers=stream.num_cores if stream.num_cores > 1 else 0,
        engine=stream.engine,
        task_seed=child_seed(config.seed, "stream"),
        change_every=stream.change_every,
        copy=False,
    )
    return HostEnvironments(envs, environment_seeds(config.seed, stream.num_envs), config.device)


def _warp_ants(configs: Sequence[ControlRunConfig]) -> Environments:
    from plasticity.tasks.control.ant.warp import SlipperyAntWarp  # noqa: PLC0415  (a GPU's engine)

    class Ants(SlipperyAntWarp):
        """Ants whose errors are a `RunError`."""

        def check(self) -> None:
            try:
                super().check()
            except RuntimeError as error:
                raise RunError(f"{error} The latest checkpoint is intact.") from error

    config, each = configs[0], configs[0].stream.num_envs
    streams = [child_seed(run.seed, "stream") for run in configs]
    try:
        return Ants(
            len(configs) * each,
            reset_seeds=[seed for run in configs for seed in environment_seeds(run.seed, each)],
            task_seeds=[seed for seed in streams for _ in range(each)],
            change_every=share_of_environment(config.stream.change_every, each),
            device=config.device,
        )
    except RuntimeError as error:
        if "Failed to allocate" in str(error):  # Warp has no class of errors for it
            raise torch.cuda.OutOfMemoryError(str(error)) from error
        raise


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
    """Return the state of all environments, from those of each run's."""
    found: dict[str, Any] = {}
    for name in states[0]:
        values = [each[name] for each in states]
        if isinstance(values[0], Tensor):
            found[name] = torch.cat(values)
        else:
            found[name] = [entry for value in values for entry in value]
    return found


def with_tensors(state: Any) -> Any:
    """Return a copy with tensors for arrays, which `torch.load` reads with `weights_only=True`."""
    if isinstance(state, Mapping):
        return {name: with_tensors(value) for name, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [with_tensors(value) for value in state]
    return torch.from_numpy(state) if isinstance(state, np.ndarray) else state
