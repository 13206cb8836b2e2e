"""L2 norms of weights, gradients, updates and features, and the distance to an anchor.

A layer is a module that directly owns parameters; a parameter owned by the root module is a layer by itself,
named like the parameter. A parameter shared by several modules counts once, for the first. Names are those
of the network inside its wrappers (`torch.compile`, `DistributedDataParallel` …); a network on the meta
device, which has no values, is a ValueError. Sums of squares are accumulated in float64 (float32 on ``mps``,
which lacks float64), so that tiny gradients do not underflow and diverged weights do not overflow. No
function here synchronizes with the device or records a graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from plasticity.checks import nearest
from plasticity.metrics.ranks import require_feature_matrices
from plasticity.precision import accumulator, wide_dtype
from plasticity.wrappers import named_parameters, unwrapped

__all__ = [
    "anchor_distance",
    "feature_norm",
    "gradient_norm",
    "parameter_snapshot",
    "parameters_of",
    "require_parameters",
    "update_norm",
    "update_to_weight_ratio",
    "weight_norm",
]

TOTAL = "total"
"""Key of the norm over all layers."""

ZERO_WEIGHT = 1e-8
"""Addend of a norm that another one is divided by."""


def weight_norm(model: nn.Module) -> dict[str, Tensor]:
    """Compute the L2 norm of the parameters, per layer and in total.

    Args:
        model: Any module with initialised parameters. Biases and normalisation layers are included.

    Returns:
        Scalars by layer name in the order of the network, then ``"total"``, the norm over all of them (0
        for a model without parameters). Each is on its layer's device, in its layer's dtype (at least
        float32).

    Raises:
        ValueError: if a layer is named "total".

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> list(weight_norm(model))
        ['0', '2', 'total']
    """
    return _norms(parameters_of(model).items())


def gradient_norm(model: nn.Module) -> dict[str, Tensor]:
    """Compute the L2 norm of the gradients in ``.grad``, per layer and in total.

    Args:
        model: Any module, after a backward pass.

    Returns:
        As in `weight_norm`. Parameters without a gradient are left out, and so are layers without any; if
        there is no gradient at all, the total is 0.

    Raises:
        ValueError: if a layer is named "total".

    Examples:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> model(torch.tensor([3.0, 4.0])).backward()
        >>> gradient_norm(model)["total"].item()
        5.0
    """
    return _norms(_gradients(model))


def parameter_snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Copy the parameters by name, for a later `update_norm` or `anchor_distance`.

    Args:
        model: Any module.

    Returns:
        Detached copies on the parameters' devices, which take the memory of one more network.

    Examples:
        >>> snapshot = parameter_snapshot(nn.Linear(2, 3))
        >>> sorted(snapshot)
        ['bias', 'weight']
    """
    return {name: parameter.detach().clone() for name, parameter in parameters_of(model).items()}


def update_norm(model: nn.Module, previous: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Compute the L2 norm of the parameters' change since a snapshot, per layer and in total.

    Args:
        model: Any module.
        previous: Earlier values of all parameters by name, from `parameter_snapshot`, with unchanged
            shapes.

    Returns:
        As in `weight_norm`.

    Raises:
        ValueError: if a parameter is missing in `previous`, or `previous` has a name or a shape that
            the model lacks, or if a layer is named "total".

    Examples:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> before = parameter_snapshot(model)
        >>> nn.init.zeros_(model.weight)
        Parameter containing:
        tensor([[0., 0.]], requires_grad=True)
        >>> update_norm(model, before)["total"] == before["weight"].norm()
        tensor(True)
    """
    require_parameters(model, previous, "previous")
    return _norms(_differences(model, previous, "previous"))


def update_to_weight_ratio(model: nn.Module, previous: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Compute the L2 norm of the parameters' change relative to their earlier norm, per layer and in total.

    ``|θ - θ_previous| / (|θ_previous| + 1e-8)``: the size of an update that matters where a layer is
    invariant to the scale of its weights, as before a normalisation. From one task's beginning to its end it
    is the distance moved during the task; for a single step's, take the snapshot before that step.

    Args:
        model: Any module.
        previous: As in `update_norm`.

    Returns:
        As in `weight_norm`.

    Raises:
        ValueError: as in `update_norm`.

    Examples:
        >>> model = nn.Linear(2, 1)
        >>> update_to_weight_ratio(model, parameter_snapshot(model))["total"].item()  # nothing has changed
        0.0
    """
    updates = update_norm(model, previous)
    weights = _norms((name, previous[name]) for name in parameters_of(model))
    return {name: each / (weights[name].to(each) + ZERO_WEIGHT) for name, each in updates.items()}


def require_parameters(model: nn.Module, others: Mapping[str, Tensor], argument: str) -> None:
    """Raise a ValueError unless there is a value of the same shape for each parameter of a model.

    Args:
        model: Any module.
        others: The values, by the parameters' names.
        argument: Name of the argument that has them, for the message.
    """
    missing = [name for name in parameters_of(model) if name not in others]
    if missing:
        raise ValueError(
            f"{argument} has no value for {missing[0]!r} ({len(missing)} missing); "
            "take it from parameter_snapshot(model)"
        )
    _require_matching(model, others, argument)


def anchor_distance(model: nn.Module, anchors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Compute the L2 norm of parameter minus anchor, per layer and in total.

    Args:
        model: Any module.
        anchors: Point toward which each parameter decays, by parameter name; moved to the parameter's
            device where needed. Parameters without an anchor are left out.

    Returns:
        As in `weight_norm`, for the layers with an anchor; if there is no anchor at all, the total is 0.

    Raises:
        ValueError: if an anchor names no parameter of the model or has another shape, or if a layer is
            named "total".

    Examples:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> anchor_distance(model, {"weight": model.weight - torch.tensor([3.0, 4.0])})["total"].item()
        5.0
    """
    return _norms(_differences(model, anchors, "anchors"))


def feature_norm(features: Tensor) -> Tensor:
    """Compute the mean over samples of the L2 norm of a sample's features, a row of the matrix.

    Args:
        features: Activations of one layer; convolution maps as (samples × positions, channels).
            Shape: (..., batch, width).

    Returns:
        A non-negative number, in the unit and dtype of the features (at least float32). Shape: (...).

    Raises:
        ValueError: if batch or width is empty, or if there are fewer than two dimensions.
        TypeError: if the features are not real floating-point numbers.

    Examples:
        >>> feature_norm(torch.tensor([[3.0, 4.0], [0.0, 1.0]])).item()  # the mean of 5 and 1
        3.0
    """
    require_feature_matrices(features)
    rows: Tensor = torch.linalg.vector_norm(
        features.detach(), dim=-1, dtype=accumulator(features.device)
    )
    return rows.mean(-1).to(wide_dtype(features))


def _norms(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Compute the norms of named tensors per owning layer, in the given order, and in total."""
    parts: dict[str, list[Tensor]] = {}
    dtypes: dict[str, torch.dtype] = {}
    for name, tensor in named:
        layer = name.rpartition(".")[0] or name
        if layer == TOTAL:
            raise ValueError(
                "a layer named 'total' would hide the total norm; rename that module or parameter"
            )
        norm = torch.linalg.vector_norm(tensor.detach(), dtype=accumulator(tensor.device))
        parts.setdefault(layer, []).append(norm)
        dtypes[layer] = torch.promote_types(dtypes.get(layer, torch.float32), tensor.dtype)
    if not parts:
        return {TOTAL: torch.zeros(())}
    layers = {layer: _joined(norms) for layer, norms in parts.items()}
    total = _joined(list(layers.values()))
    norms = {layer: norm.to(dtypes[layer]) for layer, norm in layers.items()}
    result = torch.float64 if torch.float64 in dtypes.values() else torch.float32
    norms[TOTAL] = total.to(result)
    return norms


def _joined(norms: list[Tensor]) -> Tensor:
    device = norms[0].device
    joined: Tensor = torch.linalg.vector_norm(torch.stack([norm.to(device) for norm in norms]))
    return joined


def parameters_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters by name, those of the network inside its wrappers, each once."""
    return dict(named_parameters(unwrapped(model)))


def _gradients(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in parameters_of(model).items():
        gradient = parameter.grad
        if gradient is not None:
            yield name, gradient.coalesce().values() if gradient.is_sparse else gradient


def _differences(
    model: nn.Module, others: Mapping[str, Tensor], argument: str
) -> Iterator[tuple[str, Tensor]]:
    _require_matching(model, others, argument)
    parameters = parameters_of(model)
    # In the order of the network, not of the mapping.
    for name, parameter in parameters.items():
        if name in others:
            exact = parameter.detach().to(accumulator(parameter.device))
            yield name, (exact - others[name].detach().to(exact)).to(wide_dtype(parameter))


def _require_matching(model: nn.Module, others: Mapping[str, Tensor], argument: str) -> None:
    parameters = parameters_of(model)
    for name, other in others.items():
        if name not in parameters:
            hint = nearest(name, parameters)
            raise ValueError(f"{argument} names {name!r}, which the model does not have.{hint}")
        if other.shape != parameters[name].shape:
            raise ValueError(
                f"{argument}[{name!r}] has shape {tuple(other.shape)}, the parameter "
                f"{tuple(parameters[name].shape)}; was it taken from another network?"
            )
