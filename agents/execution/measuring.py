"""Metrics of one network or of stacked ones, which do not disturb the training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from plasticity.agents.execution.single import SingleNetwork
from plasticity.metrics.registry import Metric
from plasticity.metrics.stacked import finite_networks, stacked_features, stacked_metrics
from plasticity.metrics.tracker import Tracker
from plasticity.stacking.networks import StackedNetworks

FINITE = Metric("finite", lambda features: features.isfinite().all().to(features.dtype), "features")
"""Metric that is 1 where all features of a layer are finite, else 0."""


def measured(
    networks: SingleNetwork | StackedNetworks,
    probe: Any,
    metrics: Sequence[str | Metric],
    layers: Sequence[str],
    *,
    indices: Sequence[int],
    previous: Mapping[str, Tensor] | None,
    before_step: Mapping[str, Tensor] | None = None,
    losses: Sequence[Callable[[nn.Module], Tensor]] | None = None,
) -> dict[int, dict[str, float]]:
    """Measure networks.

    Args:
        networks: The network, or stacked ones.
        probe: Inputs, (..., batch, *input_shape); of a single network, it may be a tuple of all inputs.
        metrics: As in `Tracker`.
        layers: Names of the layers whose features are measured.
        indices: Indices of the networks to measure.
        previous: Parameters at an earlier time, by name, for "update" metrics, which are left out without it.
            Shape of each: (..., *shape).
        before_step: Parameters before the latest optimizer step, likewise, for "step" metrics.
        losses: Function of each network that returns the loss of the module that it is given on labelled
            samples, for "loss" metrics.

    Returns:
        The numbers by ``metric/layer``, by index, of the networks whose features are all finite.
    """
    if not indices:
        return {}
    if isinstance(networks, SingleNetwork):
        tracker = partial(Tracker, networks.template, probe, layers=layers)
        if not all(tracker(metrics=[FINITE]).measure().values()):
            return {}
        if not metrics:
            return {0: {}}
        chosen = tracker(metrics=metrics, loss=losses[0] if losses else None)
        chosen.load_state_dict({"previous": previous, "before_step": before_step})
        return {0: chosen.measure()}
    features = stacked_features(networks, probe, layers)
    finite = finite_networks(features).tolist()
    sound = [index for index in indices if finite[index]]
    if not metrics:
        return {index: {} for index in sound}
    numbers = stacked_metrics(
        networks,
        features,
        metrics,
        indices=sound,
        previous=previous,
        probe=probe,
        before_step=before_step,
        losses=losses,
    )
    return dict(zip(sound, numbers, strict=True))
