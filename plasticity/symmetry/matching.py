"""Matching of the units of two networks by permutation (Ainsworth et al., 2023, weight matching).

Two networks that are equal up to the order of their hidden units are one function, yet far apart. The units
of one are reordered, which leaves its function unchanged, until its weights are as close to the other's as
possible. With one layer free at a time, that is a linear assignment problem, which scipy solves exactly.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from plasticity.units.flow import UnitLayer, trace_units
from plasticity.wrappers import raw_module

__all__ = ["match_units", "permute_units"]


def match_units(reference: nn.Module, model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Return the order of a network's hidden units in which its weights are closest to another network's.

    Layer by layer, from input to output, the order maximizes the inner product of the two networks' weights,
    with the orders of all other layers fixed; again until no layer changes (Ainsworth et al., 2023, Alg. 1,
    with the layers in their order instead of a random one). The product rises with each change, so that it
    ends, at a maximum that no layer alone improves. Nothing is random, and neither network is changed.

    Args:
        reference: Network of the same architecture.
        model: Network whose units are reordered.
        inputs: A few inputs, to see which layer reads which. Shape: (batch, *input_shape).

    Returns:
        For `permute_units`: index in the model of the unit that belongs to each unit of the reference, by
        layer. Shape of each: (units,).

    Raises:
        ValueError: if the units of a layer cannot be reordered alone, the networks differ in form, or a
            number of theirs is not finite.

    Examples:
        >>> model, inputs = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.randn(8, 4)
        >>> match_units(model, permute_units(model, {"0": [1, 0, 2]}, inputs), inputs)
        {'0': tensor([1, 0, 2])}
    """
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415  (slow import)

    layers = _layers(model, inputs)
    _require_finite(reference, model)
    wanted, matched = _tensors(reference), _tensors(copy.deepcopy(model))
    if {n: e.shape for n, e in wanted.items()} != {n: e.shape for n, e in matched.items()}:
        raise ValueError("The networks differ in form: match networks of one architecture.")
    found = {layer.name: torch.arange(layer.units) for layer in layers}
    changes = True
    while changes:
        changes = False
        for layer in layers:
            products = _rows(wanted, layer) @ _rows(matched, layer).T
            _, order = linear_sum_assignment(products.cpu().numpy(), maximize=True)
            chosen = torch.as_tensor(order)
            gain = products[torch.arange(layer.units), chosen].sum() - products.trace()
            # Rounding alone must not reorder equal units forever.
            if gain > 1e-12 * products.abs().max():
                _permute(matched, layer, chosen)
                found[layer.name] = found[layer.name][chosen]
                changes = True
    return found


def permute_units(
    model: nn.Module, orders: Mapping[str, Tensor | Sequence[int]], inputs: Tensor
) -> nn.Module:
    """Return a copy of a network with its hidden units in another order; its function is the same.

    Args:
        model: The network, which is not changed.
        orders: Index of the unit that comes to each place, by layer; other layers keep their order. Shape of
            each: (units,).
        inputs: As in `match_units`.

    Raises:
        KeyError: if there is no hidden layer of a name.
        ValueError: if the units of a layer cannot be reordered alone, or an order is none of all its units;
            if the outputs changed, by a parameter that each unit has for itself, such as PReLU's.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> inputs = torch.randn(8, 4)
        >>> torch.allclose(permute_units(model, {"0": [2, 0, 1]}, inputs)(inputs), model(inputs), atol=1e-6)
        True
    """
    known = {layer.name: layer for layer in _layers(model, inputs)}
    permuted = copy.deepcopy(model)
    tensors = dict(raw_module(permuted).state_dict(keep_vars=True))
    for name, given in orders.items():
        if name not in known:
            raise KeyError(
                f"There is no hidden layer {name!r}, only {', '.join(map(repr, known))}."
            )
        order = torch.as_tensor(given)
        if sorted(order.tolist()) != list(range(known[name].units)):
            raise ValueError(
                f"The order of {name!r} must have each of its {known[name].units} units once: {order}."
            )
        _permute(tensors, known[name], order)
    _require_same_outputs(model, permuted, inputs)
    return permuted


def _layers(model: nn.Module, inputs: Tensor) -> list[UnitLayer]:
    """Return the hidden layers, or raise an error if units of one cannot be exchanged alone."""
    layers = [layer for layer in trace_units(model, inputs).layers if not layer.is_output]
    saved = raw_module(model).state_dict().keys()
    for layer in layers:
        reason = layer.not_followed or layer.unequal
        if layer.joined:
            reason = f"its units are added to those of {', '.join(layer.joined)}"
        elif layer.weight is None or layer.axis is None:
            reason = "its units have no weight of their own"
        elif any(each.groups > 1 or bool((each.columns < 0).any()) for each in layer.readers):
            reason = "a layer reads its units in unequal parts"
        elif computed := {name for name, *_ in _axes(layer)} - saved:
            reason = f"{', '.join(sorted(computed))} is computed from other parameters"
        if reason:
            raise ValueError(f"The units of {layer.name!r} cannot be reordered alone: {reason}.")
    return layers


def _require_finite(*models: nn.Module) -> None:
    for model in models:
        for name, each in raw_module(model).state_dict().items():
            if each.is_floating_point() and not bool(each.isfinite().all()):
                raise ValueError(
                    f"{name} has values that are NaN or infinite: the network has diverged; match a"
                    " checkpoint from before."
                )


@torch.no_grad()
def _require_same_outputs(model: nn.Module, permuted: nn.Module, inputs: Tensor) -> None:
    """Raise an error if reordering changed the outputs: a check on what the trace cannot see."""
    with torch.random.fork_rng(devices=[]):
        outputs = []
        for each in (model, permuted):
            torch.manual_seed(0)
            outputs.append(tree_leaves(copy.deepcopy(raw_module(each)).eval()(inputs)))
    for before, after in zip(*outputs, strict=True):
        if not isinstance(before, Tensor) or not before.is_floating_point() or not before.numel():
            continue
        size = float(before.nan_to_num().abs().max())
        bound = 10 * math.sqrt(torch.finfo(before.dtype).eps) * size
        if not torch.allclose(before, after, rtol=0, atol=bound, equal_nan=True):
            raise ValueError(
                "The units cannot be reordered alone: the outputs changed, so something in the network is of"
                " each unit for itself, beyond weights, biases and normalizations (as PReLU's slopes)."
            )


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, in float64 where they are floating-point numbers."""
    named = raw_module(model).state_dict().items()
    return {name: each.double() if each.is_floating_point() else each for name, each in named}


def _axes(layer: UnitLayer) -> list[tuple[str, int, Tensor]]:
    """Return each tensor with the axis of the units, and the positions of each. Shape: (units, positions)."""
    assert layer.weight is not None
    assert layer.axis is not None
    own = torch.arange(layer.units)[:, None]
    vectors = (*(() if layer.bias is None else (layer.bias,)), *layer.scales, *layer.offsets)
    found = [(layer.weight, layer.axis, own), *((name, 0, own) for name in vectors)]
    return found + [(reader.weight, reader.axis, reader.columns) for reader in layer.readers]


def _rows(tensors: Mapping[str, Tensor], layer: UnitLayer) -> Tensor:
    """Return all weights of each unit. Shape: (units, weights)."""
    parts = [
        tensors[name].movedim(axis, 0)[positions.to(tensors[name].device)].flatten(1)
        for name, axis, positions in _axes(layer)
    ]
    return torch.cat(parts, dim=1)


@torch.no_grad()
def _permute(tensors: Mapping[str, Tensor], layer: UnitLayer, order: Tensor) -> None:
    for name, axis, positions in _axes(layer):
        # With a weight go buffers of its form: which entries are fixed, and at which values.
        for each, tensor in tensors.items():
            if each == name or (
                each.startswith(f"{name}_") and tensor.shape == tensors[name].shape
            ):
                old, new = (at.flatten().to(tensor.device) for at in (positions[order], positions))
                tensor.index_copy_(axis, new, tensor.index_select(axis, old))
