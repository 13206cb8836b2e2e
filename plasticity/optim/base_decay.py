"""Detection of an optimizer class's built-in weight decay, and of the form that it takes.

For the classes of torch.optim the form is known. Any other class is measured: a copy of it takes a few
steps on a small tensor, once with its built-in decay, once with a decay added to the gradient, and once
with one applied separately. So nothing is guessed from a class's name or an argument's default.
"""

from __future__ import annotations

import copy
import inspect
import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from plasticity.checks import nearest
from plasticity.optim.settings import SETTING_NAMES
from plasticity.random_state import random_state, set_random_state

BaseDecay = Literal["none", "coupled", "decoupled", "other"]
"""Form of a base's weight decay: none, strength * theta in the gradient, theta <- theta * (1 - lr *
strength) before a step that is otherwise the same, or anything else."""

_IN_TORCH: dict[str, BaseDecay] = {
    "AdamW": "decoupled",
    "Muon": "decoupled",
    # Its step is scaled by the norm of the weights before the decay.
    "Adafactor": "other",
}
"""Classes of torch whose decay is not coupled. (Adam, NAdam and RAdam have an option in each group.)"""

_LEARNING_RATE, _STRENGTH, _STEPS = 0.1, 0.1, 4

_OURS = ("_given_weights", "_initial_weights", "_own_defaults", "_targets")


@cache
def _untouched() -> frozenset[str]:
    """Return the attributes that no step of a base writes to, or that the copy sets itself."""
    # Not at import: creating an optimizer imports the compiler, which takes seconds.
    return frozenset((*vars(Optimizer([torch.zeros(1)], {})), *_OURS))


def base_decay_of(
    optimizer: Optimizer, base: type[Optimizer], group: Mapping[str, Any]
) -> BaseDecay:
    """Return the form of weight decay that the base applies to the parameters of one group.

    Args:
        optimizer: The regularized optimizer, constructed. Only its attributes are read.
        base: The optimizer class that it extends.
        group: One of its groups, with all keys filled in.
    """
    if "weight_decay" not in group:
        return "none"
    if getattr(torch.optim, base.__name__, None) is base:
        if group.get("decoupled_weight_decay"):
            return "decoupled"
        return _IN_TORCH.get(base.__name__, "coupled")
    return _measured(optimizer, base, group)


def default_weight_decay(base: type[Optimizer]) -> float:
    """Return the default `weight_decay` of an optimizer class, or 0 if it has no such argument."""
    parameter = inspect.signature(base.__init__).parameters.get("weight_decay")
    return parameter.default if parameter and isinstance(parameter.default, (int, float)) else 0.0


NO_BASE_DECAY = (
    "weight_decay={!r} was given to a regularized optimizer, which applies the decay itself:"
    ' give regularizer="weight-decay" and strength instead.'
)


def require_no_base_decay(
    base: type[Optimizer], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    """Raise an error if the base does not accept the arguments, or they set its own weight decay.

    Raises:
        TypeError: if the arguments do not fit the base's constructor; the message names the nearest
            known one.
        ValueError: if they give a weight decay other than 0.
    """
    signature = inspect.signature(base.__init__)
    try:
        bound = signature.bind_partial(None, None, *args, **kwargs).arguments
    except TypeError as error:
        known = [name for name in signature.parameters if name not in ("self", "params")]
        unknown = next((name for name in kwargs if name not in known), "")
        raise TypeError(
            f"{base.__name__}: {error}.{nearest(unknown, [*known, *SETTING_NAMES])}"
        ) from error
    given = kwargs.get("weight_decay", bound.get("weight_decay"))
    if given:
        raise ValueError(NO_BASE_DECAY.format(given))


def step_without_hooks(base: type[Optimizer]) -> Callable[..., Any]:
    """Return the base's `step` without torch's hook wrapper.

    torch wraps the step of every class that has been instantiated, to run the step hooks. A regularized
    class is wrapped too: through the base's wrapper the hooks would run twice, the second time on
    gradients with the decay in them.
    """
    step: Any = base.step
    own: Callable[..., Any] = step.__wrapped__ if getattr(step, "hooked", False) else step
    return own


# ---- measuring --------------------------------------------------------------------------------------


def _measured(optimizer: Optimizer, base: type[Optimizer], group: Mapping[str, Any]) -> BaseDecay:
    """Compare the path of small tensors under the base's decay with the paths of the known forms."""
    coupled = -_STRENGTH if group.get("maximize", False) else _STRENGTH
    factor = 1 - _LEARNING_RATE * _STRENGTH
    for with_closure in (False, True):
        path = partial(_path, optimizer, base, group, with_closure)
        try:
            own = path(weight_decay=_STRENGTH)
            paths: dict[BaseDecay, Tensor] = {
                "none": path(),
                "coupled": path(coupled=coupled),
                "decoupled": path(factor=factor),
            }
        except Exception:  # anything: it may need a closure, other shapes or arguments unknown here
            continue
        effect = (own - paths["none"]).abs().max()
        for kind, found in paths.items():
            # A thousandth of the decay's effect: decompositions inside a base amplify rounding.
            if (own - found).abs().max() <= 1e-6 + 1e-3 * effect * (kind != "none"):
                return kind
    return "other"


@torch.no_grad()
def _path(
    optimizer: Optimizer,
    base: type[Optimizer],
    group: Mapping[str, Any],
    with_closure: bool,
    *,
    weight_decay: float = 0.0,
    coupled: float = 0.0,
    factor: float = 1.0,
) -> Tensor:
    """Return the weights after each of a few steps with one form of decay.

    There is one parameter for each number of dimensions found in the group, because some bases decay
    matrices and vectors differently. In every other step the gradients are orthogonal to the weights,
    where some bases decay less.

    Args:
        optimizer: The regularized optimizer; only read.
        base: The class whose step is taken.
        group: The group whose options are used.
        with_closure: Pass a closure to the step.
        weight_decay: The base's own decay.
        coupled: Strength of a decay added to the gradient.
        factor: Factor that the weights are multiplied by before each step.

    Returns:
        Weights of all parameters, flattened. Shape: (steps, elements of all parameters).
    """
    device = next((p.device for p in group["params"]), torch.device("cpu"))
    weights: list[Tensor] = [
        _weight(axes, device) for axes in sorted({p.dim() for p in group["params"]})
    ]
    ours = ("params", "param_names")
    shared = [optimizer, *(p for each in optimizer.param_groups for p in each["params"])]
    options = _copies({name: group[name] for name in group if name not in ours}, shared)
    options |= {"params": weights, "weight_decay": weight_decay}
    if isinstance(options.get("lr"), (int, float, Tensor)):
        options["lr"] = _LEARNING_RATE
    twin = base.__new__(base)
    twin.__dict__.update(_copies(vars(optimizer), shared))
    twin.__dict__.update(state=defaultdict(dict), param_groups=[options])
    visited = []
    with _same_draws(device):
        train = getattr(twin, "train", None)  # schedule-free optimizers need the call
        if callable(train):
            train()
        for number in range(_STEPS):
            torch._foreach_mul_(weights, factor)

            def closure(number: int = number) -> float:
                for weight in weights:
                    weight.grad = _gradient(weight.detach(), number) + coupled * weight.detach()
                return 0.0

            closure()
            step_without_hooks(base)(twin, *([closure] if with_closure else []))
            visited.append(torch.cat([weight.detach().flatten() for weight in weights]))
    path = torch.stack(visited)
    if not path.isfinite().all():
        raise RuntimeError("the steps diverged")
    return path


def _copies(values: Mapping[str, Any], shared: Sequence[Any]) -> dict[str, Any]:
    """Copy the values that a step may write to: containers and tensors, except for the shared ones.

    Args:
        values: Attributes of an optimizer, or options of a group.
        shared: Objects that the copies refer to without copying them.
    """
    found = dict(values)
    for name, value in values.items():
        if name not in _untouched() and isinstance(value, (Tensor, MutableMapping, list, set)):
            memo = {id(each): each for each in shared}
            with suppress(Exception):  # anything: a value that cannot be copied is shared
                found[name] = copy.deepcopy(value, memo)
    return found


@contextmanager
def _same_draws(device: torch.device) -> Iterator[None]:
    """Seed torch, NumPy and Python equally for each path, and restore their generators afterwards."""
    states = random_state([device])
    try:
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 - the generator that optimizers draw from
        random.seed(0)
        yield
    finally:
        set_random_state(states)


def _weight(axes: int, device: torch.device) -> torch.nn.Parameter:
    """Return a parameter with `axes` dimensions, its weights about as large as the gradients.

    So a decay can change the sign of an update.
    """
    shape = (3, 4, 2, 2, 2, 2, 2, 2)[:axes]
    # Always in float32: half precision would round the decay away.
    values = torch.linspace(-2.0, 2.5, math.prod(shape), dtype=torch.float32, device=device)
    return torch.nn.Parameter(values.view(shape))


def _gradient(weight: Tensor, number: int) -> Tensor:
    wave = torch.arange(weight.numel(), dtype=torch.float32, device=weight.device)
    gradient = 0.2 * torch.sin(wave * (number + 1) + 0.5).view_as(weight)
    if number % 2:
        gradient -= weight * (gradient * weight).sum() / weight.square().sum()
    return gradient
