"""Agreement between the processes of a distributed run, so that their weights stay the same.

In data-parallel training every process steps its own copy of the weights with the same gradients. The
copies stay equal only if the anchors are equal too, and each process usually has a different seed.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from types import FrameType

import torch
from torch import Tensor
from torch import distributed as dist

from plasticity.optim.sharded import is_sharded

_SEED_REMEDY = (
    "If each process trains different parameters, give every optimizer an anchor_seed: the same one"
    " where the parameters are the same."
)


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def agreed_seed(seed: int, parameters: Sequence[Tensor]) -> int:
    """Return rank 0's seed in every process of a distributed run, and `seed` outside of one.

    A collective call: every process has to make it, as with `DistributedDataParallel`.

    Args:
        seed: Seed of this process.
        parameters: Parameters of this process, compared with those of the others.

    Raises:
        ValueError: if the processes have parameters of different shapes.
    """
    if not _is_distributed():
        return seed
    gathered: list[tuple[int, list[tuple[int, ...]]]] = [(0, [])] * dist.get_world_size()
    dist.all_gather_object(gathered, (seed, [tuple(p.shape) for p in parameters]))
    seeds, shapes = zip(*gathered, strict=True)
    for rank, other in enumerate(shapes):
        if other != shapes[0]:
            raise ValueError(
                f"Rank {rank} gives this optimizer {len(other)} parameters, rank 0 {len(shapes[0])}, and"
                " their shapes differ: an anchor is drawn from the position of its parameter in the"
                f" optimizer, which would differ between the processes. {_SEED_REMEDY}"
            )
    return int(seeds[0])


def require_agreeing_weights(parameters: Sequence[Tensor]) -> None:
    """Raise an error if weights differ between processes, where they are to be l2-init's anchors.

    Raises:
        ValueError: if they differ; the message says what to do.
    """
    whole = [parameter for parameter in parameters if not is_sharded(parameter)]
    if not _is_distributed() or not whole:
        return
    sums = [(p.detach().double().sum(), p.detach().double().square().sum()) for p in whole]
    own = torch.stack([each.cpu() for pair in sums for each in pair])
    gathered: list[list[float]] = [[]] * dist.get_world_size()
    dist.all_gather_object(gathered, own.tolist())
    first = torch.tensor(gathered[0], dtype=torch.float64)
    for rank, other in enumerate(gathered):
        if len(other) != len(first) or not torch.allclose(
            torch.tensor(other, dtype=torch.float64), first, rtol=1e-6, atol=1e-9, equal_nan=True
        ):
            raise ValueError(
                f"Rank {rank} starts from different weights than rank 0, and l2-init would anchor each"
                " process to its own: create the optimizer after DistributedDataParallel(model), which"
                " broadcasts the weights of rank 0. If each process trains a separate network, create the"
                " optimizer before torch.distributed is initialised."
            )


def require_whole_optimizer() -> None:
    """Raise an error if the optimizer is being created by `ZeroRedundancyOptimizer`, for part of a model.

    Raises:
        ValueError: if it is; the message says what to use instead.
    """
    module = sys.modules.get("torch.distributed.optim.zero_redundancy_optimizer")
    if module is None:
        return
    frame: FrameType | None = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, module.ZeroRedundancyOptimizer):
            raise ValueError(  # noqa: TRY004 - no argument's type is wrong
                "ZeroRedundancyOptimizer splits the parameters between optimizers that know nothing of"
                " each other, and an anchor is drawn from the position of its parameter among all of"
                " them: use FSDP2 (torch.distributed.fsdp.fully_shard), which shards the optimizer's"
                " state as well."
            )
        frame = frame.f_back
