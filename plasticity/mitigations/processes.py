"""Statistics over the processes of a distributed run."""

from __future__ import annotations

from torch import Tensor, distributed

_is_available = distributed.is_available()


def num_processes() -> int:
    """Return the number of processes that train together; 1 where a run is not distributed."""
    if _is_available and distributed.is_initialized():
        return distributed.get_world_size()
    return 1


def mean_over_processes(statistic: Tensor) -> Tensor:
    """Average a tensor over the processes of a distributed run, if this is one. Shape: any, which stays."""
    if num_processes() == 1:
        return statistic
    statistic = statistic.contiguous()
    distributed.all_reduce(statistic)
    return statistic / num_processes()
