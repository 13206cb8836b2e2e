"""Precision of measurements: computed in float64 where the device has it, returned as they were given.

`mps` has neither float64 nor the decompositions of matrices.
"""

from __future__ import annotations

import torch
from torch import Tensor


def require_real(name: str, tensor: Tensor) -> None:
    """Raise a TypeError unless a tensor holds real floating-point numbers."""
    if not tensor.is_floating_point():
        raise TypeError(
            f"{name} must be real floating-point numbers, got {tensor.dtype}; use .float() or .double()"
        )


def accumulator(device: torch.device) -> torch.dtype:
    """Return the most precise dtype of a device."""
    return torch.float32 if device.type == "mps" else torch.float64


def in_float64(tensor: Tensor) -> Tensor:
    """Return the tensor in float64, on a device that supports it and its decompositions."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def wide_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype of the tensor, at least float32."""
    return torch.promote_types(tensor.dtype, torch.float32)


def as_given(result: Tensor, given: Tensor) -> Tensor:
    """Return a result in the dtype of what was given, at least float32, and on its device."""
    return result.to(wide_dtype(given)).to(given.device)
