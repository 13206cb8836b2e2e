"""Distances of a network's layers from their symmetric, low-capacity states (Ziyin et al., ICLR 2025).

A hidden neuron has a vector: its incoming weights, its incoming bias, its outgoing weights. Exchanging two
neurons leaves the network's function unchanged, and so does flipping the sign of a tanh neuron's vector, or
rescaling a ReLU neuron's incoming against its outgoing weights. Each such symmetry has states that training
does not leave by itself: identical neurons, and neurons at zero. In attention, a head's queries and keys may
be rotated jointly, and directions that both have lost do not come back. The functions here measure the
distance from these states, and count the symmetries that a network is close to: its degree of symmetry.

Weights have torch's layout: (out, in) for dense layers, (out, in, *kernel) for convolutions. Measuring
records no graph and does not synchronize with the device, except for the eigenvalues: their decomposition
synchronizes inside torch on ``cuda``, and runs on the CPU for ``mps``, which lacks it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from plasticity.checks import require_integer, require_number
from plasticity.precision import accumulator, as_given, in_float64, require_real, wide_dtype
from plasticity.symmetry.projectors import swap_projector

__all__ = [
    "attention_heads",
    "degree_of_symmetry",
    "double_rotation_degree",
    "neuron_swap_projector",
    "neuron_vectors",
    "permutation_distance",
    "rescaling_distance",
    "rotation_eigenvalues",
    "sign_flip_distance",
    "split_heads",
    "tie_neurons_",
]


def permutation_distance(
    incoming: Tensor, outgoing: Tensor, incoming_bias: Tensor | None = None
) -> Tensor:
    """Return the distances of neighbouring neurons, sorted by the norm of their vectors.

    Of the h (h - 1) / 2 pairs only these h - 1 are measured. Identical neurons have the same norm, so they
    are neighbours, unless other neurons have exactly that norm too. Neurons that are close but not identical
    are missed where a third one's norm falls between theirs, which is likely in a wide layer: the distances
    are those between neighbours, not from each neuron to its nearest other.

    Args:
        incoming: Weights of the layer whose neurons (channels) are measured. Shape: (h, in) or
            (h, in, *kernel).
        outgoing: Weights of the next layer, with the neurons as its inputs. Shape: (out, h) or
            (out, h, *kernel); a dense layer after a flattened convolution has (out, h · positions), and
            a channel's outgoing weights are those at all of its positions.
        incoming_bias: Biases of the neurons; part of their vectors if given. Shape: (h,).

    Returns:
        Euclidean distances in the order of the norms, smallest norm first, in the unit and dtype of the
        weights (at least float32). NaN for a neuron with a weight that is not finite. Shape: (h - 1,).

    Raises:
        ValueError: if the shapes do not fit together.
        TypeError: if the weights are not real floating-point numbers.

    Examples:
        >>> incoming, outgoing = torch.ones(3, 4), torch.ones(2, 3)  # three equal neurons
        >>> permutation_distance(incoming, outgoing)
        tensor([0., 0.])
    """
    vectors = _detached_vectors(incoming, outgoing, incoming_bias)
    # In float32, the norms of a wide layer collide by chance and separate identical neurons.
    order = _norms(vectors).argsort(stable=True)
    ordered = vectors[order]
    distances: Tensor = torch.linalg.vector_norm(ordered[1:] - ordered[:-1], dim=1)
    return distances


def sign_flip_distance(
    incoming: Tensor, outgoing: Tensor, incoming_bias: Tensor | None = None
) -> Tensor:
    """Return each neuron's norm: its distance from the symmetric state of an odd activation (tanh).

    The norm is that of the neuron's vector. Flipping its sign leaves the network's function unchanged; the
    only vector that the flip leaves unchanged is 0.

    Args:
        incoming: As in `permutation_distance`. Shape: (h, in) or (h, in, *kernel).
        outgoing: As in `permutation_distance`. Shape: (out, h · positions) or (out, h, *kernel).
        incoming_bias: Biases of the neurons; part of their vectors if given. Shape: (h,).

    Returns:
        Norms in the order of the neurons, in the unit and dtype of the weights (at least float32).
        Shape: (h,).

    Raises:
        ValueError: if the shapes do not fit together.
        TypeError: if the weights are not real floating-point numbers.

    Examples:
        >>> sign_flip_distance(torch.tensor([[3.0], [0.0]]), torch.tensor([[4.0, 0.0]]))
        tensor([5., 0.])
    """
    vectors = _detached_vectors(incoming, outgoing, incoming_bias)
    return _norms(vectors).to(vectors.dtype)


def rescaling_distance(
    incoming: Tensor, outgoing: Tensor, incoming_bias: Tensor | None = None
) -> Tensor:
    """Return the norm of each neuron's vector: its distance from the symmetric state of a ReLU.

    Multiplying the incoming weights by a positive number and dividing the outgoing ones by it leaves the
    network's function unchanged. The state that this leaves unchanged has both at 0, as for a sign flip, so
    the result equals that of `sign_flip_distance`; a neuron with only its incoming weights at 0 is not in
    that state.

    Args:
        incoming: As in `permutation_distance`. Shape: (h, in) or (h, in, *kernel).
        outgoing: As in `permutation_distance`. Shape: (out, h · positions) or (out, h, *kernel).
        incoming_bias: Biases of the neurons; part of their vectors if given. Shape: (h,).

    Returns:
        As `sign_flip_distance`. Shape: (h,).

    Raises:
        ValueError: if the shapes do not fit together.
        TypeError: if the weights are not real floating-point numbers.

    Examples:
        >>> rescaling_distance(torch.tensor([[3.0], [0.0]]), torch.tensor([[4.0, 0.0]]))
        tensor([5., 0.])
    """
    return sign_flip_distance(incoming, outgoing, incoming_bias)


def degree_of_symmetry(
    distances: Tensor, threshold: float, *, reference: Tensor | None = None
) -> Tensor:
    """Return the number of distances below a threshold: of pairs of neurons, or of neurons.

    Beware:
        With the initial distances of `permutation_distance` as the reference, the k-th pair is compared with
        the initial distance of the k-th pair in the order of norms, which may have been other neurons. Their
        mean, ``reference=initial.mean()``, gives all pairs the same bound.

    Args:
        distances: Result of `permutation_distance`, `sign_flip_distance` or `rescaling_distance`.
            Shape: (..., count).
        threshold: Bound in the unit of the weights, usually 1e-3 to 1e-1; with a reference, a fraction of
            it, usually 0.1. At least 0. A distance of 0 counts under every threshold and reference.
        reference: Unit of the threshold, e.g. the initial distances; None: 1. For thresholds that differ by
            pair, give them as the reference, with threshold 1. Shape: (..., count), or one that broadcasts
            to it.

    Returns:
        An integer (int64) from 0 to count; a NaN is not counted. Shape: (...).

    Raises:
        ValueError: if the threshold is negative or not finite, or the reference does not fit.
        TypeError: if the threshold is not a number.

    Examples:
        >>> degree_of_symmetry(torch.tensor([0.001, 0.5, 0.02]), threshold=0.1).item()
        2
    """
    bound = _bound(distances, threshold, reference)
    return ((distances < bound) | (distances == 0)).sum(-1)


def neuron_vectors(
    incoming: Tensor, outgoing: Tensor, incoming_bias: Tensor | None = None
) -> Tensor:
    """Return the vectors of a layer's neurons as rows: incoming weights, incoming bias, outgoing weights.

    Tensors of any dtype are accepted, so that numbered entries show the positions of a neuron's parameters.

    Args:
        incoming: As in `permutation_distance`. Shape: (h, in) or (h, in, *kernel).
        outgoing: As in `permutation_distance`. Shape: (out, h · positions) or (out, h, *kernel).
        incoming_bias: Biases of the neurons; part of their vectors if given. Shape: (h,).

    Returns:
        A copy of the weights, one row per neuron. Shape: (h, incoming + bias + outgoing weights of a neuron).

    Raises:
        ValueError: if the shapes do not fit together.

    Examples:
        >>> first, second = nn.Linear(4, 3), nn.Linear(3, 2)
        >>> neuron_vectors(first.weight, second.weight, first.bias).shape  # 4 + 1 + 2 numbers of each neuron
        torch.Size([3, 7])
    """
    for name, weight in (("incoming", incoming), ("outgoing", outgoing)):
        if weight.dim() < 2 or weight.numel() == 0:
            raise ValueError(
                f"{name} weights have shape {tuple(weight.shape)}, expected (out, in) of a dense layer or "
                "(out, in, *kernel) of a convolution, no dimension 0"
            )
    neurons, inputs = incoming.shape[0], outgoing.shape[1]
    flattened = incoming.dim() > 2 and outgoing.dim() == 2
    if inputs != neurons and not (flattened and inputs % neurons == 0):
        multiple = " or a multiple, its positions" if flattened else ""
        raise ValueError(
            f"outgoing weights of shape {tuple(outgoing.shape)} have {inputs} inputs, expected {neurons}"
            f"{multiple}: the neurons of the incoming weights {tuple(incoming.shape)}; "
            "give the weights of a layer and of the one that reads it"
        )
    parts = [incoming.flatten(1)]
    if incoming_bias is not None:
        if incoming_bias.shape != (neurons,):
            raise ValueError(
                f"incoming_bias has shape {tuple(incoming_bias.shape)}, expected ({neurons},), one per neuron"
            )
        parts.append(incoming_bias[:, None])
    # In a flattened map the channel axis comes first, so the positions of a channel are contiguous.
    parts.append(outgoing.reshape(outgoing.shape[0], neurons, -1).transpose(0, 1).flatten(1))
    return torch.cat(parts, dim=1)


def neuron_swap_projector(
    first: int,
    second: int,
    incoming: Tensor,
    outgoing: Tensor,
    incoming_bias: Tensor | None = None,
) -> Tensor:
    """Return the projector P whose reflection ``I - 2 P`` exchanges two neurons of a layer.

    It acts on ``torch.cat([incoming.flatten(), incoming_bias, outgoing.flatten()])``, without the bias if
    there is none. ``|P theta|`` is the distance between the two neurons' vectors, divided by √2.

    Args:
        first: Index of one neuron, 0 to h - 1.
        second: Index of another neuron.
        incoming: As in `permutation_distance`. Shape: (h, in) or (h, in, *kernel).
        outgoing: As in `permutation_distance`. Shape: (out, h · positions) or (out, h, *kernel).
        incoming_bias: Biases of the neurons. Shape: (h,).

    Returns:
        A dense matrix in the dtype of the weights (at least float32), on their device.
        Shape: (parameters, parameters).

    Raises:
        ValueError: if the shapes do not fit together, the two neurons are the same or an index is out of
            range.
        TypeError: if an index is not an integer or the weights are not real floating-point numbers.

    Examples:
        >>> projector = neuron_swap_projector(0, 1, torch.zeros(3, 4), torch.zeros(2, 3))
        >>> projector.shape  # 12 incoming weights and 6 outgoing ones
        torch.Size([18, 18])
    """
    require_real("weights", incoming)
    tensors = [incoming, outgoing] if incoming_bias is None else [incoming, incoming_bias, outgoing]
    size = sum(tensor.numel() for tensor in tensors)
    numbers = torch.split(torch.arange(size), [tensor.numel() for tensor in tensors])
    entries = [part.view(tensor.shape) for part, tensor in zip(numbers, tensors, strict=True)]
    positions = neuron_vectors(entries[0], entries[-1], *entries[1:-1])
    for name, neuron in (("first", first), ("second", second)):
        require_integer(name, neuron, minimum=0, maximum=len(positions) - 1)
    if first == second:
        raise ValueError(f"first and second are both neuron {first}; an exchange needs two neurons")
    return swap_projector(
        positions[first],
        positions[second],
        size,
        dtype=wide_dtype(incoming),
        device=incoming.device,
    )


@torch.no_grad()
def tie_neurons_(
    count: int, incoming: Tensor, outgoing: Tensor, incoming_bias: Tensor | None = None
) -> None:
    """Replace the vectors of the first neurons of a dense layer by their mean, in place.

    This projects the parameters onto the states that every permutation of these neurons leaves unchanged: it
    is the `group_projector` of their permutations.

    Args:
        count: Number of neurons, from 0 to h; up to 1, nothing changes.
        incoming: Weights of the layer. Shape: (h, in).
        outgoing: Weights of the next layer. Shape: (out, h).
        incoming_bias: Biases of the neurons. Shape: (h,).

    Raises:
        ValueError: if the shapes do not fit together, or the count is out of range.
        TypeError: if the count is not an integer.

    Examples:
        >>> incoming, outgoing = torch.tensor([[1.0], [3.0], [7.0]]), torch.zeros(1, 3)
        >>> tie_neurons_(2, incoming, outgoing)
        >>> incoming.flatten()
        tensor([2., 2., 7.])
    """
    if incoming.dim() != 2 or outgoing.dim() != 2 or outgoing.shape[1] != len(incoming):
        raise ValueError(
            f"weights of shape {tuple(incoming.shape)} and {tuple(outgoing.shape)}, expected (h, in) and"
            " (out, h) of two dense layers in a row"
        )
    require_integer("count", count, minimum=0, maximum=len(incoming))
    if count == 0:
        return
    incoming[:count] = incoming[:count].mean(dim=0)
    outgoing[:, :count] = outgoing[:, :count].mean(dim=1, keepdim=True)
    if incoming_bias is not None:
        incoming_bias[:count] = incoming_bias[:count].mean()


def rotation_eigenvalues(query: Tensor, key: Tensor) -> Tensor:
    """Return the eigenvalues of ``W_Q W_Qᵀ + W_K W_Kᵀ``, head by head, smallest first.

    Applying the same rotation to the rows of both leaves the attention unchanged. An eigenvalue of 0 is a
    direction of the head that neither the queries nor the keys use. Biases are not included; to include them,
    append each to its weights as an additional column.

    Args:
        query: W_Q; the heads along leading dimensions. Shape: (..., head_dim, width).
        key: W_K; its width may differ. Shape: (..., head_dim, key_width).

    Returns:
        Non-negative numbers, in squared units and the dtype of the weights (at least float32); NaN for a head
        with a weight that is not finite. Shape: (..., head_dim).

    Raises:
        ValueError: if the shapes do not fit together.
        TypeError: if the weights are not real floating-point numbers.

    Examples:
        >>> rotation_eigenvalues(torch.eye(2), torch.zeros(2, 2))
        tensor([1., 1.])
    """
    for weight in (query, key):
        require_real("weights", weight)
    if min(query.dim(), key.dim()) < 2 or query.shape[:-1] != key.shape[:-1]:
        raise ValueError(
            f"query has shape {tuple(query.shape)} and key {tuple(key.shape)}, expected "
            "(..., head_dim, width) with the same heads and head_dim; attention_heads(module) gives both"
        )
    # In float64, as squaring costs half of the digits.
    queries, keys = in_float64(query.detach()), in_float64(key.detach())
    gram = queries @ queries.mT + keys @ keys.mT
    finite = gram.isfinite().all(-1).all(-1)[..., None]
    values = torch.linalg.eigvalsh(torch.where(finite[..., None], gram, 0.0)).clamp(min=0)
    return as_given(torch.where(finite, values, torch.nan), query)


def double_rotation_degree(
    eigenvalues: Tensor, threshold: float, *, reference: Tensor | None = None
) -> Tensor:
    """Return the number of a head's directions that neither queries nor keys use any more.

    Args:
        eigenvalues: Result of `rotation_eigenvalues`. Shape: (..., head_dim).
        threshold: Largest eigenvalue that counts, in squared units of the weights; with a reference, a
            fraction of it. At least 0.
        reference: Unit of the threshold, e.g. the initial eigenvalues; None: 1. Shape: (..., head_dim),
            or one that broadcasts to it.

    Returns:
        An integer (int64) from 0 to head_dim; a NaN is not counted. Shape: (...).

    Raises:
        ValueError: if the threshold is negative or not finite, or the reference does not fit.
        TypeError: if the threshold is not a number.

    Examples:
        >>> double_rotation_degree(torch.tensor([0.0, 0.01, 3.0]), threshold=0.1).item()
        2
    """
    return (eigenvalues <= _bound(eigenvalues, threshold, reference)).sum(-1)


def split_heads(weight: Tensor, num_heads: int) -> Tensor:
    """View a query or key projection head by head, as torch's attention does: rows in equal blocks.

    Args:
        weight: Shape: (num_heads · head_dim, width).
        num_heads: Number of heads, at least 1.

    Returns:
        A view. Shape: (num_heads, head_dim, width).

    Raises:
        ValueError: if the weight is not a matrix or its rows cannot be split.
        TypeError: if num_heads is not an integer.

    Examples:
        >>> split_heads(torch.zeros(8, 16), num_heads=2).shape
        torch.Size([2, 4, 16])
    """
    num_heads = require_integer("num_heads", num_heads, minimum=1)
    if weight.dim() != 2 or weight.shape[0] == 0 or weight.shape[0] % num_heads:
        raise ValueError(
            f"a projection of shape {tuple(weight.shape)} cannot be split into {num_heads} heads, "
            "expected (num_heads · head_dim, width); split in_proj_weight into its three blocks first"
        )
    return weight.view(num_heads, -1, weight.shape[1])


def attention_heads(attention: nn.MultiheadAttention) -> tuple[Tensor, Tensor]:
    """Return the query and key weights of an attention module, head by head.

    Args:
        attention: Module with one `in_proj_weight`, or with separate projections (`kdim` or `vdim` given).

    Returns:
        W_Q, of shape (num_heads, head_dim, embed_dim), and W_K, of shape (num_heads, head_dim, kdim): views
        of the parameters.

    Examples:
        >>> query, key = attention_heads(nn.MultiheadAttention(8, num_heads=2))
        >>> query.shape
        torch.Size([2, 4, 8])
    """
    if attention._qkv_same_embed_dim:
        query, key, _ = attention.in_proj_weight.chunk(3)
    else:
        query, key = attention.q_proj_weight, attention.k_proj_weight
    return split_heads(query, attention.num_heads), split_heads(key, attention.num_heads)


def _detached_vectors(incoming: Tensor, outgoing: Tensor, incoming_bias: Tensor | None) -> Tensor:
    for weight in (incoming, outgoing):
        require_real("weights", weight)
    vectors = neuron_vectors(incoming, outgoing, incoming_bias).detach()
    return vectors.to(wide_dtype(vectors))


def _norms(vectors: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=1, dtype=accumulator(vectors.device))
    return norms


def _bound(values: Tensor, threshold: float, reference: Tensor | None) -> Tensor | float:
    threshold = require_number("threshold", threshold, minimum=0.0)
    if reference is None:
        return threshold
    # Compared from the last dimension on, as broadcasting does.
    sizes = list(zip(reversed(reference.shape), reversed(values.shape), strict=False))
    if reference.dim() > values.dim() or any(given not in (1, size) for given, size in sizes):
        raise ValueError(
            f"reference has shape {tuple(reference.shape)}, expected {tuple(values.shape)} or one that "
            "broadcasts to it; take it from the same layers"
        )
    return threshold * reference.detach()
