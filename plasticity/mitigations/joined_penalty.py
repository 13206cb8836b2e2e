"""Penalties in loops whose loss cannot be changed: their gradients join those of the loss before a step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from plasticity.mitigations.processes import mean_over_processes
from plasticity.random_state import random_state, set_random_state


def join_penalty(penalty: Tensor | None, parameters: Iterable[Tensor]) -> None:
    """Add the gradients of a penalty, averaged over the processes of a distributed run, to those of the loss.

    Penalties on outputs and features differ between the processes, which see other examples.

    Args:
        penalty: The penalty, with a graph. None: there is none.
        parameters: Parameters that the optimizer trains, the same in every process.
    """
    if penalty is None or not penalty.requires_grad:
        return
    own = [each for each in parameters if each.requires_grad]
    gradients: Sequence[Tensor | None] = torch.autograd.grad(penalty, own, allow_unused=True)
    for parameter, gradient in zip(own, gradients, strict=True):
        if gradient is None:
            continue
        gradient = mean_over_processes(gradient)  # noqa: PLW2901
        if parameter.grad is None:
            parameter.grad = gradient
        else:
            parameter.grad += gradient


@contextmanager
def repeated_pass(model: nn.Module) -> Iterator[None]:
    """Run a model with gradients inside the block, and restore the random state and the buffers after it."""
    devices = {each.device: None for each in model.parameters()}
    state = random_state(devices)
    buffers = [(each, each.clone()) for each in model.buffers()]
    try:
        with torch.enable_grad():
            yield
    finally:
        set_random_state(state)
        with torch.no_grad():
            for each, kept in buffers:
                each.copy_(kept)
