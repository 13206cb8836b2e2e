"""Algorithm of PPO over leading dimensions: none for one agent, (R,) for R stacked ones.

An iteration steps all environments through a rollout, evaluates the rollout and learns from it. While the
environments run, only the actor is called; values, log-probabilities and advantages are computed in batches
at the end. Where a device runs the update, the host works ahead of it, and reads the numbers of all agents
once, at the end of the iteration.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plasticity.agents.execution.single import part_of
from plasticity.agents.ppo.acting import Acting
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.draws import Draws
from plasticity.agents.ppo.environments import Environments, EnvironmentStep
from plasticity.agents.ppo.episodes import Episode, RunningEpisodes
from plasticity.agents.ppo.evaluation import evaluate
from plasticity.agents.ppo.normalization import ObservationNormalizer, RewardNormalizer
from plasticity.agents.ppo.policies import Policies
from plasticity.agents.ppo.rollout import HostCopy, Rollout
from plasticity.agents.ppo.state import require_complete, require_fitting
from plasticity.stacking.networks import require_index


@dataclass(frozen=True)
class Iteration:
    """Results of one agent's rollout and its update.

    Examples:
        >>> import gymnasium
        >>> from gymnasium.vector import AutoresetMode, SyncVectorEnv
        >>> envs = SyncVectorEnv(
        ...     [lambda: gymnasium.make("CartPole-v1")] * 2, autoreset_mode=AutoresetMode.SAME_STEP
        ... )
        >>> done: Iteration = PPO(envs, PPOConfig(rollout_steps=32, minibatch_size=16), seed=0).iterate()
        >>> done.num_steps, done.diverged
        (32, False)
    """

    num_steps: int
    """Environment steps of the agent up to the end of the rollout, summed over its environments."""

    statistics: dict[str, float]
    """Statistics by name: policy_entropy (nats), explained_variance (at most 1; nan if all returns are
    equal), policy_loss, value_loss, clip_fraction (0 to 1), approximate_kl (nats, over the last epoch),
    learning_rate."""

    episodes: tuple[Episode, ...]
    """Episodes that ended within the rollout, by the time of their end."""

    task: int | None
    """Newest task of any environment at the end of the rollout."""

    diverged: bool
    """Whether a loss or a weight is no longer finite, so that training cannot continue."""


class BasePPO:
    """Algorithm that one agent and R stacked ones have in common: everything but their policies.

    Args:
        envs: Environments of all agents: agent r has environments r * E to (r + 1) * E - 1, where E is their
            number divided by that of the agents.
        config: Settings of each agent.
        seeds: One seed for each agent.
        policies: Policies of all agents.
    """

    def __init__(
        self, envs: Environments, config: PPOConfig, seeds: Sequence[int], policies: Policies
    ) -> None:
        self.envs, self.config, self.policies = envs, config, policies
        self.device = envs.device
        lead, self._num_agents = policies.lead, len(seeds)
        each = envs.num_envs // len(seeds)
        steps = config.rollout_steps // each
        # Images stay as small as they are, and are cast by the networks.
        dtype = None if config.image_network is None else torch.uint8
        self._rollout = Rollout(steps, each, lead, envs, dtype)
        self._host_copy = HostCopy(self._rollout)
        self._acting = Acting(policies, envs, captured=config.compile)
        self._draws = Draws(
            seeds,
            (steps, each, envs.action_size),
            (config.epochs, config.rollout_steps),
            lead,
            self.device,
            discrete=envs.discrete,
        )
        self._observation_normalizer = (
            ObservationNormalizer(envs.observation_size, lead, self.device)
            if config.normalize_observations
            else None
        )
        self._reward_normalizer = (
            RewardNormalizer(each, config.gamma, lead, self.device)
            if config.normalize_rewards
            else None
        )
        self._episodes = RunningEpisodes(each, len(seeds))
        self._num_steps = [0] * len(seeds)
        self._started = [False] * len(seeds)
        self._diverged = [False] * len(seeds)
        self._frozen: dict[int, dict[str, Any]] = {}
        self._collected = False
        # Tasks that begin, of the agents whose mitigations have yet to act before them.
        self._begins: dict[int, int] = {}
        # Agents whose parts may belong to different steps: in an update, or when it was interrupted.
        self._torn: set[int] = set()

    @property
    def observations(self) -> Tensor:
        """Observations of the latest rollout, normalized if that is on; zeros before the first rollout.

        Shape: (*lead, rollout_steps, observation_size), on the device.
        """
        return self._rollout.acted_on

    def iterate_all(self) -> list[Iteration]:
        """Run one rollout and learn from it.

        Returns:
            The iteration of each agent. A frozen one has no episodes, and nan for all statistics.

        Raises:
            RuntimeError: if all agents diverged or were frozen, an earlier update was interrupted, or the
                environments found an error on the device.
        """
        self.collect()
        return self._update()

    # ---- rollout --------------------------------------------------------------------------------

    @torch.no_grad()
    def collect(self) -> None:
        """Step all environments through a rollout; the first part of `iterate`.

        Raises:
            RuntimeError: if all agents diverged or were frozen, or an earlier update was interrupted.
        """
        self._require_whole()
        if len(self._frozen) == self._num_agents:
            raise RuntimeError(
                f"No agent is left to train: {self._num_agents} of {self._num_agents} diverged before step"
                f" {max(self._num_steps)} (their weights or losses are not finite) or were frozen. Restart"
                " with a smaller learning rate, or clip gradients with max_gradient_norm."
            )
        for index in list(self._begins):
            self._begin_task(index)
        self._collected = False
        rollout = self._rollout
        self._begin()
        noise, log_std = self._draws.noise(), self.policies.log_std
        if log_std is not None:
            noise *= log_std.exp().unsqueeze(-2).unsqueeze(-2)
        for step, own_noise in enumerate(noise.unbind(len(rollout.lead))):
            observations = rollout.by_step["observations"][step]
            outputs, actions, given = self._acting(observations, own_noise)
            rollout.by_step["outputs"][step].copy_(outputs)
            rollout.by_step["actions"][step].copy_(actions)
            self._store(step, self.envs.step(given.flatten(0, len(rollout.lead))))
        for index in set(range(self._num_agents)) - set(self._frozen):
            self._num_steps[index] += self.config.rollout_steps
        self._collected = True

    def _begin(self) -> None:
        """Store the first observations and tasks of the rollout."""
        rollout = self._rollout
        first = rollout.by_step["observations"][0]
        if all(self._started):
            first.copy_(rollout.by_step["observations"][-1])
        elif any(self._started):
            raise RuntimeError(
                "Some stacked agents have started and others have not (agents "
                f"{[i for i, started in enumerate(self._started) if not started]}), but environments can"
                " only be reset all at once: load states of all agents, or of none."
            )
        else:
            first.copy_(self._seen(self.envs.reset()))
            self._started = [True] * self._num_agents
        rollout.by_step["tasks"][0].copy_(rollout.by_agent(self.envs.tasks))

    def _store(self, step: int, results: EnvironmentStep) -> None:
        """Store the results of a vector step."""
        rollout, by_agent = self._rollout, self._rollout.by_agent
        seen = self._seen(results.observations)
        rollout.by_step["observations"][step + 1].copy_(seen)
        # as far as the host knows
        any_ended = results.final_observations is not results.observations
        if any_ended:
            seen = self._seen(results.final_observations, learn=False)
        if any_ended or rollout.is_dense:
            rollout.by_step["final_observations"][step].copy_(seen)
        rewards, terminated, truncated = (
            by_agent(each) for each in (results.rewards, results.terminated, results.truncated)
        )
        normalizer = self._reward_normalizer
        if normalizer is not None:
            learnt = normalizer(rewards, terminated | truncated)
        else:
            learnt = (
                rewards if self.config.reward_scale == 1 else rewards * self.config.reward_scale
            )
        rollout.by_step["rewards"][step].copy_(rewards)
        rollout.by_step["learnt_rewards"][step].copy_(learnt)
        rollout.by_step["terminated"][step].copy_(terminated)
        rollout.by_step["truncated"][step].copy_(truncated)
        rollout.by_step["tasks"][step + 1].copy_(by_agent(self.envs.tasks))

    def _seen(self, observations: Tensor, *, learn: bool = True) -> Tensor:
        each, normalizer = self._rollout.by_agent(observations), self._observation_normalizer
        return each if normalizer is None else normalizer(each, learn=learn)

    # ---- update ---------------------------------------------------------------------------------

    def _update(self) -> list[Iteration]:
        """Learn from the latest rollout, and return the iteration of each agent."""
        self._require_whole()
        if not self._collected:
            raise RuntimeError("There is no complete rollout to learn from: call collect() first.")
        self._torn.update(
            range(self._num_agents)
        )  # until the end, unless Ctrl-C or an error prevents that
        begun = [
            steps - (0 if index in self._frozen else self.config.rollout_steps)
            for index, steps in enumerate(self._num_steps)
        ]
        rates = [self.config.learning_rate_at(steps) for steps in begun]
        self._host_copy.send()
        batch, statistics = evaluate(self._rollout, self.policies, self.config)
        statistics |= self.policies.update(batch, self._draws.data_orders(), rates)
        if self.device.type != "cpu":  # busy for a while: the host does its own work now
            self._draws.draw_ahead()
        tasks = [self._episodes.newest_task(index) for index in range(self._num_agents)]
        episodes = self._episodes.read(*self._host_copy.read(), begun)
        self._note_tasks(tasks)
        iterations = self._read(statistics, rates, episodes)
        self.envs.check()
        self._torn.clear()
        self._collected = False
        for index, iteration in enumerate(iterations):
            if iteration.diverged and index not in self._frozen:
                self._diverged[index] = True
                self.freeze(index)
        return iterations

    def _note_tasks(self, before: Sequence[int | None]) -> None:
        """Note where any environment of an agent is at a newer task than before.

        The mitigations act later, before the next rollout: the agent is first measured as the task left it.
        """
        for index, old in enumerate(before):
            new = self._episodes.newest_task(index)
            if index not in self._frozen and old is not None and new is not None and new > old:
                self._begins[index] = new

    def _begin_task(self, index: int) -> None:
        """Let the mitigations of an agent act between two tasks, if they have yet to."""
        if index in self._begins:
            self._torn.add(index)  # until they have
            self.policies.boundary(self._begins.pop(index), index)
            self._torn.discard(index)

    def _require_whole(self) -> None:
        if self._torn:
            raise RuntimeError(
                "PPO was interrupted within an update (or while loading a state), or the environments failed"
                " during it, so that weights and optimizers may belong to different steps: load the last"
                " state (of every agent) with load_state_dict()."
            )

    def _read(
        self,
        statistics: dict[str, Tensor],
        rates: Sequence[float],
        episodes: Sequence[tuple[Episode, ...]],
    ) -> list[Iteration]:
        """Copy all numbers to the host at once."""
        lead = self.policies.lead
        parameters = self.policies.parameters.values()
        sums = [p.detach().flatten(len(lead)).sum(-1) for p in parameters]
        weights = torch.stack(sums).sum(0)
        numbers = torch.stack([*(each.to(weights) for each in statistics.values()), weights], -1)
        return [
            self._iteration(index, dict(zip(statistics, row, strict=False)), row[-1], rate, own)
            for index, (row, rate, own) in enumerate(
                zip(numbers.view(self._num_agents, -1).tolist(), rates, episodes, strict=True)
            )
        ]

    def _iteration(
        self,
        index: int,
        statistics: dict[str, float],
        weights: float,
        learning_rate: float,
        episodes: tuple[Episode, ...],
    ) -> Iteration:
        num_steps, task = self._num_steps[index], self._episodes.newest_task(index)
        if index in self._frozen:
            nothing = dict.fromkeys((*statistics, "learning_rate"), math.nan)
            return Iteration(num_steps, nothing, (), task, self._diverged[index])
        needed = [statistics[name] for name in ("policy_loss", "value_loss", "policy_entropy")]
        diverged = not all(map(math.isfinite, [*needed, weights]))
        found = statistics | {"learning_rate": learning_rate}
        return Iteration(num_steps, found, episodes, task, diverged)

    # ---- freezing, saving and loading -------------------------------------------------------------

    def freeze(self, index: int = 0) -> None:
        """Freeze an agent: its state no longer changes, and its environments get actions of 0.

        Raises:
            IndexError: if there is no such agent.
            RuntimeError: if an update was interrupted.
        """
        require_index(index, self._num_agents)
        if index in self._frozen:
            return
        self._frozen[index] = copy.deepcopy(self.state_dict(index))
        self.policies.freeze(index)
        part_of(self._acting.active, self.policies.lead, index).zero_()

    def state_dict(self, index: int = 0) -> dict[str, Any]:
        """Return everything that an agent's next iteration depends on, except the state of the environments.

        A stacked agent's state has the format of a single one's: each can continue from the other's. The
        environments save their own state: the agent's are `index` * E to (`index` + 1) * E - 1, where E is
        the number of each agent's environments.

        If a task has ended, the mitigations act first, as they otherwise do at the next `collect`.

        Raises:
            IndexError: if there is no such agent.
            RuntimeError: if an update was interrupted.
        """
        require_index(index, self._num_agents)
        self._require_whole()
        self._begin_task(index)
        return self._state(index)

    def _state(self, index: int) -> dict[str, Any]:
        if index in self._frozen:
            return copy.deepcopy(self._frozen[index])
        observations, rewards = self._observation_normalizer, self._reward_normalizer
        return {
            **self.policies.state_dict(index),
            "noise_generator": self._draws.noise_state(index),
            "order_generator": self._draws.data_order_state(index),
            "num_steps": self._num_steps[index],
            "started": self._started[index],
            "diverged": self._diverged[index],
            "observations": self._last_observations(index).clone(),
            "episodes": self._episodes.state_dict(index),
            "observation_statistics": None
            if observations is None
            else observations.statistics.state_dict(index),
            "reward_normalizer": None if rewards is None else rewards.state_dict(index),
        }

    def _last_observations(self, index: int) -> Tensor:
        rollout = self._rollout
        last: Tensor = part_of(rollout.by_step["observations"][-1], rollout.lead, index)
        return last

    def load_state_dict(self, state: dict[str, Any], index: int = 0) -> None:
        """Let an agent continue from a `state_dict` of any agent, single or stacked, saved on any device.

        Its environments must be restored to the state that they had at that time. To continue bit for bit,
        use the same device and the same number of torch threads.

        Raises:
            IndexError: if there is no such agent.
            RuntimeError: if the agent is frozen.
            ValueError: if the state has another number of environments, other networks, another
                normalization, or other optimizer settings (except the learning rate); nothing is loaded
                in that case.
        """
        require_index(index, self._num_agents)
        if index in self._frozen:
            raise RuntimeError(
                f"Agent {index} is frozen: make a new {type(self).__name__} to load a state."
            )
        own = self._state(index)
        require_complete(state, own)
        self._episodes.require_fitting(state["episodes"])
        require_fitting(state, own)
        self._torn.add(index)
        self._collected = False
        self._begins.pop(index, None)
        self.policies.load_state_dict(state, index)
        self._draws.set_states(index, state["noise_generator"], state["order_generator"])
        self._num_steps[index] = state["num_steps"]
        self._started[index], self._diverged[index] = state["started"], state["diverged"]
        self._last_observations(index).copy_(state["observations"])
        self._episodes.load_state_dict(state["episodes"], index)
        if self._observation_normalizer is not None:
            statistics = self._observation_normalizer.statistics
            statistics.load_state_dict(state["observation_statistics"], index)
        if self._reward_normalizer is not None:
            self._reward_normalizer.load_state_dict(state["reward_normalizer"], index)
        self._acting.forget()
        self._torn.discard(index)
        if self._diverged[index]:
            self.freeze(index)

    def close(self) -> None:
        """Stop the critic's process, if there is one. The environments stay open."""
        self.policies.close()
