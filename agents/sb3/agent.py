"""Agent that lets an algorithm of Stable-Baselines3 learn in the environments of a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch.nn.utils import get_total_norm

from plasticity.agents.ppo.base_agent import Iteration
from plasticity.agents.ppo.environments import Environments
from plasticity.agents.ppo.episodes import RunningEpisodes
from plasticity.agents.sb3.config import SB3Config
from plasticity.agents.sb3.environments import SB3Environments
from plasticity.agents.sb3.model import Method, make_model, require_fitting_spaces
from plasticity.agents.sb3.off_policy import DQNConfig
from plasticity.agents.sb3.policies import SB3Policies
from plasticity.agents.sb3.state import load_model_state, model_state
from plasticity.containers import mapped
from plasticity.mitigations import Mitigation, SeededMethod
from plasticity.random_state import random_state, set_random_state
from plasticity.sb3.mitigations import STATE, MitigationCallback
from plasticity.seeds import child_seed

__all__ = ["SB3Agent"]

MAX_ROUNDS = 64
"""Rounds of collecting and updating in one iteration of an algorithm with a replay buffer, at most."""

_LOGGED = {
    "train/policy_gradient_loss": "policy_loss",
    "train/actor_loss": "policy_loss",
    "train/critic_loss": "value_loss",
    "train/value_loss": "value_loss",
    "train/clip_fraction": "clip_fraction",
    "train/approx_kl": "approximate_kl",
    "train/explained_variance": "explained_variance",
    "train/ent_coef": "entropy_coefficient",
    "rollout/exploration_rate": "exploration_rate",
}
"""Names of our statistics, by those in Stable-Baselines3's log."""


class SB3Agent:
    """One agent that learns by an algorithm of Stable-Baselines3, with the interface of `PPO`.

    The algorithm is Stable-Baselines3's own, its `collect_rollouts` and `train`; here are the environments,
    the mitigations, the numbers of a row, and the state. An iteration is a rollout and its update, or, with a
    replay buffer, some rounds of both: it ends at multiples of `stop_every`, and as soon as an environment
    begins a new task. What is learned does not depend on where iterations end.

    Stable-Baselines3 draws from the global random generators of the process. The agent's states of these are
    its own: they are put in place while it works, and the process gets its own back.

    Args:
        envs: Environments of the agent, on the CPU; they have seeds of their own.
        config: Settings of the algorithm.
        method: Mitigations of all its trained networks. Decays are part of the optimizers; the others act as
            `plasticity.sb3.MitigationCallback` says.
        seed: Seed of the initial weights, of what the algorithm draws, of anchors and of mitigations, each
            by a child seed.
        device: Device of the networks.
        stop_every: Environment steps at whose multiples an iteration ends. None: at none.
        name: Name of the environments, for messages.

    Raises:
        ModuleNotFoundError: if the algorithm is sb3-contrib's, which is not installed.
        ValueError: if the algorithm cannot take the actions of the environments, their observations are
            images, or a setting does not fit their number.
    """

    def __init__(
        self,
        envs: Environments,
        config: SB3Config,
        method: Sequence[Mitigation] = (),
        *,
        seed: int,
        device: str | torch.device = "cpu",
        stop_every: int | None = None,
        name: str = "these environments",
    ) -> None:
        require_fitting_spaces(config, envs, name)
        SeededMethod(tuple(method))  # refuses what cannot be combined
        self.config, self._stop_every = config, stop_every
        self._device = torch.device(device)
        self._envs = SB3Environments(envs)
        self._episodes = RunningEpisodes(envs.num_envs)
        self._generators: dict[str, Any] | None = None
        parts = Method.of(method)
        own = child_seed(seed, "mitigations")
        self._callback = (
            MitigationCallback(*parts.acting, seed=own, task_key=None, verbose=0)
            if parts.acting
            else None
        )
        with self._own_generators():
            self.model = make_model(config, self._envs, parts.decays, seed=seed, device=device)
            """The model of Stable-Baselines3."""
            self.policies = SB3Policies(self.model, self._callback)
            """Actor and critic, as they are measured."""
        self._running: BaseCallback | None = None
        self._statistics: dict[str, float] = {}
        self._begins: int | None = None
        self._diverged = self._torn = False

    @property
    def num_steps(self) -> int:
        """Environment steps so far, summed over all environments."""
        return self.model.num_timesteps

    @property
    def observations(self) -> Any:
        """Inputs of the networks in the latest steps, as `SB3Policies.observations` describes them."""
        return self.policies.observations()

    # ---- learning -------------------------------------------------------------------------------

    def iterate_all(self) -> list[Iteration]:
        """Collect steps and learn from them.

        Returns:
            The iteration of the only agent.

        Raises:
            RuntimeError: if the agent diverged, or an earlier iteration was interrupted.
        """
        self._require_whole()
        if self._diverged:
            raise RuntimeError(
                f"The agent diverged before step {self.num_steps} (a loss or a weight is not finite): restart"
                " with a smaller learning rate."
            )
        before = self.num_steps
        self._torn = True  # until the end, unless Ctrl-C or an error prevents that
        with self._own_generators():
            self._begin()
            self._begin_task()
            task = self._envs.newest_task
            self._rounds(task)
        rewards, ended, tasks = self._envs.take_steps()
        (episodes,) = self._episodes.read(rewards, ended, tasks, [before])
        newest = self._episodes.newest_task()
        if newest is not None and 0 <= task < newest:
            self._begins = newest
        self._torn = False
        named = dict.fromkeys(self.config.statistics, math.nan) | self._statistics
        statistics = named | {"learning_rate": self.config.learning_rate}
        return [Iteration(self.num_steps, statistics, episodes, newest, self._diverged)]

    def _begin(self) -> None:
        """Prepare the model to learn: reset the environments, unless it continues, and attach mitigations."""
        if self._running is not None:
            return
        length = self.config.exploration_steps if isinstance(self.config, DQNConfig) else 1
        _, self._running = self.model._setup_learn(length, self._callback, False)
        self.model._total_timesteps = length  # the share of exploration_steps that is left decides
        self._running.on_training_start({}, {})

    def _rounds(self, task: int) -> None:
        """Collect and learn until the iteration ends."""
        if isinstance(self.model, OnPolicyAlgorithm):
            self._round()
            return
        for _ in range(MAX_ROUNDS):
            self._round()
            is_stop = self._stop_every is not None and self.num_steps % self._stop_every == 0
            if is_stop or self._diverged or self._envs.newest_task > task:
                return

    def _round(self) -> None:
        """Collect the steps of an update, and learn from them, as `learn` of the algorithms does."""
        try:
            self._collect_and_train()
        except ValueError:
            if self._has_finite_weights():
                raise
            self._diverged = True  # within an update, a distribution refused what is not finite
            return
        self._read_log()
        losses = [self._statistics.get(each, 0.0) for each in ("policy_loss", "value_loss")]
        self._diverged = not (all(map(math.isfinite, losses)) and self._has_finite_weights())

    def _collect_and_train(self) -> None:
        assert self._running is not None
        model = self.model
        if isinstance(model, OnPolicyAlgorithm):
            model.collect_rollouts(self._envs, self._running, model.rollout_buffer, model.n_steps)
            model.train()
            return
        model = cast("OffPolicyAlgorithm", model)
        buffer, frequency = model.replay_buffer, model.train_freq
        assert buffer is not None
        assert not isinstance(frequency, int | tuple) or hasattr(frequency, "unit")
        found = model.collect_rollouts(
            self._envs,
            self._running,
            train_freq=frequency,  # type: ignore[arg-type]
            replay_buffer=buffer,
            action_noise=model.action_noise,
            learning_starts=model.learning_starts,
        )
        if model.num_timesteps > model.learning_starts:
            steps = model.gradient_steps
            steps = steps if steps > 0 else found.episode_timesteps
            model.train(batch_size=model.batch_size, gradient_steps=steps)

    def _read_log(self) -> None:
        """Take the newest statistics from the model's log."""
        logged = self.model.logger.name_to_value
        found = {ours: logged[theirs] for theirs, ours in _LOGGED.items() if theirs in logged}
        if "train/entropy_loss" in logged:
            found["policy_entropy"] = -logged["train/entropy_loss"]
        if isinstance(self.config, DQNConfig) and "train/loss" in logged:
            found["value_loss"] = logged["train/loss"]
        self._statistics |= {name: float(value) for name, value in found.items()}

    def _has_finite_weights(self) -> bool:
        weights = [each.detach() for each in self.policies.parameters.values()]
        return math.isfinite(get_total_norm(weights).item())

    def _begin_task(self) -> None:
        """Let the mitigations act between two tasks, if they have yet to."""
        if self._begins is not None and self._callback is not None:
            self._callback.boundary(self._begins)
        self._begins = None

    def _require_whole(self) -> None:
        if self._torn:
            raise RuntimeError(
                "The agent was interrupted within an iteration, so that weights and optimizers may belong to"
                " different steps: make a new one, and load the last state with load_state_dict()."
            )

    @contextmanager
    def _own_generators(self) -> Iterator[None]:
        """Put the agent's states of the global generators in place, inside the block."""
        outside = random_state([self._device])
        if self._generators is not None:
            set_random_state(self._generators)
        try:
            yield
        finally:
            self._generators = random_state([self._device])
            set_random_state(outside)

    # ---- saving and loading ---------------------------------------------------------------------

    def state_dict(self, index: int = 0) -> dict[str, Any]:
        """Return everything that the next iteration depends on, except the state of the environments.

        It has the replay buffer, as far as it is filled. If a task has ended, the mitigations act first, as
        they otherwise do in the next iteration.

        Args:
            index: Index of the agent, of which there is one.

        Raises:
            RuntimeError: if an iteration was interrupted.
        """
        self._require_whole()
        started = self._running is not None
        if started and not self._diverged:
            with self._own_generators():
                self._begin_task()
        mitigations = None
        if self._callback is not None and started:
            attached = self._callback.attached.items()
            mitigations = {name: mapped(_detached, each.state_dict()) for name, each in attached}
        return {
            "algorithm": self.config.algorithm,
            "num_steps": self.num_steps,
            "started": started,
            "diverged": self._diverged,
            "generators": self._generators,
            "episodes": self._episodes.state_dict(),
            "statistics": dict(self._statistics),
            "gradients": self.policies.gradients.state_dict(self.policies.parameters),
            "mitigations": mitigations,
            **(model_state(self.model) if started else {"policy": {}}),
        }

    def load_state_dict(self, state: Mapping[str, Any], index: int = 0) -> None:
        """Let a new agent continue from a `state_dict`, saved on any device.

        Its environments must be restored to the state that they had at that time. To continue bit for bit,
        use the same device, the same number of torch threads, and the same versions of the packages.

        Raises:
            RuntimeError: if the agent has begun to learn.
            ValueError: if the state is of another algorithm, or has another replay buffer or number of
                environments.
        """
        if self._running is not None:
            raise RuntimeError("The agent has begun to learn: make a new SB3Agent to load a state.")
        if state.get("algorithm") != self.config.algorithm:
            raise ValueError(
                f"The state is one of {state.get('algorithm')!r}, and this agent is {self.config.algorithm}:"
                " continue with the same --agent."
            )
        self._episodes.load_state_dict(state["episodes"])
        self._generators = state["generators"]
        self._diverged = state["diverged"]
        if not state["started"]:
            return
        load_model_state(self.model, state)
        self._statistics = dict(state["statistics"])
        self.policies.gradients.load_state_dict(self.policies.parameters, state["gradients"])
        if state["mitigations"] is not None:
            setattr(self.model, STATE, state["mitigations"])

    def close(self) -> None:
        """Take the mitigations off the model. The environments stay open."""
        if self._running is not None:
            self._running.on_training_end()
        self.policies.gradients.detach()


def _detached(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, torch.Tensor) else leaf
