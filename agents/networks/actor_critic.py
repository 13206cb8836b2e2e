"""Actor and critic: two dense networks that share nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from plasticity.agents.networks.image import ACTIVATIONS, DenseLayer
from plasticity.agents.ppo.config import PPOConfig


class DenseNetwork(nn.Module):
    """Dense layers `fc1`, `fc2`, … with their activation, and a linear layer `head`.

    Args:
        inputs: Size of an input.
        hidden: Widths of the hidden layers.
        outputs: Size of an output.
        activation: A name in `ACTIVATIONS`.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int, activation: str) -> None:
        super().__init__()
        self.activation = activation
        names = []
        for count, units in enumerate(hidden, start=1):
            names.append(f"fc{count}")
            self.add_module(names[-1], DenseLayer(inputs, units, ACTIVATIONS[activation]))
            inputs = units
        self.head = nn.Linear(inputs, outputs)
        self.hidden_layers = tuple(names)
        """Names of the layers before the head, in order."""

    def layers(self) -> list[nn.Linear]:
        """All layers in order, the head last."""
        return [layer for layer in self.children() if isinstance(layer, nn.Linear)]

    def forward(self, inputs: Tensor) -> Tensor:
        """Shape: (..., inputs) to (..., outputs)."""
        for layer in self.layers():
            inputs = layer(inputs)
        return inputs


class ActorCritic(nn.Module):
    """A policy and a value function of observations.

    The actor gives the mean of a Gaussian, whose logarithmic standard deviation `log_std` is learnt
    and the same everywhere, or the logits of a choice among discrete actions (then `log_std` is None).

    Args:
        observation_size: Numbers in an observation.
        action_size: Numbers in a continuous action, or discrete actions to choose from.
        config: Widths, activation and initialisation.
        discrete: Whether actions are discrete.
        generator: Draws the first weights; on the CPU, so that they are the same on every device.
            None: torch's own.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        config: PPOConfig,
        *,
        discrete: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        # torch's own first weights, which are drawn over, shall not consume the global generator.
        with torch.random.fork_rng(devices=[]):
            self.actor = DenseNetwork(
                observation_size, config.hidden, action_size, config.activation
            )
            self.critic = DenseNetwork(observation_size, config.hidden, 1, config.activation)
        self.log_std = (
            None
            if discrete
            else nn.Parameter(torch.full((action_size,), float(config.initial_log_std)))
        )
        initialise(self.actor, config.initialisation, head_gain=0.01, generator=generator)
        initialise(self.critic, config.initialisation, head_gain=1.0, generator=generator)

    @property
    def hidden_layers(self) -> tuple[str, ...]:
        """Names of the layers that a tracker measures: ("actor.fc1", …, "critic.fc1", …)."""
        return tuple(
            f"{part}.{name}"
            for part, network in (("actor", self.actor), ("critic", self.critic))
            for name in network.hidden_layers
        )

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Run both networks.

        Args:
            observations: Shape: (..., observation_size).

        Returns:
            Means or logits (..., action_size), and values (...).
        """
        return self.actor(observations), self.critic(observations).squeeze(-1)


@torch.no_grad()
def initialise(
    network: DenseNetwork,
    scheme: str,
    *,
    head_gain: float,
    generator: torch.Generator | None = None,
) -> None:
    """Draw all weights of a network; biases become 0.

    Args:
        network: Changed in place.
        scheme: "lecun" (uniform within sqrt(3 / fan-in), so that the variance is 1 / fan-in) or
            "orthogonal" (Saxe et al., 2014; gain sqrt(2) in hidden layers).
        head_gain: Of the orthogonal head.
        generator: None: torch's own.
    """
    for layer in network.layers():
        if scheme == "orthogonal":
            gain = head_gain if layer is network.head else math.sqrt(2)
            nn.init.orthogonal_(layer.weight, gain, generator=generator)
        else:
            bound = math.sqrt(3 / layer.in_features)
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
        nn.init.zeros_(layer.bias)
