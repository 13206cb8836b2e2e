"""Steps of a regularized optimizer with `kernel="triton"`: the decay, or the whole step, in kernels.

Triton is imported only when a kernel is requested.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

from plasticity.checks import nearest
from plasticity.optim.kernels.tensor_table import Anchors, TableCache
from plasticity.optim.targets import Targets

Kernel = Literal["eager", "triton", "triton-drawn"]
"""Name of an implementation of a step."""

KERNELS: tuple[Kernel, ...] = get_args(Kernel)
"""Implementations of a step: torch's own operations, kernels that read stored anchors, and kernels that
draw syre's anchors again at every step."""

_WHOLE_STEP = (torch.optim.Adam, torch.optim.AdamW)
"""Bases whose step and decay are one kernel. With another base only the decay is a kernel."""


_FUSED = ("cpu", "cuda", "mps")
"""Types of device on which torch has fused optimizers: one kernel instead of a few for each tensor."""


def step_options(kernel: Kernel, base: type[Optimizer], device: torch.device) -> dict[str, Any]:
    """Return the options that give a regularized SGD, Adam or AdamW its fastest step with this kernel.

    Args:
        kernel: Implementation of the step.
        base: The optimizer class that is regularized.
        device: Device of the parameters.

    Raises:
        RuntimeError: if the kernel cannot run there.
    """
    require_kernel(kernel, device)
    step_is_ours = kernel != "eager" and base in _WHOLE_STEP
    return {"kernel": kernel, "fused": device.type in _FUSED and not step_is_ours}


def make_kernels(kernel: object, base: type[Optimizer]) -> KernelSteps | None:
    """Return the object that runs the kernels, or None for "eager".

    Raises:
        TypeError: if `kernel` is not a string.
        ValueError: if it is unknown.
        RuntimeError: if Triton or a CUDA device is missing.
    """
    if not isinstance(kernel, str):
        raise TypeError(f"kernel must be a string, not {kernel!r}. Known: {KERNELS}.")
    if kernel not in KERNELS:
        raise ValueError(f"Unknown kernel {kernel!r}.{nearest(kernel, KERNELS)}")
    return None if kernel == "eager" else KernelSteps(kernel, base)


class KernelSteps:
    """Kernels of one optimizer, and their tables.

    Raises:
        RuntimeError: if Triton or a CUDA device is missing.
    """

    def __init__(self, kernel: str, base: type[Optimizer]) -> None:
        require_kernel(kernel)
        self.draws = kernel == "triton-drawn"
        self.whole_step = base in _WHOLE_STEP
        self._caches: dict[object, TableCache] = {}

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Raise an error if a group has a setting that the kernels do not support.

        Raises:
            ValueError: if it has; the message names the setting and the remedy.
        """
        refused = []
        if group["anisotropy"] > 0 and group["regularizer"] == "syre":
            refused.append(f"anisotropy={group['anisotropy']!r}")
        if self.whole_step:
            refused += [f"{name}=True" for name in ("amsgrad", "fused", "foreach") if group[name]]
            refused += ["tensors as betas"] * any(isinstance(b, Tensor) for b in group["betas"])
        if refused:
            raise ValueError(
                f"The kernels do not support {' and '.join(refused)}: leave it out, or give"
                ' kernel="eager".'
            )

    def ordinary_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return a state dict in the base's format: step counts on the host, unless capturable."""
        if not self.whole_step:
            return state
        on_host = [
            key
            for group in state["param_groups"]
            for key in group["params"]
            # Looking up the state of a parameter that has none creates an empty one.
            if not group["capturable"] and state["state"].get(key)
        ]
        own = dict(state["state"])
        for key in on_host:
            own[key] = {**own[key], "step": own[key]["step"].cpu()}
        return {**state, "state": own}

    # ---- the decay alone ------------------------------------------------------------------------

    def decay_toward_(
        self, index: int, parameters: Sequence[Tensor], anchors: Anchors, amount: float | Tensor
    ) -> None:
        """Decay as `plasticity.optim.decay.decay_toward_`, for the group of this index."""
        _module("decay").decay_toward_(parameters, anchors, amount, self._cache(index))

    def decayed_gradients(
        self,
        index: int,
        gradients: Sequence[Tensor],
        parameters: Sequence[Tensor],
        anchors: Anchors,
        strength: float | Tensor,
    ) -> list[Tensor]:
        """Decay as `plasticity.optim.decay.decayed_gradients`, for the group of this index."""
        alike = [_laid_out_like(p, g) for p, g in zip(parameters, gradients, strict=True)]
        cache = self._cache(index)
        return list(_module("decay").decayed_gradients(alike, parameters, anchors, strength, cache))

    # ---- the whole step -------------------------------------------------------------------------

    def adam_step(
        self,
        index: int,
        group: Mapping[str, Any],
        state: MutableMapping[Tensor, dict[str, Any]],
        targets: Targets | None,
    ) -> None:
        """Take one step of Adam over the parameters of a group that have a gradient.

        Args:
            index: Index of the group.
            group: Group of the optimizer, complete.
            state: State of the optimizer, in the format of `torch.optim.Adam`; created where missing.
            targets: Targets that the group is drawn toward; None for no decay.
        """
        present = [i for i, parameter in enumerate(group["params"]) if parameter.grad is not None]
        with_target = set() if targets is None else set(targets.indices)
        decayed = [i for i in present if i in with_target]
        if targets is not None and decayed:
            anchors = targets.anchors(decayed)
            self._adam_step(index, group, state, decayed, anchors, group["strength"])
        others = [i for i in present if i not in with_target]
        if others:
            self._adam_step(index, group, state, others, None, 0.0)

    def _adam_step(
        self,
        index: int,
        group: Mapping[str, Any],
        state: MutableMapping[Tensor, dict[str, Any]],
        chosen: Sequence[int],
        anchors: Anchors,
        strength: float,
    ) -> None:
        parameters = [group["params"][i] for i in chosen]
        states = [_adam_state(parameter, state) for parameter in parameters]
        _module("adam").adam_step_(
            parameters,
            [_laid_out_like(parameter, parameter.grad) for parameter in parameters],
            [each["exp_avg"] for each in states],
            [each["exp_avg_sq"] for each in states],
            [each["step"] for each in states],
            anchors,
            lr=group["lr"],
            betas=group["betas"],
            eps=group["eps"],
            strength=strength,
            decoupled=group["decoupled"],
            maximize=group["maximize"],
            cache=self._cache((index, bool(strength))),
        )

    def _cache(self, key: object) -> TableCache:
        return self._caches.setdefault(key, TableCache())


def interpreted() -> bool:
    """Return whether Triton interprets kernels on the CPU, which is set before it is imported."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


def _module(name: str) -> Any:
    return importlib.import_module(f"plasticity.optim.kernels.{name}")  # which imports triton


def require_kernel(kernel: str, device: torch.device | str = "cuda") -> None:
    """Raise an error if a kernel cannot run on a device.

    Raises:
        RuntimeError: if Triton or a CUDA device is missing, or the device is another one.
    """
    if kernel == "eager":
        return
    if importlib.util.find_spec("triton") is None:
        raise RuntimeError(
            f"kernel={kernel!r} needs triton, which is not installed: it comes with torch's CUDA"
            ' wheels on Linux (or: pip install triton). kernel="eager" needs neither.'
        )
    on_cuda = torch.device(device).type == "cuda"
    if not interpreted() and not (on_cuda and torch.cuda.is_available()):
        found = "torch finds none here" if on_cuda else f"the device is {device}"
        raise RuntimeError(
            f"kernel={kernel!r} needs a CUDA device, and {found}: give"
            ' kernel="eager". (With TRITON_INTERPRET=1 in the environment the kernels are'
            " interpreted on the CPU, for tests: thousands of times slower.)"
        )


def _laid_out_like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """Return a tensor with a parameter's dtype and memory layout: the tensor itself if they match."""
    if tensor.layout is not torch.strided:
        raise RuntimeError(
            "The kernels do not support sparse gradients: make them dense (nn.Embedding(sparse=False)), or"
            ' give kernel="eager".'
        )
    if tensor.stride() == parameter.stride() and tensor.dtype == parameter.dtype:
        return tensor
    return torch.empty_like(parameter).copy_(tensor)


def _adam_state(parameter: Tensor, state: MutableMapping[Tensor, dict[str, Any]]) -> dict[str, Any]:
    """Return Adam's state of a parameter in torch's format, with the step count on its device."""
    own = state[parameter]
    if not own:
        own["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        for name in ("exp_avg", "exp_avg_sq"):
            own[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    # A state created by torch's own Adam may have it elsewhere; torch reads it on either device.
    if own["step"].device != parameter.device or own["step"].dtype != torch.float32:
        own["step"] = own["step"].to(parameter.device, torch.float32)
    for name in ("exp_avg", "exp_avg_sq"):
        own[name] = _laid_out_like(parameter, own[name])
    return own
