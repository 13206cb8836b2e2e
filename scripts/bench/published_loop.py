"""Loop of online permuted MNIST as it was published, written anew: what users of that code wait for.

A network of a list of layers, an example at a time by Python's indexing, autograd, torch's SGD as it is made
by default, the accuracy of every example; with continual backprop, its statistics layer by layer after each
step (Dohare et al., 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

REPLACEMENT_RATE = 1e-4
MATURITY = 100
DECAY = 0.99


class ListedNetwork(nn.Module):
    """Dense layers with ReLUs between them, as one list.

    Args:
        inputs: Size of an input.
        hidden: Widths of the hidden layers.
        outputs: Number of outputs.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for width in hidden:
            self.layers.extend([nn.Linear(inputs, width), nn.ReLU()])
            inputs = width
        self.layers.append(nn.Linear(inputs, outputs))

    def predict(self, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the outputs and the features of each hidden layer."""
        features = []
        for index in range(0, len(self.layers) - 1, 2):
            inputs = self.layers[index + 1](self.layers[index](inputs))
            features.append(inputs)
        outputs: Tensor = self.layers[-1](inputs)
        return outputs, features


@dataclass
class UnitStatistics:
    """Statistics of the units of one layer."""

    units: int
    """Number of units."""

    pending: float = 0.0
    """Part of a unit that is still to be replaced."""

    utility: Tensor = field(init=False)
    """Average utility. Shape: (units,)."""

    mean: Tensor = field(init=False)
    """Average feature. Shape: (units,)."""

    age: Tensor = field(init=False)
    """Steps since the beginning or the replacement. Shape: (units,)."""

    def __post_init__(self) -> None:
        self.utility, self.mean, self.age = (torch.zeros(self.units) for _ in range(3))


class GenerateAndTest:
    """Continual backprop with the adaptable contribution as the utility.

    Args:
        network: Network whose units are replaced.
    """

    def __init__(self, network: ListedNetwork) -> None:
        self._layers = network.layers
        self._statistics = [
            UnitStatistics(self._linear(index).out_features)
            for index in range(len(network.layers) // 2)
        ]

    def _linear(self, index: int) -> nn.Linear:
        found = self._layers[2 * index]
        assert isinstance(found, nn.Linear)
        return found

    @torch.no_grad()
    def step(self, features: Sequence[Tensor]) -> None:
        """Take the features of a step into the averages, and replace units that are due."""
        chosen = [self._tested(index, each) for index, each in enumerate(features)]
        for index, units in enumerate(chosen):
            if units is not None:
                self._replace(index, units)

    def _tested(self, index: int, features: Tensor) -> Tensor | None:
        """Return the units of a layer that are to be replaced, if there are any."""
        own, layer, following = (
            self._statistics[index],
            self._linear(index),
            self._linear(index + 1),
        )
        own.age += 1
        correction = 1 - DECAY**own.age
        own.mean *= DECAY
        own.mean += (1 - DECAY) * features.mean(dim=0)
        distance = (features - own.mean / correction).abs().mean(dim=0)
        outgoing = following.weight.abs().mean(dim=0)
        incoming = layer.weight.abs().mean(dim=1)
        own.utility *= DECAY
        own.utility += (1 - DECAY) * outgoing * distance / incoming
        eligible = torch.where(own.age > MATURITY)[0]
        if eligible.shape[0] == 0:
            return None
        own.pending += REPLACEMENT_RATE * eligible.shape[0]
        number = int(own.pending)
        own.pending -= number
        if number == 0:
            return None
        order = torch.topk(-(own.utility / correction)[eligible], number)[1]
        units = eligible[order]
        for numbers in (own.utility, own.mean, own.age):
            numbers[units] = 0
        return units

    def _replace(self, index: int, units: Tensor) -> None:
        layer, following = self._linear(index), self._linear(index + 1)
        bound = (6 / layer.in_features) ** 0.5
        layer.weight[units] = torch.empty(len(units), layer.in_features).uniform_(-bound, bound)
        layer.bias[units] = 0
        following.weight[:, units] = 0


class PublishedLoop:
    """Training of one network on one example after another.

    Args:
        hidden: Widths of the hidden layers.
        inputs: Inputs of the examples. Shape: (examples, inputs).
        labels: Their labels. Shape: (examples,).
        classes: Number of classes.
        continual: Whether units are replaced by continual backprop.
    """

    def __init__(
        self,
        hidden: Sequence[int],
        inputs: Tensor,
        labels: Tensor,
        *,
        classes: int,
        continual: bool = False,
    ) -> None:
        torch.manual_seed(0)
        self._network = ListedNetwork(inputs.shape[1], hidden, classes)
        self._optimizer = torch.optim.SGD(self._network.parameters(), lr=0.003)
        self._test = GenerateAndTest(self._network) if continual else None
        self._inputs, self._labels = inputs, labels
        self.accuracies = torch.zeros(len(labels))
        self._position = 0

    def steps(self, count: int) -> None:
        """Take some steps, and begin again after the last example."""
        for _ in range(count):
            at = self._position
            self._position = (at + 1) % len(self._labels)
            x, y = self._inputs[at : at + 1], self._labels[at : at + 1]
            output, features = self._network.predict(x)
            loss = functional.cross_entropy(output, y)
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            if self._test is not None:
                self._test.step(features)
            with torch.no_grad():
                found = functional.softmax(output, dim=1).argmax(dim=1)
                self.accuracies[at] = (found == y).float().mean()
