"""Optimizers of classifiers: torch's, Muon with AdamW, and SOAP of another package."""

from __future__ import annotations

import importlib
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.optim.joint_optimizer import JointOptimizer
from plasticity.optim.kernels.step import step_options
from plasticity.optim.muon_groups import muon_parameter_groups
from plasticity.optim.optimizer import RegularizedOptimizer
from plasticity.optim.parameter_groups import parameter_groups
from plasticity.optim.regularizers import regularized
from plasticity.optim.settings import RegularizerSettings

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
"""Optimizer classes by their name in a configuration: those that can be stacked."""


def make_optimizer(
    network: nn.Module, config: ClassifierConfig, regularizer: RegularizerSettings
) -> RegularizedOptimizer | JointOptimizer:
    """Create the configured optimizer over all parameters of a network.

    Raises:
        ModuleNotFoundError: if it is of a package that is not installed.
        ValueError: if the network has no hidden matrix for Muon.
    """
    settings = asdict(regularizer)
    if config.optimizer == "muon":
        matrices, others = muon_parameter_groups(network, **settings)
        # One learning rate serves both: Muon's steps get the root mean square of AdamW's.
        muon = regularized(torch.optim.Muon)(
            matrices,
            lr=config.learning_rate,
            adjust_lr_fn="match_rms_adamw",
            kernel=config.kernel,
        )
        return JointOptimizer(muon, _ordinary(torch.optim.AdamW, others, config, network))
    base = _soap() if config.optimizer == "soap" else OPTIMIZERS[config.optimizer]
    return _ordinary(base, parameter_groups(network, **settings), config, network)


def _ordinary(
    base: type[torch.optim.Optimizer],
    groups: list[dict[str, Any]],
    config: ClassifierConfig,
    network: nn.Module,
) -> RegularizedOptimizer:
    """Return a regularized optimizer of one class."""
    device = next(network.parameters()).device
    if base is torch.optim.SGD:
        extra: dict[str, Any] = {"momentum": config.momentum}
    else:
        extra = {"betas": config.betas, "eps": config.epsilon}
        if config.compile and device.type == "cuda":
            extra["capturable"] = True
    options = step_options(config.kernel, base, device)
    if base not in OPTIMIZERS.values():
        del options["fused"]  # an option of torch's
    return regularized(base)(groups, lr=config.learning_rate, **extra, **options)


def _soap() -> type[torch.optim.Optimizer]:
    """Return the class SOAP (Vyas et al., 2024)."""
    try:
        package = importlib.import_module("pytorch_optimizer")
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            "The optimizer soap is of the package pytorch-optimizer, which is not installed:"
            " pip install 'plasticity[optimizers]'."
        ) from missing
    found: type[torch.optim.Optimizer] = package.SOAP
    return found
