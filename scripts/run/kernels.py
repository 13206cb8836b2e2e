"""Check of `--kernel`: whether the kernels of the optimizers' steps can run on the runs' device."""

from __future__ import annotations

from collections.abc import Iterable

from plasticity.optim.kernels.step import require_kernel
from plasticity.scripts.config.run_config import RunConfig
from plasticity.scripts.run.atomic_files import RunError


def require_kernels(configs: Iterable[RunConfig]) -> None:
    """Raise an error if the kernel of a configuration cannot run on its device.

    Raises:
        RunError: if Triton is not installed, or the device has no CUDA (and Triton's interpreter is off).
    """
    for kernel, device in {(config.agent.kernel, config.device) for config in configs}:
        try:
            require_kernel(kernel, device)
        except RuntimeError as error:
            raise RunError(f"--kernel {kernel}: {error}") from error
