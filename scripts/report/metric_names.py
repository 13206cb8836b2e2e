"""Names of metrics: the headline ones, families and their layers, and units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from plasticity.checks import nearest

GAP = "plasticity_gap"
"""Accuracy of a fresh network minus the run's own on the same task, in rows with a reference: what the past
has cost. Lower is better, and it may be below 0."""

LOSS_GAP = "loss_gap"
"""The same for a regression: the run's own loss minus that of a fresh network. Lower is better."""

REFERENCE = "reference_"
"""Beginning of the names of what fresh networks reached."""

HEADLINES = (
    GAP,
    LOSS_GAP,
    "episode_return",
    "test_accuracy",
    "online_accuracy",
    "train_accuracy",
    "test_loss",
    "online_loss",
    "effective_rank",
    "dead_fraction",
)
"""Metrics at the top of a report, where the runs have them; a family selects the last hidden layer of
each network (`actor.fc2` and `critic.fc2`)."""

EPISODES = ("episode_return", "episode_length")
"""Means over the episodes that ended since the previous row; missing where no episode ended."""

DIAGNOSTICS = (
    "policy_entropy",
    "approximate_kl",
    "clip_fraction",
    "explained_variance",
    "policy_loss",
    "value_loss",
    "entropy_coefficient",
    "exploration_rate",
)
"""Diagnostics of an agent's updates: each algorithm has some of them."""

RANKS = (
    "effective_rank",
    "approximate_rank",
    "srank",
    "stable_rank",
    "numerical_rank",
    "feature_rank",
)
"""Families of ranks of hidden activations."""

SYMMETRY = "degree_of_symmetry"
"""Family of numbers of symmetric pairs."""

UNITS = ("dead_fraction", "dormant_fraction", "active_fraction", "linearized_fraction")
"""Families of shares of units."""

NORMS = ("weight_norm", "gradient_norm", "update_norm", "anchor_distance", "feature_norm")
"""Families of L2 norms."""

WEIGHTS = ("update_to_weight_ratio", "deviation_from_isometry")
"""Families of numbers of weights that are not norms."""

WHOLE = ("churn", "hessian_rank")
"""Families of numbers of the network as a whole."""

TOTAL = "total"
"""Layer name of a norm over the whole network."""

LOWER_IS_BETTER = (
    GAP,
    LOSS_GAP,
    "dead_fraction",
    "dormant_fraction",
    "linearized_fraction",
    SYMMETRY,
)
"""Families of which lower values are better, beside losses: what the past has cost, and units without use."""

NEITHER_IS_BETTER = (
    *NORMS,
    *WEIGHTS,
    "active_fraction",
    "churn",
    "policy_entropy",
    "approximate_kl",
    "clip_fraction",
    "policy_loss",
    "entropy_coefficient",
    "exploration_rate",
    "learning_rate",
)
"""Families of which neither lower nor higher values are better."""

MAX_DECIMALS = 3
"""Decimals of a number of steps in thousands or millions."""

SHARE_ENDINGS = ("_accuracy", "_fraction", "hessian_rank")


def family_of(metric: str) -> str:
    """Return `effective_rank` for `effective_rank/fc1`; the name itself if it has no layer."""
    return metric.split("/", 1)[0]


def layer_of(metric: str) -> str:
    """Return `fc1` for `effective_rank/fc1`; an empty string if it has no layer."""
    return metric.partition("/")[2]


def is_share(metric: str) -> bool:
    """Return whether a metric is a share, from 0 to 1."""
    return family_of(metric).endswith(SHARE_ENDINGS) or metric == "churn/argmax"


def is_percent(metric: str) -> bool:
    """Return whether a metric is shown in per cent: a share, or a difference of shares."""
    return is_share(metric) or metric == GAP


def is_better_lower(metric: str) -> bool:
    """Return whether lower values of a metric are better; higher ones are of those that are not known."""
    return metric.endswith("_loss") or family_of(metric) in LOWER_IS_BETTER


def is_occasional(metric: str) -> bool:
    """Return whether only some rows have a metric: those of tasks with a fresh reference."""
    return metric in (GAP, LOSS_GAP) or metric.startswith(REFERENCE)


def factor_of(metric: str) -> float:
    """Return the number that values are multiplied with where they are shown: 100 for shares, else 1."""
    return 100.0 if is_percent(metric) else 1.0


def with_unit(metric: str) -> str:
    """Return the name in words, with the sign of per cent for shares."""
    return f"{in_words(metric)}{' (%)' if is_percent(metric) else ''}"


def in_words(metric: str) -> str:
    """Return the name in words, followed by a comma and the layer."""
    words, layer = family_of(metric).replace("_", " "), layer_of(metric)
    if words.endswith(" kl"):
        words = f"{words.removesuffix('kl')}KL"
    return f"{words}, {layer}" if layer else words


def _network_of(metric: str) -> str:
    """Return `actor` for `effective_rank/actor.fc2`; an empty string where a run has one network."""
    return layer_of(metric).rpartition(".")[0].partition(".")[0]


Moment = Literal["last", "average"]
"""Moment at which methods and settings are compared: the last task (or step), or all of them."""


def compared_at(metric: str) -> Moment:
    """Return the moment at which methods and settings are compared by a metric.

    A task's accuracy is measured on its whole test set: the last task shows how plastic the network
    still is. The return of the few episodes in one row is noisy, and so is the loss on one task of a
    regression; the average over the run is not.
    """
    is_noisy = family_of(metric) in EPISODES or metric == "online_loss"
    return "average" if is_noisy else "last"


def short_count(count: int) -> str:
    """Format a number of steps: 2 M, 51.2 k, 700."""
    for size, letter in ((1_000_000, "M"), (1000, "k")):
        if count >= size:
            return f"{round(count / size, MAX_DECIMALS):g} {letter}"
    return str(count)


def headlines(known: Sequence[str]) -> list[str]:
    """Return the headline metrics that the runs have; if none, the metrics without a layer; else all.

    Args:
        known: Names in the rows, with layers in the order of the network.
    """
    found: list[str] = []
    for headline in HEADLINES:
        members = [name for name in known if family_of(name) == headline]
        # Later layers replace earlier ones of the same network.
        found += {_network_of(name): name for name in members}.values()
    return found or [name for name in known if not layer_of(name)] or list(known)


def criterion(known: Sequence[str]) -> str:
    """Return the metric that settings are compared by: the first headline one that is no gap."""
    ranked = headlines(known)
    return next((name for name in ranked if name not in (GAP, LOSS_GAP)), ranked[0])


def resolve(wanted: Sequence[str], known: Sequence[str]) -> list[str]:
    """Look up metrics by name; the name of a family selects all its layers.

    Raises:
        ValueError: if a name is unknown; the message suggests the nearest known one, and lists all.
    """
    families = [family_of(name) for name in known if layer_of(name)]
    found: dict[str, None] = {}
    for name in wanted:
        members = [each for each in known if name in (each, family_of(each))]
        if not members:
            choices = dict.fromkeys([*known, *families])
            raise ValueError(f"Unknown metric {name!r}.{nearest(name, choices)}")
        found.update(dict.fromkeys(members))
    return list(found)
