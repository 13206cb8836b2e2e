"""Churn: how much one optimizer step changes the outputs on samples that it did not train on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from plasticity.metrics.norms import parameters_of, require_parameters
from plasticity.precision import accumulator, as_given

__all__ = ["churn", "churn_of_outputs"]


def churn(
    model: nn.Module, before: Mapping[str, Tensor], run: Callable[[nn.Module], Any]
) -> dict[str, Tensor]:
    """Compute the change of a network's outputs between two sets of parameters (Tang et al., 2025).

    Buffers, such as running statistics, are the present ones in both passes.

    Args:
        model: Network after an optimizer step, in evaluation mode.
        before: Its parameters before that step by name, from `parameter_snapshot`.
        run: Function that runs the module that it is given on a reference batch and returns the outputs, one
            tensor of shape (batch, ...). The step must not have been trained on these samples.

    Returns:
        As in `churn_of_outputs`.

    Raises:
        ValueError: if `before` is not of this network, or the outputs are not one tensor of two or more axes.
    """
    require_parameters(model, before, "before")
    with torch.no_grad():
        after = _outputs(run(model))
        with _parameters_swapped(model, before):
            earlier = _outputs(run(model))
    return churn_of_outputs(earlier, after)


def churn_of_outputs(before: Tensor, after: Tensor) -> dict[str, Tensor]:
    """Compute the churn from outputs before and after a step.

    Args:
        before: Outputs before the step. Shape: (batch, ..., outputs).
        after: Outputs after it on the same samples. Shape: (batch, ..., outputs).

    Returns:
        ``"value"``, the mean square of the change over samples and outputs, and ``"argmax"``, the share of
        samples whose largest output is another one (the greedy action, the predicted class); without it if
        there is a single output. Both are NaN if an output is not finite. Shape of each: ().

    Examples:
        >>> before, after = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> churn_of_outputs(before, after)["argmax"].item()  # one of two samples
        0.5
    """
    wide = accumulator(after.device)
    # Classes that a task does not have are minus infinity in some networks, before and after.
    change = torch.where(before == after, 0.0, after.to(wide) - before.to(wide))
    found = {"value": as_given(change.square().mean(), after)}
    if after.shape[-1] > 1:
        differs = (before.argmax(-1) != after.argmax(-1)).to(change.dtype).mean()
        found["argmax"] = as_given(torch.where(change.isfinite().all(), differs, torch.nan), after)
    return found


def _outputs(found: object) -> Tensor:
    if not isinstance(found, Tensor) or found.ndim < 2 or not found.is_floating_point():
        shape = f" of shape {tuple(found.shape)}" if isinstance(found, Tensor) else ""
        raise ValueError(
            f"churn needs outputs of shape (batch, ..., outputs), got a {type(found).__name__}{shape}; give"
            " the tracker forward=lambda model, batch: … that returns such a tensor"
        )
    return found.clone()


@contextmanager
def _parameters_swapped(model: nn.Module, others: Mapping[str, Tensor]) -> Iterator[None]:
    """Give a model other parameters inside the block, without writing to its own, which autograd may hold."""
    own = parameters_of(model)
    kept = {name: parameter.data for name, parameter in own.items()}
    try:
        for name, parameter in own.items():
            parameter.data = others[name].to(parameter.device)
        yield
    finally:
        for name, parameter in own.items():
            parameter.data = kept[name]
