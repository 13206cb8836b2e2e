"""Decay toward an anchor per parameter group for any torch optimizer: `regularized(OptimizerClass)`.

Decay toward zero is also decay toward the symmetric, low-rank states of a network; syre (Ziyin, Xu,
Chuang, "Remove Symmetries to Control Model Expressivity", ICLR 2025) decays toward a random point
instead, so that those states are no longer stationary. Its loss(theta + theta_0) + gamma |theta|^2 is,
in the shifted coordinates, a decay of the plain weights toward theta_0 with strength 2 gamma.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch.optim import Optimizer

from plasticity.optim.optimizer import RegularizedOptimizer

REFUSED_BASES = {
    "LBFGS": "its line search needs the loss, which the decay changes",
    "Rprop": "it uses only the sign of the gradient, to which a decay cannot be added",
    "SparseAdam": "its gradients are sparse, and a decay is dense",
}
"""Optimizers of torch that cannot be regularized, with the reason."""

_CLASSES: dict[type[Optimizer], type[RegularizedOptimizer]] = {}


def regularized(base: type[Optimizer]) -> type[RegularizedOptimizer]:
    """Return a subclass of a torch optimizer whose groups can each be regularized.

    The class takes the base's arguments and those of `RegularizedOptimizer`. It is created once for
    each base, and pickles by reference.

    Args:
        base: Any first-order optimizer class, from torch.optim or elsewhere, whose `step` uses
            `parameter.grad`.

    Returns:
        A subclass of `base` and of `RegularizedOptimizer`.

    Raises:
        TypeError: if `base` is not an optimizer class.
        ValueError: if this base cannot be regularized (LBFGS, Rprop, SparseAdam).

    Examples:
        >>> model = nn.Linear(4, 2)
        >>> optimizer = regularized(torch.optim.Adam)(model.parameters(), regularizer="syre", strength=1e-3)
        >>> isinstance(optimizer, torch.optim.Adam)
        True
    """
    if not (isinstance(base, type) and issubclass(base, Optimizer)):
        raise TypeError(
            f"regularized() takes an optimizer class such as torch.optim.Adam, not {base!r}."
        )
    if issubclass(base, RegularizedOptimizer):
        return base
    if base.__name__ in REFUSED_BASES and base.__module__.startswith("torch."):
        raise ValueError(
            f"{base.__name__} cannot be regularized: {REFUSED_BASES[base.__name__]}. Use Adam or SGD."
        )
    if base not in _CLASSES:
        name = _class_name(base)
        body = {
            "base": base,
            "__module__": __name__,
            "__doc__": RegularizedOptimizer.__doc__,
        }
        made = type(name, (RegularizedOptimizer, base), body)
        made.__qualname__ = name
        _CLASSES[base] = made
    return _CLASSES[base]


# ---- pickling: a class is found by its name in this module ------------------------------------------

_PREFIX = "Regularized"


def _class_name(base: type[Optimizer]) -> str:
    if getattr(torch.optim, base.__name__, None) is base:
        return f"{_PREFIX}{base.__name__}"
    # Pickle splits names at dots, so the path to a base outside torch is written with slashes.
    return f"{_PREFIX}:{base.__module__}:{base.__qualname__}".replace(".", "/")


def __getattr__(name: str) -> Any:
    """Find the class of a pickled optimizer: `RegularizedAdam`, `Regularized:package/module:Name`."""
    if name.startswith(_PREFIX):
        path = name[len(_PREFIX) :]
        if path.startswith(":"):
            module_name, _, qualified = path[1:].replace("/", ".").partition(":")
            found: Any = importlib.import_module(module_name)
            for part in qualified.split("."):
                found = getattr(found, part)
            return regularized(found)
        base = getattr(torch.optim, path, None)
        if isinstance(base, type) and issubclass(base, Optimizer):
            return regularized(base)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
