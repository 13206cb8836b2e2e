"""Plasticity sheet of a network: measures of each layer, and findings in plain words.

What counts as a low rank or a large norm depends on the architecture and on the inputs: on inputs of three
numbers, a layer of 256 units has a low rank however healthy it is. A network is therefore compared with a
freshly initialised one of the same architecture on the same probe batch, wherever one can be created.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from plasticity.metrics.dormancy import ZERO_WHEN_DEAD, dead_fraction
from plasticity.metrics.norms import weight_norm
from plasticity.metrics.registry import METRICS, Metric, metric_key
from plasticity.metrics.tracker import Tracker
from plasticity.scripts.probe.flow import Flow, trace
from plasticity.symmetry.report import NothingToMeasureError, symmetry_distances, symmetry_report
from plasticity.units.numbers import tensors_in
from plasticity.wrappers import named_modules, raw_module


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of all findings, which are rules of thumb."""

    dead: float = 0.2
    """Share of a layer's units that are dead, in excess of the fresh network's share."""

    dormant: float = 0.25
    """Share of a layer's units that are dormant but not dead, in excess of the fresh network's share."""

    rank: float = 0.25
    """Share of the fresh network's effective rank below which the effective rank is low."""

    rank_alone: float = 0.1
    """Share of the largest possible effective rank below which it is low, without a fresh network."""

    norm: float = 5.0
    """Multiple of the fresh network's weight norm above which that of a hidden layer is large. Output layers
    often start near 0, and are not judged."""

    symmetric: float = 0.05
    """Share of nearly identical neighbours above which a layer is near a symmetric state."""

    distance: float = 0.1
    """Share of the fresh network's mean distance below which two neurons are nearly identical."""

    distance_alone: float = 0.01
    """Distance of weights below which two neurons are nearly identical, without a fresh network."""


THRESHOLDS = Thresholds()


@dataclass(frozen=True)
class Measures:
    """Measures of the units of one layer on the probe batch, after the activation."""

    units: int
    """Number of units; in a convolution, of channels."""

    rows: int
    """Number of samples in the probe batch; in a convolution, samples times positions."""

    effective_rank: float
    """Effective rank, from 1 to the smaller of units and rows; 0 for zero features."""

    stable_rank: float
    """Squared Frobenius norm over the largest squared singular value."""

    srank: int
    """Number of singular values that make up 99 % of their sum."""

    dead_fraction: float
    """Share of the units that are 0 on every row, or constant where the activation saturates."""

    dormant_fraction: float
    """Share of the units below 2.5 % of their layer's mean magnitude."""

    feature_norm: float
    """Mean L2 norm of a row."""


@dataclass(frozen=True)
class Symmetry:
    """Number of a layer's symmetries that its weights are close to."""

    degree: int
    """Number of neighbouring pairs of neurons (sorted by norm) that are nearly identical; in attention, of
    directions of the heads that are nearly zero in both queries and keys."""

    possible: int
    """Number of all neighbouring pairs, or of all directions."""

    kind: str = "neighbouring pairs of neurons"
    """Name of the objects counted."""


@dataclass(frozen=True)
class LayerSheet:
    """Measures of one layer: of its weights, and of its units if an activation follows."""

    layer: str
    """Name of the weight layer or attention module; or of the activation, if it belongs to neither."""

    activation: str | None = None
    """Activation function of the units. None: an output layer, attention, or a hidden layer that is not an
    activation (an LSTM)."""

    measures: Measures | None = None
    """Measures of the units. None: an output layer, or attention."""

    initial: Measures | None = None
    """Measures of the units of the fresh network, if there is one."""

    weight_norm: float | None = None
    """L2 norm of the layer's parameters."""

    initial_weight_norm: float | None = None
    """L2 norm of the layer's parameters in the fresh network."""

    symmetry: Symmetry | None = None
    """Number of symmetries. None: an output layer, or one that is not read by weight layers alone."""

    findings: tuple[str, ...] = ()
    """Findings in plain words."""


@dataclass(frozen=True)
class Sheet:
    """Measures of all layers that a forward pass executes (target networks are left out)."""

    layers: tuple[LayerSheet, ...]
    """Layers in the order of execution; attention modules (only their weights are measured) come last."""

    notes: tuple[str, ...]
    """Remarks that a reader needs to interpret the numbers."""

    @property
    def findings(self) -> list[str]:
        """Findings, layer by layer."""
        return [f"{each.layer}: {text}" for each in self.layers for text in each.findings]


def measure_sheet(
    model: nn.Module,
    arguments: tuple[Any, ...],
    fresh: nn.Module | None = None,
    layers: Sequence[str] | None = None,
) -> Sheet:
    """Measure a network on a probe batch, and compare it with the thresholds.

    Args:
        model: Any module that `plasticity.capture` supports. It is left in evaluation mode.
        arguments: Probe batch, as the arguments of the model's forward, with the batch as first axis.
        fresh: The same network, freshly initialised. None: absolute thresholds are used.
        layers: Names of hidden layers, as in `plasticity.capture`. None: every activation, except one that
            computes the network's output.

    Returns:
        The sheet.

    Raises:
        ValueError: if the network has no hidden activation, its features are not finite, the probe batch
            does not fit it, or all rows of the batch are the same.
        TypeError: if the model cannot be traced.
    """
    model = raw_module(model)
    flow = _traced(model.eval(), arguments, layers)
    rows, distinct = _rows(arguments)
    if distinct < 2:
        what = (
            f"All {rows} rows of the probe batch are the same"
            if rows > 1
            else (f"The probe batch has {rows} rows")
        )
        raise ValueError(
            f"{what}: ranks and dead units cannot be measured on it. Pass observations that differ."
        )
    measures = _measured(model, arguments, flow)
    initial = {} if fresh is None else _measured(fresh.eval(), arguments, flow)
    degrees = _degrees(model, fresh, arguments)
    sheets = [
        LayerSheet(
            layer=layer.name,
            activation=layer.activation,
            measures=measures.get(layer.name),
            initial=initial.get(layer.name),
            weight_norm=_weight_norm(model, layer.owner),
            initial_weight_norm=None if fresh is None else _weight_norm(fresh, layer.owner),
            symmetry=degrees.pop(layer.owner or "", None),
        )
        for layer in flow.layers
    ]
    # The remaining ones are attention modules, which are not weight layers.
    sheets += [LayerSheet(name, symmetry=symmetry) for name, symmetry in degrees.items()]
    judged = tuple(replace(sheet, findings=tuple(_findings(sheet))) for sheet in sheets)
    notes = (*_row_notes(judged, rows, distinct), *_notes(judged, is_alone=fresh is None))
    return Sheet(judged, notes)


def _rows(arguments: tuple[Any, ...]) -> tuple[int, int]:
    """Return the number of rows in the probe batch, and of distinct ones."""
    batch = [tensor for tensor in tensors_in(arguments) if tensor.ndim]
    rows = len(batch[0]) if batch else 0
    # Replace each row by its index among the distinct rows of its tensor: dtypes may differ.
    indices = [
        torch.unique(tensor.reshape(rows, -1), dim=0, return_inverse=True)[1]
        for tensor in batch
        if len(tensor) == rows and tensor.numel()
    ]
    return rows, len(torch.unique(torch.stack(indices, 1), dim=0)) if indices else min(rows, 1)


def _traced(model: nn.Module, arguments: tuple[Any, ...], layers: Sequence[str] | None) -> Flow:
    try:
        flow = trace(model, arguments)
    except (RuntimeError, IndexError) as error:  # of shapes and dtypes that do not fit
        raise ValueError(
            f"{type(model).__name__} fails on the probe batch: {error}. Pass observations like those that"
            " the network was trained on."
        ) from error
    if layers is not None:
        flow = flow.restricted(layers)
    if all(layer.captured is None for layer in flow.layers):
        raise ValueError(
            f"{type(model).__name__} has no hidden activation, and so no units to measure: pass one that has."
        )
    return flow


def _measured(model: nn.Module, arguments: tuple[Any, ...], flow: Flow) -> dict[str, Measures]:
    """Return the measures on the probe batch, by the names of the layers in the sheet."""
    hidden = {layer.captured: layer for layer in flow.layers if layer.captured is not None}
    known = [each.name for each in fields(Measures) if each.name in METRICS]
    own = (
        Metric("constant_fraction", partial(dead_fraction, saturating=True), "features"),
        Metric("rows", lambda features: features.new_tensor(features.shape[0]), "features"),
        Metric("units", lambda features: features.new_tensor(features.shape[1]), "features"),
    )
    values = Tracker(model, arguments, [*known, *own], list(hidden)).measure()
    found = {}
    for captured, layer in hidden.items():
        numbers: dict[str, Any] = {
            each.name: values[metric_key(each.name, captured)] for each in fields(Measures)
        }
        if layer.activation not in ZERO_WHEN_DEAD:
            numbers["dead_fraction"] = values[metric_key("constant_fraction", captured)]
        for name in ("units", "rows", "srank"):
            numbers[name] = int(numbers[name])
        found[layer.name] = Measures(**numbers)
    return found


def _weight_norm(model: nn.Module, owner: str | None) -> float | None:
    """Return the norm of one layer's parameters, including those tied to another layer."""
    if owner is None:
        return None
    modules = dict(named_modules(model, remove_duplicate=False))
    if owner in modules:
        return float(weight_norm(modules[owner])["total"])
    # A matrix that is not the weight of a module, or is used transposed.
    return float(model.get_parameter(owner.removesuffix(".T")).detach().norm())


def _degrees(
    model: nn.Module, fresh: nn.Module | None, arguments: tuple[Any, ...]
) -> dict[str, Symmetry]:
    """Return the degree of symmetry of layers whose readers are known, and of attention modules."""
    try:
        distances = symmetry_distances(model, inputs=arguments)
    except NothingToMeasureError:
        return {}
    reference, threshold = None, THRESHOLDS.distance_alone
    if fresh is not None:
        # One bound from the mean for all pairs: the k-th neighbours are different neurons in each network.
        initial = symmetry_distances(fresh, inputs=arguments)
        reference = {name: each.mean() for name, each in initial.items()}
        threshold = THRESHOLDS.distance
    degrees = symmetry_report(model, threshold, inputs=arguments, reference=reference)
    kinds = {True: "directions of queries and keys", False: Symmetry.kind}
    return {
        name: Symmetry(int(degree.sum()), distances[name].numel(), kinds[degree.ndim > 0])
        for name, degree in degrees.items()
        if distances[name].numel()  # a single neuron has no neighbours
    }


# ---- findings ---------------------------------------------------------------------------------------


def _findings(sheet: LayerSheet) -> Iterator[str]:
    if sheet.measures is not None:
        yield from _unit_findings(sheet.measures, sheet.initial, sheet.activation)
        yield from _rank_findings(sheet.measures, sheet.initial)
        norm, initial = sheet.weight_norm, sheet.initial_weight_norm
        if norm is not None and initial and norm > THRESHOLDS.norm * initial:
            yield (
                f"weight norm {norm / initial:.3g} times that at initialisation: a step of the same size"
                " changes the layer less"
            )
    symmetry = sheet.symmetry
    if symmetry is not None and symmetry.degree > THRESHOLDS.symmetric * symmetry.possible:
        state = "nearly identical" if symmetry.kind == Symmetry.kind else "nearly unused"
        yield (
            f"{symmetry.degree} of {symmetry.possible} {symmetry.kind} are {state}: near a symmetric state,"
            " from which gradient descent hardly escapes"
        )


def _unit_findings(
    now: Measures, initial: Measures | None, activation: str | None
) -> Iterator[str]:
    if now.dead_fraction - (initial.dead_fraction if initial else 0) >= THRESHOLDS.dead:
        means = "0" if activation in ZERO_WHEN_DEAD else "the same"
        start = f" ({_percent(initial.dead_fraction)} at initialisation)" if initial else ""
        yield (
            f"{_percent(now.dead_fraction)} of {now.units} units are dead{start}: {means} on every row"
            " of the probe"
        )
    dormant = now.dormant_fraction - now.dead_fraction
    if initial is not None:
        dormant -= initial.dormant_fraction - initial.dead_fraction
    if dormant >= THRESHOLDS.dormant:
        start = f" ({_percent(initial.dormant_fraction)} at initialisation)" if initial else ""
        yield (
            f"{_percent(now.dormant_fraction)} of {now.units} units are dormant{start}: below 2.5 % of"
            " the layer's mean magnitude"
        )


def _rank_findings(now: Measures, initial: Measures | None) -> Iterator[str]:
    possible = min(now.units, now.rows)
    bound = (
        THRESHOLDS.rank * initial.effective_rank if initial else THRESHOLDS.rank_alone * possible
    )
    if now.effective_rank < bound:
        start = f" ({initial.effective_rank:.3g} at initialisation)" if initial else ""
        yield f"effective rank {now.effective_rank:.3g} of {possible}{start}: low-rank"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %"


def _row_notes(sheets: Sequence[LayerSheet], rows: int, distinct: int) -> Iterator[str]:
    widest = max((each.measures.units for each in sheets if each.measures is not None), default=0)
    if distinct < min(rows, widest):
        yield (
            f"Only {distinct} of the {rows} rows of the probe batch are distinct: a layer of {widest} units"
            " is judged by these alone, and its rank is bounded by their number."
        )


def _notes(sheets: Sequence[LayerSheet], *, is_alone: bool) -> Iterator[str]:
    measured = [each.measures for each in sheets if each.measures is not None]
    short = [each for each in measured if each.rows < each.units]
    if short:
        yield (
            f"The probe batch has {min(each.rows for each in short)} rows for a layer of"
            f" {max(each.units for each in short)} units: no rank can exceed the number of rows."
        )
    if is_alone:
        yield (
            "There is no freshly initialised network to compare with: the thresholds are absolute, and norms"
            " are not judged."
        )
