"""Parameters whose elements are spread over processes (`DTensor`, as FSDP2 makes them).

A regularizer's anchor is a function of each element's index in the whole parameter. So each process can
draw the part of the anchor that belongs to its own shard, and all together hold the anchor that one
process would have.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a `DTensor`: one part here, others in other processes."""
    module = sys.modules.get("torch.distributed.tensor")  # nobody has one before it is imported
    return module is not None and isinstance(tensor, module.DTensor)


def local_part(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that is in this process: the tensor itself, unless it is sharded."""
    if not is_sharded(tensor):
        return tensor
    sharded: Any = tensor
    part: Tensor = sharded.to_local()
    return part


def of_one_kind(places: Sequence[int], parameters: Sequence[Tensor]) -> list[list[int]]:
    """Divide places of parameters so that each part can go into one operation over a list.

    No operation takes whole tensors and sharded ones together, or those of two device meshes: a model
    of which `fully_shard` got a part has both.
    """
    if len({*map(type, parameters)}) < 2 and not (places and is_sharded(parameters[places[0]])):
        return [list(places)] if places else []  # the ordinary case, asked at every step
    parts: dict[Any, list[int]] = {}
    for place in places:
        parameter: Any = parameters[place]
        mesh = parameter.device_mesh if is_sharded(parameter) else None
        parts.setdefault(mesh, []).append(place)
    return list(parts.values())


def require_known_elements(parameter: Tensor) -> None:
    """Refuse what FSDP's first version makes of parameters: flat pieces of which nobody knows the place.

    Raises:
        ValueError: if the parameter is one; says what to use.
    """
    if getattr(parameter, "_fsdp_flattened", False):
        raise ValueError(
            "FullyShardedDataParallel flattens the parameters, and which elements of a weight this"
            " process has is not known, so that no anchor can be drawn or kept for them: use FSDP2"
            " (torch.distributed.fsdp.fully_shard)."
        )


def local_elements(tensor: Tensor) -> Tensor:
    """Indices, in the whole tensor in row-major order, of the elements that are in this process.

    Args:
        tensor: A `DTensor`, with each of its mesh dimensions sharded or replicated.

    Returns:
        int64, on the device of the local part. Shape: that of the local part.

    Raises:
        ValueError: if the tensor is spread in another way; names the placement.
    """
    from torch.distributed.tensor import Replicate, Shard  # noqa: PLC0415
    from torch.distributed.tensor._utils import (  # noqa: PLC0415
        compute_local_shape_and_global_offset,
    )

    sharded: Any = tensor
    for placement in sharded.placements:
        if type(placement) not in (Shard, Replicate):
            raise ValueError(
                f"A parameter of shape {tuple(tensor.shape)} is placed {sharded.placements} over the"
                f" processes, and which of its elements are here is not known for {placement!r}:"
                " an anchor can be drawn for Shard and Replicate."
            )
    shape, offset = compute_local_shape_and_global_offset(
        tensor.shape, sharded.device_mesh, sharded.placements
    )
    local = local_part(tensor)
    elements = torch.zeros(tuple(shape), dtype=torch.int64, device=local.device)
    stride = 1
    for axis in reversed(range(tensor.dim())):
        along = torch.arange(shape[axis], device=local.device) + offset[axis]
        elements += (along * stride).view(-1, *[1] * (tensor.dim() - axis - 1))
        stride *= tensor.shape[axis]
    return elements


def sharded_like(local: Tensor, like: Tensor) -> Tensor:
    """Return a `DTensor` that is spread as `like` is and has `local` as its part here.

    Args:
        local: Shape: that of the local part of `like`.
        like: A `DTensor`.
    """
    from torch.distributed.tensor import DTensor  # noqa: PLC0415

    form: Any = like
    made: Tensor = DTensor.from_local(
        local,
        form.device_mesh,
        form.placements,
        run_check=False,
        shape=form.shape,
        stride=form.stride(),
    )
    return made
