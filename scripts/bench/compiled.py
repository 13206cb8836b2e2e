"""Gain from compiling and half precision: the classifier's step and PPO's update, against eager float32."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from plasticity.agents.networks import Network
from plasticity.scripts.bench.comparison import Comparison, Effort, Side, both
from plasticity.scripts.bench.learners import (
    MNIST,
    SYRE,
    classifier_step,
    image_network,
    make_classifier,
    ppo_update,
    synthetic_batches,
    wide_mlp,
)
from plasticity.scripts.bench.rows import Row

_MODES: dict[str, dict[str, Any]] = {
    "CUDA graph": {"compile": True},
    "bf16": {"precision": "bf16"},
    "bf16 in a CUDA graph": {"precision": "bf16", "compile": True},
}
_OBSERVATION_SIZE = 28  # of Bullet's ant


def compiled(effort: Effort) -> list[Row]:
    """Measure training steps with syre in other modes against eager float32; CUDA graphs only on a GPU."""
    networks = {"CNN of permuted-mnist": MNIST.network, "MLP of 3 x 2000": wide_mlp(effort)}
    comparisons = [
        Comparison(
            case=f"{label}: {mode} vs eager float32",
            unit="time",
            sides=both(
                partial(_step, effort, network, changes), partial(_step, effort, network, {})
            ),
            rounds=60,
            calls=5,
            warmup=2,  # ten steps, enough for a CUDA graph to be captured
            needs=("cuda",) if "compile" in changes else (),
        )
        for label, network in networks.items()
        for mode, changes in _MODES.items()
    ]
    update = Comparison(
        case="PPO's whole update: CUDA graph vs eager",
        unit="time",
        sides=both(
            partial(ppo_update, effort, _OBSERVATION_SIZE, compile=True),
            partial(ppo_update, effort, _OBSERVATION_SIZE),
        ),
        rounds=20,
        warmup=4,
        needs=("cuda",),
    )
    return [each.measured(effort) for each in (*comparisons, update)]


def _step(effort: Effort, network: Network, changes: dict[str, Any]) -> Side:
    config = replace(MNIST.agent, **changes)
    classifier = make_classifier(image_network(network), effort.device, SYRE, config)
    return partial(classifier_step(classifier), *next(synthetic_batches(effort)))
