"""Anchors of l2-init in a saved state: under "anchor" in the state of each parameter.

This is where torch's tools find them (torch.distributed.checkpoint keeps "state" and "param_groups", and
renames the parameters). A live optimizer stores them elsewhere, because Adam takes a state that is not
empty for one that has been initialised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from torch import Tensor

ANCHOR = "anchor"
"""Key of the anchor in a parameter's saved state."""


def _saved_names(state: Mapping[str, Any]) -> list[Any]:
    """Return the parameters' names in a saved state, in order: integers, or the names set by a tool."""
    return list(chain.from_iterable(group["params"] for group in state["param_groups"]))


def with_anchors(
    state: Mapping[str, Any], parameters: Sequence[Tensor], anchors: Mapping[Tensor, Tensor]
) -> dict[str, Any]:
    """Return a saved state with anchors in it.

    Args:
        state: State in the format of torch's optimizers; not changed.
        parameters: Parameters of the optimizer, in its order.
        anchors: Anchors by parameter; those of other parameters are ignored.
    """
    if not any(parameter in anchors for parameter in parameters):
        return dict(state)
    own = dict(state["state"])
    for name, parameter in zip(_saved_names(state), parameters, strict=True):
        if parameter in anchors:
            own[name] = {**own.get(name, {}), ANCHOR: anchors[parameter]}
        elif parameter.requires_grad:
            own.setdefault(name, {})  # torch.distributed.checkpoint wants all or none
    return {**state, "state": own}


def without_anchors(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[int, Tensor]]:
    """Return a saved state in the base's format, and the anchors by the position of their parameter."""
    positions = {name: position for position, name in enumerate(_saved_names(state))}
    own: dict[Any, Any] = {}
    anchors: dict[int, Tensor] = {}
    for name, entry in state["state"].items():
        if isinstance(entry, Mapping) and ANCHOR in entry and name in positions:
            anchors[positions[name]] = entry[ANCHOR]
            own[name] = {key: value for key, value in entry.items() if key != ANCHOR}
        else:
            own[name] = entry
    return {**state, "state": own}, anchors


def require_saved_anchors(
    state: Mapping[str, Any], groups: Sequence[Mapping[str, Any]], anchors: Mapping[int, Tensor]
) -> None:
    """Raise an error if a saved state of l2-init lacks an anchor.

    A state that was saved while a parameter was frozen has no anchor for it, but has those of the others.

    Args:
        state: The saved state, as returned by `without_anchors`.
        groups: Groups of the optimizer that the state is to be loaded into.
        anchors: Anchors by position, as returned by `without_anchors`.

    Raises:
        ValueError: if there is no anchor for a parameter that is trained.
    """
    position = 0
    for index, (saved, group) in enumerate(zip(state["param_groups"], groups, strict=True)):
        for name, parameter in zip(saved["params"], group["params"], strict=False):
            was_trained = not anchors or state["state"].get(name)
            lacks = position not in anchors and parameter.requires_grad and was_trained
            if lacks and saved.get("regularizer") == "l2-init":
                raise ValueError(
                    f"The saved state anchors group {index} to its initial weights (l2-init), but lacks"
                    f" those of parameter {position}: save the whole state_dict() of the optimizer"
                    " (torch.distributed.checkpoint's flattened form drops them). To use the current"
                    " weights as anchors, remove the regularizer from the saved groups."
                )
            position += 1
