"""Backend of the training of R stacked networks, with the same results as `Classifier` in separate runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.agents.supervised.optimizers import make_optimizer
from plasticity.agents.supervised.trainer import Trainer
from plasticity.mitigations import SeededMethod
from plasticity.optim.stacked_optimizer import StackedOptimizer
from plasticity.stacking.networks import StackedNetworks


class StackedClassifier(Trainer):
    """R stacked networks that are trained on one task after another.

    Network i computes the same numbers as a `Classifier` with `networks[i]`, `methods[i]` and
    `data_order_seeds[i]`, up to rounding, and each can load the other's states.

    Args:
        networks: Networks of one architecture, moved to the device. Each maps inputs (batch, *input_shape)
            to logits (batch, classes).
        config: Training settings of all, or one for each, which may differ only in `learning_rate` and
            `momentum`.
        methods: Mitigations of each network, as in `Classifier`: of one kind, but for decays.
        data_order_seeds: Seed of each network's data order.
        device: Device of the networks: "cpu", "cuda", "mps", …
        convolution: As in `StackedNetworks`, except that None also means "products" under bf16.
        keep_start: As in `Trainer`.
        keep_last: As in `Trainer`.

    Raises:
        ValueError: if the numbers of networks, methods, seeds and configurations differ, networks or methods
            cannot be stacked, the configurations differ in other settings, or they compile and the device
            is neither CPU nor CUDA.

    Examples:
        >>> from plasticity.mitigations import SeededMethod
        >>> networks = [nn.Sequential(nn.Flatten(), nn.Linear(64, 10)) for _ in range(2)]
        >>> classifier = StackedClassifier(
        ...     networks, ClassifierConfig(), [SeededMethod()] * 2, data_order_seeds=[0, 1]
        ... )
        >>> streams = [PermutedImages(load_dataset("digits"), num_tasks=2, seed=seed) for seed in (0, 1)]
        >>> classifier.train(stack(streams)[0])
        True
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        config: ClassifierConfig | Sequence[ClassifierConfig],
        methods: Sequence[SeededMethod],
        *,
        data_order_seeds: Sequence[int],
        device: str | torch.device = "cpu",
        convolution: Literal["grouped", "products"] | None = None,
        keep_start: bool = False,
        keep_last: bool = False,
    ) -> None:
        configs = _one_each(config, len(networks))
        for name, given in (("methods", methods), ("data_order_seeds", data_order_seeds)):
            if len(given) != len(networks):
                raise ValueError(
                    f"{len(given)} {name} were given for {len(networks)} networks: give one for each."
                )
        for network, method in zip(networks, methods, strict=True):
            method.prepare(network)
        moved = [network.to(device) for network in networks]
        if convolution is None and configs[0].precision == "bf16":
            # On a CPU, autocast does not convert convolutions inside vmap: grouped ones would stay float32.
            convolution = "products"
        self.networks = StackedNetworks(moved, convolution=convolution)
        # Any: a StackedOptimizer refuses those that it has no form of.
        optimizers: list[Any] = [
            make_optimizer(network, own, method.regularizer)
            for network, own, method in zip(moved, configs, methods, strict=True)
        ]
        self.optimizer = StackedOptimizer(
            optimizers, self.networks.in_order_of(optimizers[0], moved[0])
        )
        super().__init__(
            self.networks,
            self.optimizer,
            configs[0],
            methods=methods,
            data_order_seeds=data_order_seeds,
            lead=(len(moved),),
            device=device,
            keep_start=keep_start,
            keep_last=keep_last,
            learning_rates=[each.learning_rate for each in configs],
        )


def _one_each(
    config: ClassifierConfig | Sequence[ClassifierConfig], count: int
) -> Sequence[ClassifierConfig]:
    if isinstance(config, ClassifierConfig):
        return [config] * max(count, 1)
    if len(config) != count:
        raise ValueError(
            f"{len(config)} configurations were given for {count} networks: give one, or one for each."
        )
    for index, each in enumerate(config):
        alike = replace(each, learning_rate=config[0].learning_rate, momentum=config[0].momentum)
        if alike != config[0]:
            raise ValueError(
                f"config[{index}] is {each}, but config[0] is {config[0]}: the configurations of stacked"
                " classifiers may differ in learning_rate and momentum only."
            )
    return config
