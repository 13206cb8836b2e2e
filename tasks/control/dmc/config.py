"""Chains of the DeepMind Control Suite as a family of environments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from plasticity.tasks.control.base import EnvironmentConfig, View
from plasticity.tasks.control.dmc.chains import DOMAINS, ChainStream, checked_chain
from plasticity.tasks.control.dmc.environment import DMCChainEnv


@dataclass(frozen=True, kw_only=True)
class DMCChainConfig(EnvironmentConfig):
    """Settings of one domain of the DeepMind Control Suite whose task changes (Tang et al., C-CHAIN, 2025).

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, a name is unknown, or the environments cannot share the
            interval evenly.
    """

    domain: str
    """Body: walker, quadruped or dog."""

    chain: tuple[str, ...] = ()
    """Tasks in turn, by their names in the suite; after the last one, the chain begins anew. Empty: the
    published chain."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_chain(self.domain, self.chain)

    def make_stream(self, num_tasks: int, seed: int) -> ChainStream:
        """Return the stream of tasks."""
        return ChainStream(num_tasks, seed, self.domain, self.chain)

    def make_env(self, values: Mapping[str, float] | None = None, **arguments: Any) -> DMCChainEnv:
        """Make one environment."""
        return DMCChainEnv(self.domain, self.chain, **{**(values or {}), **arguments})

    @property
    def view(self) -> View:
        """Properties that `plasticity video` needs: about 20 pictures per second."""
        seconds = DOMAINS[self.domain].step_seconds
        return View(seconds, max(1, round(0.05 / seconds)), "diverged")
