"""Description of a machine in general terms: enough to interpret a timing."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from plasticity.tasks.vector.environments import available_cores


def describe_hardware(device: str) -> dict[str, str | int]:
    """Return the processor's model and architecture, the usable cores, the system, and the GPU if used."""
    found: dict[str, str | int] = {
        "cpu": cpu_model(),
        "architecture": platform.machine(),
        "cores": available_cores(),
        "system": platform.system(),
        "device": device,
    }
    if torch.device(device).type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's model, or "unknown" if the system does not report it."""
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or "unknown"
