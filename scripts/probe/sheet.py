"""The plasticity sheet of a network: what each layer measures, and in plain words what is wrong with it.

What is a low rank or a large norm depends on the architecture and on the inputs: inputs of three numbers
give a layer of 256 units a low rank however healthy it is. So a network is judged against a freshly
initialised one of the same shape, measured on the same probe batch, wherever one can be made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from plasticity.metrics.dormancy import ZERO_WHEN_DEAD, dead_fraction
from plasticity.metrics.norms import weight_norm
from plasticity.metrics.registry import Metric, metric_key
from plasticity.metrics.tracker import Tracker
from plasticity.scripts.probe.flow import Flow, tensors_in, trace
from plasticity.symmetry.report import NothingToMeasureError, symmetry_distances, symmetry_report
from plasticity.wrappers import named_modules, raw_module


@dataclass(frozen=True)
class Thresholds:
    """What counts as wrong: rules of thumb, all of them here."""

    dead: float = 0.2
    """Share of a layer's units that are dead, beyond the fresh network's share."""

    dormant: float = 0.25
    """Share of a layer's units that are dormant and not dead, beyond the fresh network's share."""

    rank: float = 0.25
    """An effective rank below this share of the fresh network's is low."""

    rank_alone: float = 0.1
    """Without a fresh network: an effective rank below this share of the possible one is low."""

    norm: float = 5.0
    """Weights of a hidden layer more than this many times as long as the fresh network's are large. Output
    layers often begin near 0, and are not judged."""

    symmetric: float = 0.05
    """A layer is near a symmetric state above this share of nearly identical neighbours."""

    distance: float = 0.1
    """Two neurons are nearly identical below this share of the fresh network's mean distance."""

    distance_alone: float = 0.01
    """Without a fresh network: two neurons are nearly identical below this distance of their weights."""


THRESHOLDS = Thresholds()


@dataclass(frozen=True)
class Measures:
    """What the probe batch shows of one layer's units, after the activation."""

    units: int
    """Number of units; of channels in a convolution."""

    rows: int
    """Samples of the probe batch; in a convolution, samples times positions."""

    effective_rank: float
    """From 1 to the smaller of units and rows; 0 for zero features."""

    stable_rank: float
    """Squared Frobenius norm over the largest squared singular value."""

    srank: int
    """Number of singular values that hold 99 % of their sum."""

    dead_fraction: float
    """Share of the units that are 0 on every row, or constant where the activation saturates."""

    dormant_fraction: float
    """Share of the units below 2.5 % of their layer's mean magnitude."""

    feature_norm: float
    """Mean L2 norm of a row."""


@dataclass(frozen=True)
class Symmetry:
    """How many of a layer's symmetries it is near to."""

    degree: int
    """Neighbouring pairs of neurons (sorted by norm) that are nearly identical; in attention, directions
    of the heads that queries and keys have both left."""

    possible: int
    """All neighbouring pairs; all directions."""

    kind: str = "neighbouring pairs of neurons"
    """What is counted."""


@dataclass(frozen=True)
class LayerSheet:
    """One layer: its weights, and its units where an activation follows."""

    layer: str
    """Name of the weight layer or attention module; of the activation where it belongs to none."""

    activation: str | None = None
    """Function that makes the units. None: an output layer, attention, or a hidden layer that is no
    activation (an LSTM)."""

    measures: Measures | None = None
    """None: an output layer, or attention."""

    initial: Measures | None = None
    """The same of the fresh network, where there is one."""

    weight_norm: float | None = None
    """L2 norm of the layer's parameters."""

    initial_weight_norm: float | None = None
    """The same of the fresh network."""

    symmetry: Symmetry | None = None
    """None: an output layer, or one that is read by more than weight layers."""

    findings: tuple[str, ...] = ()
    """What is wrong, in plain words."""


@dataclass(frozen=True)
class Sheet:
    """All layers that a forward pass runs, in its order: no target networks."""

    layers: tuple[LayerSheet, ...]
    """Attention modules, whose weights alone are measured, come last."""

    notes: tuple[str, ...]
    """What a reader must know to read the numbers rightly."""

    @property
    def findings(self) -> list[str]:
        """What is wrong, layer by layer."""
        return [f"{each.layer}: {text}" for each in self.layers for text in each.findings]


def measure_sheet(
    model: nn.Module,
    arguments: tuple[Any, ...],
    fresh: nn.Module | None = None,
    layers: Sequence[str] | None = None,
) -> Sheet:
    """Measure a network on a probe batch, and judge it.

    Args:
        model: Any module that `plasticity.capture` can see into. It is left in evaluation mode.
        arguments: The probe batch, as the arguments of the model's forward, with the batch as first axis.
        fresh: The same network, freshly initialised. None: the network is judged by absolute thresholds.
        layers: Names of hidden layers, as in `plasticity.capture`. None: every activation, but for one
            that makes the network's output.

    Returns:
        The sheet.

    Raises:
        ValueError: if the network has no hidden activation, its features are not finite, or the probe
            batch does not fit it or has no two different rows.
        TypeError: if the model cannot be looked into.
    """
    model = raw_module(model)
    flow = _traced(model.eval(), arguments, layers)
    rows, distinct = _rows(arguments)
    if distinct < 2:
        what = (
            f"The {rows} rows of the probe batch are all the same"
            if rows > 1
            else (f"The probe batch has {rows} rows")
        )
        raise ValueError(
            f"{what}: there is no rank to them, and no unit to call dead. Give observations that differ."
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
    # What is left are attention modules, which are no weight layers.
    sheets += [LayerSheet(name, symmetry=symmetry) for name, symmetry in degrees.items()]
    judged = tuple(replace(sheet, findings=tuple(_findings(sheet))) for sheet in sheets)
    notes = (*_row_notes(judged, rows, distinct), *_notes(judged, is_alone=fresh is None))
    return Sheet(judged, notes)


def _rows(arguments: tuple[Any, ...]) -> tuple[int, int]:
    """Number of rows in the probe batch, and of different ones."""
    batch = [tensor for tensor in tensors_in(arguments) if tensor.ndim]
    rows = len(batch[0]) if batch else 0
    # Each row by its number among the different ones of a tensor: dtypes need not be the same.
    numbers = [
        torch.unique(tensor.reshape(rows, -1), dim=0, return_inverse=True)[1]
        for tensor in batch
        if len(tensor) == rows and tensor.numel()
    ]
    return rows, len(torch.unique(torch.stack(numbers, 1), dim=0)) if numbers else min(rows, 1)


def _traced(model: nn.Module, arguments: tuple[Any, ...], layers: Sequence[str] | None) -> Flow:
    try:
        flow = trace(model, arguments)
    except (RuntimeError, IndexError) as error:  # as torch reports shapes and types that do not fit
        raise ValueError(
            f"The probe batch does not go through {type(model).__name__}: {error}. Give observations as"
            " the network was trained on."
        ) from error
    if layers is not None:
        flow = flow.restricted(layers)
    if all(layer.captured is None for layer in flow.layers):
        raise ValueError(
            f"No hidden activation was seen in {type(model).__name__}: it has no units to measure."
        )
    return flow


def _measured(model: nn.Module, arguments: tuple[Any, ...], flow: Flow) -> dict[str, Measures]:
    """What the probe batch shows, by the sheet's names of the layers."""
    hidden = {layer.captured: layer for layer in flow.layers if layer.captured is not None}
    ranks = ("effective_rank", "stable_rank", "srank")
    others = ("dead_fraction", "dormant_fraction", "feature_norm")
    own = (
        Metric("constant_fraction", partial(dead_fraction, saturating=True), "features"),
        Metric("rows", lambda features: features.new_tensor(features.shape[0]), "features"),
        Metric("units", lambda features: features.new_tensor(features.shape[1]), "features"),
    )
    values = Tracker(model, arguments, [*ranks, *others, *own], list(hidden)).measure()
    found = {}
    for captured, layer in hidden.items():
        dead = "dead_fraction" if layer.activation in ZERO_WHEN_DEAD else "constant_fraction"
        found[layer.name] = Measures(
            units=int(values[metric_key("units", captured)]),
            rows=int(values[metric_key("rows", captured)]),
            effective_rank=values[metric_key("effective_rank", captured)],
            stable_rank=values[metric_key("stable_rank", captured)],
            srank=int(values[metric_key("srank", captured)]),
            dead_fraction=values[metric_key(dead, captured)],
            dormant_fraction=values[metric_key("dormant_fraction", captured)],
            feature_norm=values[metric_key("feature_norm", captured)],
        )
    return found


def _weight_norm(model: nn.Module, owner: str | None) -> float | None:
    """Norm of one layer's parameters, those that it shares with another layer (tied weights) included."""
    if owner is None:
        return None
    modules = dict(named_modules(model, remove_duplicate=False))
    if owner in modules:
        return float(weight_norm(modules[owner])["total"])
    # A matrix that is no module's weight, or is used the other way round.
    return float(model.get_parameter(owner.removesuffix(".T")).detach().norm())


def _degrees(
    model: nn.Module, fresh: nn.Module | None, arguments: tuple[Any, ...]
) -> dict[str, Symmetry]:
    """Degree of symmetry of the layers whose readers are known, and of attention modules."""
    try:
        distances = symmetry_distances(model, inputs=arguments)
    except NothingToMeasureError:
        return {}
    reference, threshold = None, THRESHOLDS.distance_alone
    if fresh is not None:
        # Their mean holds all pairs to one bound: which two neurons are the k-th neighbours changes.
        initial = symmetry_distances(fresh, inputs=arguments)
        reference = {name: each.mean() for name, each in initial.items()}
        threshold = THRESHOLDS.distance
    degrees = symmetry_report(model, threshold, inputs=arguments, reference=reference)
    kinds = {True: "directions of queries and keys", False: Symmetry.kind}
    return {
        name: Symmetry(int(degree.sum()), distances[name].numel(), kinds[degree.ndim > 0])
        for name, degree in degrees.items()
        if distances[name].numel()  # a single neuron has no neighbour
    }


# ---- the judgement ----------------------------------------------------------------------------------


def _findings(sheet: LayerSheet) -> Iterator[str]:
    if sheet.measures is not None:
        yield from _unit_findings(sheet.measures, sheet.initial, sheet.activation)
        yield from _rank_findings(sheet.measures, sheet.initial)
        norm, initial = sheet.weight_norm, sheet.initial_weight_norm
        if norm is not None and initial and norm > THRESHOLDS.norm * initial:
            yield (
                f"weights {norm / initial:.3g} times as long as at initialisation: a step of the same size"
                " changes the layer less"
            )
    symmetry = sheet.symmetry
    if symmetry is not None and symmetry.degree > THRESHOLDS.symmetric * symmetry.possible:
        state = "nearly identical" if symmetry.kind == Symmetry.kind else "nearly unused"
        yield (
            f"{symmetry.degree} of {symmetry.possible} {symmetry.kind} are {state}: near a symmetric state,"
            " which gradient descent hardly leaves"
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
            f"Of the {rows} rows of the probe only {distinct} are different: a layer of {widest} units is"
            " judged by these alone, and its rank is bounded by them."
        )


def _notes(sheets: Sequence[LayerSheet], *, is_alone: bool) -> Iterator[str]:
    measured = [each.measures for each in sheets if each.measures is not None]
    short = [each for each in measured if each.rows < each.units]
    if short:
        yield (
            f"The probe gives {min(each.rows for each in short)} rows to a layer of"
            f" {max(each.units for each in short)} units: no rank can be above the number of rows."
        )
    if is_alone:
        yield (
            "There is no freshly initialised network to compare with: judged by absolute thresholds,"
            " and norms not at all."
        )
