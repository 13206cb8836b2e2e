"""Models of Stable-Baselines3, made from the settings of a run."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import NormalActionNoise
from torch import nn

from plasticity.agents.ppo.environments import Environments
from plasticity.agents.ppo.host_environments import HostEnvironments
from plasticity.agents.sb3.config import ALGORITHMS, SB3Config
from plasticity.agents.sb3.continuous import TD3Config
from plasticity.agents.sb3.environments import SB3Environments
from plasticity.mitigations import Mitigation
from plasticity.mitigations.method import regularizer_settings
from plasticity.mitigations.stacked_settings import acts_on_steps, overrides
from plasticity.sb3.policies import policy_kwargs
from plasticity.seeds import child_seed

__all__ = ["Method", "make_model", "require_fitting_spaces"]

MODULES: Mapping[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "leaky-relu": nn.LeakyReLU,
    "leaky-relu-0.1": partial(nn.LeakyReLU, 0.1),
    "elu": nn.ELU,
    "silu": nn.SiLU,
}
"""Activations as modules, by their name in a configuration."""


@dataclass(frozen=True)
class Method:
    """Mitigations of a method, by how they reach a model."""

    decays: tuple[Mitigation, ...]
    """Mitigations that are part of the optimizer, which `policy_kwargs` regularizes."""

    acting: tuple[Mitigation, ...]
    """Mitigations that act on the weights before and while they learn, by `MitigationCallback`."""

    @classmethod
    def of(cls, mitigations: Sequence[Mitigation]) -> Method:
        """Divide the mitigations of a method, each part in its order."""
        decays = [each for each in mitigations if _is_decay(each)]
        return cls(tuple(decays), tuple(each for each in mitigations if each not in decays))


def _is_decay(mitigation: Mitigation) -> bool:
    return overrides(mitigation, "optimizer") and not acts_on_steps(mitigation)


def make_model(
    config: SB3Config,
    envs: SB3Environments,
    decays: Sequence[Mitigation],
    *,
    seed: int,
    device: str | torch.device,
) -> BaseAlgorithm:
    """Return a new model, which seeds the global random generators of the process.

    Args:
        config: Settings of the algorithm.
        envs: Environments that it learns in.
        decays: Mitigations that regularize its networks.
        seed: Seed of the run, of which the model has a named child seed.
        device: Device of its networks.

    Raises:
        ModuleNotFoundError: if the algorithm is sb3-contrib's, which is not installed.
        ValueError: if a setting and the environments do not fit together.
    """
    kind = algorithm_class(config)
    arguments = config.arguments(envs.num_envs)
    if isinstance(config, TD3Config) and config.exploration_noise > 0:
        size = envs.envs.action_size
        arguments["action_noise"] = NormalActionNoise(
            np.zeros(size), np.full(size, config.exploration_noise)
        )
    return kind(
        "MlpPolicy",
        envs,
        policy_kwargs=_policy_arguments(config, kind, decays, seed),
        seed=child_seed(seed, "stable-baselines3") >> 32,  # NumPy's seed has at most 32 bits
        device=device,
        **arguments,
    )


def _policy_arguments(
    config: SB3Config, kind: type[BaseAlgorithm], decays: Sequence[Mitigation], seed: int
) -> dict[str, Any]:
    own = {**config.policy_arguments(), "activation_fn": MODULES[config.activation]}
    settings = regularizer_settings(decays, child_seed(seed, "anchor"))
    if settings.regularizer == "none":
        return own
    return policy_kwargs(
        kind, **asdict(settings), optimizer_kwargs=config.optimizer_arguments(), **own
    )


def algorithm_class(config: SB3Config) -> type[BaseAlgorithm]:
    """Return the class of an algorithm, which is imported only here.

    Raises:
        ModuleNotFoundError: if its package is not installed; the message says how to install it.
    """
    module, _, name = config.source.partition(":")
    try:
        return cast("type[BaseAlgorithm]", getattr(importlib.import_module(module), name))
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"--agent {config.algorithm} is an algorithm of sb3-contrib, which is not installed: pip install"
            ' "plasticity[sb3-contrib]".',
            name=error.name,
        ) from error


def require_fitting_spaces(config: SB3Config, envs: Environments, where: str) -> None:
    """Raise an error unless an algorithm can take the actions, and see the observations, of the environments.

    Args:
        config: Settings of the algorithm.
        envs: The environments.
        where: Name of the environments, for the message.

    Raises:
        ValueError: if it cannot take the actions, where the message names the algorithms that can; or if the
            observations are images, as its networks are dense.
    """
    if isinstance(envs, HostEnvironments) and envs.images is not None:
        raise ValueError(
            f"{config.algorithm} has dense networks, and the observations of {where} are images of"
            f" {' x '.join(map(str, envs.images.shape))}: give --agent ppo, whose networks have convolutions."
        )
    own = "discrete" if envs.discrete else "continuous"
    if config.actions not in (own, "any"):
        fitting = [n for n, each in ALGORITHMS.items() if each.actions in (own, "any")]
        raise ValueError(
            f"{config.algorithm} needs {config.actions} actions, and those of {where} are {own}: give"
            f" --agent {', '.join(fitting[:-1])} or {fitting[-1]}, or a benchmark with {config.actions}"
            " actions."
        )
    bounds = [each for each in (envs.action_low, envs.action_high) if each is not None]
    if not all(bool(each.isfinite().all()) for each in bounds):
        raise ValueError(
            f"{config.algorithm} needs actions with finite bounds, and those of {where} have none: wrap each"
            " environment in gymnasium.wrappers.RescaleAction."
        )
