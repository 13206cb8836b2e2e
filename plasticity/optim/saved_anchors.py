"""L2-init's anchors in a saved state: under "anchor" in the state of each parameter.

There every tool of torch looks (torch.distributed.checkpoint keeps "state" and "param_groups", and names
parameters as it likes). A live optimizer has them elsewhere: a state that is not empty would tell Adam
that it has been initialised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from torch import Tensor

ANCHOR = "anchor"
"""The key in a parameter's saved state."""


def _saved_names(state: Mapping[str, Any]) -> list[Any]:
    """Names of the parameters in a saved state, in their order: integers, or what a tool made of them."""
    return list(chain.from_iterable(group["params"] for group in state["param_groups"]))


def with_anchors(
    state: Mapping[str, Any], parameters: Sequence[Tensor], anchors: Mapping[Tensor, Tensor]
) -> dict[str, Any]:
    """Return a saved state with anchors in it.

    Args:
        state: As torch's optimizers write it; left as it is.
        parameters: The optimizer's, in its order.
        anchors: By parameter; those of other parameters are ignored.
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
    """Return a saved state as the base knows it, and the anchors by their parameter's place in it."""
    places = {name: place for place, name in enumerate(_saved_names(state))}
    own: dict[Any, Any] = {}
    anchors: dict[int, Tensor] = {}
    for name, entry in state["state"].items():
        if isinstance(entry, Mapping) and ANCHOR in entry and name in places:
            anchors[places[name]] = entry[ANCHOR]
            own[name] = {key: value for key, value in entry.items() if key != ANCHOR}
        else:
            own[name] = entry
    return {**state, "state": own}, anchors


def require_saved_anchors(
    state: Mapping[str, Any], groups: Sequence[Mapping[str, Any]], anchors: Mapping[int, Tensor]
) -> None:
    """Refuse a saved state of l2-init that lacks an anchor.

    One that was saved when the parameter was frozen has none for it, but those of others.

    Args:
        state: The saved state, as `without_anchors` returns it.
        groups: Of the optimizer that it is to be loaded into.
        anchors: By place, as `without_anchors` found them.

    Raises:
        ValueError: if there is none for a parameter that is trained.
    """
    place = 0
    for index, (saved, group) in enumerate(zip(state["param_groups"], groups, strict=True)):
        for name, parameter in zip(saved["params"], group["params"], strict=False):
            was_trained = not anchors or state["state"].get(name)
            lacks = place not in anchors and parameter.requires_grad and was_trained
            if lacks and saved.get("regularizer") == "l2-init":
                raise ValueError(
                    f"The saved state says that group {index} is held to its initial weights (l2-init),"
                    f" and lacks those of parameter {place}: save the whole state_dict() of the"
                    " optimizer (torch.distributed.checkpoint's flattened form drops them). To hold on"
                    " to the weights of now, take the regularizer out of the saved groups."
                )
            place += 1
