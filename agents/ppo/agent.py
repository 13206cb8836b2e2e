"""Proximal policy optimization (Schulman et al., 2017): one agent, or R stacked ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch

from plasticity.agents.networks.actor_critic import ActorCritic, initialise
from plasticity.agents.networks.images import image_network
from plasticity.agents.networks.layers import ACTIVATIONS, InitializedNetwork
from plasticity.agents.ppo.base_agent import BasePPO, Iteration
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.draws import seeded_generator
from plasticity.agents.ppo.environments import Environments, environment_seeds
from plasticity.agents.ppo.host_environments import HostEnvironments
from plasticity.agents.ppo.single_policy import SinglePolicy
from plasticity.agents.ppo.stacked_policies import StackedPolicies
from plasticity.mitigations import Mitigation, SeededMethod, network_spec
from plasticity.network_spec import LayerSpec, NetworkSpec
from plasticity.seeds import child_seed

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

__all__ = ["PPO", "StackedPPO", "initial_policy"]


class PPO(BasePPO):
    """Proximal policy optimization agent.

    All randomness comes from `seed` through named child seeds and is drawn on the CPU: the initial weights,
    the exploration noise of a rollout, the data order of an update, the resets of a vector environment.

    Args:
        envs: Any Gymnasium vector environment with SAME_STEP autoreset, a Box of observations, and a Box of
            floats or Discrete for actions; or `Environments`, which have seeds of their own. Only the actions
            passed to the environment are clipped to the Box. If `info` has an integer "task" of at least 0,
            episodes report it.
        config: Settings of the algorithm.
        actor: Mitigations of the actor's layers, such as `(Syre(strength=1e-3),)`; `log_std` is left alone.
        critic: Mitigations of the critic's layers.
        seed: Seed of everything that is drawn.
        device: Device of the networks and the update: "cpu", "cuda", … None: that of the `Environments`, and
            the CPU for a vector environment.
        update_threads: 2 runs the critic's update in a separate process, on another core than the actor's,
            with bit-for-bit the same numbers. On a CPU only, and only if nothing couples the two. A critic
            of your own must be one that can be pickled and draws no random numbers.
        policy: Policy with networks of your own, on the device. None: dense networks as in the configuration.

    Raises:
        TypeError: if an argument or a space has the wrong type.
        ValueError: if the environments use another autoreset mode or device, `rollout_steps` is not a
            multiple of their number, `update_threads` does not fit the device or the configuration, or the
            configuration compiles without CUDA.

    Examples:
        >>> import gymnasium
        >>> from gymnasium.vector import AutoresetMode, SyncVectorEnv
        >>> envs = SyncVectorEnv(
        ...     [lambda: gymnasium.make("CartPole-v1")] * 2, autoreset_mode=AutoresetMode.SAME_STEP
        ... )
        >>> config = PPOConfig(rollout_steps=32, minibatch_size=16, epochs=1)
        >>> agent = PPO(envs, config, seed=0)
        >>> agent.iterate().num_steps
        32
    """

    def __init__(
        self,
        envs: VectorEnv[Any, Any, Any] | Environments,
        config: PPOConfig,
        actor: Sequence[Mitigation] = (),
        critic: Sequence[Mitigation] = (),
        *,
        seed: int,
        device: str | torch.device | None = None,
        update_threads: int = 1,
        policy: ActorCritic | None = None,
    ) -> None:
        environments = _environments(envs, seed, device)
        _check(environments, config, 1, device)
        policies = SinglePolicy(
            initial_policy(environments, config, seed, actor, critic) if policy is None else policy,
            config,
            *_seeded(actor, critic, seed),
            update_threads=update_threads,
        )
        super().__init__(environments, config, [seed], policies)

    @property
    def policy(self) -> ActorCritic:
        """Actor and critic. After an update, each `.grad` holds the gradient of the last minibatch."""
        return self.policies.policy()

    @property
    def num_steps(self) -> int:
        """Environment steps so far, summed over all environments."""
        return self._num_steps[0]

    def iterate(self) -> Iteration:
        """Run one rollout and learn from it.

        Raises:
            RuntimeError: if an earlier iteration diverged, or its update was interrupted.
        """
        (iteration,) = self.iterate_all()
        return iteration

    def update(self) -> Iteration:
        """Learn from the latest rollout; the second part of `iterate`.

        Raises:
            RuntimeError: if there is no rollout, or an earlier update was interrupted.
        """
        (iteration,) = self._update()
        return iteration


class StackedPPO(BasePPO):
    """R stacked PPO agents, each of which learns in its own share of the environments.

    Agent r draws the same random numbers as `PPO` with its seed, so that it learns the same as a separate run
    of `PPO` in its environments, up to rounding. Nothing waits for the device before the end of an iteration.

    Args:
        envs: Environments of all agents: agent r has environments r * E to (r + 1) * E - 1, where E is their
            number divided by R. Wrap environments on the host in `HostEnvironments`.
        config: Settings of each agent; `rollout_steps` counts the steps of one agent.
        actors: Mitigations of each actor's layers, as in `PPO`; of one kind, but for decays.
        critics: Mitigations of each critic's layers.
        seeds: One seed for each agent, as in `PPO`. The environments have their own seeds.
        device: Device of the environments and the learner; None: the environments' device.
        policies: Policies with networks of your own, one for each agent; their weights are copied. None:
            dense networks as in the configuration.

    Raises:
        ValueError: if the numbers of agents and environments do not match, the devices differ, or the
            configuration compiles without CUDA.

    Examples:
        >>> import gymnasium
        >>> from gymnasium.vector import AutoresetMode, SyncVectorEnv
        >>> envs = SyncVectorEnv(
        ...     [lambda: gymnasium.make("CartPole-v1")] * 2, autoreset_mode=AutoresetMode.SAME_STEP
        ... )
        >>> config = PPOConfig(rollout_steps=32, minibatch_size=16, epochs=1)
        >>> agents = StackedPPO(HostEnvironments(envs, [5, 6]), config, [()] * 2, [()] * 2, seeds=[0, 1])
        >>> [each.num_steps for each in agents.iterate()]
        [32, 32]
    """

    def __init__(
        self,
        envs: Environments,
        config: PPOConfig,
        actors: Sequence[Sequence[Mitigation]],
        critics: Sequence[Sequence[Mitigation]],
        *,
        seeds: Sequence[int],
        device: str | torch.device | None = None,
        policies: Sequence[ActorCritic] | None = None,
    ) -> None:
        self.num_stacked = len(seeds)
        """Number of agents, R."""
        if not seeds or not len(seeds) == len(actors) == len(critics):
            raise ValueError(
                f"There are {len(seeds)} seeds, {len(actors)} actors' and {len(critics)} critics' settings:"
                " give one of each for every agent."
            )
        _check(envs, config, len(seeds), device)
        methods = [
            _seeded(actor, critic, seed)
            for actor, critic, seed in zip(actors, critics, seeds, strict=True)
        ]
        made = (
            [
                initial_policy(envs, config, *each)
                for each in zip(seeds, actors, critics, strict=True)
            ]
            if policies is None
            else policies
        )
        stacked = StackedPolicies(
            made,
            config,
            [actor for actor, _ in methods],
            [critic for _, critic in methods],
        )
        super().__init__(envs, config, seeds, stacked)
        self.networks = stacked.networks
        """Actors and critics as stacked networks."""

    def policy(self, index: int) -> ActorCritic:
        """Return a single policy with an agent's weights and, in `.grad`, its last minibatch's gradient."""
        return self.policies.policy(index)

    @property
    def num_steps(self) -> list[int]:
        """Environment steps of each agent so far, summed over its environments."""
        return list(self._num_steps)

    def iterate(self) -> list[Iteration]:
        """Run one rollout and learn from it.

        Returns:
            For each agent, the same as `PPO.iterate`. A frozen agent has no episodes, and nan for all
            statistics.

        Raises:
            RuntimeError: if all agents are frozen, an earlier update was interrupted, or the environments
                found an error on the device.
        """
        return self.iterate_all()

    def update(self) -> list[Iteration]:
        """Learn from the latest rollout; the second part of `iterate`.

        Returns:
            The same as `iterate`.

        Raises:
            RuntimeError: if there is no rollout, an earlier update was interrupted, or the environments
                found an error on the device.
        """
        return self._update()


def _environments(
    envs: VectorEnv[Any, Any, Any] | Environments, seed: int, device: str | torch.device | None
) -> Environments:
    if not hasattr(envs, "single_observation_space"):
        return envs
    # not isinstance: callers with a vector environment have imported gymnasium, others need not have it
    vector = cast("VectorEnv[Any, Any, Any]", envs)
    seeds = environment_seeds(seed, vector.num_envs)
    return HostEnvironments(vector, seeds, "cpu" if device is None else device)


def _check(
    envs: Environments, config: PPOConfig, num_agents: int, device: str | torch.device | None
) -> None:
    each, rest = divmod(envs.num_envs, num_agents)
    if rest or not each:
        raise ValueError(
            f"{envs.num_envs} environments cannot be shared by {num_agents} stacked agents: give a multiple."
        )
    if config.rollout_steps % each:
        raise ValueError(
            f"rollout_steps={config.rollout_steps} is not a multiple of the {each} environments of an agent,"
            " which take equal shares: give a multiple."
        )
    if device is not None:
        wanted, found = (torch.empty(0, device=each).device for each in (device, envs.device))
        if wanted != found:
            raise ValueError(
                f"The environments are on {found}, but the learner should be on {wanted}: use one device."
            )


def initial_policy(
    envs: Environments,
    config: PPOConfig,
    seed: int,
    actor_method: Sequence[Mitigation] = (),
    critic_method: Sequence[Mitigation] = (),
) -> ActorCritic:
    """Return the policy that an agent begins with, on the device of the environments.

    Its networks are dense, or those for images that the configuration names.

    Args:
        envs: Environments of the agent, which give the sizes.
        config: Settings of the agent.
        seed: Seed of the agent, of which the weights have a named child seed.
        actor_method: Mitigations, of which those that change networks change the actor.
        critic_method: Mitigations of the critic, likewise.

    Raises:
        ValueError: if the configuration names a network for images, and the observations are none, or are
            too small for it.
    """
    generator = seeded_generator(seed, "weights")
    actor, critic = None, None
    if config.image_network is not None:
        actor = _image_network(envs, config, envs.action_size, 0.01, actor_method, generator)
        critic = _image_network(envs, config, 1, 1.0, critic_method, generator)
    return ActorCritic(
        envs.observation_size,
        envs.action_size,
        config,
        discrete=envs.discrete,
        generator=generator,
        actor=actor,
        critic=critic,
        actor_method=actor_method,
        critic_method=critic_method,
    ).to(envs.device)


def _image_network(
    envs: Environments,
    config: PPOConfig,
    outputs: int,
    head_gain: float,
    method: Sequence[Mitigation],
    generator: torch.Generator,
) -> InitializedNetwork:
    """Return an actor or a critic of images."""
    images = envs.images if isinstance(envs, HostEnvironments) else None
    if images is None:
        raise ValueError(
            f"image_network={config.image_network!r} needs observations of uint8 and of shape (channels,"
            " height, width), which these environments do not have: leave it out, or wrap each environment."
        )
    assert config.image_network is not None  # by the caller
    layer = LayerSpec(activations=(ACTIVATIONS[config.activation],))
    plain = NetworkSpec(input_shape=images.shape, output_size=outputs, layer=layer)
    spec = network_spec(method, plain)
    # torch's default initialization, overwritten below, must not advance the global generator.
    with torch.random.fork_rng(devices=[]):
        network = image_network(config.image_network, images, outputs, config.hidden, spec.layer)
    initialise(network, config.initialization, head_gain=head_gain, generator=generator)
    return network


def _seeded(
    actor: Sequence[Mitigation], critic: Sequence[Mitigation], seed: int
) -> tuple[SeededMethod, SeededMethod]:
    """Return the methods of actor and critic, with seeds derived from that of the run."""

    def seeded(method: Sequence[Mitigation], name: str) -> SeededMethod:
        return SeededMethod(
            tuple(method),
            anchor_seed=child_seed(seed, f"{name} anchor"),
            noise_seed=child_seed(seed, f"{name} mitigations"),
        )

    return seeded(actor, "actor"), seeded(critic, "critic")
