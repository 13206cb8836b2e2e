"""Degree of symmetry of a whole network, layer by layer.

A module's weights do not show which layers read which. One probe pass finds out (`plasticity.units`), and
only layers that it shows to be connected are measured: a layer with all the weights that read it. The order
of a plain `nn.Sequential` shows the same. Layers that are left out are listed with the reason; pairs can
always be named explicitly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from plasticity.checks import nearest
from plasticity.metrics.layer_names import ACTIVATION_MODULES
from plasticity.metrics.probe_batches import call_arguments
from plasticity.symmetry.distances import (
    attention_heads,
    degree_of_symmetry,
    double_rotation_degree,
    neuron_vectors,
    permutation_distance,
    rescaling_distance,
    rotation_eigenvalues,
    sign_flip_distance,
)
from plasticity.units.flow import UnitLayer, trace_call, trace_units
from plasticity.wrappers import named_modules, named_parameters, raw_module

__all__ = ["SymmetryReport", "symmetry_distances", "symmetry_report"]

DISTANCES = {
    "permutation": permutation_distance,
    "sign-flip": sign_flip_distance,
    "rescaling": rescaling_distance,
}
"""Functions that measure the distance of a layer's neurons from their symmetric states, by symmetry."""

Symmetry = Literal["permutation", "sign-flip", "rescaling"]

WeightLayer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
WEIGHT_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

# In a plain Sequential they act on each neuron separately, or on all alike: neurons keep their identity.
TRANSPARENT = frozenset(
    {*ACTIVATION_MODULES, nn.Identity, nn.Flatten, nn.LayerNorm, nn.RMSNorm}
    | {nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout}
    | {nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm}
    | {nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d}
    | {nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d}
    | {nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d}
    | {nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d}
)  # fmt: skip

EXPLICITLY = 'name the pairs explicitly: pairs=[("fc1", "fc2")]'

ModelInputs = Tensor | Mapping[str, Any] | tuple[Any, ...] | Callable[[nn.Module], Any]


class NothingToMeasureError(ValueError):
    """Error for a model without hidden neurons that can be measured, and without attention."""


class SymmetryReport(dict[str, Tensor]):
    """Numbers by the name of a layer or attention module, with the layers that were left out or joined.

    Examples:
        >>> report = symmetry_report(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), 0.1)
        >>> isinstance(report, SymmetryReport), list(report)
        (True, ['0'])
    """

    left_out: dict[str, str]
    """Layers that ran or have weights but were not measured, each with the reason. Output layers, which have
    no hidden neurons, are not listed."""

    joined: dict[str, tuple[str, ...]]
    """Layers that are also measured as one, by the name of their entry ("a+b"): their outputs are added (or
    multiplied) neuron by neuron."""

    def __init__(self) -> None:
        super().__init__()
        self.left_out = {}
        self.joined = {}


def symmetry_distances(
    model: nn.Module,
    *,
    inputs: ModelInputs | None = None,
    symmetry: Symmetry = "permutation",
    pairs: Iterable[tuple[str, str]] | None = None,
) -> SymmetryReport:
    """Measure the distances of every hidden layer and attention module from their symmetric states.

    A neuron's vector holds its incoming weights, its bias, and its outgoing weights to all the layers that
    read it, at all positions after a flattened convolution map. The parameters of a normalisation in between
    are not included, nor are others with an entry for each neuron, such as a scale or a table of positions.

    Where the outputs of several layers are added before they are read, as in ``c(relu(a(x)) + relu(b(x)))``,
    each of them is measured with its readers, "a" with ``c`` and "b" with ``c``, and all jointly as "a+b",
    where a neuron's vector is (row of ``a``, row of ``b``, column of ``c``). Only the last is a symmetry of
    the loss: exchanging rows i and j of ``a`` alone changes the network's function, as ``a`` and ``b`` share
    the i-th column of ``c``; and identical neurons of ``a`` drift apart in training while ``b``'s differ
    (Ziyin et al., 2025: gradients preserve the states that a symmetry leaves unchanged). `joined` lists the
    layers behind such a name.

    Args:
        model: Any network in which a probe pass can trace which layers read which; its
            `nn.MultiheadAttention` modules are measured in any case.
        inputs: A small probe batch, for one forward pass that disturbs nothing: a tensor, a tuple of several
            arguments, a dictionary, which is passed as keywords where `Tracker` does so, or a function that
            runs the module that it is given on a batch.
            None: the model must be a plain `nn.Sequential`, whose order shows which layers read which, or
            `pairs` must be given.
        symmetry: Distance of the neurons to measure: "permutation" suits every activation, "sign-flip" odd
            ones (tanh), "rescaling" homogeneous ones (ReLU). Attention is measured by its rotations in any
            case.
        pairs: Names of layers and of their readers, instead of `inputs`; a layer with several readers is
            named once with each. An empty list measures attention modules only.

    Returns:
        The distances by layer name, of shape (h - 1,) for the permutation of h neurons and (h,) otherwise;
        and by the name of an attention module, the eigenvalues of `rotation_eigenvalues`, of shape
        (num_heads, head_dim). In the order of the network.

    Raises:
        ValueError: if neither `inputs` nor `pairs` determine which layers read which (or both are given), a
            weight of the model is not finite (naming its layer), two named layers do not fit together or
            have groups, a name is unknown (suggesting the nearest), or there is nothing to measure (naming
            the layers that were left out, and why).
        TypeError: if the model is not a module, or is one whose parts cannot be seen.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> symmetry_distances(model)["0"].shape  # of three neurons, two pairs of neighbours
        torch.Size([2])
    """
    if symmetry not in DISTANCES:
        raise ValueError(f"unknown symmetry {symmetry!r}.{nearest(str(symmetry), DISTANCES)}")
    if inputs is not None and pairs is not None:
        raise ValueError(
            "got both inputs and pairs; give one of them, as each determines the readers"
        )
    model = raw_module(model)
    for name, parameter in named_parameters(model):
        _require_finite(name.rpartition(".")[0] or name, parameter.detach())
    report = SymmetryReport()
    vectors: Mapping[str, tuple[Tensor, Tensor, Tensor | None]]
    if inputs is not None:
        vectors = _traced(model, inputs, report)
    else:
        readers = _chain(model) if pairs is None else _named(model, pairs)
        vectors = {
            name: _joined_weights(model, name, readers[name])
            for name in _modules(model)
            if name in readers
        }
    attention = {
        name: module
        for name, module in _modules(model).items()
        if isinstance(module, nn.MultiheadAttention)
    }
    found = {name: DISTANCES[symmetry](*weights) for name, weights in vectors.items()}
    for name, module in attention.items():
        found[name] = rotation_eigenvalues(*attention_heads(module))
    if not found:
        reasons = "; ".join(f"{name!r}: {reason}" for name, reason in report.left_out.items())
        raise NothingToMeasureError(
            "the model has no weight layer that another one reads, and no nn.MultiheadAttention: there are "
            f"no hidden neurons to measure{f' ({reasons})' if reasons else ''}; {EXPLICITLY}"
        )
    report.update((name, found[name]) for name in _in_order(model, found))
    return report


def symmetry_report(
    model: nn.Module,
    threshold: float,
    *,
    inputs: ModelInputs | None = None,
    reference: Mapping[str, Tensor] | None = None,
    symmetry: Symmetry = "permutation",
    pairs: Iterable[tuple[str, str]] | None = None,
) -> SymmetryReport:
    """Count the symmetries that every hidden layer, and every attention head, is close to.

    Args:
        model: As in `symmetry_distances`.
        threshold: Bound for `degree_of_symmetry` in the unit of the weights, and for
            `double_rotation_degree` in squared units. With a reference, a fraction of it (usually 0.1),
            which suits both.
        inputs: As in `symmetry_distances`.
        reference: Result of `symmetry_distances` for the initial network, with the same settings. None: the
            threshold is absolute.
        symmetry: As in `symmetry_distances`.
        pairs: As in `symmetry_distances`.

    Returns:
        The degrees of symmetry by layer, int64: of shape () for the pairs of neurons (or the neurons) of a
        layer, of shape (num_heads,) for the directions of an attention module's heads. `left_out` names the
        layers that were not measured, and why.

    Raises:
        ValueError: as `symmetry_distances`, if the threshold is negative or not finite, or if the reference
            lacks a layer or has another shape.
        TypeError: if the threshold is not a number, or as in `symmetry_distances`.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> tie_neurons_(3, model[0].weight.data, model[2].weight.data, model[0].bias.data)
        >>> symmetry_report(model, threshold=1e-3)["0"].item()
        2
    """
    report = symmetry_distances(model, inputs=inputs, symmetry=symmetry, pairs=pairs)
    return counted(model, report, threshold, reference)


def counted(
    model: nn.Module,
    report: SymmetryReport,
    threshold: float,
    reference: Mapping[str, Tensor] | None = None,
) -> SymmetryReport:
    """Count the distances below a threshold, in place of the distances.

    Args:
        model: Network that was measured.
        report: Result of `symmetry_distances`; modified in place.
        threshold: As in `symmetry_report`.
        reference: As in `symmetry_report`, or numbers of shape () that suit a layer's distances all alike.

    Returns:
        The report, as `symmetry_report` returns it.

    Raises:
        ValueError, TypeError: as `symmetry_report`.
    """
    modules = _modules(raw_module(model))
    for name, distances in report.items():
        if reference is not None and name not in reference:
            raise ValueError(
                f"reference has no distances of {name!r}; "
                f"take it from symmetry_distances(model) with the same settings.{nearest(name, reference)}"
            )
        attention = isinstance(modules.get(name), nn.MultiheadAttention)
        degree = double_rotation_degree if attention else degree_of_symmetry
        initial = None if reference is None else reference[name]
        report[name] = degree(distances, threshold, reference=initial)
    return report


def _in_order(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Return names of modules and of their parameters in the order of the model, joined ones last."""
    ranks = {name: rank for rank, name in enumerate(_modules(model))}

    def rank_of(name: str) -> int:
        if "+" in name:
            return len(ranks)
        return ranks.get(name, ranks.get(name.rpartition(".")[0], 0))

    return sorted(names, key=rank_of)


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    return dict(named_modules(model, remove_duplicate=False))


# ---- from a probe pass --------------------------------------------------------------------------------


def _traced(
    model: nn.Module, inputs: ModelInputs, report: SymmetryReport
) -> dict[str, tuple[Tensor, Tensor, Tensor | None]]:
    if callable(inputs):
        flow = trace_call(model, inputs)
    else:
        arguments, keywords = call_arguments(model, inputs)
        flow = trace_units(model, *arguments, **keywords)
    modules = _modules(model)
    ran = {layer.name for layer in flow.layers}
    for name, module in modules.items():
        if isinstance(module, WEIGHT_LAYERS) and name not in ran:
            report.left_out[name] = (
                "it did not run in the probe pass, or its weight was not multiplied with data in it"
            )
    vectors: dict[str, tuple[Tensor, Tensor, Tensor | None]] = {}
    done: set[str] = set()
    for layer in flow.layers:
        owner = modules.get(layer.name.rpartition(".")[0])
        in_attention = isinstance(owner, nn.MultiheadAttention) and layer.name not in modules
        if layer.name in done or in_attention:
            continue
        group = [layer, *(flow[name] for name in layer.joined)]
        done.update(each.name for each in group)
        reason = _why_not(group)
        if reason is None:
            for each in group:
                if each.readers and each.axis is not None:
                    vectors[each.name] = _vectors(modules, [each])
            if len(group) > 1:
                names = tuple(each.name for each in group)
                joint = "+".join(names) if len(names) < 4 else f"{names[0]}+{len(names) - 1} more"
                vectors[joint] = _vectors(modules, group)
                report.joined[joint] = names
        elif reason:
            report.left_out.update((each.name, reason) for each in group)
    return vectors


def _why_not(group: list[UnitLayer]) -> str | None:
    """Return why layers are left out; "" for an output layer, None if they are measured."""
    others = f" (its units are joined with those of {group[1].name!r})" if len(group) > 1 else ""
    is_read = any(each.readers for each in group)
    if any(each.is_output for each in group) and not is_read:
        return ""
    reasons = [each.not_followed or each.unequal for each in group]
    for each, reason in zip(group, reasons, strict=True):
        if reason is not None:
            return f"{reason}{f' ({each.name!r})' if each is not group[0] else ''}; {EXPLICITLY}"
    if any(each.is_output for each in group):
        return f"its units are part of the model's output{others}"
    if any(each.axis is None for each in group):
        return f"no single axis of its weight holds its units{others}; {EXPLICITLY}"
    if not is_read:
        return f"no weight reads it{others}"
    return None


def _vectors(
    modules: Mapping[str, nn.Module], group: list[UnitLayer]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return incoming weights and biases of all layers of a group, and outgoing weights to all readers."""
    first, incoming, outgoing = group[0], [], []
    seen: set[tuple[str, int, tuple[int, ...]]] = set()
    for layer in group:
        units = first.joined.get(layer.name, torch.arange(layer.units))
        if layer.weight is not None and layer.axis is not None:
            seen.add((layer.weight, layer.axis, tuple(units.tolist())))
            weight = _parameter(modules, layer.name, layer.weight)
            incoming.append(_entries(weight, layer.axis, units[:, None]))
        if layer.bias is not None:
            incoming.append(_parameter(modules, layer.name, layer.bias)[units, None])
        for reader in layer.readers:
            columns = reader.columns[units]
            # Only once if joined layers share a reader, or if it reads with the layer's own weight (tied).
            key = (reader.weight, reader.axis, tuple(columns.flatten().tolist()))
            if key not in seen:
                seen.add(key)
                weight = _parameter(modules, reader.layer, reader.weight)
                outgoing.append(_entries(weight, reader.axis, columns))
    rows = torch.cat(incoming, 1)
    # The weights of a tied decoder are the incoming ones: only a zero remains to be added.
    return rows, torch.cat(outgoing or [torch.zeros_like(rows[:, :1])], 1).T, None


def _entries(weight: Tensor, axis: int, positions: Tensor) -> Tensor:
    """Return the entries at positions along an axis, one row per unit. Shape: (units, entries)."""
    return weight.movedim(axis, 0)[positions.to(weight.device)].flatten(1)


def _parameter(modules: Mapping[str, nn.Module], layer: str, path: str) -> Tensor:
    module, _, name = path.rpartition(".")
    # Torch's older weight normalisation keeps the product in another attribute than its factors.
    name = "weight" if name in ("weight_v", "weight_orig") else name
    weight: Tensor = getattr(modules[module], name).detach()
    _require_finite(layer, weight)  # recomputed by a parametrization, it may overflow
    return weight


def _require_finite(layer: str, weight: Tensor) -> None:
    if not bool(weight.isfinite().all()):
        raise ValueError(
            f"layer {layer!r} has weights that are NaN or infinite: the network has diverged; "
            "measure a checkpoint from before"
        )


# ---- from the order of a Sequential, or from names ------------------------------------------------------


def _chain(model: nn.Module) -> dict[str, list[str]]:
    names: dict[nn.Module, str] = {}
    for name, module in _walk(model, ""):
        if names.setdefault(module, name) != name:
            raise ValueError(
                f"layers {names[module]!r} and {name!r} are the same module, used twice; {EXPLICITLY}"
            )
    return {first: [second] for first, second in pairwise(names.values())}


def _walk(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the weight layers of a plain Sequential, in order."""
    kind = type_before_parametrizations(module)
    if kind in WEIGHT_LAYERS:
        yield name, module
    elif kind is nn.Sequential:
        # Not named_children(), which yields a module that is used twice only once.
        for key, child in module._modules.items():
            if child is not None:
                yield from _walk(raw_module(child), f"{name}.{key}" if name else key)
    elif kind not in TRANSPARENT:
        what = f"layer {name!r}, {kind.__name__}," if name else kind.__name__
        raise ValueError(
            f"the modules of {what} do not show which layers read which; give inputs=, a small batch for "
            f"one forward pass, or {EXPLICITLY}"
        )


def _named(model: nn.Module, pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    known = [n for n, module in _modules(model).items() if isinstance(module, WEIGHT_LAYERS)]
    readers: dict[str, list[str]] = {}
    for pair in pairs:
        for name in pair:
            if name not in known:
                raise ValueError(
                    f"pairs names {name!r}, which is not a weight layer; give a list of (layer, reader)."
                    f"{nearest(name, known)}"
                )
        first, second = pair
        readers.setdefault(first, []).append(second)
    return readers


def _joined_weights(
    model: nn.Module, first: str, seconds: list[str]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the incoming weights, outgoing weights to all readers side by side, and the incoming bias."""
    layer = _layer(model, first)
    neurons = layer.weight.shape[0]
    incoming = layer.weight.detach()
    columns = []
    for second in seconds:
        weight = _layer(model, second).weight.detach()
        try:
            vectors = neuron_vectors(incoming, weight)
        except ValueError as error:
            raise ValueError(
                f"{second!r} does not read the neurons of {first!r}: {error}; {EXPLICITLY}"
            ) from error
        columns.append(vectors[:, incoming[0].numel() :])
    outgoing = torch.cat(columns, dim=1).T
    bias = None if layer.bias is None else layer.bias.detach()
    return incoming.reshape(neurons, -1), outgoing, bias


def _layer(model: nn.Module, name: str) -> WeightLayer:
    layer = _modules(model)[name]
    if not isinstance(layer, WEIGHT_LAYERS):
        raise TypeError(f"{name!r} is a {type(layer).__name__}, expected one of {WEIGHT_LAYERS}")
    if isinstance(layer, nn.Linear):
        return layer
    if layer.groups > 1:
        raise ValueError(
            f"convolution {name!r} has {layer.groups} groups: its channels cannot be exchanged; {EXPLICITLY}"
        )
    return layer
