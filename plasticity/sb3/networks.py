"""The trained networks of a Stable-Baselines3 policy as one module, from observations to hidden layers.

A policy's own ``forward`` is not what a measurement needs: it samples actions, runs a shared features
extractor twice, or leaves the critic out. Here every trained network runs once, under a name that says
whose it is.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn

from plasticity.metrics.capture import ACTIVATION_MODULES, capture
from plasticity.metrics.dormancy import ZERO_WHEN_DEAD
from plasticity.preserve_state import preserve_state
from plasticity.wrappers import bypassed, named_modules, unwrapped

__all__ = ["PolicyNetworks", "policy_networks"]

Observations = Tensor | dict[str, Tensor]

_RELU_FAMILY = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.Threshold, nn.Hardshrink, nn.Softshrink
)  # fmt: skip


def policy_networks(policy: BasePolicy) -> PolicyNetworks:
    """Look at a policy's networks as one module.

    Args:
        policy: Of PPO, A2C, DQN, SAC, TD3 or DDPG, or of sb3-contrib's TQC, TRPO, RecurrentPPO, MaskablePPO,
            QRDQN or CrossQ; a subclass whose parts have the same names. It may be compiled or otherwise
            wrapped, and so may its parts: names are those of what is inside.

    Returns:
        A module that shares the policy's parameters. Its target networks are left out.

    Raises:
        TypeError: if the policy is none of these.
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
        "(as PPO's), q_net (as DQN's), or actor and critic (as SAC's). Measure the module itself with "
        "plasticity.Tracker."
    )


class PolicyNetworks(nn.Module):
    """The trained networks of a policy, under these names.

    - PPO, A2C, TRPO, MaskablePPO, RecurrentPPO: ``actor`` and ``critic`` are SB3's
      ``mlp_extractor.policy_net`` and ``.value_net``; then ``action_net``, ``value_net``, ``log_std``;
      before them ``features_extractor`` (or ``pi_features_extractor`` and ``vf_features_extractor``, where
      they are not shared), ``lstm_actor`` and ``lstm_critic``.
    - DQN, QRDQN: ``features_extractor``, ``q_net`` (``quantile_net``).
    - SAC, TD3, DDPG, TQC, CrossQ: ``actor`` (in it ``latent_pi`` and ``mu``), ``critic`` (in it ``qf0``, …).

    Inside them the names are torch's: of two hidden layers, ``actor.0`` and ``actor.2`` are the weights,
    ``actor.1`` and ``actor.3`` their activations. The parameters are the policy's own, not copies.
    """

    policy: BasePolicy
    """The policy itself. It is no child: what is not trained (target networks) is not seen."""

    def __init__(self, policy: BasePolicy) -> None:
        super().__init__()
        # Past nn.Module's own setter, which would make the whole policy a child.
        object.__setattr__(self, "policy", policy)

    def __call__(self, *inputs: Any) -> None:
        """Run every trained network once, as `forward`, past the wrappers of the policy's parts."""
        with bypassed(self.policy):
            super().__call__(*inputs)

    @abstractmethod
    def forward(self, observations: Observations, *further: Tensor) -> None:
        """Run every trained network once.

        Args:
            observations: As the policy takes them, before preprocessing: images as uint8, channels first.
                Shape: (batch, *observation), or a dictionary of such.
            further: The rest of `inputs`.
        """

    def inputs(self, observations: Observations) -> tuple[Any, ...]:
        """All that `forward` takes, made from observations alone.

        Args:
            observations: As in `forward`.

        Returns:
            The observations; for SAC and its kind also the actor's deterministic actions, scaled to ±1; for
            recurrent policies zero states.
        """
        return (observations,)

    def latest_inputs(self, model: Any, step_locals: Mapping[str, Any]) -> tuple[Any, ...]:
        """A copy of all that `forward` takes, as it was in the environment step that has just been made.

        Args:
            model: The algorithm, in a callback's ``on_step``.
            step_locals: The callback's ``locals``.

        Returns:
            As `inputs`, with a batch of one row per environment. SAC and its kind give the actions that
            were taken, recurrent policies the states that were used.
        """
        return (_tensors(model._last_obs),)

    def hidden_layers(self, inputs: tuple[Any, ...]) -> tuple[str, ...]:
        """Names of the hidden layers, in the order in which they run.

        Args:
            inputs: As `forward` takes them.

        Returns:
            Every elementwise activation, module or functional, and the output of every LSTM. An activation
            that bounds the actions (the last of TD3's actor) is none.

        Raises:
            ValueError: if there is none.
        """
        with preserve_state(self, self.devices()), capture(self) as activations:
            self(*inputs)
        layers = [
            *self._memories(),
            *(n for n in activations if n not in self._output_activations()),
        ]
        if not layers:
            raise ValueError(
                f"no hidden activation was seen in {type(self.policy).__name__} (an empty net_arch?); name "
                "the layers to measure, as in layers=['action_net']"
            )
        return tuple(layers)

    def saturates(self, layer: str) -> bool:
        """Whether a dead unit of this layer is one that gives a constant, rather than zero.

        False for the family of ReLU, true for everything else: tanh, sigmoid, GELU, an LSTM.
        """
        name = layer.partition("#")[0]
        modules = dict(named_modules(self))
        if name in modules:
            return not isinstance(modules[name], _RELU_FAMILY)
        return name not in ZERO_WHEN_DEAD

    def devices(self) -> dict[torch.device, None]:
        """The devices of the parameters and buffers, each once."""
        return {tensor.device: None for tensor in (*self.parameters(), *self.buffers())}

    def observations_to_tensor(self, observations: object) -> Observations:
        """A batch of observations, as ``model.predict`` takes it, as `forward` takes it.

        Args:
            observations: Array, tensor, or a dictionary of them; images may have their channels last.

        Returns:
            On the policy's device.

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
                f"the observations are a {type(observations).__name__}, and the observation space is "
                f"{self.policy.observation_space}: give what model.predict takes"
            )
        tensors, batched = self.policy.obs_to_tensor(arrays)
        if not batched or len(first) < 2:
            raise ValueError(
                "a probe batch holds at least two observations, one a row, of "
                f"{self.policy.observation_space}; got shape {first.shape}"
            )
        return tensors

    def _memories(self) -> Sequence[str]:
        """Children whose outputs are hidden layers without being activations."""
        return ()

    def _output_activations(self) -> Sequence[str]:
        """Activations that bound an output."""
        return ()

    def _adopt(self, modules: Mapping[str, nn.Module | None]) -> None:
        for name, module in modules.items():
            if module is not None:
                self.add_module(name, unwrapped(module))


class ActorCritic(PolicyNetworks):
    """Of PPO, A2C, TRPO and MaskablePPO."""

    def __init__(self, policy: Any) -> None:
        super().__init__(policy)
        children = {
            name: unwrapped(module)
            for name, module in policy._modules.items()
            if module is not None
        }
        extractor: Any = children.pop("mlp_extractor")
        # SB3 names one extractor three times where it is shared, the actor's twice where it is not.
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
        """Run the extractor, the actor and the critic, as SB3's ``forward``, without an action."""
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
    """An LSTM for one step, which gives its output alone: a layer like others."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.lstm = lstm

    def forward(self, features: Tensor, hidden: Tensor, cell: Tensor) -> Tensor:
        """One step from the given states, of shape (batch, layers, units). Output: (batch, units)."""
        states = (hidden.transpose(0, 1).contiguous(), cell.transpose(0, 1).contiguous())
        output: Tensor = self.lstm(features.unsqueeze(0), states)[0]
        return output.squeeze(0)


class RecurrentActorCritic(ActorCritic):
    """Of RecurrentPPO. Its inputs are the observations and, batch first, the states of both LSTMs."""

    def _named_first(self, children: dict[str, nn.Module]) -> Mapping[str, nn.Module | None]:
        named: dict[str, nn.Module | None] = {}
        for name, module in children.items():
            if isinstance(module, nn.LSTM):
                named[name] = Memory(module)
            else:
                # The layer that stands for the critic's LSTM where there is none.
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
        """The observations, with the states of an episode's start, which are zero."""
        tensor = (
            observations if isinstance(observations, Tensor) else next(iter(observations.values()))
        )
        policy: Any = self.policy
        layers, _, units = policy.lstm_hidden_state_shape
        zeros = torch.zeros(len(tensor), layers, units, device=self.policy.device)
        return (observations, zeros, zeros, zeros, zeros)

    def latest_inputs(self, model: Any, step_locals: Mapping[str, Any]) -> tuple[Any, ...]:
        """The observations, and the states that they met: zero where an episode began."""
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
    """Of DQN and QRDQN: one network with an output per action."""

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
    """Of SAC, TD3, DDPG, TQC and CrossQ. Its inputs are the observations and actions within ±1."""

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
        # SAC's, unless it explores by gSDE.
        if isinstance(getattr(actor, "log_std", None), nn.Module):
            actor.log_std(latent)
        if critic.features_extractor is not actor.features_extractor:
            features = critic.extract_features(observations, critic.features_extractor)
        pairs = torch.cat([features, further[0]], dim=1)
        for network in critic.q_networks:
            network(pairs)

    def inputs(self, observations: Observations) -> tuple[Any, ...]:
        """The observations, with what the actor would do now."""
        with preserve_state(self, self.devices()):
            return (observations, self.policy._predict(observations, deterministic=True))

    def latest_inputs(self, model: Any, step_locals: Mapping[str, Any]) -> tuple[Any, ...]:
        """The observations, and the actions that were taken, as the replay buffer holds them."""
        actions = np.asarray(step_locals["buffer_actions"], dtype=np.float32)
        return (_tensors(model._last_obs), torch.tensor(actions.reshape(len(actions), -1)))

    def _output_activations(self) -> Sequence[str]:
        mean = dict(named_modules(self))["actor.mu"]
        if isinstance(mean, nn.Sequential) and isinstance(mean[-1], ACTIVATION_MODULES):
            return (f"actor.mu.{len(mean) - 1}",)
        return ()


def _tensors(observations: Any) -> Observations:
    """Copies, as an environment may write its next observation into the same memory."""
    if isinstance(observations, Mapping):
        return {key: torch.tensor(value) for key, value in observations.items()}
    return torch.tensor(observations)


def _array(observations: object) -> np.ndarray:
    if isinstance(observations, Tensor):
        observations = observations.detach().cpu().numpy()
    return np.asarray(observations)
