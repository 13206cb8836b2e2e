"""Experiment of a figure that trains one network: only the network, the loss and the metrics differ."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from plasticity.agents.execution.single import SingleOptimizer
from plasticity.agents.networks.base import Network
from plasticity.agents.supervised.optimizers import OPTIMIZERS
from plasticity.checks import require_known, require_number
from plasticity.mitigations import SeededMethod
from plasticity.mitigations.attach import attach
from plasticity.mitigations.stacked_settings import acts_on_steps, overrides
from plasticity.optim.kernels.step import step_options
from plasticity.optim.parameter_groups import parameter_groups
from plasticity.optim.regularizers import regularized
from plasticity.optim.settings import RegularizerSettings
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

    momentum: float = 0.0
    """Momentum of sgd."""

    def __post_init__(self) -> None:
        require_known("optimizer", self.optimizer, OPTIMIZERS)
        require_number("learning_rate", self.learning_rate, minimum=0.0)
        require_number("momentum", self.momentum, minimum=0.0)
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(
                f"momentum={self.momentum} is a setting of sgd, not of {self.optimizer}: leave it out."
            )


@dataclass(frozen=True, kw_only=True)
class NetworkFigureConfig(FigureConfig):
    """Configuration of one run of a figure that trains a network.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    agent: NetworkTraining = field(default_factory=NetworkTraining)
    """Settings of the training."""


class NetworkExperiment(FigureExperiment):
    """Run of a figure that trains one network; a subclass states the network, the loss and the metrics.

    Any method trains it: decays are part of the optimizer, mitigations that act on steps are attached, and
    those that change the architecture edit the networks that `build` makes.

    Raises:
        ValueError: if a mitigation changes the architecture, and the figure has a network of its own.
    """

    network: nn.Module
    """Network that is trained, on the run's device."""

    @abstractmethod
    def make_network(self) -> nn.Module:
        """Return the network before training; torch's generator is seeded for it."""

    @abstractmethod
    def loss(self) -> Tensor:
        """Return the loss of the next step, with the network in training mode. Shape: ()."""

    def parameter_groups(self, settings: RegularizerSettings) -> Iterable[Any]:
        """Return what the optimizer trains; overridden where the decay acts on a part of the network only.

        Args:
            settings: Settings of the method's decay.
        """
        return parameter_groups(self.network, **asdict(settings))

    def build(self, settings: Network, input_shape: tuple[int, ...], output_size: int) -> nn.Module:
        """Return a network of the registry, as the run's method would have it.

        Args:
            settings: Settings of the network.
            input_shape: Shape of one input.
            output_size: Number of outputs.
        """
        self._edits_network = True
        return settings.make(input_shape, output_size, self.config.method)

    def begin(self) -> None:
        """Make the network and its optimizer, from child seeds of the run's."""
        config = self.config
        self.device = torch.device(config.device)
        self._edits_network = False
        torch.manual_seed(child_seed(config.seed, "weights"))
        self.network = self.make_network().to(self.device)
        self._require_edited()
        # `attach` prepares the weights for those that act on steps, from the same seed of anchors.
        attached = tuple(each for each in config.method if acts_on_steps(each))
        others = tuple(each for each in config.method if each not in attached)
        method = SeededMethod(others, child_seed(config.seed, "anchor"))
        method.prepare(self.network)
        self.optimizer = self._optimizer(method.regularizer)
        self._attached = (
            attach(self.network, self.optimizer, *attached, seed=config.seed) if attached else None
        )

    def _require_edited(self) -> None:
        for each in self.config.method:
            if overrides(each, "network") and not self._edits_network:
                raise ValueError(
                    f"{each.name} changes the architecture of a network, and {self.config.benchmark} has one"
                    " of its own: leave it out."
                )

    def _optimizer(self, settings: RegularizerSettings) -> torch.optim.Optimizer:
        training = self.config.agent
        base = OPTIMIZERS[training.optimizer]
        extra = {"momentum": training.momentum} if training.momentum else {}
        return regularized(base)(
            self.parameter_groups(settings),
            lr=training.learning_rate,
            **extra,
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
        loss = self.loss()
        if self._attached is not None:
            loss = loss + self._attached.penalty()
        torch.autograd.backward(loss)
        self.optimizer.step()

    def row(self, run: int) -> dict[str, Any]:
        """Return the row of the network in evaluation mode, and what the mitigations counted."""
        with self._evaluating():
            row = super().row(run)
        return row if self._attached is None else row | self._attached.take_counts()

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        attached = self._attached
        self.network.eval()
        try:
            with nullcontext() if attached is None else attached.evaluating():
                yield
        finally:
            self.network.train()

    def state(self, run: int) -> dict[str, Any]:
        """Return the states of network, optimizer and mitigations."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "mitigations": None if self._attached is None else self._attached.state_dict(),
        }

    def load(self, run: int, state: Mapping[str, Any]) -> None:
        """Load the states of network, optimizer and mitigations."""
        self.network.load_state_dict(state["network"])
        SingleOptimizer(self.optimizer).load_state_dict(0, state["optimizer"])
        if self._attached is not None:
            self._attached.load_state_dict(state["mitigations"])
