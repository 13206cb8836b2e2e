"""What the processes of a distributed run must agree on, so that their weights stay the same.

In data-parallel training every process steps its own copy of the weights with the same gradients. The
copies stay equal only if the anchors are equal too, and processes usually have seeds of their own.
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

_APART = (
    "If every process trains parameters of its own, give each optimizer its anchor_seed: the same where"
    " the parameters are the same."
)


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def agreed_seed(seed: int, parameters: Sequence[Tensor]) -> int:
    """Return rank 0's seed, in all processes of a distributed run; `seed` without one.

    Every process has to make the call, as with `DistributedDataParallel`.

    Args:
        seed: This process's.
        parameters: This process's, to find out whether all have the same ones.

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
                f"Rank {rank} gives this optimizer {len(other)} parameters, rank 0 {len(shapes[0])}, of"
                " other shapes: an anchor is drawn from the place of its parameter in the optimizer,"
                f" which would differ between the processes. {_APART}"
            )
    return int(seeds[0])


def require_agreeing_weights(parameters: Sequence[Tensor]) -> None:
    """Refuse weights that differ between the processes of a distributed run, as anchors of l2-init.

    Raises:
        ValueError: if they differ; says what to do.
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
                f"Rank {rank} starts from other weights than rank 0, and l2-init would hold each process"
                " to its own: make the optimizer after DistributedDataParallel(model), which gives all"
                " the weights of rank 0. If every process trains a network of its own, make the"
                " optimizer before torch.distributed is initialised."
            )


def require_whole_optimizer() -> None:
    """Refuse an optimizer that is being made inside `ZeroRedundancyOptimizer`, for a part of the model.

    Raises:
        ValueError: if it is; says what to use.
    """
    module = sys.modules.get("torch.distributed.optim.zero_redundancy_optimizer")
    if module is None:
        return
    frame: FrameType | None = inspect.currentframe()
    while frame is not None:
        dealer = frame.f_locals.get("self")
        if isinstance(dealer, module.ZeroRedundancyOptimizer):
            raise ValueError(  # noqa: TRY004 - the type of nothing that was given
                "ZeroRedundancyOptimizer deals the parameters out to optimizers that do not know each"
                " other, and an anchor is drawn from the place of its parameter among all: use FSDP2"
                " (torch.distributed.fsdp.fully_shard), which spreads the optimizer's state as well."
            )
        frame = frame.f_back
