"""What stands around a network without being part of it: the compiler's and data parallelism's wrappers.

A network has one name for each of its parts, whether it is wrapped or not: ``trunk.0``, never
``module.trunk.0`` or ``trunk._orig_mod.0``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

__all__ = ["bypassed", "named_modules", "named_parameters", "raw_module", "unwrapped"]


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network inside its wrappers, or the module itself.

    Wrappers are those of `torch.compile`, `DistributedDataParallel`, `nn.DataParallel`,
    `torch.optim.swa_utils.AveragedModel` and activation checkpointing, in any order.

    Raises:
        TypeError: if the model is no module.
        ValueError: if a parameter or buffer is on the meta device, which holds no values.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    while (inner := _inside(model)) is not None:
        model = inner
    for kind, tensors in (
        ("parameter", model.named_parameters()),
        ("buffer", model.named_buffers()),
    ):
        for name, tensor in tensors:
            if tensor.is_meta:
                raise ValueError(
                    f"{kind} {name!r} is on the meta device: it has a shape, and no values to measure. Make "
                    "the model real first: model.to_empty(device='cpu'), then load or initialise its weights."
                )
    return model


def raw_module(model: nn.Module) -> nn.Module:
    """Return the network inside its wrappers, if its parts can be seen from outside.

    Raises:
        TypeError: if the model is no module, or has a scripted or traced part.
        ValueError: as in `unwrapped`.
    """
    model = unwrapped(model)
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise TypeError(
                f"{f'submodule {name!r}' if name else 'the model'} is a {type(module).__name__}, "
                "whose activations cannot be seen from outside; give the eager module"
            )
    return model


def named_modules(
    model: nn.Module, *, remove_duplicate: bool = True
) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules and their names as ``model.named_modules()`` does, without the wrappers.

    Args:
        model: Any module, wrapped or with wrapped parts.
        remove_duplicate: Whether a module that has several names comes once, by its first.
    """
    seen: set[nn.Module] = set()

    def walk(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
        while (inner := _inside(module)) is not None:
            module = inner
        if remove_duplicate:
            if module in seen:
                return
            seen.add(module)
        yield name, module
        for child_name, child in module._modules.items():
            if child is not None:
                yield from walk(child, f"{name}.{child_name}" if name else child_name)

    return walk(model, "")


def named_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters and their names as ``model.named_parameters()`` does, without the wrappers."""
    seen: set[nn.Parameter] = set()
    for module_name, module in named_modules(model):
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter not in seen:
                seen.add(parameter)
                yield f"{module_name}.{name}" if module_name else name, parameter


@contextmanager
def bypassed(model: nn.Module) -> Iterator[None]:
    """Let the wrapped parts of a model run what is inside them: eagerly, in this process, on its device.

    Hooks that are added after a compiled function's first call never fire there; a replica on another
    device runs unseen; where one process looks at its model, no collective operation may wait for the
    others; and torch's function transforms refuse activation checkpointing.
    """
    with ExitStack() as block:
        # Nothing can have been compiled before dynamo was imported, which takes a second: not for that.
        if "torch._dynamo" in sys.modules:
            block.enter_context(torch.compiler.set_stance("force_eager"))
        for module in model.modules():
            inner = _inside(module)
            # The compiler's wrapper does so by itself now.
            if inner is not None and "_orig_mod" not in module._modules:
                _replace_forward(module, inner, block)
        yield


def _replace_forward(wrapper: nn.Module, inner: nn.Module, block: ExitStack) -> None:
    def forward(*args: Any, **kwargs: Any) -> Any:
        return inner(*args, **kwargs)

    # Past nn.Module's own setter, and in front of the class's method.
    own = wrapper.__dict__
    if "forward" in own:
        block.callback(own.__setitem__, "forward", own["forward"])
    else:
        block.callback(own.pop, "forward")
    own["forward"] = forward


def _inside(module: nn.Module) -> nn.Module | None:
    """The module directly inside a wrapper; None for any other module."""
    if isinstance(module, (nn.DataParallel, DistributedDataParallel, AveragedModel)):
        return module._modules["module"]
    # By what they hold, as importing the compiler takes a second.
    for name in ("_orig_mod", "_checkpoint_wrapped_module"):
        if name in module._modules:
            return module._modules[name]
    return None
