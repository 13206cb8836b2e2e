"""Ants of Slippery-Ant runs, and the parts of their state that belong to each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plasticity.agents.ppo.environments import Environments, environment_seeds
from plasticity.agents.ppo.host_environments import HostEnvironments
from plasticity.containers import mapped
from plasticity.scripts.config.run_config import ControlRunConfig
from plasticity.scripts.run.atomic_files import RunError
from plasticity.seeds import child_seed
from plasticity.tasks.control.ant.engines import DEVICE_ENGINES, ENGINES, share_of_environment
from plasticity.tasks.vector.environments import VectorEnvironments


def make_environments(configs: Sequence[ControlRunConfig]) -> Environments:
    """Return the ants of some runs, run after run; each run's draw the same numbers as if it were alone.

    Args:
        configs: Configurations, equal except for methods and seeds.

    Raises:
        ImportError: if the physics engine is not installed.
        torch.cuda.OutOfMemoryError: if they do not fit into the memory, for Warp as well as for torch.
    """
    stream, device = configs[0].stream, configs[0].device
    resets = [seed for run in configs for seed in environment_seeds(run.seed, stream.num_envs)]
    tasks = [child_seed(run.seed, "stream") for run in configs for _ in range(stream.num_envs)]
    change_every = share_of_environment(stream.change_every, stream.num_envs)
    if stream.engine in DEVICE_ENGINES:
        return _warp_ants(resets, tasks, change_every, device)
    ant = partial(ENGINES[stream.engine], change_every=change_every)
    envs = VectorEnvironments(
        [partial(ant, task_seed=seed) for seed in tasks],
        num_workers=stream.num_cores if stream.num_cores > 1 else 0,
        copy=False,
    )
    return HostEnvironments(envs, resets, device)


def _warp_ants(
    reset_seeds: Sequence[int], task_seeds: Sequence[int], change_every: int, device: str
) -> Environments:
    from plasticity.tasks.control.ant.warp import SlipperyAntWarp  # noqa: PLC0415  (a GPU's engine)

    class Ants(SlipperyAntWarp):
        """Ants whose errors are a `RunError`."""

        def check(self) -> None:
            try:
                super().check()
            except RuntimeError as error:
                raise RunError(f"{error} The latest checkpoint is intact.") from error

    try:
        return Ants(
            len(reset_seeds),
            reset_seeds=reset_seeds,
            task_seeds=task_seeds,
            change_every=change_every,
            device=device,
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
    return mapped(
        lambda leaf: torch.from_numpy(leaf) if isinstance(leaf, np.ndarray) else leaf, state
    )
