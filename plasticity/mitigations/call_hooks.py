"""Hooks on the calls of a model and of its layers, which a copy of the model does not take along."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

Called = Callable[[tuple[Any, ...], dict[str, Any]], None]
"""Function of the arguments of a call, positional and by name."""


def hook_model(model: nn.Module, act: Called) -> RemovableHandle:
    """Call a function before each call of a model; a copy of the model warns of its absence instead.

    Args:
        model: Module without wrappers.
        act: The function, which is never compiled.
    """
    for module in model.modules():  # what a copy has of the hooks on its original
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, _OnCopy):
                del module._forward_pre_hooks[key]
                module._forward_pre_hooks_with_kwargs.pop(key, None)
    return model.register_forward_pre_hook(_CallHook(act, _CopiedModel), with_kwargs=True)


def hook_layer(layer: nn.Module, act: Called) -> RemovableHandle:
    """Call a function before each call of a layer, but not of its copies; it is never compiled."""
    return layer.register_forward_pre_hook(_CallHook(act, _OnCopy), with_kwargs=True)


class _OnCopy:
    """Hook on a copy of a layer; it does nothing."""

    def __call__(self, module: nn.Module, *_arguments: Any) -> None:
        pass


class _CopiedModel(_OnCopy):
    """Hook on a copy of a model, which warns when it is trained."""

    warned = False

    def __call__(self, module: nn.Module, *_arguments: Any) -> None:
        if not self.warned and torch.is_grad_enabled() and module.training:
            self.warned = True
            warnings.warn(
                "This model is a copy of one that mitigations are attached to, and they do not act on it:"
                " attach() them to the copy and its optimizer.",
                stacklevel=2,
            )


class _CallHook:
    """Hook that calls a function, and of which a copy or a pickled one is a hook of another class."""

    def __init__(self, act: Called, on_copy: type[_OnCopy]) -> None:
        # Outside compiled code, which would be compiled anew whenever what the function reads changes.
        self._act: Called = torch.compiler.disable(act)
        self._on_copy = on_copy

    def __call__(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._act(args, kwargs)

    def __deepcopy__(self, _memo: Any) -> _OnCopy:
        return self._on_copy()

    def __reduce__(self) -> Any:
        return self._on_copy, ()
