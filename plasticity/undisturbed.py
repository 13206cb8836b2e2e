"""Look at a model without leaving a trace: flags, buffers and random state are put back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def undisturbed(model: nn.Module, devices: Mapping[torch.device, None]) -> Iterator[None]:
    """Evaluation mode, no gradients, full precision; training flags, buffers, random state restored."""
    with ExitStack() as block:
        block.callback(_restore_random, _random_state(devices))
        block.callback(_restore_buffers, _saved_buffers(model))
        for module in model.modules():
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


def _random_state(devices: Iterable[torch.device]) -> dict[torch.device, Tensor]:
    states = {torch.device("cpu"): torch.get_rng_state()}
    for device in devices:
        if device.type == "mps":
            states[device] = torch.mps.get_rng_state()
        elif device.type != "cpu":
            states[device] = torch.get_device_module(device).get_rng_state(device)
    return states


def _restore_random(states: Mapping[torch.device, Tensor]) -> None:
    for device, state in states.items():
        if device.type == "cpu":
            torch.set_rng_state(state)
        elif device.type == "mps":
            torch.mps.set_rng_state(state)
        else:
            torch.get_device_module(device).set_rng_state(state, device)


_SavedBuffer = tuple[nn.Module, str, Tensor | None, Tensor | None, int]


def _saved_buffers(model: nn.Module) -> list[_SavedBuffer]:
    saved: list[_SavedBuffer] = []
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is None or buffer.is_inference():  # which nothing can change in place here
                saved.append((module, name, buffer, None, 0))
            else:
                saved.append((module, name, buffer, buffer.detach().clone(), buffer._version))
    return saved


def _restore_buffers(saved: Iterable[_SavedBuffer]) -> None:
    for module, name, buffer, copy, version in saved:
        module._buffers[name] = buffer
        # Writing to an untouched buffer would break a backward pass that is still to come.
        if buffer is not None and copy is not None and buffer._version != version:
            with torch.no_grad():
                buffer.copy_(copy)
