"""Cost of syre: in a whole training step, and in the optimizer's step alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from plasticity.agents.networks import Network
from plasticity.optim.regularizers import regularized
from plasticity.scripts.bench.comparison import Comparison, Effort, Side
from plasticity.scripts.bench.learners import (
    CLASSIFIERS,
    MNIST,
    SYRE,
    image_network,
    learning_step,
    on_batches,
    syre_optimizer,
    torch_optimizer,
    wide_mlp,
)
from plasticity.scripts.bench.rows import Row


def step_cnn(effort: Effort) -> list[Row]:
    """Measure a training step of the CNN of permuted-mnist, with syre against torch's weight_decay."""
    labels = ("SGD, momentum 0.9", "Adam")
    return _step_rows(effort, MNIST.network, labels, goal=1.02, rounds=200, calls=5)


def step_mlp(effort: Effort) -> list[Row]:
    """Measure a training step of an MLP of 3 x 2000, with syre against torch's weight_decay."""
    return _step_rows(effort, wide_mlp(effort), tuple(CLASSIFIERS), goal=1.05, rounds=60, calls=1)


def _step_rows(
    effort: Effort,
    network: Network,
    labels: Sequence[str],
    *,
    goal: float,
    rounds: int,
    calls: int,
) -> list[Row]:
    return [
        Comparison(
            case=f"{label}: syre vs weight_decay",
            unit="time",
            sides=partial(_step_sides, effort, network, label),
            goal=goal,
            rounds=rounds,
            calls=calls,
        ).measured(effort)
        for label in labels
    ]


def _step_sides(effort: Effort, config: Network, label: str) -> tuple[Side, Side]:
    our_network = image_network(config).to(effort.device)
    their_network = copy.deepcopy(our_network)
    ours = syre_optimizer(our_network, CLASSIFIERS[label])
    base, extra = torch_optimizer(label)
    # In the same form as the trainer's: a fused step is faster than a plain one, with any decay.
    form = {key: ours.param_groups[0][key] for key in ("lr", "foreach", "fused")}
    theirs = base(
        their_network.parameters(), weight_decay=SYRE.regularizer.strength, **extra, **form
    )
    return (
        on_batches(learning_step(our_network, ours), effort),
        on_batches(learning_step(their_network, theirs), effort),
    )


# ---- the optimizer alone ----------------------------------------------------------------------------


def optimizer_step(effort: Effort) -> list[Row]:
    """Measure the optimizer's step alone on 10 M parameters, against torch's foreach and fused forms."""
    return [
        Comparison(
            case=f"{label}: syre vs weight_decay, both {form}",
            unit="time",
            sides=partial(_optimizer_sides, effort, label, form),
            goal=goal if label == "SGD" else None,
            rounds=60,
        ).measured(effort)
        for form, goal in (("foreach", 1.5), ("fused", 2.5))
        for label in CLASSIFIERS
    ]


def _optimizer_sides(effort: Effort, label: str, form: str) -> tuple[Side, Side]:
    base, extra = torch_optimizer(label)
    extra = {**extra, form: True}
    ours, theirs = optimizer_pair(
        base, ten_million(effort), effort.device, ours=extra, theirs=extra
    )
    return ours.step, theirs.step


def ten_million(effort: Effort) -> list[tuple[int, ...]]:
    """Return the shapes of ten weight matrices, 10 M parameters in all."""
    side = effort.size(1000, 20)
    return [(side, side)] * 10


def optimizer_pair(
    base: type[torch.optim.Optimizer],
    shapes: Sequence[tuple[int, ...]],
    device: str,
    *,
    ours: Mapping[str, Any],
    theirs: Mapping[str, Any],
) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Return two optimizers over equal parameters with constant gradients: with syre, and torch's own.

    Args:
        base: Optimizer of both.
        shapes: Shapes of the parameters.
        device: Device of the parameters.
        ours: Further settings of the one with syre.
        theirs: Further settings of torch's own, which has as strong a decay.
    """
    # The benchmark's own rate: a decay below the rounding error would take another code path.
    rate = {"lr": MNIST.agent.learning_rate}
    syre = {
        "regularizer": "syre",
        "strength": SYRE.regularizer.strength,
        "sigma": SYRE.regularizer.sigma,
        "anchor_seed": 0,
    }
    decay = {"weight_decay": SYRE.regularizer.strength}
    return (
        regularized(base)(_parameters(shapes, device), **{**rate, **syre, **ours}),
        base(_parameters(shapes, device), **{**rate, **decay, **theirs}),
    )


def _parameters(shapes: Sequence[tuple[int, ...]], device: str) -> list[nn.Parameter]:
    parameters = [nn.Parameter(tensor) for tensor in normal(shapes, 0, device)]
    for parameter, gradient in zip(parameters, normal(shapes, 1, device), strict=True):
        parameter.grad = gradient
    return parameters


def normal(shapes: Sequence[tuple[int, ...]], seed: int, device: str) -> list[Tensor]:
    """Draw standard normal tensors of some shapes."""
    generator = torch.Generator(device).manual_seed(seed)
    return [torch.randn(shape, generator=generator, device=device) for shape in shapes]
