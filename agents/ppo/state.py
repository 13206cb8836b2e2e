"""Checks that a saved state of PPO fits the agent that continues from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from plasticity.mitigations.hooks import require_same_mitigations
from plasticity.optim.settings import SETTING_NAMES

# Neither the learning rate, which follows its schedule, nor settings that torch chooses by the device.
_OPTIMIZER_SETTINGS = (*SETTING_NAMES, "betas", "eps")
_OF_ONE_SHAPE = ("policy", "observations", "observation_statistics", "reward_normalizer")


def require_complete(state: dict[str, Any], own: dict[str, Any]) -> None:
    """Raise an error if a state lacks an entry.

    Args:
        state: State to load.
        own: The `state_dict` of the agent that loads it.

    Raises:
        ValueError: if an entry is missing; the message names it.
    """
    missing = [key for key in own if key not in state]
    if missing:
        raise ValueError(
            f"The state has no {', '.join(map(repr, missing))}: give one of PPO.state_dict()."
        )


def require_fitting(state: dict[str, Any], own: dict[str, Any]) -> None:
    """Raise an error if a state has another network, normalization, mitigations or optimizer settings.

    Args:
        state: Complete state to load.
        own: The `state_dict` of the agent that loads it.

    Raises:
        ValueError: if it does not fit; the message names what differs.
    """
    _require_same_normalization(state, own)
    for key in _OF_ONE_SHAPE:
        _require_same_shapes(key, state[key], own[key])
    for key in ("actor_mitigations", "critic_mitigations"):
        require_same_mitigations(state.get(key), own.get(key))
    for key in ("actor_optimizer", "critic_optimizer"):
        _require_same_settings(key, state[key]["param_groups"], own[key]["param_groups"])


def _require_same_normalization(state: dict[str, Any], own: dict[str, Any]) -> None:
    for key, setting in (
        ("observation_statistics", "normalize_observations"),
        ("reward_normalizer", "normalize_rewards"),
    ):
        saved, here = (each[key] is not None for each in (state, own))
        if saved != here:
            raise ValueError(
                f"The state was saved with {setting}={saved}, but here it is {here}: continue with the"
                " same setting."
            )


def _require_same_shapes(key: str, state: Any, own: Any) -> None:
    saved, here = dict(_shapes(state, key)), dict(_shapes(own, key))
    for name in sorted(saved.keys() | here.keys()):
        if saved.get(name) != here.get(name):
            raise ValueError(
                f"{name} has shape {saved.get(name)} in the state, but {here.get(name)} here (None: it does"
                " not exist): continue with the same widths, spaces and number of environments."
            )


def _shapes(tree: Any, name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _shapes(value, f"{name}.{key}")
    elif isinstance(tree, Tensor):
        yield name, tuple(tree.shape)


def _require_same_settings(
    key: str, saved_groups: list[dict[str, Any]], own_groups: list[dict[str, Any]]
) -> None:
    saved_sizes, own_sizes = (
        [len(group["params"]) for group in groups] for groups in (saved_groups, own_groups)
    )
    if saved_sizes != own_sizes:
        raise ValueError(
            f"{key} has groups of {saved_sizes} parameters in the state, but of {own_sizes} here:"
            " continue with the same networks."
        )
    for saved, own in zip(saved_groups, own_groups, strict=True):
        differing = [
            f"{name}={saved.get(name)!r} (here {own[name]!r})"
            for name in _OPTIMIZER_SETTINGS
            if saved.get(name) != own[name] and _matters(name, saved, own)
        ]
        if differing:
            raise ValueError(
                f"The state was saved with other settings of the {key}: {', '.join(differing)}. Continue"
                " with the same configuration, regularizers and seed (anchors are drawn from the seed)."
            )


def _matters(name: str, saved: dict[str, Any], own: dict[str, Any]) -> bool:
    # A group may be given an anchor seed that it does not draw from: only syre does.
    return name != "anchor_seed" or "syre" in (saved.get("regularizer"), own["regularizer"])
