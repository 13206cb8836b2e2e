"""R replicas of PPO in one simulator: as `ppo`, with a replica axis, and nothing that waits for the device.

Replica r draws what `PPO` with its seed draws, so that it learns what `PPO` alone would learn in its
environments, to rounding. While the device works through a rollout and its update, the host is ahead of it;
once at the end of an iteration it reads the numbers of all replicas.
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
from plasticity.agents.ppo.stacked_gradients import StackedDense
from plasticity.agents.ppo.stacked_normalization import (
    StackedObservationNormalizer,
    StackedRewardNormalizer,
)
from plasticity.agents.ppo.stacked_rollout import HostFacts, StackedActing, StackedRollout
from plasticity.agents.ppo.stacked_updates import StackedBatch, StackedUpdate
from plasticity.agents.ppo.state import require_complete, require_fitting
from plasticity.agents.ppo.updates import actor_optimizer, critic_optimizer
from plasticity.optim.settings import RegularizerSettings
from plasticity.optim.stacked_optimizer import StackedOptimizer
from plasticity.stacking.networks import StackedNetworks, require_index

__all__ = ["StackedPPO"]


class StackedPPO:
    """R policies, each of which learns in its own part of the environments.

    Args:
        envs: Replica r has environments r * E to (r + 1) * E - 1, with E their number over R. Those on
            the host come in `HostEnvironments`.
        config: How each learns; `rollout_steps` are those of one replica.
        actors: How each actor's layers are regularized, as in `PPO`.
        critics: How each critic's layers are regularized.
        seeds: One for each replica, as in `PPO`; those of the environments are the environments' own.
        device: Of the environments and the learner; None: where the environments are.

    Raises:
        ValueError: if the numbers of replicas and environments do not go together, the devices differ,
            or the configuration says to compile without CUDA.
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
        """R."""
        _check(envs, config, actors, critics, seeds, device)
        self._num_envs = envs.num_envs // self.num_stacked
        steps = config.rollout_steps // self._num_envs
        self._rollout = StackedRollout(steps, envs)
        self._facts = HostFacts(self._rollout)
        self._episodes = StackedEpisodes(self.num_stacked, self._num_envs)
        self._draws = StackedDraws(
            seeds,
            (steps, self._num_envs, envs.action_size),
            (config.epochs, config.rollout_steps),
            self.device,
        )
        self.num_steps = [0] * self.num_stacked
        """Environment steps of each replica so far, those of its environments together."""
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
        config, replicas = self.config, self.num_stacked
        self._observation_normalizer = (
            StackedObservationNormalizer(replicas, self.envs.observation_size, self.device)
            if config.normalize_observations
            else None
        )
        self._reward_normalizer = (
            StackedRewardNormalizer(replicas, self._num_envs, config.gamma, self.device)
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
        self.policies = StackedNetworks(networks)
        """Actors and critics, stacked."""
        parameters = self.policies.parameters
        self._log_std = parameters["log_std"]
        self._actor = StackedDense(parameters, "actor.", config.activation)
        self._critic = StackedDense(parameters, "critic.", config.activation)
        regularized = [
            (
                with_anchor_seed(actor, s, "actor anchor"),
                with_anchor_seed(critic, s, "critic anchor"),
            )
            for actor, critic, s in zip(actors, critics, seeds, strict=True)
        ]
        self._actor_optimizer = StackedOptimizer(
            [
                actor_optimizer(n, config, a)
                for n, (a, _) in zip(networks, regularized, strict=True)
            ],
            [*self._actor.parameters, self._log_std],
        )
        self._critic_optimizer = StackedOptimizer(
            [
                critic_optimizer(n.critic, config, c)
                for n, (_, c) in zip(networks, regularized, strict=True)
            ],
            self._critic.parameters,
        )
        self._acting = StackedActing(self._actor, envs, self.num_stacked)
        rollout = self._rollout
        self._batch = StackedBatch(
            rollout.observations[:-1].flatten(0, 1), rollout.actions.flatten(0, 1)
        )
        self._update = StackedUpdate(
            self._actor,
            self._log_std,
            self._critic,
            config,
            self._actor_optimizer,
            self._critic_optimizer,
            self._batch,
            self._num_envs,
        )

    def _capture(self) -> None:
        """Let the policy's part of a vector step, and an epoch of the update, be CUDA graphs."""
        self._graphs = [
            GraphedFunction(function, device=self.device)
            for function in (self._acting.act, self._update.run_epoch)
        ]
        self._acting.run, self._update.run_epoch = self._graphs

    def policy(self, index: int) -> ActorCritic:
        """An ordinary policy with a replica's weights, and as `.grad` the gradient of its last minibatch."""
        policy = self.policies.network(index)
        assert isinstance(policy, ActorCritic)
        for name, parameter in policy.named_parameters():
            gradient = self.policies.parameters[name].grad
            parameter.grad = None if gradient is None else gradient[index].clone()
        return policy

    def observations(self, index: int) -> Tensor:
        """A replica's observations of the latest rollout, as `PPO.observations`.

        Shape: (rollout_steps, observation_size).
        """
        return self._rollout.observations[:-1, self._own(index)].flatten(0, 1)

    def _own(self, index: int) -> slice:
        require_index(index, self.num_stacked)
        return slice(index * self._num_envs, (index + 1) * self._num_envs)

    def iterate(self) -> list[Iteration]:
        """Do one rollout and learn from it.

        Returns:
            For each replica what `PPO.iterate` gives. That of a frozen one has no episodes, and nan for
            all statistics.

        Raises:
            RuntimeError: if all replicas are frozen, an earlier update was interrupted, or the
                environments found an error on the device.
        """
        self.collect()
        return self.update()

    # ---- the rollout ----------------------------------------------------------------------------

    @torch.no_grad()
    def collect(self) -> None:
        """Step all environments through a rollout; the first part of `iterate`.

        Raises:
            RuntimeError: if all replicas are frozen, or an earlier update was interrupted.
        """
        self._require_whole()
        if len(self._frozen) == self.num_stacked:
            raise RuntimeError(
                f"All {self.num_stacked} replicas diverged or were frozen: there is nothing to go on with."
            )
        self._collected = False
        rollout = self._rollout
        self._begin()
        noise = self._draws.noise()
        noise *= self._log_std.exp().view(self.num_stacked, 1, 1, -1)
        acting, replicas = self._acting, self.num_stacked
        for step in range(len(rollout.rewards)):
            acting.observations.copy_(rollout.observations[step].view_as(acting.observations))
            acting.noise.copy_(noise[:, step])
            acting.run()
            rollout.means[step].view_as(acting.means).copy_(acting.means)
            rollout.actions[step].view_as(acting.actions).copy_(acting.actions)
            self._store(step, self.envs.step(acting.given.flatten(0, 1)))
        for index in set(range(replicas)) - set(self._frozen):
            self.num_steps[index] += self.config.rollout_steps
        self._collected = True

    def _begin(self) -> None:
        """Put what the rollout begins with at its beginning."""
        rollout = self._rollout
        if all(self._started):
            rollout.observations[0].copy_(rollout.observations[-1])
        elif any(self._started):
            raise RuntimeError(
                "Some replicas have begun and others have not (replicas "
                f"{[i for i, started in enumerate(self._started) if not started]}): the environments can"
                " only be reset together. Load states of all replicas, or of none."
            )
        else:
            rollout.observations[0].copy_(self._seen(self.envs.reset()))
            self._started = [True] * self.num_stacked
        rollout.tasks[0].copy_(self.envs.tasks)
        rollout.frictions[0].copy_(self.envs.frictions)

    def _store(self, step: int, given: DeviceStep) -> None:
        rollout, ended = self._rollout, given.terminated | given.truncated
        rollout.observations[step + 1].copy_(self._seen(given.observations))
        rollout.final_observations[step].copy_(self._seen(given.final_observations, learn=False))
        rollout.rewards[step].copy_(given.rewards)
        normalizer = self._reward_normalizer
        rollout.learnt_rewards[step].copy_(
            given.rewards if normalizer is None else normalizer(given.rewards, ended)
        )
        rollout.terminated[step].copy_(given.terminated)
        rollout.truncated[step].copy_(given.truncated)
        rollout.tasks[step + 1].copy_(self.envs.tasks)
        rollout.frictions[step + 1].copy_(self.envs.frictions)

    def _seen(self, observations: Tensor, *, learn: bool = True) -> Tensor:
        normalizer = self._observation_normalizer
        return observations if normalizer is None else normalizer(observations, learn=learn)

    # ---- the update -----------------------------------------------------------------------------

    def update(self) -> list[Iteration]:
        """Learn from the latest rollout; the second part of `iterate`.

        Returns:
            As `iterate`.

        Raises:
            RuntimeError: if there is no rollout, an earlier update was interrupted, or the environments
                found an error on the device.
        """
        self._require_whole()
        if not self._collected:
            raise RuntimeError("There is no whole rollout to learn from: call collect() first.")
        self._interrupted = True  # until the end, which Ctrl-C or an error may keep it from
        begun = [
            steps - (0 if index in self._frozen else self.config.rollout_steps)
            for index, steps in enumerate(self.num_steps)
        ]
        rates = [self.config.learning_rate_at(steps) for steps in begun]
        self._facts.send()
        statistics = evaluate(self._rollout, self._critic, self._log_std, self.config, self._batch)
        for optimizer in (self._actor_optimizer, self._critic_optimizer):
            optimizer.set_learning_rate(rates)
        self._update.run(self._draws.orders())
        statistics |= self._update.statistics()
        # The device is busy for a while: what the host has to do is done now.
        self._draws.draw_ahead()
        episodes = self._episodes.read(*self._facts.read(), begun)
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
                "StackedPPO was interrupted within an update, or the environments failed in it: make a new"
                " one, and load the last state of every replica with load_state_dict()."
            )

    def _read(
        self,
        statistics: dict[str, Tensor],
        rates: Sequence[float],
        episodes: Sequence[tuple[Episode, ...]],
    ) -> list[Iteration]:
        """Bring all numbers to the host at once."""
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
        """Leave a replica as it is from now on: its state stays, and its environments get actions of 0.

        Raises:
            IndexError: if there is no such replica.
            RuntimeError: if an update was interrupted.
        """
        require_index(index, self.num_stacked)
        if index in self._frozen:
            return
        self._frozen[index] = copy.deepcopy(self.state_dict(index))
        self._actor_optimizer.freeze(index)
        self._critic_optimizer.freeze(index)
        self._acting.moving[index].fill_(False)

    def state_dict(self, index: int) -> dict[str, Any]:
        """A replica's state in the format of `PPO.state_dict`: either goes on from the other's.

        That of the environments is theirs: environments `index` * E to (`index` + 1) * E - 1.

        Raises:
            IndexError: if there is no such replica.
            RuntimeError: if an update was interrupted.
        """
        require_index(index, self.num_stacked)
        self._require_whole()
        if index in self._frozen:
            return copy.deepcopy(self._frozen[index])
        observations, rewards = self._observation_normalizer, self._reward_normalizer
        return {
            "policy": self.policies.state_dict(index),
            "actor_optimizer": self._actor_optimizer.state_dict(index),
            "critic_optimizer": self._critic_optimizer.state_dict(index),
            "noise_generator": self._draws.noise_state(index),
            "order_generator": self._draws.order_state(index),
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
        """Let a replica continue from a state of `PPO` or of any replica, saved on any device.

        Its environments must be brought to the state that they had then.

        Raises:
            IndexError: if there is no such replica.
            RuntimeError: if the replica is frozen, or an update was interrupted.
            ValueError: if the state is of another number of environments, other networks, normalisation,
                or settings of the optimizers (their learning rate aside); nothing is loaded then.
        """
        if index in self._frozen:
            raise RuntimeError(f"Replica {index} is frozen: make a new StackedPPO to load a state.")
        own = self.state_dict(index)
        require_complete(state, own)
        RunningEpisodes(self._num_envs).require_fitting(state["episodes"])
        require_fitting(state, own)
        self._interrupted, self._collected = True, False
        self.policies.load_state_dict(index, state["policy"])
        self._actor_optimizer.load_state_dict(index, state["actor_optimizer"])
        self._critic_optimizer.load_state_dict(index, state["critic_optimizer"])
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
            graph.forget()  # loading may have put other tensors into the optimizers
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
            " give one of each for every replica."
        )
    each, rest = divmod(envs.num_envs, len(seeds))
    if rest or not each:
        raise ValueError(
            f"{envs.num_envs} environments cannot be shared by {len(seeds)} replicas: give a multiple."
        )
    if config.rollout_steps % each:
        raise ValueError(
            f"rollout_steps={config.rollout_steps} is no multiple of a replica's {each} environments,"
            " each of which does its share of them."
        )
    if device is not None:
        wanted, found = (torch.empty(0, device=each).device for each in (device, envs.device))
        if wanted != found:
            raise ValueError(
                f"The environments are on {found}, and the learner was to be on {wanted}: make both on one."
            )
