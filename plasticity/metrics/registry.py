"""Registry of the metrics that a tracker knows by name, and the class for custom metrics."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from plasticity.checks import nearest
from plasticity.metrics import activity, churn, dormancy, hessian, isometry, norms, ranks
from plasticity.symmetry.relative_degree import relative_degree_of_symmetry

__all__ = [
    "DEFAULT_METRICS",
    "METRICS",
    "RANK_METRICS",
    "Metric",
    "add_values",
    "is_rank",
    "metric_key",
    "require_policy_metrics",
    "resolved_metrics",
]


@dataclass(frozen=True)
class Metric:
    """Metric to track: one number, or several.

    Examples:
        >>> largest = Metric("largest", lambda features: features.amax((-2, -1)), "features")
        >>> tracker = Tracker(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), torch.randn(8, 4), metrics=[largest])
        >>> "largest/1" in tracker.boundary(task=0)
        True
    """

    name: str
    """First part of the keys in a row: ``name/layer``, as `metric_key` writes it."""

    function: Callable[..., Any]
    """Function that computes the metric. By kind: ``function(features)``, with features of shape (rows,
    units), returns one number as a tensor; the functions of the other kinds return one such tensor or a
    dictionary of them by layer."""

    kind: Literal["features", "model", "update", "pass", "step", "loss"]
    """Arguments of the function: the features of one layer; the model; for "update", the model and its
    parameters at the previous boundary (`parameter_snapshot`; left out of the row if there is no previous
    boundary); for "pass", the model and a function that runs the module that it is given on the probe
    batch; for "step", the model, its parameters before its latest optimizer step (`Tracker.before_step`;
    left out of the row where that was not called) and the function of "pass"; for "loss", the model and a
    function that returns the loss of the module that it is given on labelled samples."""

    description: str = ""
    """One line for a list of metrics."""


def _registry(
    kind: Literal["features", "model", "update"], descriptions: Mapping[Callable[..., Any], str]
) -> dict[str, Metric]:
    return {
        function.__name__: Metric(function.__name__, function, kind, description)
        for function, description in descriptions.items()
    }


_RANKS = _registry(
    "features",
    {
        ranks.effective_rank: "exponential of the entropy of the singular values",
        ranks.srank: "number of singular values that hold 99 % of their sum",
        ranks.approximate_rank: "number of directions that hold 99 % of the squared norm",
        ranks.stable_rank: "squared Frobenius norm over the largest squared singular value",
        ranks.numerical_rank: "number of singular values above the rounding error",
        ranks.feature_rank: "number of singular values above 0.01 times the root of the batch",
    },
)

METRICS: dict[str, Metric] = {
    **_RANKS,
    **_registry(
        "features",
        {
            dormancy.dead_fraction: "share of the units that are 0 on every sample (ReLU family)",
            dormancy.dormant_fraction: "share of the units below 2.5 % of their layer's mean magnitude",
            activity.active_fraction: "share of the outputs that are not 0 (ReLU family)",
            activity.linearized_fraction: "share of the units positive on 90 % of the samples (ReLU family)",
            norms.feature_norm: "mean L2 norm of a sample's features",
        },
    ),
    **_registry(
        "model",
        {
            norms.weight_norm: "L2 norm of the parameters, per layer and in total",
            norms.gradient_norm: "L2 norm of the gradients that the last backward pass left",
            isometry.deviation_from_isometry: "squared distance of a layer's Gram matrix to the identity",
        },
    ),
    **_registry(
        "update",
        {
            norms.update_norm: "L2 norm of the parameters' change since the previous boundary",
            norms.update_to_weight_ratio: "the same, relative to the norm of the parameters there",
        },
    ),
    "degree_of_symmetry": Metric(
        "degree_of_symmetry",
        relative_degree_of_symmetry,
        "pass",
        "pairs of neurons closer than 0.1 of their layer's typical distance; 0.04 s per network and row",
    ),
    "churn": Metric(
        "churn",
        churn.churn,
        "step",
        "change by the latest optimizer step on the probe: mean square of the outputs', share of argmaxes",
    ),
    "hessian_rank": Metric(
        "hessian_rank",
        hessian.hessian_rank,
        "loss",
        "share of the Hessian's eigenvalues above 0.01, on the probe: 300 double backward passes per row",
    ),
}
"""Metrics that a `Tracker` knows by name."""

RANK_METRICS: tuple[str, ...] = tuple(_RANKS)
"""Metrics that share one decomposition of a layer's features."""

DEFAULT_METRICS: tuple[str, ...] = (
    *RANK_METRICS,
    "dead_fraction",
    "dormant_fraction",
    "feature_norm",
    "weight_norm",
)
"""Metrics from one forward pass and one decomposition per layer, and the norm of the weights."""


def metric_key(metric: str, layer: str = "") -> str:
    """Return the name of a number in a row, a file and a logger, in characters that all of them accept.

    MLflow has the strictest rule: letters, digits, ``_``, ``-``, ``.``, space and ``/``. So the second
    output of a layer, ``relu#2`` in `capture`, is ``relu-2`` here, ``lstm[0]`` is ``lstm.0``, and any other
    character is ``_``.

    Args:
        metric: Name of the metric.
        layer: Name of the layer; "" for a number of the whole model.

    Returns:
        ``metric/layer``, or ``metric``.
    """
    key = f"{metric}/{layer}" if layer else metric
    key = re.sub(r"\[([^\[\]]*)\]", r".\1", key).replace("#", "-")
    return re.sub(r"[^\w\-. /]", "_", key)


def add_values(values: dict[str, Any], metric: str, by_layer: Mapping[str, Any]) -> None:
    """Add the numbers of one metric to those of a row.

    Args:
        values: Numbers of the row by key; modified in place.
        metric: Name of the metric.
        by_layer: Numbers of the metric by layer name; "" for the whole model.

    Raises:
        ValueError: if two names have the same key.
    """
    names: dict[str, str] = {}
    for layer, value in by_layer.items():
        key = metric_key(metric, layer)
        if key in values:
            other = names.get(key, key)
            raise ValueError(
                f"{layer!r} and {other!r} would both be {key!r} in the row; rename one of them, or leave one "
                "out by layers=[…]"
            )
        names[key] = layer
        values[key] = value


def is_rank(metric: Metric) -> bool:
    """Return whether `rank_summary` computes the metric, and not just one of the same name."""
    return metric is _RANKS.get(metric.name)


def resolved_metrics(metrics: Iterable[str | Metric]) -> tuple[Metric, ...]:
    """Return the metrics, looking up those given by name.

    Raises:
        TypeError: if `metrics` is a single name or metric, or an entry is neither.
        ValueError: if a name is unknown (suggesting the nearest) or given twice, or there are no metrics.
    """
    if isinstance(metrics, (str, Metric)):
        raise TypeError(f"metrics must be a list, got {metrics!r}; put it in brackets")
    found: dict[str, Metric] = {}
    for entry in metrics:
        if isinstance(entry, str) and entry not in METRICS:
            raise ValueError(f"there is no metric {entry!r}.{nearest(entry, METRICS)}")
        if not isinstance(entry, (str, Metric)):
            raise TypeError(f"a metric is a name or a Metric, got {type(entry).__name__}")
        metric = METRICS[entry] if isinstance(entry, str) else entry
        if metric.name in found:
            raise ValueError(f"metric {metric.name!r} is given twice; give each its own name")
        found[metric.name] = metric
    if not found:
        raise ValueError(f"metrics is empty; give at least one of {', '.join(METRICS)}")
    return tuple(found.values())


def require_policy_metrics(metrics: Iterable[Metric]) -> None:
    """Raise a ValueError if a metric cannot be measured between two rows of a policy that learns.

    Its learner takes many optimizer steps from row to row, and has no labels.
    """
    for metric in metrics:
        if metric.kind in ("step", "loss"):
            raise ValueError(
                f"metric {metric.name!r} is not measured for policies, only by supervised benchmarks and by a"
                " Tracker; leave it out"
            )
