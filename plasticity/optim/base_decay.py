"""The weight decay that an optimizer class has of its own, and how it acts.

For the classes of torch.optim that is known. Any other class is measured: a few steps on a copy with a
tensor of its own, once with the base's decay and once with a decay that was joined to the gradient, or
applied apart from it. So nothing is guessed from a class's name or from the default of an argument.
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
from plasticity.preserve_state import random_state, restore_random

BaseDecay = Literal["none", "coupled", "decoupled", "other"]
"""How a base decays: not at all, by strength * theta in the gradient, by theta <- theta * (1 - lr *
strength) before a step that is otherwise the same, or in a way of its own."""

_IN_TORCH: dict[str, BaseDecay] = {
    "AdamW": "decoupled",
    "Muon": "decoupled",
    # Its step is scaled by the norm that the weights had before the decay.
    "Adafactor": "other",
}
"""Classes whose decay is not coupled. (Adam, NAdam and RAdam say so in each group.)"""

_LEARNING_RATE, _STRENGTH, _STEPS = 0.1, 0.1, 4

_OURS = ("_given_weights", "_initial_weights", "_own_defaults", "_targets")


@cache
def _untouched() -> frozenset[str]:
    """Attributes that no step of a base writes to, or that the copy has of its own."""
    # Not when this file is imported: making an optimizer imports the compiler, which takes seconds.
    return frozenset((*vars(Optimizer([torch.zeros(1)], {})), *_OURS))


def base_decay_of(
    optimizer: Optimizer, base: type[Optimizer], group: Mapping[str, Any]
) -> BaseDecay:
    """Say how the base of a regularized optimizer decays the parameters of one group.

    Args:
        optimizer: The regularized optimizer, constructed. Only its attributes are read.
        base: The class that it extends.
        group: One of its groups, complete.
    """
    if "weight_decay" not in group:
        return "none"
    if getattr(torch.optim, base.__name__, None) is base:
        if group.get("decoupled_weight_decay"):
            return "decoupled"
        return _IN_TORCH.get(base.__name__, "coupled")
    return _measured(optimizer, base, group)


def default_weight_decay(base: type[Optimizer]) -> float:
    """Return the weight decay that an optimizer class has when none is given; 0 without one."""
    parameter = inspect.signature(base.__init__).parameters.get("weight_decay")
    return parameter.default if parameter and isinstance(parameter.default, (int, float)) else 0.0


NO_BASE_DECAY = (
    "weight_decay={!r} was given to a regularized optimizer, which has decays of its own:"
    ' give regularizer="weight-decay" and strength instead.'
)


def require_no_base_decay(
    base: type[Optimizer], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    """Refuse arguments that the base does not know, and a decay of its own.

    Raises:
        TypeError: if the arguments do not fit the base's constructor; names the nearest that would.
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
    """Return the base's own `step`.

    torch wraps the step of every class that has an instance, to run the step hooks. A regularized
    class is wrapped too: through the base's wrapper the hooks would run twice, the second time on
    gradients that the decay has joined.
    """
    step: Any = base.step
    own: Callable[..., Any] = step.__wrapped__ if getattr(step, "hooked", False) else step
    return own


# ---- measuring --------------------------------------------------------------------------------------


def _measured(optimizer: Optimizer, base: type[Optimizer], group: Mapping[str, Any]) -> BaseDecay:
    """Compare the path of a small tensor under the base's decay with those of the known forms."""
    joined = -_STRENGTH if group.get("maximize", False) else _STRENGTH
    apart = 1 - _LEARNING_RATE * _STRENGTH
    for with_closure in (False, True):
        path = partial(_path, optimizer, base, group, with_closure)
        try:
            own = path(weight_decay=_STRENGTH)
            paths: dict[BaseDecay, Tensor] = {
                "none": path(),
                "coupled": path(joined=joined),
                "decoupled": path(apart=apart),
            }
        except Exception:  # anything: it needs a closure, other shapes, what only its user can give
            continue
        effect = (own - paths["none"]).abs().max()
        for kind, found in paths.items():
            # A thousandth of what the decay does: decompositions inside a base amplify rounding.
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
    joined: float = 0.0,
    apart: float = 1.0,
) -> Tensor:
    """Weights after each of a few steps with a decay of the base's own, in the gradient, or apart.

    There is a parameter for each number of axes that those of the group have: some bases decay matrices
    and vectors in different ways. In every other step the gradients are at right angles to the weights,
    where some bases decay less.

    Returns:
        Shape: (steps, elements of all parameters).
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
        train = getattr(twin, "train", None)  # schedule-free optimizers are to be told
        if callable(train):
            train()
        for number in range(_STEPS):
            torch._foreach_mul_(weights, apart)

            def closure(number: int = number) -> float:
                for weight in weights:
                    weight.grad = _gradient(weight.detach(), number) + joined * weight.detach()
                return 0.0

            closure()
            step_without_hooks(base)(twin, *([closure] if with_closure else []))
            visited.append(torch.cat([weight.detach().flatten() for weight in weights]))
    path = torch.stack(visited)
    if not path.isfinite().all():
        raise RuntimeError("the steps diverged")
    return path


def _copies(values: Mapping[str, Any], shared: Sequence[Any]) -> dict[str, Any]:
    """Copy what a step may write to: the containers, and the tensors that are not the optimizer's own.

    Args:
        values: Attributes of an optimizer, or options of a group.
        shared: What is not copied in them.
    """
    found = dict(values)
    for name, value in values.items():
        if name not in _untouched() and isinstance(value, (Tensor, MutableMapping, list, set)):
            memo = {id(each): each for each in shared}
            with suppress(Exception):  # anything: what cannot be copied is shared
                found[name] = copy.deepcopy(value, memo)
    return found


@contextmanager
def _same_draws(device: torch.device) -> Iterator[None]:
    """Let each path draw the same numbers, from torch, NumPy or Python, and nobody after it miss them."""
    states = random_state([device])
    try:
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 - from which optimizers draw
        random.seed(0)
        yield
    finally:
        restore_random(states)


def _weight(axes: int, device: torch.device) -> torch.nn.Parameter:
    """A parameter of that many axes, with weights of the gradients' size: a decay may turn a sign."""
    shape = (3, 4, 2, 2, 2, 2, 2, 2)[:axes]
    # In float32 whatever the parameters are: in a half precision no decay would be seen.
    values = torch.linspace(-2.0, 2.5, math.prod(shape), dtype=torch.float32, device=device)
    return torch.nn.Parameter(values.view(shape))


def _gradient(weight: Tensor, number: int) -> Tensor:
    wave = torch.arange(weight.numel(), dtype=torch.float32, device=weight.device)
    gradient = 0.2 * torch.sin(wave * (number + 1) + 0.5).view_as(weight)
    if number % 2:
        gradient -= weight * (gradient * weight).sum() / weight.square().sum()
    return gradient
