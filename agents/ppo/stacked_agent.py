"""R stacked PPO agents in one simulator: `PPO` with a leading axis of R, and no waits for the device.

Agent r draws the same random numbers as `PPO` with its seed, so that it learns the same as a separate run of
`PPO` in its environments, up to rounding. While the device runs a rollout and its update, the host works
ahead of it, and reads the numbers of all agents once, at the end of the iteration.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from plasticity.agents.execution.compiled import GraphedFunction
from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.ppo.agent import Iteration, seeded_generator, with_anchor_seed
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.device_environments import DeviceEnvironments, DeviceStep
from plasticity.agents.ppo.episodes import Episode, RunningEpisodes
from plasticity.agents.ppo.stacked_draws import StackedDraws
from plasticity.agents.ppo.stacked_episodes import StackedEpisodes
from plasticity.agents.ppo.stacked_evaluation import evaluate
from plasticity.agents.ppo.stacked_normalization import (
    StackedObservationNormalizer,
    StackedRewardNormalizer,
)
from plasticity.agents.ppo.stacked_policies import StackedPolicies
from plasticity.agents.ppo.stacked_rollout import HostCopy, StackedActing, StackedRollout
from plasticity.agents.ppo.state import require_complete, require_fitting
from plasticity.optim.settings import RegularizerSettings
from plasticity.stacking.networks import require_index

__all__ = ["StackedPPO"]


class StackedPPO:
    """R stacked PPO agents, each of which learns in its own share of the environments.

    Args:
        envs: Environments of all agents: agent r has environments r * E to (r + 1) * E - 1, where E is their
            number divided by R. Wrap environments on the host in `HostEnvironments`.
        config: Settings of each agent; `rollout_steps` counts the steps of one agent.
        actors: Regularizer of each actor's layers, as in `PPO`.
        critics: Regularizer of each critic's layers.
        seeds: One seed for each agent, as in `PPO`. The environments have their own seeds.
        device: Device of the environments and the learner; None: the environments' device.

    Raises:
        ValueError: if the numbers of agents and environments do not match, the devices differ, or the
            configuration compiles without CUDA.
    """

    def __init__(
        self,
        envs: DeviceEnvironments,
        config: PPOConfig,
        actors: Sequence[RegularizerSettings | None],
        critics: Sequence[RegularizerSettings | None],
        *,
        seeds: Sequence[int],
        device: str | torch.device | None = None,
    ) -> None:
        self.envs, self.config, self.device = envs, config, envs.device
        self.num_stacked = len(seeds)
        """Number of agents, R."""
        _check(envs, config, actors, critics, seeds, device)
        self._num_envs = envs.num_envs // self.num_stacked
        steps = config.rollout_steps // self._num_envs
        self._rollout = StackedRollout(steps, envs)
        self._host_copy = HostCopy(self._rollout)
        self._episodes = StackedEpisodes(self.num_stacked, self._num_envs)
        self._draws = StackedDraws(
            seeds,
            (steps, self._num_envs, envs.action_size),
            (config.epochs, config.rollout_steps),
            self.device,
        )
        self.num_steps = [0] * self.num_stacked
        """Environment steps of each agent so far, summed over its environments."""
        self._make_normalizers()
        self._make_networks(actors, critics, seeds)
        self._graphs: list[GraphedFunction] = []
        if config.compile:
            self._capture()
        self._started = [False] * self.num_stacked
        self._diverged = [False] * self.num_stacked
        self._frozen: dict[int, dict[str, Any]] = {}
        self._collected = False
        self._interrupted = False

    def _make_normalizers(self) -> None:
        config, num_stacked = self.config, self.num_stacked
        self._observation_normalizer = (
            StackedObservationNormalizer(num_stacked, self.envs.observation_size, self.device)
            if config.normalize_observations
            else None
        )
        self._reward_normalizer = (
            StackedRewardNormalizer(num_stacked, self._num_envs, config.gamma, self.device)
            if config.normalize_rewards
            else None
        )

    def _make_networks(
        self,
        actors: Sequence[RegularizerSettings | None],
        critics: Sequence[RegularizerSettings | None],
        seeds: Sequence[int],
    ) -> None:
        envs, config = self.envs, self.config
        networks = [
            ActorCritic(
                envs.observation_size,
                envs.action_size,
                config,
                generator=seeded_generator(seed, "weights"),
            ).to(self.device)
            for seed in seeds
        ]
        self.policies = StackedPolicies(
            networks,
            config,
            [
                with_anchor_seed(own, s, "actor anchor")
                for own, s in zip(actors, seeds, strict=True)
            ],
            [
                with_anchor_seed(own, s, "critic anchor")
                for own, s in zip(critics, seeds, strict=True)
            ],
        )
        """Actors and critics, stacked."""
        assert self.policies.log_std is not None
        self._log_std = self.policies.log_std
        self._acting = StackedActing(self.policies.act, envs, self.num_stacked)

    def _capture(self) -> None:
        """Turn the policy's part of a vector step into a CUDA graph."""
        self._graphs = [GraphedFunction(self._acting.act, device=self.device)]
        self._acting.run = self._graphs[0]

    def policy(self, index: int) -> ActorCritic:
        """Return a single policy with an agent's weights and, in `.grad`, its last minibatch's gradient."""
        return self.policies.policy(index)

    def observations(self, index: int) -> Tensor:
        """Return an agent's observations of the latest rollout, as `PPO.observations` does.

        Shape: (rollout_steps, observation_size).
        """
        return self._rollout.observations[:-1, self._own(index)].flatten(0, 1)

    def _own(self, index: int) -> slice:
        require_index(index, self.num_stacked)
        return slice(index * self._num_envs, (index + 1) * self._num_envs)

    def iterate(self) -> list[Iteration]:
        """Run one rollout and learn from it.

        Returns:
            For each agent, the same as `PPO.iterate`. A frozen agent has no episodes, and nan for all
            statistics.

        Raises:
            RuntimeError: if all agents are frozen, an earlier update was interrupted, or the environments
                found an error on the device.
        """
        self.collect()
        return self.update()

    # ---- rollout --------------------------------------------------------------------------------

    @torch.no_grad()
    def collect(self) -> None:
        """Step all environments through a rollout; the first part of `iterate`.

        Raises:
            RuntimeError: if all agents are frozen, or an earlier update was interrupted.
        """
        self._require_whole()
        if len(self._frozen) == self.num_stacked:
            raise RuntimeError(
                f"All {self.num_stacked} stacked agents diverged or were frozen: make a new StackedPPO to"
                " train further."
            )
        self._collected = False
        rollout = self._rollout
        self._begin()
        noise = self._draws.noise()
        noise *= self._log_std.exp().view(self.num_stacked, 1, 1, -1)
        acting = self._acting
        for step in range(len(rollout.rewards)):
            acting.observations.copy_(rollout.observations[step].view_as(acting.observations))
            acting.noise.copy_(noise[:, step])
            acting.run()
            rollout.means[step].view_as(acting.means).copy_(acting.means)
            rollout.actions[step].view_as(acting.actions).copy_(acting.actions)
            self._store(step, self.envs.step(acting.given.flatten(0, 1)))
        for index in set(range(self.num_stacked)) - set(self._frozen):
            self.num_steps[index] += self.config.rollout_steps
        self._collected = True

    def _begin(self) -> None:
        """Store the first observations, tasks and frictions of the rollout."""
        rollout = self._rollout
        if all(self._started):
            rollout.observations[0].copy_(rollout.observations[-1])
        elif any(self._started):
            raise RuntimeError(
                "Some stacked agents have started and others have not (agents "
                f"{[i for i, started in enumerate(self._started) if not started]}), but environments can"
                " only be reset all at once: load states of all agents, or of none."
            )
        else:
            rollout.observations[0].copy_(self._seen(self.envs.reset()))
            self._started = [True] * self.num_stacked
        rollout.tasks[0].copy_(self.envs.tasks)
        rollout.frictions[0].copy_(self.envs.frictions)

    def _store(self, step: int, results: DeviceStep) -> None:
        rollout, ended = self._rollout, results.terminated | results.truncated
        rollout.observations[step + 1].copy_(self._seen(results.observations))
        rollout.final_observations[step].copy_(self._seen(results.final_observations, learn=False))
        rollout.rewards[step].copy_(results.rewards)
        normalizer = self._reward_normalizer
        rollout.learnt_rewards[step].copy_(
            results.rewards if normalizer is None else normalizer(results.rewards, ended)
        )
        rollout.terminated[step].copy_(results.terminated)
        rollout.truncated[step].copy_(results.truncated)
        rollout.tasks[step + 1].copy_(self.envs.tasks)
        rollout.frictions[step + 1].copy_(self.envs.frictions)

    def _seen(self, observations: Tensor, *, learn: bool = True) -> Tensor:
        normalizer = self._observation_normalizer
        return observations if normalizer is None else normalizer(observations, learn=learn)

    # ---- update ---------------------------------------------------------------------------------

    def update(self) -> list[Iteration]:
        """Learn from the latest rollout; the second part of `iterate`.

        Returns:
            The same as `iterate`.

        Raises:
            RuntimeError: if there is no rollout, an earlier update was interrupted, or the environments
                found an error on the device.
        """
        self._require_whole()
        if not self._collected:
            raise RuntimeError("There is no complete rollout to learn from: call collect() first.")
        self._interrupted = True  # reset at the end, unless Ctrl-C or an error prevents that
        begun = [
            steps - (0 if index in self._frozen else self.config.rollout_steps)
            for index, steps in enumerate(self.num_steps)
        ]
        rates = [self.config.learning_rate_at(steps) for steps in begun]
        self._host_copy.send()
        batch, statistics = evaluate(self._rollout, self.policies, self.config)
        statistics |= self.policies.update(batch, self._draws.data_orders(), rates)
        # The device is busy for a while: the host does its own work now.
        self._draws.draw_ahead()
        episodes = self._episodes.read(*self._host_copy.read(), begun)
        iterations = self._read(statistics, rates, episodes)
        self.envs.check()
        self._interrupted, self._collected = False, False
        for index, iteration in enumerate(iterations):
            if iteration.diverged and index not in self._frozen:
                self._diverged[index] = True
                self.freeze(index)
        return iterations

    def _require_whole(self) -> None:
        if self._interrupted:
            raise RuntimeError(
                "StackedPPO was interrupted within an update, or the environments failed during it: make a"
                " new one, and load the last state of every agent with load_state_dict()."
            )

    def _read(
        self,
        statistics: dict[str, Tensor],
        rates: Sequence[float],
        episodes: Sequence[tuple[Episode, ...]],
    ) -> list[Iteration]:
        """Copy all numbers to the host at once."""
        parameters = self.policies.parameters.values()
        weights = torch.stack([p.detach().flatten(1).sum(1) for p in parameters]).sum(0)
        numbers = torch.stack([*statistics.values(), weights]).T.tolist()
        return [
            self._iteration(index, dict(zip(statistics, row, strict=False)), row[-1], rate, own)
            for index, (row, rate, own) in enumerate(zip(numbers, rates, episodes, strict=True))
        ]

    def _iteration(
        self,
        index: int,
        statistics: dict[str, float],
        weights: float,
        learning_rate: float,
        episodes: tuple[Episode, ...],
    ) -> Iteration:
        task, friction = self._episodes.newest(index)
        if index in self._frozen:
            nothing = dict.fromkeys((*statistics, "learning_rate"), math.nan)
            return Iteration(nothing, (), task, friction, self._diverged[index])
        needed = [statistics[name] for name in ("policy_loss", "value_loss", "policy_entropy")]
        diverged = not all(map(math.isfinite, [*needed, weights]))
        found = statistics | {"learning_rate": learning_rate}
        return Iteration(found, episodes, task, friction, diverged)

    # ---- freezing, saving and loading -------------------------------------------------------------

    def freeze(self, index: int) -> None:
        """Freeze an agent: its state no longer changes, and its environments get actions of 0.

        Raises:
            IndexError: if there is no such agent.
            RuntimeError: if an update was interrupted.
        """
        require_index(index, self.num_stacked)
        if index in self._frozen:
            return
        self._frozen[index] = copy.deepcopy(self.state_dict(index))
        self.policies.freeze(index)
        self._acting.moving[index].fill_(False)

    def state_dict(self, index: int) -> dict[str, Any]:
        """Return an agent's state in the format of `PPO.state_dict`: each can continue from the other's.

        The environments save their own state: the agent's are `index` * E to (`index` + 1) * E - 1.

        Raises:
            IndexError: if there is no such agent.
            RuntimeError: if an update was interrupted.
        """
        require_index(index, self.num_stacked)
        self._require_whole()
        if index in self._frozen:
            return copy.deepcopy(self._frozen[index])
        observations, rewards = self._observation_normalizer, self._reward_normalizer
        return {
            **self.policies.state_dict(index),
            "noise_generator": self._draws.noise_state(index),
            "order_generator": self._draws.data_order_state(index),
            "num_steps": self.num_steps[index],
            "started": self._started[index],
            "diverged": self._diverged[index],
            "observations": self._rollout.observations[-1, self._own(index)].clone(),
            "episodes": self._episodes.state_dict(index),
            "observation_statistics": None
            if observations is None
            else observations.statistics.state_dict(index),
            "reward_normalizer": None if rewards is None else rewards.state_dict(index),
        }

    def load_state_dict(self, index: int, state: dict[str, Any]) -> None:
        """Let an agent continue from a state of `PPO` or of any stacked agent, saved on any device.

        Its environments must be restored to the state that they had at that time.

        Raises:
            IndexError: if there is no such agent.
            RuntimeError: if the agent is frozen, or an update was interrupted.
            ValueError: if the state has another number of environments, other networks, another
                normalization, or other optimizer settings (except the learning rate); nothing is loaded
                in that case.
        """
        if index in self._frozen:
            raise RuntimeError(
                f"Stacked agent {index} is frozen: make a new StackedPPO to load a state."
            )
        own = self.state_dict(index)
        require_complete(state, own)
        RunningEpisodes(self._num_envs).require_fitting(state["episodes"])
        require_fitting(state, own)
        self._interrupted, self._collected = True, False
        self.policies.load_state_dict(state, index)
        self._draws.set_states(index, state["noise_generator"], state["order_generator"])
        self.num_steps[index] = state["num_steps"]
        self._started[index], self._diverged[index] = state["started"], state["diverged"]
        self._rollout.observations[-1, self._own(index)] = state["observations"].to(self.device)
        self._episodes.load_state_dict(index, state["episodes"])
        if self._observation_normalizer is not None:
            statistics = self._observation_normalizer.statistics
            statistics.load_state_dict(index, state["observation_statistics"])
        if self._reward_normalizer is not None:
            self._reward_normalizer.load_state_dict(index, state["reward_normalizer"])
        self._interrupted = False
        for graph in self._graphs:
            graph.forget()  # loading may have replaced tensors of the optimizers
        if self._diverged[index]:
            self.freeze(index)


def _check(
    envs: DeviceEnvironments,
    config: PPOConfig,
    actors: Sequence[RegularizerSettings | None],
    critics: Sequence[RegularizerSettings | None],
    seeds: Sequence[int],
    device: str | torch.device | None,
) -> None:
    if not seeds or not len(seeds) == len(actors) == len(critics):
        raise ValueError(
            f"There are {len(seeds)} seeds, {len(actors)} actors' and {len(critics)} critics' settings:"
            " give one of each for every agent."
        )
    each, rest = divmod(envs.num_envs, len(seeds))
    if rest or not each:
        raise ValueError(
            f"{envs.num_envs} environments cannot be shared by {len(seeds)} stacked agents: give a multiple."
        )
    if config.rollout_steps % each:
        raise ValueError(
            f"rollout_steps={config.rollout_steps} is not a multiple of an agent's {each} environments,"
            " which take equal shares: give a multiple."
        )
    if device is not None:
        wanted, found = (torch.empty(0, device=each).device for each in (device, envs.device))
        if wanted != found:
            raise ValueError(
                f"The environments are on {found}, but the learner should be on {wanted}: use one device."
            )
