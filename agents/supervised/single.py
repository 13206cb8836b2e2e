"""Backend of the training of one network: an ordinary module, and an optimizer of torch."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from plasticity.agents.execution.compiled import load_optimizer, optimizer_constants
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.agents.supervised.trainer import Trainer
from plasticity.metrics.norms import update_norm
from plasticity.metrics.registry import Metric
from plasticity.metrics.tracker import Tracker
from plasticity.optim.kernels.step import step_options
from plasticity.optim.optimizer import RegularizedOptimizer
from plasticity.optim.parameter_groups import parameter_groups
from plasticity.optim.regularizers import regularized
from plasticity.optim.settings import RegularizerSettings

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
"""Optimizer classes by their name in a configuration."""

FINITE = Metric("finite", lambda features: features.isfinite().all().to(features.dtype), "features")
"""Metric that is 1 where all features of a layer are finite, else 0."""


class Classifier(Trainer):
    """Network that is trained on one task after another.

    Args:
        network: Network that maps inputs (batch, *input_shape) to logits (batch, classes). It is moved to
            the device.
        config: Training settings.
        regularizer: Regularizer of every layer except normalization layers.
        data_order_seed: Seed of the data order, which depends only on the seed, the task and the epoch.
        device: Device of the network: "cpu", "cuda", "mps", …
        keep_start: As in `Trainer`.

    Raises:
        ValueError: if the configuration compiles, and the device is neither CPU nor CUDA.
    """

    def __init__(
        self,
        network: nn.Module,
        config: ClassifierConfig,
        regularizer: RegularizerSettings,
        *,
        data_order_seed: int,
        device: str | torch.device = "cpu",
        keep_start: bool = False,
    ) -> None:
        self.network = network.to(device)
        self.optimizer = make_optimizer(self.network, config, regularizer)
        super().__init__(
            self.network,
            self.optimizer,
            config,
            data_order_seeds=[data_order_seed],
            lead=(),
            device=device,
            keep_start=keep_start,
        )

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """Parameters by name."""
        return dict(self.network.named_parameters())

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(logits, labels)

    def _squared_error(self, logits: Tensor, targets: Tensor) -> Tensor:
        return functional.mse_loss(logits, targets)

    def _optimizer_constants(self) -> Hashable:
        return optimizer_constants(self.optimizer)

    def _own_states(self, index: int) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def _load_own_states(self, state: Mapping[str, Any], index: int) -> None:
        self.network.load_state_dict(state["network"])
        load_optimizer(self.optimizer, state["optimizer"])

    def measure(
        self,
        probe: Tensor,
        metrics: Sequence[str | Metric],
        layers: Sequence[str],
        indices: Sequence[int],
    ) -> dict[int, dict[str, float]]:
        """Measure the network, as `Trainer.measure`."""
        if not indices or not all(
            Tracker(self.network, probe, [FINITE], layers).measure().values()
        ):
            return {}
        if not metrics:
            return {0: {}}
        # A tracker of every task has its own probe and knows no earlier boundary: the update is measured
        # against the weights at the task's beginning.
        updates = Metric("update_norm", partial(update_norm, previous=self._start or {}), "model")
        chosen = [updates if each == updates.name else each for each in metrics]
        return {0: Tracker(self.network, probe, chosen, layers).measure()}


def make_optimizer(
    network: nn.Module, config: ClassifierConfig, regularizer: RegularizerSettings
) -> RegularizedOptimizer:
    """Create the configured optimizer over all parameters of a network."""
    groups = parameter_groups(
        network,
        regularizer=regularizer.regularizer,
        strength=regularizer.strength,
        sigma=regularizer.sigma,
        anisotropy=regularizer.anisotropy,
        decoupled=regularizer.decoupled,
        anchor_seed=regularizer.anchor_seed,
    )
    extra: dict[str, Any] = {"momentum": config.momentum} if config.optimizer == "sgd" else {}
    base, device = OPTIMIZERS[config.optimizer], next(network.parameters()).device
    extra |= step_options(config.kernel, base, device)
    if config.compile and device.type == "cuda" and config.optimizer != "sgd":
        extra["capturable"] = True
    return regularized(base)(groups, lr=config.learning_rate, **extra)
