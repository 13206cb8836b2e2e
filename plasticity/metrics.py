"""The metrics that a tracker knows by name, and the form of a user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from plasticity import dormancy, norms, ranks

__all__ = ["DEFAULT_METRICS", "METRICS", "RANK_METRICS", "Metric"]


@dataclass(frozen=True)
class Metric:
    """A number, or a few, to track."""

    name: str
    """First part of the keys in a row: ``name/layer``."""

    function: Callable[..., Any]
    """By kind: ``function(features)`` with features of shape (rows, units), giving one number as a tensor;
    ``function(model)`` or ``function(model, previous)``, giving one such tensor or a dictionary of them by
    layer."""

    kind: Literal["features", "model", "update"]
    """What it is a function of: the features of one layer, the model, or the model and its parameters at
    the previous boundary (`parameter_snapshot`; left out of the row while there is none)."""

    description: str = ""
    """One line for a list of metrics."""


def _registry(
    kind: Literal["features", "model", "update"], descriptions: Mapping[Callable[..., Any], str]
) -> dict[str, Metric]:
    return {
        function.__name__: Metric(function.__name__, function, kind, description)
        for function, description in descriptions.items()
    }


METRICS: dict[str, Metric] = {
    **_registry(
        "features",
        {
            ranks.effective_rank: "exponential of the entropy of the singular values",
            ranks.srank: "number of singular values that hold 99 % of their sum",
            ranks.approximate_rank: "number of directions that hold 99 % of the squared norm",
            ranks.stable_rank: "squared Frobenius norm over the largest squared singular value",
            ranks.numerical_rank: "number of singular values above the rounding error",
            ranks.feature_rank: "number of singular values above 0.01 times the root of the batch",
            dormancy.dead_fraction: "share of the units that are 0 on every sample (ReLU family)",
            dormancy.dormant_fraction: "share of the units below 2.5 % of their layer's mean magnitude",
            norms.feature_norm: "mean L2 norm of a sample's features",
        },
    ),
    **_registry(
        "model",
        {
            norms.weight_norm: "L2 norm of the parameters, per layer and in total",
            norms.gradient_norm: "L2 norm of the gradients that the last backward pass left",
        },
    ),
    **_registry(
        "update",
        {norms.update_norm: "L2 norm of the parameters' change since the previous boundary"},
    ),
}
"""The metrics that a `Tracker` knows by name."""

RANK_METRICS: tuple[str, ...] = (
    "effective_rank",
    "srank",
    "approximate_rank",
    "stable_rank",
    "numerical_rank",
    "feature_rank",
)
"""The metrics that come from one decomposition of a layer's features."""

DEFAULT_METRICS: tuple[str, ...] = (
    *RANK_METRICS,
    "dead_fraction",
    "dormant_fraction",
    "feature_norm",
    "weight_norm",
)
"""All that one forward pass and one decomposition per layer give, and the weights' norm."""
