"""Experiment of a figure that trains one network: only the network, the loss and the metrics differ."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from plasticity.agents.supervised.single import OPTIMIZERS
from plasticity.checks import require_known, require_number
from plasticity.mitigations import regularizer_settings
from plasticity.mitigations.base import Decay
from plasticity.optim.kernels.step import step_options
from plasticity.optim.parameter_groups import parameter_groups
from plasticity.optim.regularizers import regularized
from plasticity.scripts.reproduce.config import FigureConfig, NoAgent
from plasticity.scripts.reproduce.experiment import FigureExperiment
from plasticity.seeds import child_seed


@dataclass(frozen=True, kw_only=True)
class NetworkTraining(NoAgent):
    """Settings of the training of one network.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    optimizer: str = "adam"
    """Name of the optimizer: sgd, adam or adamw."""

    learning_rate: float = 1e-3
    """Learning rate."""

    def __post_init__(self) -> None:
        require_known("optimizer", self.optimizer, OPTIMIZERS)
        require_number("learning_rate", self.learning_rate, minimum=0.0)


@dataclass(frozen=True, kw_only=True)
class NetworkFigureConfig(FigureConfig):
    """Configuration of one run of a figure that trains a network.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, or a mitigation is more than a decay.
    """

    agent: NetworkTraining = field(default_factory=NetworkTraining)
    """Settings of the training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for each in self.method:
            if not isinstance(each, Decay):
                raise ValueError(  # noqa: TRY004  (of a setting)
                    f"The figure {self.benchmark} trains with decays only, not with {each.name}: leave it"
                    " out."
                )


class NetworkExperiment(FigureExperiment):
    """Run of a figure that trains one network; a subclass states the network, the loss and the metrics."""

    network: nn.Module
    """Network that is trained, on the run's device."""

    @abstractmethod
    def make_network(self) -> nn.Module:
        """Return the network before training; torch's generator is seeded for it."""

    @abstractmethod
    def loss(self) -> Tensor:
        """Return the loss of the next step. Shape: ()."""

    def begin(self) -> None:
        """Make the network and its optimizer, from child seeds of the run's."""
        config = self.config
        self.device = torch.device(config.device)
        torch.manual_seed(child_seed(config.seed, "weights"))
        self.network = self.make_network().to(self.device)
        settings = regularizer_settings(config.method, child_seed(config.seed, "anchor"))
        base = OPTIMIZERS[config.agent.optimizer]
        self.optimizer = regularized(base)(
            parameter_groups(self.network, **asdict(settings)),
            lr=config.agent.learning_rate,
            **step_options("eager", base, self.device),
        )

    def generator(self, name: str) -> torch.Generator:
        """Return a generator on the run's device, from a child seed of the run's.

        One for each step, `generator(f"batch/{self.steps}")`, needs no place in a checkpoint.
        """
        return torch.Generator(self.device).manual_seed(child_seed(self.config.seed, name))

    def step(self) -> None:
        """Do an optimizer step."""
        self.optimizer.zero_grad()
        torch.autograd.backward(self.loss())
        self.optimizer.step()

    def state(self, run: int) -> dict[str, Any]:
        """Return the states of network and optimizer."""
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, run: int, state: Mapping[str, Any]) -> None:
        """Load the states of network and optimizer."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
