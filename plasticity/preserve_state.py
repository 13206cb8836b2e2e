"""Look at a model without leaving a trace: flags, buffers, parameters and random state are put back."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


@contextmanager
def preserve_state(model: nn.Module, devices: Mapping[torch.device, None]) -> Iterator[None]:
    """Evaluation mode, no gradients, full precision; afterwards the model is as before, also after an error.

    What is put back: each module's training flag; the set of buffers, each the same object with the same
    shape and values; values that a forward pass wrote into parameters (an embedding's `max_norm`); the
    random state of torch (the CPU's and that of `devices`), NumPy and Python. The contract ends there: a
    plain attribute that a forward pass sets, a tensor too, stays as it was set.

    It holds one more copy of parameters and buffers while it lasts. Nothing is written to a tensor that did
    not change.
    """
    with ExitStack() as block:
        block.callback(restore_random, random_state(devices))
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
            # Not model.eval(): some models do more in it, such as merging adapters into the weights.
            module.training = False
        for kind in {device.type for device in devices}:
            block.enter_context(torch.autocast(kind, enabled=False))
        # A tensor that the model makes now and keeps (a cache) must not be an inference tensor: training
        # could not use it.
        block.enter_context(torch.inference_mode(False))
        block.enter_context(torch.no_grad())
        yield


def random_state(devices: Iterable[torch.device]) -> dict[torch.device | str, object]:
    """Return the state of every generator: torch's (the CPU's and those of devices), NumPy's, Python's."""
    states: dict[torch.device | str, object] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002  (which modules draw from)
        torch.device("cpu"): torch.get_rng_state(),
    }
    for device in devices:
        if device.type == "mps":
            states[device] = torch.mps.get_rng_state()
        elif device.type != "cpu":
            states[device] = torch.get_device_module(device).get_rng_state(device)
    return states


def restore_random(states: Mapping[torch.device | str, object]) -> None:
    """Put the state of every generator back, as `random_state` gave it."""
    for place, state in states.items():
        if place == "python":
            random.setstate(state)  # type: ignore[arg-type]
        elif place == "numpy":
            np.random.set_state(state)  # type: ignore[arg-type]  # noqa: NPY002
        elif isinstance(place, torch.device) and place.type == "mps":
            torch.mps.set_rng_state(state)  # type: ignore[arg-type]
        elif isinstance(place, torch.device) and place.type != "cpu":
            torch.get_device_module(place).set_rng_state(state, place)
        else:
            torch.set_rng_state(state)  # type: ignore[arg-type]


def _restore_buffers(module: nn.Module, buffers: Mapping[str, Tensor | None]) -> None:
    """The same objects by the same names in the same order; not their values."""
    for name in buffers:
        if name not in module._buffers:
            module.__dict__.pop(name, None)  # deleted, and set again as a plain attribute
    module._buffers.clear()
    module._buffers.update(buffers)


def _restore_set(present: set[str], before: set[str]) -> None:
    present.clear()
    present.update(before)


@dataclass(frozen=True)
class _Saved:
    """One tensor as it was."""

    tensor: Tensor
    view: Tensor
    """The same memory, as it was laid out."""
    copy: Tensor
    may_move: bool
    """Whether it is put back into that memory. A parameter is not, as wrappers that shard it move it."""


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
            # Writing to an untouched tensor would break a backward pass that is still to come, or fail
            # where memory is read-only.
            if changed:
                with torch.inference_mode(each.view.is_inference()):
                    each.view.data.copy_(each.copy)


def _local(tensor: Tensor) -> Tensor:
    """The shard of a distributed tensor that is here; any other tensor itself."""
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
    """Whether each holds other bits than its copy: NaN is itself. The host reads once per device."""
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
