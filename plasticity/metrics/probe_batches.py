"""Probe batches of any kind: kept as a copy, moved to the model, and passed to it as its call requires."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from plasticity.containers import mapped
from plasticity.metrics.activations import Activations

__all__ = ["ProbeBatch", "call_arguments", "takes_keywords"]


class ProbeBatch:
    """Batch that a model is measured on.

    Args:
        batch: Batch as in `Tracker`.
        model: Module inside the wrappers.
        forward: Function ``forward(model, batch)`` that calls the model; None calls it as described in
            `Tracker`.

    Raises:
        TypeError: if nothing in the batch could be an input of a model, and there is no `forward`.
    """

    def __init__(
        self, batch: Any, model: nn.Module, forward: Callable[[nn.Module, Any], Any] | None = None
    ) -> None:
        self._forward = forward
        # With a forward function, the batch is passed to that function unchanged, including arrays.
        dtype = None if forward is not None else _floating_dtype(model)
        self._converts = forward is None
        self._dtype = dtype
        self._batch = self._copy(batch)
        if forward is None and not any(map(_is_data, _leaves(self._batch))):
            raise TypeError(
                "probe_batch must be a tensor, an array, a dictionary of them, a tuple of arguments or a "
                f"batch object, got {type(batch).__name__}; anything else needs "
                "forward=lambda model, batch: …"
            )

    def run(self, model: nn.Module) -> Any:
        """Call the model once on a copy of the batch, as a model may modify its input in place.

        The batch is moved to the device of the model's first parameter or buffer, for good.

        Args:
            model: Module inside the wrappers.

        Returns:
            What the model, or the function `forward`, returns.
        """
        tensor = next(chain(model.parameters(), model.buffers()), None)
        if tensor is not None:
            device = tensor.device
            self._batch = mapped(lambda leaf: _moved(leaf, device), self._batch)
        batch = self._copy(self._batch)
        if self._forward is not None:
            return self._forward(model, batch)
        arguments, keywords = call_arguments(model, batch)
        return model(*arguments, **keywords)

    def entry(self, name: str) -> Tensor:
        """Return the entry with this name, a key or an attribute, as a tensor.

        Raises:
            ValueError: if there is no such entry.
            TypeError: if it is neither a tensor nor an array.
        """
        if isinstance(self._batch, Mapping):
            found = self._batch.get(name)
            names = list(self._batch)
        else:
            found, names = getattr(self._batch, name, None), []
        if found is None:
            known = f" Known: {', '.join(map(repr, names))}." if names else ""
            raise ValueError(f"mask={name!r} is not an entry of the probe batch.{known}")
        return _as_tensor(f"the probe's {name!r}", found)

    def _copy(self, batch: Any) -> Any:
        with torch.no_grad():
            return mapped(self._copied, batch)

    def _copied(self, leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray) and self._converts and leaf.dtype != object:
            tensor = torch.tensor(leaf)
            # NumPy arrays are float64 by default, which networks hardly ever are.
            return tensor.to(self._dtype) if tensor.is_floating_point() else tensor
        if isinstance(leaf, Tensor):
            return leaf.detach().clone()
        clone = getattr(leaf, "clone", None)
        return clone() if callable(clone) else copy.deepcopy(leaf)


def call_arguments(model: nn.Module, batch: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Return the positional and keyword arguments that a batch is for a model, as in `Tracker`."""
    if isinstance(batch, tuple) and not hasattr(batch, "to"):
        return batch, {}
    if isinstance(batch, Mapping) and takes_keywords(model, batch):
        return (), batch
    return (batch,), {}


def takes_keywords(model: nn.Module, batch: Mapping[str, Any]) -> bool:
    """Return whether a mapping is passed to a model as keywords, rather than as one argument.

    It is if all its keys are parameters of the model's ``forward``; if that takes ``**kwargs``, one such key
    is enough, and any mapping is passed as keywords if there are no named parameters.
    """
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except ValueError:  # written in C
        return False
    kinds = inspect.Parameter
    named = {
        p.name for p in parameters if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)
    }
    keys = list(batch)
    if not keys or not all(isinstance(key, str) for key in keys):
        return False
    if any(p.kind is kinds.VAR_KEYWORD for p in parameters):
        return not named or any(key in named for key in keys)
    return all(key in named for key in keys)


def masked_features(activations: Activations, name: str, mask: Tensor | None) -> Tensor:
    """Return the feature matrix of a layer, without the rows of padding.

    Args:
        activations: Activations of the forward pass.
        name: Name of the layer.
        mask: Mask that is True where a position holds data. Shape: (batch, positions).

    Returns:
        The features. A layer without an axis of positions keeps all its rows. Shape: (rows, units).

    Raises:
        ValueError: if the layer's rows of padding cannot be determined, or all rows are padding.
    """
    features = activations.units(name)
    if mask is None:
        return features
    rows = _rows_to_keep(activations, name, mask.to(features.device))
    if rows is None:
        return features
    kept = features[rows]
    if len(kept) == 0:
        raise ValueError(f"layer {name!r}: mask marks every row as padding; True marks data")
    return kept


def _rows_to_keep(activations: Activations, name: str, mask: Tensor) -> Tensor | None:
    activation = activations[name]
    batch, positions = mask.shape
    if activation.ndim == 2:
        if activation.shape[0] == mask.numel() != batch:
            return mask.flatten()  # positions merged into the batch axis
        if activation.shape[0] == batch:
            return None
    found = []
    if activation.shape[0] == batch:
        for axis in range(1, activation.ndim):
            if activation.shape[axis] != positions:
                continue
            shape = [1] * activation.ndim
            shape[0], shape[axis] = batch, positions
            # The mask is rearranged like the activation, whichever axis holds the units: along that axis it
            # would not be a mask of rows.
            marked = activations.matrix(name, mask.view(shape).expand(activation.shape))
            if bool((marked == marked[:, :1]).all()):
                found.append(marked[:, 0])
    if len(found) == 1:
        return found[0]
    raise ValueError(
        f"layer {name!r}: mask of shape {tuple(mask.shape)} does not determine which rows of an activation "
        f"of shape {tuple(activation.shape)} are padding: expected one axis of {positions} positions. Name "
        "the layers to measure, layers=[…], or use a probe without padding."
    )


def required_mask(mask: Tensor) -> Tensor:
    """Return a mask of shape (batch, positions) as bool.

    Raises:
        ValueError: if it has another number of axes, or values other than true and false, or 1 and 0.
    """
    if mask.ndim != 2 or not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(
            "mask must be of shape (batch, positions), True (or 1) where there is data and False (or 0) "
            f"where there is padding; got shape {tuple(mask.shape)} of {mask.dtype}"
        )
    return mask != 0


def mask_tensor(mask: object) -> Tensor:
    """Return a copy of a mask, a tensor or an array, checked as in `required_mask`."""
    return required_mask(_as_tensor("mask", mask)).clone()


def _as_tensor(name: str, value: object) -> Tensor:
    if isinstance(value, np.ndarray):
        return torch.tensor(value)
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor or an array, got {type(value).__name__}")
    return value.detach()


def _leaves(value: Any) -> list[Any]:
    leaves: list[Any] = []
    mapped(leaves.append, value)
    return leaves


def _is_data(leaf: object) -> bool:
    """Return whether a leaf may be an input of a model, unlike a number, a string or None."""
    return (
        isinstance(leaf, (Tensor, np.ndarray)) or hasattr(leaf, "__dict__") or hasattr(leaf, "to")
    )


def _moved(leaf: Any, device: torch.device) -> Any:
    move = getattr(leaf, "to", None)
    return move(device) if callable(move) else leaf


def _floating_dtype(model: nn.Module) -> torch.dtype:
    floating = (p.dtype for p in model.parameters() if p.is_floating_point())
    return next(floating, torch.get_default_dtype())
