"""Names of metrics: which lead a report, how a family and its layers are written, in what unit."""

from __future__ import annotations

from collections.abc import Sequence

from plasticity.settings import nearest

HEADLINES = (
    "test_accuracy",
    "online_accuracy",
    "train_accuracy",
    "effective_rank",
    "dead_fraction",
)
"""What a report leads with, where the runs have it; a family stands for its last hidden layer.
Settings are compared by the first."""

RANKS = (
    "effective_rank",
    "approximate_rank",
    "srank",
    "stable_rank",
    "numerical_rank",
    "feature_rank",
)
"""Families of ranks of hidden activations."""

UNITS = ("dead_fraction", "dormant_fraction")
"""Families of shares of units."""

NORMS = ("weight_norm", "gradient_norm", "update_norm", "anchor_distance", "feature_norm")
"""Families of L2 norms."""

TOTAL = "total"
"""The layer of a norm over the whole network."""

PERCENT_ENDINGS = ("_accuracy", "_fraction")


def family_of(metric: str) -> str:
    """`effective_rank` of `effective_rank/fc1`; the name itself if it has no layer."""
    return metric.split("/", 1)[0]


def layer_of(metric: str) -> str:
    """`fc1` of `effective_rank/fc1`; nothing if it has no layer."""
    return metric.partition("/")[2]


def is_percent(metric: str) -> bool:
    """Whether it is a share, written in per cent."""
    return family_of(metric).endswith(PERCENT_ENDINGS)


def in_words(metric: str) -> str:
    """The name as a person writes it, its layer behind a comma."""
    words, layer = family_of(metric).replace("_", " "), layer_of(metric)
    return f"{words}, {layer}" if layer else words


def headlines(known: Sequence[str]) -> list[str]:
    """The headline metrics that the runs have; if they have none, all that stand without a layer.

    Args:
        known: Names in the rows, layers in the order of the network.
    """
    found = []
    for headline in HEADLINES:
        members = [name for name in known if family_of(name) == headline]
        found += members[-1:]
    return found or [name for name in known if not layer_of(name)] or list(known)


def resolve(wanted: Sequence[str], known: Sequence[str]) -> list[str]:
    """Metrics by name; a family's name gives all its layers.

    Raises:
        ValueError: for an unknown one; the message names the nearest known one, and all.
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
