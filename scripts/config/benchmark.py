"""A benchmark: which stream meets which agent, with which settings by default."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from plasticity.agents.networks import NETWORKS
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.sb3 import ALGORITHMS, SB3Config, SB3PPOConfig
from plasticity.checks import require_known
from plasticity.mitigations import MITIGATIONS, Mitigation
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.config.run_config import ControlRunConfig, RunConfig, SupervisedRunConfig


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Named group of values of a benchmark's settings, such as those of a paper."""

    values: Mapping[str, Any]
    """Values by path, such as "agent.learning_rate"."""

    mitigations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings that mitigations have with it, instead of those of the benchmark, by name."""

    description: str = ""
    """One line for `plasticity list`: what it is, and its paper. Empty: it is not listed."""

    minutes: float | None = None
    """Time that a run of the plain optimizer takes on one core, in minutes. None: that of the benchmark."""


@dataclass(frozen=True, kw_only=True)
class Presets:
    """Named groups of values that an option chooses between."""

    help: str
    """Description of the option."""

    default: str
    """Name that is chosen by default."""

    groups: Mapping[str, Preset]
    """The groups by name."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A stream, an agent, and the settings that they are run with by default."""

    description: str
    """One line for `plasticity list`, with its paper."""

    config: RunConfig
    """Configuration of its runs; the method and the seed are filled in later."""

    methods: tuple[str, ...] = ("none", "weight-decay", "syre")
    """Methods of a run, by default."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of a run, by default."""

    tuned_as: str | None = None
    """Benchmark whose tuned settings count for mitigations that were not searched on this one. None: each
    mitigation has its own defaults."""

    published: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings of mitigations that were published for it, by name; they come before those of a search."""

    presets: Mapping[str, Presets] = field(default_factory=dict)
    """Options of its own that choose between named groups of values, by name."""

    minutes: float | None = None
    """Time that a run of the plain optimizer takes on one core, in minutes. None: not measured.

    The times of a task, or of some thousand steps, with one thread, on a core of an AMD EPYC without a GPU,
    times the number of them: processor time, or that of the fastest tasks where other programs ran."""

    @property
    def all_presets(self) -> dict[str, Presets]:
        """Options that choose between named groups of values, those of network and agent included."""
        return {
            **self.presets,
            **architecture_presets(self.config),
            **agent_presets(self.config, self.presets.get("agent")),
        }

    def with_presets(self, chosen: Mapping[str, str]) -> Benchmark:
        """Return the benchmark with the values of chosen presets.

        Args:
            chosen: Name of the chosen group, by option.

        Raises:
            ValueError: if it has no such option, or the option no such group.
        """
        found = self
        # an architecture's or agent's own settings begin with those of the presets before it
        for option in sorted(chosen, key=lambda each: each in ("architecture", "agent")):
            found = found._with_preset(option, chosen[option])
        return found

    def _with_preset(self, option: str, name: str) -> Benchmark:
        presets = self.all_presets
        if option not in presets:
            raise ValueError(
                f"--{option} {name} means nothing to {self.config.benchmark}: leave it out."
            )
        require_known(option, name, presets[option].groups)
        group = presets[option].groups[name]
        return replace(
            self,
            config=with_values(self.config, group.values),
            published={**self.published, **group.mitigations},
            presets={
                other: replace(each, default=name) if other == option else each
                for other, each in self.presets.items()
            },
        )

    def mitigation(self, name: str) -> Mitigation:
        """Return a mitigation with its published or tuned settings; its own defaults where there are none.

        Raises:
            ValueError: if the name is unknown.
        """
        require_known("method", name, MITIGATIONS)
        tuned = tuned_settings()
        found = [self.published.get(name)]
        found += [
            tuned.get(each, {}).get(name) for each in (self.config.benchmark, self.tuned_as) if each
        ]
        return MITIGATIONS[name](**next((each for each in found if each is not None), {}))


TUNED_SETTINGS = Path(__file__).with_name("tuned_settings.json")
"""File of the best settings of the recorded searches, which `plasticity tune` writes."""


@cache
def tuned_settings() -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    """Return the best settings of the recorded searches, by benchmark and mitigation."""
    found: dict[str, dict[str, dict[str, Any]]] = json.loads(TUNED_SETTINGS.read_text())
    return found


def architecture_presets(config: RunConfig) -> dict[str, Presets]:
    """Return the option that chooses the network's architecture; none for runs without such a network.

    Another architecture than that of the configuration begins with its own defaults.
    """
    if not isinstance(config, SupervisedRunConfig):
        return {}
    own = config.network
    networks = {
        name: own if name == own.architecture else kind() for name, kind in NETWORKS.items()
    }
    presets = Presets(
        help="Architecture of the network; each has options of its own.",
        default=own.architecture,
        groups={name: Preset(values={"network": each}) for name, each in networks.items()},
    )
    return {"architecture": presets}


def agent_presets(config: RunConfig, own: Presets | None = None) -> dict[str, Presets]:
    """Return the option that chooses the agent of a control benchmark; none for other benchmarks.

    An algorithm of Stable-Baselines3 begins with that package's defaults. Those with a replay buffer learn
    in one environment, for which these are meant; PPO has the rollouts of the benchmark.

    Args:
        config: Configuration of the runs.
        own: Groups of settings of our PPO that the benchmark has already; None: it has one, "ppo".
    """
    if not isinstance(config, ControlRunConfig):
        return {}
    groups = {"ppo": Preset(values={})} if own is None else dict(own.groups)
    default = "ppo" if own is None else own.default
    if isinstance(config.agent, SB3Config):
        default = config.agent.algorithm
    groups |= {name: _algorithm_preset(name, config) for name in ALGORITHMS}
    text = "Agent: our PPO (ppo)" if own is None else own.help.rstrip(".")
    presets = Presets(
        help=f"{text}; or an algorithm of Stable-Baselines3 or sb3-contrib (sb3:…), with that package's"
        " defaults. Each has options of its own, which --help shows after --agent.",
        default=default,
        groups=groups,
    )
    return {"agent": presets}


def _algorithm_preset(name: str, config: ControlRunConfig) -> Preset:
    kind = ALGORITHMS[name]
    if not issubclass(kind, SB3PPOConfig):
        return Preset(values={"agent": kind(), "stream.num_envs": 1})
    own = config.agent
    chosen = kind()
    if isinstance(own, PPOConfig):
        chosen = replace(chosen, rollout_steps=own.rollout_steps)
    return Preset(values={"agent": chosen})
