"""Trained networks of a Stable-Baselines3 policy as one module, from observations to hidden layers.

A policy's own ``forward`` does not suit a measurement: it samples actions, runs a shared features
extractor twice, or skips the critic. Here every trained network runs once, under a name that says
whether it belongs to the actor or the critic.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn

from plasticity.containers import mapped
from plasticity.metrics.capture import capture
from plasticity.metrics.dormancy import ZERO_WHEN_DEAD
from plasticity.metrics.layer_names import ACTIVATION_MODULES, ACTIVATIONS
from plasticity.preserve_state import preserve_state
from plasticity.wrappers import bypassed, named_modules, unwrapped

__all__ = ["PolicyNetworks", "policy_networks"]

Observations = Tensor | dict[str, Tensor]

_RELU_FAMILY = tuple(kind for kind, name in ACTIVATIONS.items() if name in ZERO_WHEN_DEAD)


def policy_networks(policy: BasePolicy) -> PolicyNetworks:
    """Return a policy's networks as one module.

    Args:
        policy: Policy of PPO, A2C, DQN, SAC, TD3 or DDPG, or of sb3-contrib's TQC, TRPO, RecurrentPPO,
            MaskablePPO, QRDQN or CrossQ; or of a subclass whose parts have the same names. The policy and
            its parts may be compiled or otherwise wrapped: names are those inside the wrappers.

    Returns:
        A module that shares the policy's parameters, without its target networks.

    Raises:
        TypeError: if the policy is of another kind.
    """
    policy = cast("BasePolicy", unwrapped(policy))
    if hasattr(policy, "lstm_actor"):
        return RecurrentActorCritic(policy)
    if hasattr(policy, "mlp_extractor"):
        return ActorCritic(policy)
    for name in ("q_net", "quantile_net"):
        if hasattr(policy, name):
            return ActionValue(policy, name)
    if hasattr(policy, "actor") and hasattr(policy, "critic"):
        return ActorAndCritics(policy)
    raise TypeError(
        f"the networks of a {type(policy).__name__} are not known: expected a policy with mlp_extractor "
        "(such as PPO's), q_net (such as DQN's), or actor and critic (such as SAC's). Measure the module "
        "itself with plasticity.Tracker."
    )


class PolicyNetworks(nn.Module):
    """Module of the trained networks of a policy, under these names.

    - PPO, A2C, TRPO, MaskablePPO, RecurrentPPO: ``actor`` and ``critic`` are SB3's
      ``mlp_extractor.policy_net`` and ``.value_net``; then ``action_net``, ``value_net``, ``log_std``;
      before them ``features_extractor`` (or ``pi_features_extractor`` and ``vf_features_extractor`` if
      not shared), ``lstm_actor`` and ``lstm_critic``.
    - DQN, QRDQN: ``features_extractor``, ``q_net`` (``quantile_net``).
    - SAC, TD3, DDPG, TQC, CrossQ: ``actor`` (containing ``latent_pi`` and ``mu``), ``critic`` (containing
      ``qf0``, …).

    Further down, the names are torch's: with two hidden layers, ``actor.0`` and ``actor.2`` are the linear
    layers, ``actor.1`` and ``actor.3`` their activations. The parameters are the policy's own, not copies.
    """

    policy: BasePolicy
    """Policy itself. It is not a child module, so that its untrained target networks are not included."""

    def __init__(self, policy: BasePolicy) -> None:
        super().__init__()
        # Bypasses nn.Module.__setattr__, which would make the whole policy a child.
        object.__setattr__(self, "policy", policy)

    def __call__(self, *inputs: Any) -> None:
        """Run every trained network once, as `forward` does, bypassing the wrappers of the policy's parts."""
        with bypassed(self.policy):
            super().__call__(*inputs)

    @abstractmethod
    def forward(self, observations: Observations, *further: Tensor) -> None:
        """Run every trained network once.

        Args:
            observations: Observations in the form that the policy takes, before preprocessing: images as
                uint8, channels first. Shape: (batch, *observation), or a dictionary of such tensors.
            further: Remaining elements of `inputs`.
        """

    def inputs(self, observations: Observations) -> tuple[Any, ...]:
        """Return all arguments of `forward`, made from observations alone.

        Args:
            observations: Observations, as in `forward`.

        Returns:
            The observations; for SAC and similar algorithms also the actor's deterministic actions, scaled
            to ±1; for recurrent policies also zero states.
        """
        return (observations,)

    def latest_inputs(self, model: Any, step_locals: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return copies of all arguments of `forward`, as they were in the latest environment step.

        Args:
            model: Algorithm, within a callback's ``on_step``.
            step_locals: ``locals`` of the callback.

        Returns:
            As for `inputs`, with a batch of one row per environment. For SAC and similar algorithms, the
            actions are those taken; for recurrent policies, the states are those used.
        """
        return (_tensors(model._last_obs),)

    def hidden_layers(self, inputs: tuple[Any, ...]) -> tuple[str, ...]:
        """Return the names of the hidden layers, in the order in which they run.

        Args:
            inputs: Arguments of `forward`.

        Returns:
            Every elementwise activation, module or functional, and the output of every LSTM. An activation
            that bounds the actions (the last one of TD3's actor) is not a hidden layer.

        Raises:
            ValueError: if there are no hidden layers.
        """
        with preserve_state(self), capture(self) as activations:
            self(*inputs)
        layers = [
            *self._memories(),
            *(n for n in activations if n not in self._output_activations()),
        ]
        if not layers:
            raise ValueError(
                f"no hidden activation was found in {type(self.policy).__name__} (an empty net_arch?); name "
                "the layers to measure, as in layers=['action_net']"
            )
        return tuple(layers)

    def saturates(self, layer: str) -> bool:
        """Return whether a dead unit of this layer is one with a constant output, rather than zero.

        False for the ReLU family, True for everything else: tanh, sigmoid, GELU, an LSTM.
        """
        name = layer.partition("#")[0]
        modules = dict(named_modules(self))
        if name in modules:
            return not isinstance(modules[name], _RELU_FAMILY)
        return name not in ZERO_WHEN_DEAD

    def observations_to_tensor(self, observations: object) -> Observations:
        """Convert a batch of observations from the form of ``model.predict`` to that of `forward`.

        Args:
            observations: Array, tensor, or a dictionary of them; images may have their channels last.

        Returns:
            The observations on the policy's device.

        Raises:
            ValueError: if the observations do not fit the observation space, or are fewer than two.
        """
        if isinstance(observations, Mapping):
            arrays: Any = {key: _array(value) for key, value in observations.items()}
            first = next(iter(arrays.values()), np.zeros(0))
        else:
            arrays = first = _array(observations)
        if isinstance(observations, Mapping) != hasattr(self.policy.observation_space, "spaces"):
            raise ValueError(
                f"the observations are a {type(observations).__name__}, but the observation space is "
                f"{self.policy.observation_space}: pass observations in the form that model.predict takes"
            )
        tensors, batched = self.policy.obs_to_tensor(arrays)
        if not batched or len(first) < 2:
            raise ValueError(
                "a probe batch must hold at least two observations, one per row, from "
                f"{self.policy.observation_space}; got shape {first.shape}"
            )
        return tensors

    def _memories(self) -> Sequence[str]:
        """Return the children whose outputs are hidden layers although they are not activations."""
        return ()

    def _output_activations(self) -> Sequence[str]:
        """Return the activations that bound an output."""
        return ()

    def _adopt(self, modules: Mapping[str, nn.Module | None]) -> None:
        for name, module in modules.items():
            if module is not None:
                self.add_module(name, unwrapped(module))


class ActorCritic(PolicyNetworks):
    """Networks of PPO, A2C, TRPO and MaskablePPO."""

    def __init__(self, policy: Any) -> None:
        super().__init__(policy)
        children = {
            name: unwrapped(module)
            for name, module in policy._modules.items()
            if module is not None
        }
        extractor: Any = children.pop("mlp_extractor")
        # SB3 registers a shared extractor under three names, and a separate one of the actor under two.
        own = ("pi_features_extractor", "vf_features_extractor")
        for name in own if policy.share_features_extractor else ("features_extractor",):
            children.pop(name, None)
        heads = {name: children.pop(name, None) for name in ("action_net", "value_net")}
        self._adopt(self._named_first(children))
        if hasattr(extractor, "policy_net") and hasattr(extractor, "value_net"):
            self._adopt({"actor": extractor.policy_net, "critic": extractor.value_net})
        else:
            self._adopt({"mlp_extractor": extractor})
        self._adopt(heads)
        for name, parameter in policy.named_parameters(recurse=False):
            self.register_parameter(name, parameter)

    def _named_first(self, children: dict[str, nn.Module]) -> Mapping[str, nn.Module | None]:
        return children

    def forward(self, observations: Observations, *further: Tensor) -> None:
        """Run the extractor, the actor and the critic, as SB3's ``forward``, without sampling an action."""
        policy: Any = self.policy
        features = policy.extract_features(observations)
        actor, critic = features if isinstance(features, tuple) else (features, features)
        if features is actor:
            actor, critic = policy.mlp_extractor(features)
        else:
            actor = policy.mlp_extractor.forward_actor(actor)
            critic = policy.mlp_extractor.forward_critic(critic)
        policy.action_net(actor)
        policy.value_net(critic)


class Memory(nn.Module):
    """LSTM that makes one step and returns only its output, like an ordinary layer."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.lstm = lstm

    def forward(self, features: Tensor, hidden: Tensor, cell: Tensor) -> Tensor:
        """Make one step from the given states, of shape (batch, layers, units). Output: (batch, units)."""
        states = (hidden.transpose(0, 1).contiguous(), cell.transpose(0, 1).contiguous())
        output: Tensor = self.lstm(features.unsqueeze(0), states)[0]
        return output.squeeze(0)


class RecurrentActorCritic(ActorCritic):
    """Networks of RecurrentPPO. Inputs are the observations and, batch first, the states of both LSTMs."""

    def _named_first(self, children: dict[str, nn.Module]) -> Mapping[str, nn.Module | None]:
        named: dict[str, nn.Module | None] = {}
        for name, module in children.items():
            if isinstance(module, nn.LSTM):
                named[name] = Memory(module)
            else:
                # The linear layer that replaces the critic's LSTM if there is none.
                named["critic_input" if name == "critic" else name] = module
        return named

    def forward(self, observations: Observations, *further: Tensor) -> None:
        """Run the extractor, the LSTMs for one step, the actor and the critic."""
        policy: Any = self.policy
        features = policy.extract_features(observations)
        for_actor, for_critic = features if isinstance(features, tuple) else (features, features)
        actor = self.get_submodule("lstm_actor")(for_actor, *further[:2])
        if policy.lstm_critic is not None:
            critic = self.get_submodule("lstm_critic")(for_critic, *further[2:])
        else:
            critic = actor if policy.shared_lstm else policy.critic(for_critic)
        policy.action_net(policy.mlp_extractor.forward_actor(actor))
        policy.value_net(policy.mlp_extractor.forward_critic(critic))

    def inputs(self, observations: Observations) -> tuple[Any, ...]:
        """Return the observations with the states at the start of an episode, which are zero."""
        tensor = (
            observations if isinstance(observations, Tensor) else next(iter(observations.values()))
        )
        policy: Any = self.policy
        layers, _, units = policy.lstm_hidden_state_shape
        zeros = torch.zeros(len(tensor), layers, units, device=self.policy.device)
        return (observations, zeros, zeros, zeros, zeros)

    def latest_inputs(self, model: Any, step_locals: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the observations and the states used with them, zero where an episode began."""
        starts = torch.as_tensor(model._last_episode_starts, dtype=torch.float32)
        kept = (1.0 - starts).view(-1, 1, 1).to(self.policy.device)
        states = (*model._last_lstm_states.pi, *model._last_lstm_states.vf)
        return (
            _tensors(model._last_obs),
            *(kept * state.detach().transpose(0, 1) for state in states),
        )

    def _memories(self) -> Sequence[str]:
        return [name for name, module in self.named_children() if isinstance(module, Memory)]


class ActionValue(PolicyNetworks):
    """Network of DQN and QRDQN, with an output per action."""

    def __init__(self, policy: BasePolicy, name: str) -> None:
        super().__init__(policy)
        network = unwrapped(policy.get_submodule(name))
        self._adopt(dict(network.named_children()))

    def forward(self, observations: Observations, *further: Tensor) -> None:
        """Run the extractor and the value network."""
        policy: Any = self.policy
        network = policy.q_net if hasattr(policy, "q_net") else policy.quantile_net
        network(observations)


class ActorAndCritics(PolicyNetworks):
    """Networks of SAC, TD3, DDPG, TQC and CrossQ. The inputs are the observations, and actions within ±1."""

    def __init__(self, policy: BasePolicy) -> None:
        super().__init__(policy)
        self._adopt({name: policy.get_submodule(name) for name in ("actor", "critic")})

    def forward(self, observations: Observations, *further: Tensor) -> None:
        """Run the actor up to its means and deviations, and every critic on the given actions."""
        actor: Any = self.actor
        critic: Any = self.critic
        features = actor.extract_features(observations, actor.features_extractor)
        latent = actor.latent_pi(features) if hasattr(actor, "latent_pi") else features
        actor.mu(latent)
        # A layer in SAC, unless it explores with gSDE.
        if isinstance(getattr(actor, "log_std", None), nn.Module):
            actor.log_std(latent)
        if critic.features_extractor is not actor.features_extractor:
            features = critic.extract_features(observations, critic.features_extractor)
        pairs = torch.cat([features, further[0]], dim=1)
        for network in critic.q_networks:
            network(pairs)

    def inputs(self, observations: Observations) -> tuple[Any, ...]:
        """Return the observations and the actor's current actions for them."""
        with preserve_state(self):
            return (observations, self.policy._predict(observations, deterministic=True))

    def latest_inputs(self, model: Any, step_locals: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the observations and the actions taken, as the replay buffer holds them."""
        actions = np.asarray(step_locals["buffer_actions"], dtype=np.float32)
        return (_tensors(model._last_obs), torch.tensor(actions.reshape(len(actions), -1)))

    def _output_activations(self) -> Sequence[str]:
        mean = dict(named_modules(self))["actor.mu"]
        if isinstance(mean, nn.Sequential) and isinstance(mean[-1], ACTIVATION_MODULES):
            return (f"actor.mu.{len(mean) - 1}",)
        return ()


def _tensors(observations: Any) -> Observations:
    """Copy observations, as an environment may write its next observation into the same memory."""
    copied: Observations = mapped(torch.tensor, observations)
    return copied


def _array(observations: object) -> np.ndarray:
    if isinstance(observations, Tensor):
        observations = observations.detach().cpu().numpy()
    return np.asarray(observations)
