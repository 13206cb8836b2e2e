"""Proximal policy optimization (Schulman et al., 2017) on any Gymnasium vector environment.

An iteration steps all environments through a rollout, evaluates the rollout and learns from it. While the
environments run, only the actor is called; values, log-probabilities and advantages are computed in batches
at the end. On a GPU, each vector step copies observations to the device once and actions back once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.ppo.advantages import generalized_advantages
from plasticity.agents.ppo.batch import Batch
from plasticity.agents.ppo.config import PRESETS, PPOConfig
from plasticity.agents.ppo.episodes import Episode, RunningEpisodes
from plasticity.agents.ppo.normalization import ObservationNormalizer, RewardNormalizer
from plasticity.agents.ppo.rollout import Rollout, Spaces, environment_seeds
from plasticity.agents.ppo.single_policy import SinglePolicy
from plasticity.agents.ppo.state import require_complete, require_fitting
from plasticity.optim.settings import RegularizerSettings
from plasticity.seeds import child_seed

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

__all__ = ["PPO", "PRESETS", "Episode", "Iteration", "PPOConfig"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Iteration:
    """Results of one rollout and its update."""

    statistics: dict[str, float]
    """Statistics by name: policy_entropy (nats), explained_variance (at most 1; nan if all returns are
    equal), policy_loss, value_loss, clip_fraction (0 to 1), approximate_kl (nats, over the last epoch),
    learning_rate."""

    episodes: tuple[Episode, ...]
    """Episodes that ended within the rollout, by the time of their end."""

    task: int | None
    """Newest task of any environment at the end of the rollout."""

    friction: float | None
    """Friction of that task."""

    diverged: bool
    """Whether a loss or a weight is no longer finite, so that training cannot continue."""


class PPO:
    """Proximal policy optimization agent that learns in a vector environment.

    All randomness comes from `seed` through named child seeds and is drawn on the CPU: the initial weights,
    the exploration noise of a rollout, the data order of an update, the resets of the environments.

    Args:
        envs: Any Gymnasium vector environment with SAME_STEP autoreset, a Box of observations, and a Box of
            floats or Discrete for actions. Only the actions passed to the environment are clipped to the
            Box. If `info` has an integer "task" and a number "friction", episodes report them; values of
            other types are ignored.
        config: Settings of the algorithm.
        actor: Regularizer of the actor's layers; `log_std` is never regularized. If its `anchor_seed` is
            None, the anchor seed is derived from `seed`.
        critic: Regularizer of the critic's layers, likewise.
        seed: Seed of everything that is drawn.
        device: Device of the networks and the update: "cpu", "cuda", …
        update_threads: 2 runs the critic's update in a separate process, on another core than the actor's,
            with bit-for-bit the same numbers. On a CPU only, and only if nothing couples the two.

    Raises:
        TypeError: if an argument or a space has the wrong type.
        ValueError: if the environments use another autoreset mode, `rollout_steps` is not a multiple of
            their number, `update_threads` does not fit the device or the configuration, or the
            configuration compiles without CUDA.
    """

    def __init__(
        self,
        envs: VectorEnv[Any, Any, Any],
        config: PPOConfig,
        actor: RegularizerSettings | None = None,
        critic: RegularizerSettings | None = None,
        *,
        seed: int,
        device: str | torch.device = "cpu",
        update_threads: int = 1,
    ) -> None:
        self.envs, self.config, self.device = envs, config, torch.device(device)
        self._spaces = Spaces.of(envs)
        if config.rollout_steps % envs.num_envs:
            raise ValueError(
                f"rollout_steps={config.rollout_steps} is not a multiple of the {envs.num_envs} environments,"
                " which take equal shares: give a multiple."
            )
        self._seed = seed
        self._noise_generator = seeded_generator(seed, "exploration")
        self._data_order_generator = seeded_generator(seed, "minibatches")
        self.policy = ActorCritic(
            self._spaces.observation_size,
            self._spaces.action_size,
            config,
            discrete=self._spaces.discrete,
            generator=seeded_generator(seed, "weights"),
        ).to(self.device)
        """Actor and critic. After an update, each `.grad` holds the gradient of the last minibatch."""
        self.num_steps = 0
        """Environment steps so far, summed over all environments."""
        steps = config.rollout_steps // envs.num_envs
        self._rollout = Rollout(steps, envs.num_envs, self._spaces, self.device)
        self._make_normalizers()
        self._policies = SinglePolicy(
            self.policy,
            config,
            with_anchor_seed(actor, seed, "actor anchor"),
            with_anchor_seed(critic, seed, "critic anchor"),
            update_threads=update_threads,
        )
        self._started = False
        self._collected = False
        self._interrupted = False
        self._diverged = False
        self._episodes = RunningEpisodes(envs.num_envs)

    def _make_normalizers(self) -> None:
        config = self.config
        self._observation_normalizer = (
            ObservationNormalizer(self._spaces.observation_size)
            if config.normalize_observations
            else None
        )
        self._reward_normalizer = (
            RewardNormalizer(self.envs.num_envs, config.gamma) if config.normalize_rewards else None
        )

    @property
    def observations(self) -> Tensor:
        """Observations of the latest rollout, normalized if that is on; zeros before the first rollout.

        Shape: (rollout_steps, observation_size), on the device.
        """
        return self._rollout.observations[:-1].flatten(0, 1)

    def iterate(self) -> Iteration:
        """Run one rollout and learn from it.

        Raises:
            RuntimeError: if an earlier iteration diverged, or its update was interrupted.
        """
        if self._diverged:
            raise RuntimeError(
                f"The policy diverged before step {self.num_steps}: its weights or losses are not finite."
                " Restart with a smaller learning rate, or clip gradients with max_gradient_norm."
            )
        start = self.num_steps
        episodes = self.collect()
        statistics, self._diverged = self.update(self.config.learning_rate_at(start))
        task, friction = self._episodes.newest_task, self._episodes.newest_friction
        return Iteration(statistics, episodes, task, friction, self._diverged)

    # ---- rollout --------------------------------------------------------------------------------

    @torch.no_grad()
    def collect(self) -> tuple[Episode, ...]:
        """Step all environments through a rollout; the first part of `iterate`.

        Returns:
            The episodes that ended.

        Raises:
            RuntimeError: if an earlier update was interrupted.
        """
        self._require_whole()
        self._collected = False
        rollout = self._rollout
        if self._started:
            rollout.observations[0].copy_(rollout.observations[-1])
        else:
            self._reset()
        rollout.final_indices.clear()
        rollout.final_observations.clear()
        noise, discrete = self._draw_noise(), self._spaces.discrete
        episodes: list[Episode] = []
        for step in range(len(rollout.rewards)):
            outputs = self._policies.act(rollout.observations[step])
            perturbed = outputs + noise[step]
            actions = perturbed.argmax(-1) if discrete else perturbed
            to_environment = self._to_environment(rollout.store_actions(step, outputs, actions))
            episodes += self._take(step, *self.envs.step(to_environment))
        self._collected = True
        return tuple(episodes)

    def _reset(self) -> None:
        seeds = environment_seeds(self._seed, self.envs.num_envs)
        observations, infos = self.envs.reset(seed=seeds)  # type: ignore[arg-type]
        self._episodes.read_task(infos)
        self._rollout.store_observations(0, self._flat(observations))
        self._started = True

    def _draw_noise(self) -> Tensor:
        """Draw the noise added to the actor's outputs over a whole rollout. Shape: (steps, envs, …).

        Outputs plus normal noise are continuous actions. With Gumbel noise, the argmax of the sum is the
        discrete action.
        """
        noise = torch.empty(self._rollout.outputs.shape)
        if self.policy.log_std is None:
            noise.exponential_(generator=self._noise_generator).log_().neg_()
            return noise.to(self.device)
        noise.normal_(generator=self._noise_generator)
        return noise.to(self.device) * self.policy.log_std.exp()

    def _to_environment(self, actions: Array) -> Array:
        spaces = self._spaces
        if spaces.discrete:
            return (actions + spaces.low).astype(spaces.action_dtype)
        clipped = np.clip(actions, spaces.low, spaces.high).astype(spaces.action_dtype, copy=False)
        return clipped.reshape(-1, *spaces.action_shape)

    def _take(
        self,
        step: int,
        observations: Array,
        rewards: Array,
        terminated: Array,
        truncated: Array,
        infos: dict[str, Any],
    ) -> list[Episode]:
        """Store the results of a vector step and return the episodes that it ended."""
        rollout, num_envs = self._rollout, self.envs.num_envs
        self.num_steps += num_envs
        self._episodes.add(rewards)
        rollout.store_observations(step + 1, self._flat(observations))
        rollout.terminated[step], rollout.truncated[step] = terminated, truncated
        ended = terminated | truncated
        normalizer = self._reward_normalizer
        rollout.rewards[step] = rewards if normalizer is None else normalizer(rewards, ended)
        episodes = []
        for index in np.flatnonzero(ended).tolist():
            if not terminated[index]:
                rollout.final_indices.append(step * num_envs + index)
                final = np.asarray(infos["final_obs"][index])[None]
                rollout.final_observations.append(self._flat(final, learn=False)[0])
            episodes.append(self._episodes.end(index, self.num_steps))
        self._episodes.read_task(infos)
        return episodes

    def _flat(self, observations: Array, *, learn: bool = True) -> Array:
        flat = np.asarray(observations).reshape(len(observations), -1)
        normalizer = self._observation_normalizer
        return flat if normalizer is None else normalizer(flat, learn=learn)

    # ---- update ---------------------------------------------------------------------------------

    def update(self, learning_rate: float) -> tuple[dict[str, float], bool]:
        """Learn from the latest rollout; the second part of `iterate`.

        Args:
            learning_rate: Learning rate of both optimizers.

        Returns:
            The statistics of an `Iteration`, and whether the policy diverged.

        Raises:
            RuntimeError: if there is no rollout, or an earlier update was interrupted.
        """
        self._require_whole()
        if not self._collected:
            raise RuntimeError("There is no complete rollout to learn from: call collect() first.")
        self._interrupted = True  # reset at the end, unless Ctrl-C or an error prevents that
        statistics = self._learn(learning_rate)
        found = self._read(statistics, learning_rate)
        self._interrupted = False
        return found

    def _require_whole(self) -> None:
        if self._interrupted:
            raise RuntimeError(
                "PPO was interrupted within an update (or while loading a state), so that its weights and"
                " optimizers may belong to different steps: load the last state with load_state_dict()."
            )

    def _learn(self, learning_rate: float) -> dict[str, Tensor]:
        batch, statistics = self._evaluate()
        steps, epochs = self.config.rollout_steps, self.config.epochs
        data_orders = torch.stack(
            [torch.randperm(steps, generator=self._data_order_generator) for _ in range(epochs)]
        ).to(self.device)
        return statistics | self._policies.update(batch, data_orders, [learning_rate])

    @torch.no_grad()
    def _evaluate(self) -> tuple[Batch, dict[str, Tensor]]:
        """Compute values, advantages and log-probabilities of the latest rollout, and their statistics."""
        rollout, config = self._rollout, self.config
        all_values = self._policies.values(rollout.observations)
        values, next_values = all_values[:-1], all_values[1:].clone()
        if rollout.final_indices:
            final = torch.from_numpy(np.stack(rollout.final_observations))
            final_values = self._policies.values(final.to(rollout.observations))
            indices = torch.tensor(rollout.final_indices, device=self.device)
            next_values.view(-1)[indices] = final_values
        advantages = generalized_advantages(
            torch.from_numpy(rollout.rewards).to(self.device),
            values,
            next_values,
            torch.from_numpy(rollout.terminated).to(self.device),
            torch.from_numpy(rollout.truncated).to(self.device),
            gamma=config.gamma,
            gae_lambda=config.gae_lambda,
        )
        returns = advantages + values
        outputs, actions = rollout.outputs.flatten(0, 1), rollout.actions.flatten(0, 1)
        log_probabilities = self._policies.log_probabilities(outputs, actions)
        explained = 1 - (returns - values).var() / returns.var()
        statistics = {
            "policy_entropy": self._policies.entropy(outputs),
            # Equal returns have no variance to explain, although rounding may leave a little.
            "explained_variance": explained.where(returns.max() != returns.min(), torch.nan),
        }
        numbers = (each.flatten() for each in (advantages, values, returns))
        return Batch(self.observations, actions, log_probabilities, *numbers), statistics

    def _read(
        self, statistics: dict[str, Tensor], learning_rate: float
    ) -> tuple[dict[str, float], bool]:
        """Copy all numbers to the host at once; return the statistics and whether the policy diverged."""
        weights = torch.stack([p.detach().sum() for p in self.policy.parameters()]).sum()
        numbers = torch.stack([*(s.to(self.device) for s in statistics.values()), weights]).tolist()
        found = dict(zip(statistics, numbers, strict=False))
        needed = (found["policy_loss"], found["value_loss"], found["policy_entropy"], numbers[-1])
        return found | {"learning_rate": learning_rate}, not bool(np.isfinite(needed).all())

    # ---- saving and loading ---------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next iteration depends on, except the state of the environments.

        Raises:
            RuntimeError: if an update was interrupted.
        """
        self._require_whole()
        return self._state()

    def _state(self) -> dict[str, Any]:
        return {
            **self._policies.state_dict(),
            "noise_generator": self._noise_generator.get_state(),
            "order_generator": self._data_order_generator.get_state(),
            "num_steps": self.num_steps,
            "started": self._started,
            "diverged": self._diverged,
            "observations": self._rollout.observations[-1].clone(),
            "episodes": self._episodes.state_dict(),
            "observation_statistics": None
            if self._observation_normalizer is None
            else self._observation_normalizer.statistics.state_dict(),
            "reward_normalizer": None
            if self._reward_normalizer is None
            else self._reward_normalizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`, saved on any device and with any `update_threads`.

        The environments must be restored to the state that they had at that time. To continue bit for bit,
        use the same device and the same number of torch threads.

        Raises:
            ValueError: if the state has another number of environments, other networks, another
                normalization, or other optimizer settings (except the learning rate); nothing is loaded
                in that case.
        """
        own = self._state()
        require_complete(state, own)
        self._episodes.require_fitting(state["episodes"])
        require_fitting(state, own)
        self._interrupted, self._collected = True, False
        self._episodes.load_state_dict(state["episodes"])
        self._policies.load_state_dict(state)
        self._noise_generator.set_state(state["noise_generator"].cpu())
        self._data_order_generator.set_state(state["order_generator"].cpu())
        self.num_steps = state["num_steps"]
        self._started, self._diverged = state["started"], state["diverged"]
        self._rollout.observations[-1].copy_(state["observations"])
        if self._observation_normalizer is not None:
            statistics = self._observation_normalizer.statistics
            statistics.load_state_dict(state["observation_statistics"])
        if self._reward_normalizer is not None:
            self._reward_normalizer.load_state_dict(state["reward_normalizer"])
        self._interrupted = False

    def close(self) -> None:
        """Stop the critic's process, if there is one. The environments stay open."""
        self._policies.close()


def seeded_generator(seed: int, name: str) -> torch.Generator:
    """Return the CPU generator for one named purpose in a run with this seed."""
    generator = torch.Generator()
    generator.manual_seed(child_seed(seed, name))
    return generator


def with_anchor_seed(
    settings: RegularizerSettings | None, seed: int, name: str
) -> RegularizerSettings:
    """Return the settings, with the anchor seed derived from the run's seed if they have none."""
    settings = RegularizerSettings() if settings is None else settings
    if settings.anchor_seed is not None:
        return settings
    return replace(settings, anchor_seed=child_seed(seed, name))
