"""Run a model and leave no trace: flags, buffers, parameters and random state are restored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from plasticity.random_state import random_state, set_random_state


@contextmanager
def preserve_state(model: nn.Module) -> Iterator[None]:
    """Evaluate a model without gradients, in full precision, and restore its state, also after an error.

    Restored are: each module's training flag; the set of buffers, each the same object with the same
    shape and values; values that a forward pass wrote into parameters (an embedding's `max_norm`); the
    random state of torch (of the CPU and of the model's devices), NumPy and Python. Nothing else is
    restored: a plain attribute set by a forward pass keeps its new value, even if it is a tensor.

    Inside the block, one extra copy of the parameters and buffers is held. Tensors that did not change are
    not written to.
    """
    devices = {tensor.device: None for tensor in (*model.parameters(), *model.buffers())}
    with ExitStack() as block:
        block.callback(set_random_state, random_state(devices))
        block.callback(_restore_values, _saved_values(model))
        for module in model.modules():
            block.callback(_restore_buffers, module, dict(module._buffers))
            block.callback(
                _restore_set,
                module._non_persistent_buffers_set,
                set(module._non_persistent_buffers_set),
            )
            block.callback(setattr, module, "training", module.training)
        for module in model.modules():
            # Not model.eval(): some models override it, for example to merge adapters into the weights.
            module.training = False
        for kind in {device.type for device in devices}:
            block.enter_context(torch.autocast(kind, enabled=False))
        # A tensor that the model creates here and keeps (a cache) must not be an inference tensor, which
        # training could not use.
        block.enter_context(torch.inference_mode(False))
        block.enter_context(torch.no_grad())
        yield


def _restore_buffers(module: nn.Module, buffers: Mapping[str, Tensor | None]) -> None:
    """Restore the same buffer objects under the same names in the same order, but not their values."""
    for name in buffers:
        if name not in module._buffers:
            module.__dict__.pop(name, None)  # deleted, then set again as a plain attribute
    module._buffers.clear()
    module._buffers.update(buffers)


def _restore_set(present: set[str], before: set[str]) -> None:
    present.clear()
    present.update(before)


@dataclass(frozen=True)
class _Saved:
    """State of one tensor before the block."""

    tensor: Tensor
    view: Tensor
    """View of the tensor's memory, with its original layout."""
    copy: Tensor
    may_move: bool
    """Whether to move the tensor back into that memory; not for parameters, which sharding wrappers move."""


def _saved_values(model: nn.Module) -> list[_Saved]:
    saved: dict[int, _Saved] = {}
    with torch.inference_mode(False), torch.no_grad():
        for tensors, may_move in ((model.buffers(), True), (model.parameters(), False)):
            for tensor in tensors:
                if not (is_lazy(tensor) or tensor.is_meta):
                    view = _local(tensor).detach()
                    saved[id(tensor)] = _Saved(tensor, view, view.clone(), may_move)
    return list(saved.values())


def _restore_values(saved: Iterable[_Saved]) -> None:
    with torch.no_grad():
        here = []
        for each in saved:
            if not _same_memory(_local(each.tensor), each.view):
                if not each.may_move:
                    continue
                each.tensor.data = each.view
            here.append(each)
        for each, changed in zip(here, _changed(here), strict=True):
            # Writing to an unchanged tensor would break a later backward pass through it, or fail where
            # the memory is read-only.
            if changed:
                with torch.inference_mode(each.view.is_inference()):
                    each.view.data.copy_(each.copy)


def _local(tensor: Tensor) -> Tensor:
    """Return the local shard of a distributed tensor, or any other tensor itself."""
    shard: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return shard


def _same_memory(tensor: Tensor, view: Tensor) -> bool:
    if tensor.layout is not torch.strided or view.layout is not torch.strided:
        return tensor.layout is view.layout and tensor.shape == view.shape
    return (
        tensor.shape == view.shape
        and tensor.stride() == view.stride()
        and tensor.dtype is view.dtype
        and tensor.device == view.device
        and tensor.data_ptr() == view.data_ptr()
    )


def _changed(saved: list[_Saved]) -> list[bool]:
    """Return whether each tensor differs from its copy in any bit (NaN equals itself).

    The host waits once per device.
    """
    found = [True] * len(saved)
    flags: dict[torch.device, list[tuple[int, Tensor]]] = {}
    for position, each in enumerate(saved):
        if each.view.layout is torch.strided and not each.view.is_quantized:
            differs = (_bits(each.view) != _bits(each.copy)).any()
            flags.setdefault(differs.device, []).append((position, differs))
    for entries in flags.values():
        values = torch.stack([differs for _, differs in entries]).tolist()
        for (position, _), value in zip(entries, values, strict=True):
            found[position] = value
    return found


def _bits(tensor: Tensor) -> Tensor:
    return tensor.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
