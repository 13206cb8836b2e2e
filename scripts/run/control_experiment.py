"""Runs in changing environments: join the environments, the agent and the metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from plasticity.agents.ppo.agent import PPO, StackedPPO
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.environments import Environments
from plasticity.agents.sb3 import SB3Config
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.config.run_config import ControlRunConfig
from plasticity.scripts.run.atomic_files import RunError
from plasticity.scripts.run.control_environments import (
    joined,
    make_environments,
    part,
    with_tensors,
)
from plasticity.scripts.run.control_rows import ControlRows, has_all_rows
from plasticity.scripts.run.kernels import require_kernels
from plasticity.scripts.run.policy_metrics import PolicyMetrics
from plasticity.tasks.control.simulators import SimulationError

if TYPE_CHECKING:
    from plasticity.agents.sb3.agent import SB3Agent


class ControlExperiment:
    """Runs in environments of one family: each has a row when `ControlRows` decides that one is due.

    An `Experiment`, whose protocol describes the methods.

    Args:
        configs: Configurations of the runs; equal except for their methods and seeds.
        stacked: Whether the policies are stacked. Otherwise there is exactly one run.

    Raises:
        ModuleNotFoundError: if a package that the environments need is not installed.
    """

    def __init__(self, configs: Sequence[ControlRunConfig], *, stacked: bool) -> None:
        self.configs = configs
        self._envs = make_environments(configs)
        self._agent = _agent(configs, self._envs, stacked=stacked)
        self._metrics = PolicyMetrics(self._agent.policies, configs[0].tracking.metrics)
        self._rows = [ControlRows(each) for each in configs]
        self._num_steps = [0] * len(configs)
        # states of the environments by run, until all are there: they are loaded as one
        self._loaded: dict[int, dict[str, Any]] = {}

    @property
    def progress(self) -> float:
        """Steps made so far by each run, summed over its environments."""
        live = [run for run in range(len(self._rows)) if not self.has_diverged(run)]
        return float(self._num_steps[live[0] if live else 0])

    def is_finished(self, run: int) -> bool:
        """Return whether a run is complete."""
        return self._rows[run].finished

    def has_diverged(self, run: int) -> bool:
        """Return whether a run ended because a loss became NaN or infinite."""
        return self._rows[run].diverged

    def next_rows(self, should_stop: Callable[[], bool]) -> dict[int, dict[str, Any]]:
        """Collect rollouts and learn until the next row of any run is due.

        Args:
            should_stop: Called before every rollout.

        Returns:
            Rows by run; none if stopped before one was due.

        Raises:
            RunError: if the simulator ran out of space, so that its numbers must not be used.
        """
        self._load_environments()
        while not should_stop():
            rows = self._iterate()
            if rows:
                self._measure(rows)
                return rows
        return {}

    def _iterate(self) -> dict[int, dict[str, Any]]:
        """Run one iteration, and return the rows that are due, without metrics."""
        rows: dict[int, dict[str, Any]] = {}
        try:
            iterations = self._agent.iterate_all()
        except SimulationError as error:
            raise RunError(f"{error} The latest checkpoint is intact.") from error
        for run, iteration in enumerate(iterations):
            if self.has_diverged(run):
                continue
            self._num_steps[run] = iteration.num_steps
            row = self._rows[run].take(iteration)
            if row is not None:
                rows[run] = row
        return rows

    def _measure(self, rows: Mapping[int, dict[str, Any]]) -> None:
        """Add the metrics to these rows."""
        sound = [run for run in rows if not self.has_diverged(run)]
        # only of the runs that have a row: those of others belong to their next one
        for row, counts in zip(
            rows.values(), self._agent.policies.take_counts([*rows]), strict=True
        ):
            row.update(counts)
        for run, numbers in self._metrics.take(self._agent.observations, sound).items():
            rows[run].update(numbers)

    def take_episodes(self, run: int) -> list[dict[str, Any]]:
        """Return the episodes of a run that ended since the last call, in the order of their ends."""
        return self._rows[run].take_episodes()

    def state_dicts(self, runs: Sequence[int]) -> list[dict[str, Any]]:
        """Return the states of these runs."""
        self._load_environments()
        environments = with_tensors(self._envs.state_dict())
        num_envs = self.configs[0].stream.num_envs
        return [
            {
                "agent": self._agent.state_dict(run),
                "environments": part(environments, run, num_envs),
                "tracker": self._metrics.state_dict(run),
                **self._rows[run].state_dict(),
            }
            for run in runs
        ]

    def load_state_dict(self, run: int, state: dict[str, Any]) -> None:
        """Continue a run from its state; in the end, all runs must have the same progress."""
        self._agent.load_state_dict(state["agent"], run)
        self._num_steps[run] = state["agent"]["num_steps"]
        if state["agent"]["started"]:
            self._loaded[run] = state["environments"]
        self._metrics.load_state_dict(state["tracker"], run)
        self._rows[run].load_state_dict(state)

    def _load_environments(self) -> None:
        if self._loaded:
            states = [self._loaded[run] for run in range(len(self.configs))]
            self._envs.load_state_dict(joined(states))
            self._loaded.clear()

    def rehearse(self) -> None:
        """Collect one rollout, learn from it, and measure."""
        self._iterate()
        self._measure({run: {} for run in range(len(self._rows))})

    def close(self) -> None:
        """Stop the processes of agent and environments, or close the simulator."""
        self._agent.close()
        self._envs.close()

    # ---- without an experiment ---------------------------------------------------------------------

    @staticmethod
    def progress_of(state: dict[str, Any]) -> float:
        """Return the steps of a run with this saved state."""
        return float(state["agent"]["num_steps"])

    @staticmethod
    def is_finished_at(state: dict[str, Any], config: ControlRunConfig) -> bool:
        """Return whether a run with this saved state has all its rows."""
        return has_all_rows(state, config)

    @staticmethod
    def can_stack(config: ControlRunConfig) -> bool:
        """Return whether a run can be stacked: those can whose environments step at once on a device."""
        return config.stream.on_device

    @staticmethod
    def can_be_alone(config: ControlRunConfig) -> bool:
        """Return whether a run has an ordinary backend: all have but those that can be stacked."""
        return not config.stream.on_device

    @staticmethod
    def require_runnable(configs: Sequence[ControlRunConfig]) -> None:
        """Raise an error if a package is not installed, or a kernel cannot run."""
        require_kernels(each for each in configs if isinstance(each.agent, PPOConfig))
        for config in configs:
            kernel = config.agent.kernel if isinstance(config.agent, PPOConfig) else "eager"
            if config.stream.on_device and kernel != "eager":
                raise ValueError(
                    f"--kernel {kernel} is the step of an ordinary optimizer, and runs of"
                    f" {config.benchmark} are stacked, with a step of their own: leave it out."
                )
        for stream in {each.stream for each in configs}:
            try:
                stream.require_installed()
            except ModuleNotFoundError as error:
                raise RunError(str(error)) from error
        for config in configs:
            if isinstance(config.agent, SB3Config):
                _require_algorithm(config, config.agent)

    @staticmethod
    def modules(config: ControlRunConfig) -> Sequence[str]:
        """Return the modules that a run imports late."""
        return [_SB3_MODULE] if isinstance(config.agent, SB3Config) else []


_SB3_MODULE = "plasticity.agents.sb3.agent"
"""Module of the agents of Stable-Baselines3, which takes seconds to import."""


def _agent(
    configs: Sequence[ControlRunConfig], envs: Environments, *, stacked: bool
) -> PPO | StackedPPO | SB3Agent:
    config, settings = configs[0], configs[0].agent
    if isinstance(settings, SB3Config):
        return _sb3_agent(config, settings, envs)
    if not stacked:
        return PPO(
            envs,
            settings,
            config.method,
            config.method_of_critic,
            seed=config.seed,
            device=config.device,
            update_threads=_update_threads(config, settings),
        )
    return StackedPPO(
        envs,
        settings,
        [each.method for each in configs],
        [each.method_of_critic for each in configs],
        seeds=[each.seed for each in configs],
        device=config.device,
    )


def _sb3_agent(config: ControlRunConfig, settings: SB3Config, envs: Environments) -> SB3Agent:
    from plasticity.agents.sb3.agent import SB3Agent  # noqa: PLC0415  (Stable-Baselines3 takes seconds)

    return SB3Agent(
        envs,
        settings,
        config.method,
        seed=config.seed,
        device=config.device,
        stop_every=config.tracking.measure_every,
        name=config.benchmark,
    )


def _require_algorithm(config: ControlRunConfig, settings: SB3Config) -> None:
    """Raise an error if a run's algorithm is not installed, or does not fit the environments."""
    from plasticity.agents.sb3.model import algorithm_class, require_fitting_spaces  # noqa: PLC0415

    try:
        algorithm_class(settings)
    except ModuleNotFoundError as error:
        raise RunError(str(error)) from error
    envs = make_environments([with_values(config, {"stream.cores": 1})])
    try:
        require_fitting_spaces(settings, envs, config.benchmark)
    finally:
        envs.close()


def _update_threads(config: ControlRunConfig, settings: PPOConfig) -> int:
    """Return 2 if actor and critic learn on two cores; 1 where they wait for each other, or on a device."""
    limits = (settings.max_gradient_norm, settings.target_kl)
    apart = config.device == "cpu" and all(limit is None for limit in limits)
    return min(config.stream.num_cores, 2) if apart else 1
