"""The degree of symmetry of a whole network, layer by layer.

Which layer reads which cannot be seen from a module's weights. For a feed-forward network whose layers
stand in the order in which they are applied it can be guessed: each weight layer is read by the next one. A
guess whose shapes do not fit is an error, and the pairs can always be named.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from plasticity.settings import nearest
from plasticity.symmetry import (
    attention_heads,
    degree_of_symmetry,
    double_rotation_degree,
    neuron_vectors,
    permutation_distance,
    rescaling_distance,
    rotation_eigenvalues,
    sign_flip_distance,
)
from plasticity.wrappers import raw_module

__all__ = ["symmetry_distances", "symmetry_report"]

DISTANCES = {
    "permutation": permutation_distance,
    "sign-flip": sign_flip_distance,
    "rescaling": rescaling_distance,
}
"""The distance of a layer's neurons from their symmetric states, by the symmetry's name."""

Symmetry = Literal["permutation", "sign-flip", "rescaling"]

WeightLayer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
WEIGHT_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

# They act on each neuron by itself, or on all of them alike, so a neuron stays the same neuron.
TRANSPARENT = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.PReLU,
)

# What comes behind them does not read the neurons of the layer before them.
SEPARATING = (nn.MultiheadAttention, nn.Embedding, nn.EmbeddingBag)

EXPLICITLY = 'name the pairs explicitly: pairs=[("fc1", "fc2")]'


def symmetry_distances(
    model: nn.Module,
    *,
    symmetry: Symmetry = "permutation",
    pairs: Iterable[tuple[str, str]] | None = None,
) -> dict[str, Tensor]:
    """Distances of every hidden layer, and of every attention module, from their symmetric states.

    Args:
        model: A network of `nn.Linear` and `nn.Conv1d` to `nn.Conv3d` layers and their subclasses, and of
            `nn.MultiheadAttention` modules.
        symmetry: Which distance of the neurons: "permutation" suits every activation, "sign-flip" odd ones
            (tanh), "rescaling" homogeneous ones (ReLU). Attention has its rotations in any case.
        pairs: Names of layers and of those that read them; a layer that several read is named with each,
            and its neurons' vectors hold the outgoing weights to all of them. None: each weight layer is
            read by the next in the module order, up to an attention or embedding module, which starts
            anew. Poolings, flattening, and normalisation layers in between do no harm (the parameters of a
            normalisation are not counted among a neuron's); skip connections and branches are not seen.

    Returns:
        By the name of the layer whose neurons are meant, the distances, of shape (h - 1,) for the permutation
        of h neurons and (h,) otherwise; by the name of an attention module, the eigenvalues of
        `rotation_eigenvalues`, of shape (num_heads, head_dim). In the order of the network.

    Raises:
        ValueError: if two layers do not fit together, a layer has a kind that is not known here or has
            groups, a name is unknown (the nearest is suggested), or there is nothing to measure.
        TypeError: if the model is no module or one that cannot be looked into.
    """
    if symmetry not in DISTANCES:
        raise ValueError(f"Unknown symmetry {symmetry!r}.{nearest(str(symmetry), DISTANCES)}")
    model = raw_module(model)
    readers = _consecutive(model) if pairs is None else _named(model, pairs)
    distances = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.MultiheadAttention):
            distances[name] = rotation_eigenvalues(*attention_heads(module))
        elif name in readers:
            distances[name] = DISTANCES[symmetry](*_joined_weights(model, name, readers[name]))
    if not distances:
        raise ValueError(
            "the model has no two consecutive weight layers and no nn.MultiheadAttention: there are no "
            f"hidden neurons to measure; {EXPLICITLY}"
        )
    return distances


def symmetry_report(
    model: nn.Module,
    threshold: float,
    *,
    reference: Mapping[str, Tensor] | None = None,
    symmetry: Symmetry = "permutation",
    pairs: Iterable[tuple[str, str]] | None = None,
) -> dict[str, Tensor]:
    """Degree of symmetry of every hidden layer, and of every attention head.

    Args:
        model: As in `symmetry_distances`.
        threshold: Of `degree_of_symmetry` in the unit of the weights, and of `double_rotation_degree` in
            squared units. With a reference, a share of it (0.1 is usual), which suits both.
        reference: `symmetry_distances` of the initial network, with the same settings. None: the threshold
            is absolute.
        symmetry: As in `symmetry_distances`.
        pairs: As in `symmetry_distances`.

    Returns:
        Integers (int64) by layer: of shape () for the pairs of neurons (or the neurons) of a layer, of shape
        (num_heads,) for the directions of an attention module's heads.

    Raises:
        ValueError: as `symmetry_distances`, if the threshold is negative or not finite, or if the reference
            lacks a layer or has another shape.
        TypeError: if the threshold is not a number, or as in `symmetry_distances`.
    """
    modules = dict(raw_module(model).named_modules(remove_duplicate=False))
    degrees = {}
    for name, distances in symmetry_distances(model, symmetry=symmetry, pairs=pairs).items():
        if reference is not None and name not in reference:
            raise ValueError(
                f"reference has no distances of {name!r}; "
                f"take it from symmetry_distances(model) with the same settings.{nearest(name, reference)}"
            )
        attention = isinstance(modules[name], nn.MultiheadAttention)
        degree = double_rotation_degree if attention else degree_of_symmetry
        initial = None if reference is None else reference[name]
        degrees[name] = degree(distances, threshold, reference=initial)
    return degrees


def _consecutive(model: nn.Module) -> dict[str, list[str]]:
    chain: list[str | None] = []
    names: dict[nn.Module, str] = {}
    for name, module in _walk(model, ""):
        if not isinstance(module, WEIGHT_LAYERS):
            chain.append(None)
            continue
        if names.setdefault(module, name) != name:
            raise ValueError(
                f"layers {names[module]!r} and {name!r} are the same module, used twice; {EXPLICITLY}"
            )
        chain.append(name)
    return {
        first: [second]
        for first, second in pairwise(chain)
        if first is not None and second is not None
    }


def _walk(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Weight layers and modules that separate them, in order, without what is inside of them."""
    if isinstance(module, (*WEIGHT_LAYERS, *SEPARATING)):
        yield name, module
        return
    # Not named_children(), which tells a module that is used twice only once.
    children = [(key, child) for key, child in module._modules.items() if child is not None]
    # A module with parts may own parameters of its own (a class token, a policy's log_std).
    owned = next(module.parameters(recurse=False), None)
    if owned is not None and not children and not isinstance(module, TRANSPARENT):
        raise ValueError(
            f"layer {name!r}, {type(module).__name__}, is of a kind whose neurons are not known here; "
            f"{EXPLICITLY}"
        )
    for child_name, child in children:
        yield from _walk(child, f"{name}.{child_name}" if name else child_name)


def _named(model: nn.Module, pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    modules = model.named_modules(remove_duplicate=False)
    known = [name for name, module in modules if isinstance(module, WEIGHT_LAYERS)]
    readers: dict[str, list[str]] = {}
    for pair in pairs:
        for name in pair:
            if name not in known:
                raise ValueError(
                    f"pairs names {name!r}, which is no weight layer; give a list of (layer, its reader)."
                    f"{nearest(name, known)}"
                )
        first, second = pair
        readers.setdefault(first, []).append(second)
    return readers


def _joined_weights(
    model: nn.Module, first: str, seconds: list[str]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Incoming weights, outgoing weights to all readers side by side, and the incoming bias."""
    layer = _layer(model, first)
    neurons = layer.weight.shape[0]
    incoming = layer.weight.detach()
    columns = []
    for second in seconds:
        try:
            vectors = neuron_vectors(incoming, _layer(model, second).weight.detach())
        except ValueError as error:
            raise ValueError(
                f"the neurons of {first!r} are not what {second!r} reads: {error}; {EXPLICITLY}"
            ) from error
        columns.append(vectors[:, incoming[0].numel() :])
    outgoing = torch.cat(columns, dim=1).T
    bias = None if layer.bias is None else layer.bias.detach()
    return incoming.reshape(neurons, -1), outgoing, bias


def _layer(model: nn.Module, name: str) -> WeightLayer:
    layer = model.get_submodule(name)
    if not isinstance(layer, WEIGHT_LAYERS):
        raise TypeError(f"{name!r} is a {type(layer).__name__}, expected one of {WEIGHT_LAYERS}")
    if isinstance(layer, nn.Linear):
        return layer
    if layer.groups > 1:
        raise ValueError(
            f"convolution {name!r} has {layer.groups} groups: its channels cannot be exchanged; {EXPLICITLY}"
        )
    return layer
