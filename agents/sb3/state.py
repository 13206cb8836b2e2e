"""State of a model of Stable-Baselines3 as tensors and plain values, which `torch.load` reads safely.

A zip file that Stable-Baselines3 saves has neither the replay buffer nor the generators, and pickles in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from torch import Tensor

from plasticity.containers import mapped

__all__ = ["load_model_state", "model_state"]

_COUNTERS = (
    "num_timesteps",
    "_episode_num",
    "_n_updates",
    "_n_calls",  # DQN's, by which it updates its target network
    "exploration_rate",
    "_current_progress_remaining",
)
"""Attributes with numbers that later steps depend on; no algorithm has all."""

_STORED = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
"""Arrays of a replay buffer. Shape of each: (steps, num_envs, …)."""


def model_state(model: BaseAlgorithm) -> dict[str, Any]:
    """Return everything that the next steps of a model depend on, but for global generators.

    Args:
        model: A model that has begun to learn.
    """
    names, variables = model._get_torch_save_params()
    buffer = getattr(model, "replay_buffer", None)
    state = {
        "policy": model.policy.state_dict(),
        "optimizers": {n: attrgetter(n)(model).state_dict() for n in names if n != "policy"},
        "variables": {name: attrgetter(name)(model) for name in variables},
        "counters": {name: getattr(model, name) for name in _COUNTERS if hasattr(model, name)},
        "last_observations": torch.as_tensor(model._last_obs),
        "last_episode_starts": torch.as_tensor(model._last_episode_starts),
        "action_generator": model.action_space.np_random.bit_generator.state,
        "replay_buffer": None if buffer is None else _buffer_state(buffer),
    }
    copied: dict[str, Any] = mapped(_copied, state)
    return copied


def load_model_state(model: BaseAlgorithm, state: Mapping[str, Any]) -> None:
    """Let a new model continue from a `model_state`, which may be of another device.

    Raises:
        ValueError: if the replay buffer has another size or number of environments.
    """
    if state["replay_buffer"] is not None:
        _load_buffer(model.replay_buffer, state["replay_buffer"])  # type: ignore[attr-defined]
    model.policy.load_state_dict(state["policy"])
    for name, optimizer in state["optimizers"].items():
        attrgetter(name)(model).load_state_dict(optimizer)
    for name, value in state["variables"].items():
        attrgetter(name)(model).data.copy_(value)
    for name, number in state["counters"].items():
        setattr(model, name, number)
    model._last_obs = state["last_observations"].cpu().numpy()
    model._last_episode_starts = state["last_episode_starts"].cpu().numpy()
    model.action_space.np_random.bit_generator.state = state["action_generator"]


def _copied(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.detach().clone()
    return leaf.item() if isinstance(leaf, np.generic) else leaf


def _buffer_state(buffer: ReplayBuffer) -> dict[str, Any]:
    """Return what a replay buffer holds, without its empty part."""
    filled = buffer.buffer_size if buffer.full else buffer.pos
    return {
        **{name: torch.from_numpy(getattr(buffer, name)[:filled]) for name in _STORED},
        "position": buffer.pos,
        "capacity": buffer.buffer_size,
    }


def _load_buffer(buffer: ReplayBuffer, state: Mapping[str, Any]) -> None:
    saved = state["capacity"], *state["rewards"].shape[1:]
    if saved != (buffer.buffer_size, buffer.n_envs):
        raise ValueError(
            f"The state has a replay buffer for {saved[0]} steps of {saved[1]} environments, but here it is"
            f" for {buffer.buffer_size} of {buffer.n_envs}: continue with the same buffer_size and num_envs."
        )
    filled = len(state["rewards"])
    for name in _STORED:
        getattr(buffer, name)[:filled] = state[name].cpu().numpy()
    buffer.pos, buffer.full = state["position"], filled == buffer.buffer_size
