"""Parameters whose elements are sharded over processes (`DTensor`, as created by FSDP2).

An anchor is a function of each element's index in the whole parameter. So each process can draw the part
of the anchor that belongs to its own shard, and the parts make up the anchor of a single process.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Return whether a tensor is a `DTensor`: one part here, others in other processes."""
    module = sys.modules.get("torch.distributed.tensor")  # without the import there are none
    return module is not None and isinstance(tensor, module.DTensor)


def local_part(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that is in this process; the tensor itself if it is not sharded."""
    if not is_sharded(tensor):
        return tensor
    sharded: Any = tensor
    part: Tensor = sharded.to_local()
    return part


def of_one_kind(indices: Sequence[int], parameters: Sequence[Tensor]) -> list[list[int]]:
    """Split indices of parameters so that each part can go into one operation over a list.

    No operation takes both whole and sharded tensors, or tensors of two device meshes: a model to a part
    of which `fully_shard` was applied has both.
    """
    if len({*map(type, parameters)}) < 2 and not (indices and is_sharded(parameters[indices[0]])):
        return [list(indices)] if indices else []  # the common case, at every step
    parts: dict[Any, list[int]] = {}
    for index in indices:
        parameter: Any = parameters[index]
        mesh = parameter.device_mesh if is_sharded(parameter) else None
        parts.setdefault(mesh, []).append(index)
    return list(parts.values())


def require_known_elements(parameter: Tensor) -> None:
    """Raise an error for a flat parameter of FSDP's first version, whose elements cannot be identified.

    Raises:
        ValueError: if the parameter is one; the message says what to use instead.
    """
    if getattr(parameter, "_fsdp_flattened", False):
        raise ValueError(
            "FullyShardedDataParallel flattens the parameters, and it is not known which elements of a"
            " weight are in this process, so that no anchor can be drawn or stored for them: use FSDP2"
            " (torch.distributed.fsdp.fully_shard)."
        )


def local_elements(tensor: Tensor) -> Tensor:
    """Return the row-major indices, in the whole tensor, of the elements in this process.

    Args:
        tensor: A `DTensor`, with each of its mesh dimensions sharded or replicated.

    Returns:
        Indices in int64, on the device of the local part. Shape: that of the local part.

    Raises:
        ValueError: if the tensor is placed in another way; the message names the placement.
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
                f" processes, and for {placement!r} it is not known which of its elements are here:"
                " use Shard or Replicate, for which an anchor can be drawn."
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
    """Return a `DTensor` that is placed like `like` and has `local` as its part in this process.

    Args:
        local: Part of this process. Shape: that of the local part of `like`.
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
