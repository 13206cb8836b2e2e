"""Names of metrics: which lead a report, how a family and its layers are written, in what unit."""

from __future__ import annotations

from collections.abc import Sequence

from plasticity.checks import nearest

HEADLINES = (
    "episode_return",
    "test_accuracy",
    "online_accuracy",
    "train_accuracy",
    "effective_rank",
    "dead_fraction",
)
"""What a report leads with, where the runs have it; a family stands for the last hidden layer of
each network (`actor.fc2` and `critic.fc2`). Settings are compared by the first."""

EPISODES = ("episode_return", "episode_length")
"""Means over the episodes that ended since the row before; none where no episode ended."""

DIAGNOSTICS = (
    "policy_entropy",
    "approximate_kl",
    "clip_fraction",
    "explained_variance",
    "policy_loss",
    "value_loss",
)
"""What PPO says of its updates."""

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

MAX_DECIMALS = 3
"""Of a number of steps in thousands or millions."""

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
    if words.endswith(" kl"):
        words = f"{words.removesuffix('kl')}KL"
    return f"{words}, {layer}" if layer else words


def _network_of(metric: str) -> str:
    """`actor` of `effective_rank/actor.fc2`; nothing where a run has one network."""
    return layer_of(metric).rpartition(".")[0].partition(".")[0]


def compared_at(metric: str) -> str:
    """The moment (of `arms.MOMENTS`) at which methods and settings are compared by a metric.

    A task's accuracy is measured on its whole test set: the last one tells how plastic a network
    still is. The return of a few episodes at one row is noise; that of the whole run is not.
    """
    return "average" if family_of(metric) in EPISODES else "last"


def short_count(count: int) -> str:
    """A number of steps to read: 2 M, 51.2 k, 700."""
    for size, letter in ((1_000_000, "M"), (1000, "k")):
        if count >= size:
            return f"{round(count / size, MAX_DECIMALS):g} {letter}"
    return str(count)


def place_text(axis: str, position: int) -> str:
    """A task as it is, a number of steps in thousands or millions."""
    return short_count(position) if axis == "step" else str(position)


def headlines(known: Sequence[str]) -> list[str]:
    """The headline metrics that the runs have; if they have none, all that stand without a layer.

    Args:
        known: Names in the rows, layers in the order of the network.
    """
    found: list[str] = []
    for headline in HEADLINES:
        members = [name for name in known if family_of(name) == headline]
        # Later layers take the place of earlier ones of the same network.
        found += {_network_of(name): name for name in members}.values()
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
