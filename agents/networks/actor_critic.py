"""Actor and critic: two networks that share no parameters, dense ones by default."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from plasticity.agents.networks.layers import ACTIVATIONS, InitializedNetwork, dense_layers
from plasticity.agents.ppo.config import PPOConfig
from plasticity.initialization import (
    Constant,
    Distribution,
    Scheme,
    scheme_distribution,
    scheme_gain,
    torch_default,
)
from plasticity.mitigations import Mitigation, network_spec
from plasticity.network_spec import LayerSpec, NetworkSpec


class DenseNetwork(InitializedNetwork):
    """Dense layers `fc1`, `fc2`, … with their activations, followed by a linear layer `head`.

    Args:
        inputs: Size of an input.
        hidden: Widths of the hidden layers.
        outputs: Size of an output.
        layer: Work of every hidden layer.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int, layer: LayerSpec) -> None:
        super().__init__()
        for count, each in enumerate(dense_layers(inputs, hidden, layer), start=1):
            self.add_module(f"fc{count}", each)
        self.hidden_layers = tuple(name for name, _ in self.named_children())
        """Names of the layers before the head, from input to output."""
        self.head = nn.Linear(layer.outputs(hidden[-1]) if hidden else inputs, outputs)

    def layers(self) -> list[nn.Linear]:
        """Return all layers from input to output, the head last."""
        return [layer for layer in self.children() if isinstance(layer, nn.Linear)]

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs to outputs. Shape: (..., inputs) to (..., outputs)."""
        for layer in self.layers():
            inputs = layer(inputs)
        return inputs


class ActorCritic(nn.Module):
    """Policy and value function of observations.

    For continuous actions, the actor returns the mean of a Gaussian whose log standard deviation `log_std` is
    a learned parameter, independent of the observation. For discrete actions it returns logits, and `log_std`
    is None.

    Args:
        observation_size: Size of an observation.
        action_size: Size of a continuous action, or number of discrete actions.
        config: Widths, activation and initialization of dense networks.
        discrete: Whether actions are discrete.
        generator: CPU generator that draws the initial weights, so that they are the same on every device.
            None: torch's default generator.
        actor: Network to use as it is, from (..., observation_size) to (..., action_size). None: a dense one.
        critic: Network to use as it is, from (..., observation_size) to (..., 1). None: a dense one.
        actor_method: Mitigations, of which those that change networks change a dense actor.
        critic_method: Mitigations of a dense critic, likewise.

    Raises:
        ValueError: if actor and critic share a parameter, or a network of your own has nothing to learn or
            outputs of another shape.

    Examples:
        >>> policy = ActorCritic(4, 2, PPOConfig(hidden=(32,)), discrete=True)
        >>> policy.actor(torch.randn(8, 4)).shape, policy.critic(torch.randn(8, 4)).shape
        (torch.Size([8, 2]), torch.Size([8, 1]))
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        config: PPOConfig,
        *,
        discrete: bool = False,
        generator: torch.Generator | None = None,
        actor: nn.Module | None = None,
        critic: nn.Module | None = None,
        actor_method: Sequence[Mitigation] = (),
        critic_method: Sequence[Mitigation] = (),
    ) -> None:
        super().__init__()

        def dense(outputs: int, head_gain: float, method: Sequence[Mitigation]) -> DenseNetwork:
            layer = LayerSpec(activations=(ACTIVATIONS[config.activation],))
            plain = NetworkSpec(input_shape=(observation_size,), output_size=outputs, layer=layer)
            spec = network_spec(method, plain)
            # torch's default initialization, overwritten below, must not advance the global generator.
            with torch.random.fork_rng(devices=[]):
                network = DenseNetwork(observation_size, config.hidden, outputs, spec.layer)
            initialise(network, config.initialization, head_gain=head_gain, generator=generator)
            return network

        self.actor = dense(action_size, 0.01, actor_method) if actor is None else actor
        self.critic = dense(1, 1.0, critic_method) if critic is None else critic
        if actor is not None:
            _require_fitting("actor", actor, observation_size, action_size)
        if critic is not None:
            _require_fitting("critic", critic, observation_size, 1)
        _require_separate(self.actor, self.critic)
        self._initial_log_std = float(config.initial_log_std)
        self.log_std = (
            None if discrete else nn.Parameter(torch.full((action_size,), self._initial_log_std))
        )

    @property
    def hidden_layers(self) -> tuple[str, ...]:
        """Names of the layers measured by a tracker: ("actor.fc1", …, "critic.fc1", …).

        A network that is not dense names its own in an attribute `hidden_layers`, or has none.
        """
        return tuple(
            f"{part}.{name}"
            for part, network in (("actor", self.actor), ("critic", self.critic))
            for name in getattr(network, "hidden_layers", ())
        )

    def initialization(self) -> dict[str, Distribution]:
        """Return the distribution of each parameter's initial values, by name.

        The parameters of networks of your own are among them if the network has such a method too.
        """
        found: dict[str, Distribution] = {}
        for part, network in (("actor", self.actor), ("critic", self.critic)):
            own: dict[str, Distribution] = getattr(network, "initialization", dict)()
            found |= {f"{part}.{name}": each for name, each in own.items()}
        if self.log_std is not None:
            found["log_std"] = Constant(self._initial_log_std)
        return found

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Run both networks.

        Args:
            observations: Shape: (..., observation_size).

        Returns:
            Means or logits, (..., action_size), and values, (...).
        """
        return self.actor(observations), self.critic(observations).squeeze(-1)


def _require_fitting(name: str, network: nn.Module, inputs: int, outputs: int) -> None:
    learnt = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not learnt:
        raise ValueError(
            f"The {name} has no parameter that requires a gradient: give one that learns."
        )
    # A copy in evaluation mode, so that neither running statistics nor generators change.
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        found = copy.deepcopy(network).eval()(learnt[0].new_zeros(2, inputs))
    if found.shape != (2, outputs):
        raise ValueError(
            f"The {name} maps observations of shape (2, {inputs}) to outputs of shape {tuple(found.shape)},"
            f" (2, {outputs}) was expected: give a network with {outputs} outputs, in the last dimension."
        )


def _require_separate(actor: nn.Module, critic: nn.Module) -> None:
    owners = {id(parameter): name for name, parameter in actor.named_parameters()}
    for name, parameter in critic.named_parameters():
        if id(parameter) in owners:
            raise ValueError(
                f"The critic's parameter {name!r} is also the actor's {owners[id(parameter)]!r}, but each of"
                " the two has its own optimizer: give networks that share no parameters."
            )


def initialise(
    network: InitializedNetwork,
    scheme: Scheme,
    *,
    head_gain: float,
    generator: torch.Generator | None = None,
) -> None:
    """Draw all weights of a network and set its biases to 0; torch's scheme draws the biases too.

    Args:
        network: Network of dense layers and convolutions to initialize in place, its head last.
        scheme: Scheme of the weights (`scheme_distribution`), with its own gain in hidden layers.
        head_gain: Gain of the head. The schemes lecun, as published for Slippery-Ant, and torch have none.
        generator: Generator of the weights. None: torch's default generator.
    """
    found: dict[str, Distribution] = {}
    layers = {
        name: each
        for name, each in network.named_modules()
        if isinstance(each, nn.Linear | nn.Conv2d)
    }
    for name, layer in layers.items():
        gain = scheme_gain(scheme)
        if name == list(layers)[-1]:
            gain = 1.0 if scheme in ("lecun", "torch") else head_gain
        shape = tuple(layer.weight.shape)
        found[f"{name}.weight"] = scheme_distribution(scheme, shape, gain)
        if layer.bias is not None:
            drawn = scheme == "torch"
            found[f"{name}.bias"] = torch_default(math.prod(shape[1:])) if drawn else Constant(0.0)
    network.draw(found, torch.default_generator if generator is None else generator)
