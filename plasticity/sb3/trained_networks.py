"""Networks of a Stable-Baselines3 policy as mitigations act on them: one for each of its optimizers.

Target networks are none of them: no optimizer trains them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from plasticity.sb3.networks import ActionValue, ActorCritic, PolicyNetworks, policy_networks
from plasticity.wrappers import unwrapped

__all__ = ["TrainedNetwork", "trained_networks"]


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """Network of a policy with its optimizer."""

    module: nn.Module
    """Network that takes `example`, and returns its outputs side by side; it shares the policy's layers."""

    optimizer: Optimizer
    """Optimizer of its parameters."""

    example: Any
    """Example of its input: observations as the features extractor gets them, or what the critics get."""

    watched: nn.Module
    """Layer of the policy whose input in training is that of the network."""

    def on_inputs(self, act: Any) -> RemovableHandle:
        """Call a function with the network's input, whenever the policy computes it."""
        return self.watched.register_forward_pre_hook(lambda _module, args: act(args[0]))


def trained_networks(policy: BasePolicy, observations: object) -> dict[str, TrainedNetwork]:
    """Return the networks of a policy that have an optimizer of their own.

    Args:
        policy: Policy of PPO, A2C, DQN, SAC, TD3 or DDPG; or of another algorithm whose policy has the same
            parts (TRPO, MaskablePPO, QRDQN, TQC).
        observations: Observations, in the form of ``model.predict``. At least two.

    Returns:
        ``policy`` of PPO and A2C, whose actor and critic share an optimizer, with the layer names of
        `PolicyNetworks`; ``q_net`` of DQN, likewise; ``actor`` and ``critic`` of the others.

    Raises:
        TypeError: if the kind of policy is not known, or is recurrent.
    """
    networks = policy_networks(policy)
    policy = networks.policy
    tensors = networks.observations_to_tensor(observations)
    inputs = preprocess_obs(
        tensors, policy.observation_space, normalize_images=policy.normalize_images
    )
    if isinstance(networks, ActionValue):
        return {"q_net": _of_values(networks, inputs)}
    if type(networks) is ActorCritic:
        return {"policy": _of_actor_critic(networks, inputs)}
    if not (hasattr(policy, "actor") and hasattr(policy, "critic")):
        raise TypeError(
            f"mitigations cannot act on a {type(policy).__name__}, which is recurrent: use its plain form,"
            " or plasticity.attach on its layers."
        )
    pairs = networks.inputs(tensors)
    return {
        "actor": _of_actor(policy.actor, inputs),
        "critic": _of_critic(policy.critic, policy.actor, inputs, pairs[1]),
    }


def _of_actor_critic(networks: ActorCritic, inputs: Any) -> TrainedNetwork:
    policy: Any = networks.policy
    first = policy.features_extractor if policy.share_features_extractor else None
    return TrainedNetwork(
        _ActorAndCritic(networks),
        policy.optimizer,
        inputs,
        unwrapped(first or policy.pi_features_extractor),
    )


def _of_values(networks: ActionValue, inputs: Any) -> TrainedNetwork:
    policy: Any = networks.policy
    network = unwrapped(policy.q_net if hasattr(policy, "q_net") else policy.quantile_net)
    return TrainedNetwork(
        _Adopted(network, lambda one, given: _values(one, one.features_extractor(given))),
        policy.optimizer,
        inputs,
        unwrapped(network.features_extractor),  # type: ignore[arg-type]
    )


def _values(network: Any, features: Tensor) -> Tensor:
    values: Tensor = (network.q_net if hasattr(network, "q_net") else network.quantile_net)(
        features
    )
    return values


class _Adopted(nn.Module):
    """Layers of a network, under their own names, and the function that it computes.

    Args:
        network: The network.
        function: Function of the layers, and of the input, that returns the outputs.
        without: Children that belong to another network.
    """

    _function: Any

    def __init__(self, network: nn.Module, function: Any, without: tuple[str, ...] = ()) -> None:
        super().__init__()
        for name, child in network.named_children():
            if name not in without:
                self.add_module(name, unwrapped(child))
        for name, parameter in network.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        object.__setattr__(self, "_function", function)

    def forward(self, inputs: Any) -> Tensor:
        outputs: Tensor = self._function(self, inputs)
        return outputs


class _ActorAndCritic(_Adopted):
    """Actor and critic of PPO and A2C, under the names of `PolicyNetworks`."""

    def __init__(self, networks: PolicyNetworks) -> None:
        super().__init__(networks, None)

    def forward(self, inputs: Any) -> Tensor:
        layers: Any = self
        if hasattr(layers, "features_extractor"):
            for_actor = for_critic = layers.features_extractor(inputs)
        else:
            for_actor = layers.pi_features_extractor(inputs)
            for_critic = layers.vf_features_extractor(inputs)
        if hasattr(layers, "actor"):
            latent = layers.actor(for_actor), layers.critic(for_critic)
        elif for_actor is for_critic:
            latent = layers.mlp_extractor(for_actor)
        else:
            extractor = layers.mlp_extractor
            latent = extractor.forward_actor(for_actor), extractor.forward_critic(for_critic)
        return torch.cat([layers.action_net(latent[0]), layers.value_net(latent[1])], -1)


def _of_actor(actor: Any, inputs: Any) -> TrainedNetwork:
    actor = unwrapped(actor)
    return TrainedNetwork(
        _Adopted(actor, _actions), actor.optimizer, inputs, unwrapped(actor.features_extractor)
    )


def _actions(actor: Any, inputs: Any) -> Tensor:
    """Return means, and logarithms of standard deviations where a layer computes them."""
    latent = actor.features_extractor(inputs)
    if hasattr(actor, "latent_pi"):
        latent = actor.latent_pi(latent)
    outputs: Tensor = actor.mu(latent)
    if isinstance(getattr(actor, "log_std", None), nn.Module):
        outputs = torch.cat([outputs, actor.log_std(latent)], -1)
    return outputs


def _of_critic(critic: Any, actor: Any, inputs: Any, actions: Tensor) -> TrainedNetwork:
    critic = unwrapped(critic)
    own = unwrapped(critic.features_extractor)
    is_shared = own is unwrapped(actor).features_extractor
    with torch.no_grad():
        was_training = own.training
        pairs = torch.cat([own.eval()(inputs), actions], -1)
        own.train(was_training)
    return TrainedNetwork(
        _Adopted(critic, _all_values, ("features_extractor",) if is_shared else ()),
        critic.optimizer,
        pairs,
        unwrapped(critic.q_networks[0]),
    )


def _all_values(critic: Any, pairs: Tensor) -> Tensor:
    """Return the values of all critics, given features and actions side by side."""
    return torch.cat(
        [each(pairs) for name, each in critic.named_children() if name != _EXTRACTOR], -1
    )


_EXTRACTOR = "features_extractor"
