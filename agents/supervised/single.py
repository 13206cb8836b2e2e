"""Backend of the training of one network: an ordinary module, and an optimizer of torch."""

from __future__ import annotations

import torch
from torch import nn

from plasticity.agents.execution.single import SingleNetwork, SingleOptimizer
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.agents.supervised.optimizers import make_optimizer
from plasticity.agents.supervised.trainer import Trainer
from plasticity.mitigations import PLAIN_METHOD, SeededMethod


class Classifier(Trainer):
    """Network that is trained on one task after another.

    Args:
        network: Network that maps inputs (batch, *input_shape) to logits (batch, classes). It is moved to
            the device.
        config: Training settings.
        method: Mitigations of every layer; a decay leaves normalization layers out. Those that change the
            architecture do so before a network is built (`plasticity.mitigations.network_spec`), not here.
        data_order_seed: Seed of the data order, which depends only on the seed, the task and the epoch.
        device: Device of the network: "cpu", "cuda", "mps", …
        keep_start: As in `Trainer`.
        keep_last: As in `Trainer`.
        keep_gradients: As in `Trainer`.

    Raises:
        ValueError: if the configuration compiles, and the device is neither CPU nor CUDA.

    Examples:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        >>> classifier = Classifier(network, ClassifierConfig(), data_order_seed=0)
    """

    def __init__(
        self,
        network: nn.Module,
        config: ClassifierConfig,
        method: SeededMethod = PLAIN_METHOD,
        *,
        data_order_seed: int,
        device: str | torch.device = "cpu",
        keep_start: bool = False,
        keep_last: bool = False,
        keep_gradients: bool = False,
    ) -> None:
        method.prepare(network)
        self.network = network.to(device)
        self.optimizer = make_optimizer(self.network, config, method.regularizer)
        super().__init__(
            SingleNetwork(self.network),
            SingleOptimizer(self.optimizer),
            config,
            methods=[method],
            data_order_seeds=[data_order_seed],
            lead=(),
            device=device,
            keep_start=keep_start,
            keep_last=keep_last,
            keep_gradients=keep_gradients,
        )
