"""Global random generators of a process: their states, as plain values that `torch.load` accepts."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch


def random_state(devices: Iterable[torch.device] | None = None) -> dict[str, Any]:
    """Return the states of torch's, NumPy's and Python's global generators.

    Args:
        devices: Devices whose generators are among them, besides the CPU's. None: every GPU, those of CUDA
            only if they are in use (querying one would initialise it).
    """
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002  (modules may draw from it)
    words = {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in numpy_state["state"].items()
    }
    others = _gpus_in_use() if devices is None else devices
    return {
        "torch": torch.get_rng_state(),
        "devices": {
            str(device): torch.get_device_module(device).get_rng_state(*_index(device))
            for device in others
            if device.type != "cpu"
        },
        "numpy": {**numpy_state, "state": words},
        "python": random.getstate(),
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restore the generators from a `random_state`.

    A run may continue on another machine: states of devices that are not in use here are ignored.
    """
    torch.set_rng_state(state["torch"])
    cuda = _cuda_devices()
    for name, generator in state["devices"].items():
        device = torch.device(name)
        if device.type == "cuda" and device not in cuda:
            if cuda:
                warnings.warn(
                    f"The run was saved with the device {name}, and this machine has {len(cuda)} CUDA"
                    " devices: its generator starts afresh.",
                    stacklevel=2,
                )
        elif device.type != "mps" or torch.backends.mps.is_available():
            torch.get_device_module(device).set_rng_state(generator, *_index(device))
    np.random.set_state(state["numpy"])  # noqa: NPY002
    random.setstate(state["python"])


def _cuda_devices() -> list[torch.device]:
    """Return all CUDA devices, if this process uses any."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return []
    return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]


def _gpus_in_use() -> list[torch.device]:
    mps = [torch.device("mps")] if torch.backends.mps.is_available() else []
    return [*_cuda_devices(), *mps]


def _index(device: torch.device) -> tuple[torch.device, ...]:
    """Return the argument that names one of several devices; there is only one of `mps`."""
    return () if device.type == "mps" else (device,)
