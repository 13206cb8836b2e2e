"""Wrappers around a network, such as those of the compiler and of data parallelism.

The parts of a network have the same names whether or not it is wrapped: ``trunk.0``, never
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
    """Return the network inside its wrappers, or the module itself if there are none.

    Wrappers are those of `torch.compile`, `DistributedDataParallel`, `nn.DataParallel`,
    `torch.optim.swa_utils.AveragedModel` and activation checkpointing, in any order.

    Raises:
        TypeError: if the model is not a module.
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
                    f"{kind} {name!r} is on the meta device: it has a shape, but no values to measure. "
                    "Materialize the model first: model.to_empty(device='cpu'), then load or initialise its "
                    "weights."
                )
    return model


def raw_module(model: nn.Module) -> nn.Module:
    """Return the network inside its wrappers, provided that hooks can observe its parts.

    Raises:
        TypeError: if the model is not a module, or has a scripted or traced part.
        ValueError: as in `unwrapped`.
    """
    model = unwrapped(model)
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise TypeError(
                f"{f'submodule {name!r}' if name else 'the model'} is a {type(module).__name__}, "
                "whose activations cannot be observed; pass the eager module"
            )
    return model


def named_modules(
    model: nn.Module, *, remove_duplicate: bool = True
) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules and their names as ``model.named_modules()`` does, without the wrappers.

    Args:
        model: Any module, wrapped or with wrapped parts.
        remove_duplicate: Whether a module with several names is yielded once, under its first name.
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
    """Have each wrapper in a model call its inner module directly: eagerly, in this process, on its device.

    Wrappers get in the way of a measurement: hooks added after the first call of a compiled function never
    fire; the copy that `nn.DataParallel` runs on another device cannot be observed; a collective operation
    would wait for other processes that are not measuring; and torch's function transforms reject activation
    checkpointing.
    """
    with ExitStack() as block:
        # Nothing is compiled unless dynamo has been imported. Importing it here would take a second.
        if "torch._dynamo" in sys.modules:
            block.enter_context(torch.compiler.set_stance("force_eager"))
        for module in model.modules():
            inner = _inside(module)
            # Under "force_eager", the compiler's wrapper does this by itself.
            if inner is not None and "_orig_mod" not in module._modules:
                _replace_forward(module, inner, block)
        yield


def _replace_forward(wrapper: nn.Module, inner: nn.Module, block: ExitStack) -> None:
    def forward(*args: Any, **kwargs: Any) -> Any:
        return inner(*args, **kwargs)

    # Set in __dict__, to bypass nn.Module.__setattr__ and to shadow the class's method.
    own = wrapper.__dict__
    if "forward" in own:
        block.callback(own.__setitem__, "forward", own["forward"])
    else:
        block.callback(own.pop, "forward")
    own["forward"] = forward


def _inside(module: nn.Module) -> nn.Module | None:
    """Return the module directly inside a wrapper, or None for any other module."""
    if isinstance(module, (nn.DataParallel, DistributedDataParallel, AveragedModel)):
        return module._modules["module"]
    # Recognized by their child's name, as importing the compiler takes a second.
    for name in ("_orig_mod", "_checkpoint_wrapped_module"):
        if name in module._modules:
            return module._modules[name]
    return None
