"""Symmetries of a loss as matrices on its flat parameters, and the strength with which syre removes them.

A symmetric loss has ``loss(g theta) = loss(theta)`` for orthogonal matrices g. `P` projects onto the
directions that the symmetry breaks; where ``P theta = 0`` the network is in a symmetric state of low
capacity, which plain gradient descent and decay toward zero never leave. Decay toward a random point (the
penalty ``strength / 2 * |theta - anchor|^2``) makes the loss differ between mirror images and gives it a
gradient out of the symmetric state: the formulas here quantify both (Ziyin et al., "Remove symmetries to
control model expressivity", ICLR 2025, Theorems 3 to 5; their gamma is ``strength / 2``).

Matrices are dense, n × n for n parameters: they are meant for the parameters that a symmetry acts on, not for
whole networks. Functions that make a projector check it, which synchronizes with the device; the others do
not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from plasticity.checks import require_integer, require_number
from plasticity.precision import as_given, in_float64, require_real

__all__ = [
    "broken_projector",
    "expected_group_escape",
    "group_escape_gradient",
    "group_projector",
    "reflection_matrix",
    "reflection_projector",
    "reflection_removal",
    "swap_projector",
    "symmetry_distance",
]


def reflection_projector(vectors: Tensor) -> Tensor:
    """Return the projector P onto the span of the given vectors: the directions that a reflection inverts.

    Args:
        vectors: Rows that span the directions; they need not be orthonormal, nor independent.
            Shape: (count, parameters).

    Returns:
        Symmetric and idempotent, in the dtype of the vectors (at least float32), on their device.
        Shape: (parameters, parameters).

    Raises:
        ValueError: if the vectors are not a matrix, not finite, or all zero.
        TypeError: if they are not real floating-point numbers.

    Examples:
        >>> reflection_projector(torch.tensor([[0.0, 2.0]])) @ torch.tensor([3.0, 4.0])
        tensor([0., 4.])
    """
    require_real("vectors", vectors)
    if vectors.dim() != 2 or vectors.numel() == 0:
        raise ValueError(
            f"vectors must have shape (count, parameters), got {tuple(vectors.shape)}; "
            "give one vector as vector[None]"
        )
    precise = in_float64(vectors)
    if not bool(precise.isfinite().all()):
        raise ValueError("vectors must be finite, got NaN or infinity; remove those rows")
    _, values, basis = torch.linalg.svd(precise, full_matrices=False)
    if not bool(values[0] > 0):
        raise ValueError(
            "vectors span nothing: all are zero; a reflection needs at least one direction to invert"
        )
    # The usual bound of a numerical rank, at the precision of the given vectors.
    bound = max(vectors.shape) * torch.finfo(vectors.dtype).eps * values[0]
    basis = basis[values > bound]
    return as_given(basis.T @ basis, vectors)


def reflection_matrix(projector: Tensor) -> Tensor:
    """Return the reflection ``I - 2 P``, which inverts the directions of P and leaves the others unchanged.

    Args:
        projector: P, from `reflection_projector` or `swap_projector`. Shape: (parameters, parameters).

    Returns:
        An orthogonal matrix that is its own inverse. Shape: (parameters, parameters).

    Raises:
        ValueError: if the projector is not square.
        TypeError: if it does not hold real floating-point numbers.

    Examples:
        >>> reflection_matrix(reflection_projector(torch.tensor([[0.0, 2.0]]))) @ torch.tensor([3.0, 4.0])
        tensor([ 3., -4.])
    """
    return _identity_like(projector) - 2 * projector


def swap_projector(
    first: Sequence[int] | Tensor,
    second: Sequence[int] | Tensor,
    size: int,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return the projector P whose reflection ``I - 2 P`` exchanges two blocks of coordinates.

    Its distance ``|P theta|`` is ``|theta[first] - theta[second]| / √2``. For two neurons of a network, see
    `plasticity.symmetry.distances.neuron_swap_projector`.

    Args:
        first: Indices of one block; its k-th is exchanged with the k-th of the other. Shape: (block,).
        second: Indices of the other block. Shape: (block,).
        size: Number of parameters.
        dtype: Dtype of the projector; None: torch's default.
        device: Device of the projector; None: torch's default.

    Returns:
        Symmetric and idempotent, of rank block. Shape: (size, size).

    Raises:
        ValueError: if the blocks are empty, differ in length, overlap, repeat an index, or contain
            one outside 0 … size - 1.
        TypeError: if an index or the size is not an integer.

    Examples:
        >>> reflection_matrix(swap_projector([0], [1], size=3)) @ torch.tensor([1.0, 2.0, 3.0])
        tensor([2., 1., 3.])
    """
    size = require_integer("size", size, minimum=1)
    blocks = [_indices(name, block, size) for name, block in (("first", first), ("second", second))]
    if len(blocks[0]) != len(blocks[1]) or not blocks[0]:
        raise ValueError(
            f"first has {len(blocks[0])} indices and second {len(blocks[1])}; "
            "an exchange needs two blocks of the same length, at least 1"
        )
    (repeated, times), *_ = Counter(blocks[0] + blocks[1]).most_common(1)
    if times > 1:
        raise ValueError(f"index {repeated} occurs twice in first and second; give disjoint blocks")
    one, other = (torch.tensor(block, device=device) for block in blocks)
    projector = torch.zeros(size, size, dtype=dtype, device=device)
    projector[one, one] = 0.5
    projector[other, other] = 0.5
    projector[one, other] = -0.5
    projector[other, one] = -0.5
    return projector


def group_projector(matrices: Tensor | Sequence[Tensor]) -> Tensor:
    """Return the projector ``P_sym = mean_g g`` onto the subspace that a finite group leaves unchanged.

    The mean of orthogonal matrices is idempotent exactly if it is the projector onto the subspace that each
    of them leaves unchanged, so a set that passes the check has the right projector, even if it is a whole
    group given twice.

    Args:
        matrices: All elements, including the identity. Shape: (elements, parameters, parameters), or a
            sequence of matrices.

    Returns:
        Symmetric and idempotent, in the dtype of the matrices (at least float32), on their device.
        Shape: (parameters, parameters).

    Raises:
        ValueError: if the matrices are not square, not orthogonal, or their mean P has ``P P ≠ P`` (beyond
            1e-6 and the root of their dtype's precision): then elements are missing, or some are repeated
            more often than others.
        TypeError: if they are not real floating-point numbers.

    Examples:
        >>> swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> group_projector([torch.eye(2), swap]) @ torch.tensor([1.0, 3.0])  # their mean, twice
        tensor([2., 2.])
    """
    if not isinstance(matrices, Tensor):
        if not matrices:
            raise ValueError("matrices is empty; a group has at least the identity")
        matrices = torch.stack(list(matrices))
    require_real("matrices", matrices)
    if matrices.dim() != 3 or matrices.shape[1] != matrices.shape[2] or matrices.numel() == 0:
        raise ValueError(
            "matrices must have shape (elements, parameters, parameters), "
            f"got {tuple(matrices.shape)}; stack the elements along the first dimension"
        )
    elements = in_float64(matrices)
    # Matrices in float64 have often passed through float32.
    tolerance = max(1e-6, torch.finfo(matrices.dtype).eps ** 0.5)
    off = (elements.mT @ elements - _identity_like(elements[0])).abs().amax(dim=(1, 2))
    if not bool((off <= tolerance).all()):
        worst = int(off.argmax())
        raise ValueError(
            f"matrices[{worst}] is not orthogonal: g^T g differs from the identity by "
            f"{float(off[worst]):.2g}; change to coordinates in which the group preserves lengths"
        )
    projector = elements.mean(0)
    gap = float((projector @ projector - projector).abs().max())
    if not gap <= tolerance:
        raise ValueError(
            f"the {len(elements)} matrices are not a full group: their mean P has |P P - P| up to {gap:.2g}, "
            "expected 0; give every product of two elements, the identity included, each once"
        )
    # A group holds the inverse of each element, its transpose, so any asymmetry is rounding.
    return as_given((projector + projector.T) / 2, matrices)


def broken_projector(symmetric: Tensor) -> Tensor:
    """Return the projector ``I - P_sym`` onto the directions that a group breaks.

    For the group {I, R} of a single reflection, this is the P of `reflection_projector`.

    Args:
        symmetric: P_sym, from `group_projector`. Shape: (parameters, parameters).

    Returns:
        Symmetric and idempotent. Shape: (parameters, parameters).

    Raises:
        ValueError: if the projector is not square.
        TypeError: if it does not hold real floating-point numbers.

    Examples:
        >>> broken_projector(torch.diag(torch.tensor([1.0, 0.0])))
        tensor([[0., 0.],
                [0., 1.]])
    """
    return _identity_like(symmetric) - symmetric


def symmetry_distance(broken: Tensor, theta: Tensor) -> Tensor:
    """Return the distance ``|P theta|`` of parameters from the symmetric states of low capacity.

    Args:
        broken: P, the projector onto the broken directions, from `reflection_projector`, `swap_projector` or
            `broken_projector`. Shape: (parameters, parameters).
        theta: Parameters. Shape: (..., parameters).

    Returns:
        A non-negative number, in the unit of the parameters. Shape: (...).

    Raises:
        ValueError: if the shapes do not fit.
        TypeError: if the projector does not hold real floating-point numbers.

    Examples:
        >>> broken = torch.diag(torch.tensor([0.0, 1.0]))
        >>> symmetry_distance(broken, torch.tensor([5.0, -2.0])).item()
        2.0
    """
    distance: Tensor = torch.linalg.vector_norm(_projected(broken, "theta", theta), dim=-1)
    return distance


def reflection_removal(
    projector: Tensor,
    theta: Tensor,
    anchor: Tensor,
    strength: float,
    *,
    per_distance: bool = False,
) -> Tensor:
    """Return the loss difference between mirror images under syre (Ziyin et al., 2025, Theorem 3).

    ``|loss(theta) - loss(R theta)| = 2 · strength · |⟨P theta, anchor⟩|``, for a loss that was the same at
    both before the penalty ``strength / 2 * |theta - anchor|^2``.

    Args:
        projector: P of the reflection ``R = I - 2 P``. Shape: (parameters, parameters).
        theta: Parameters (the weights that the network computes with). Shape: (..., parameters).
        anchor: The random point theta_0. Shape: (..., parameters), broadcast against theta.
        strength: Decay strength, as torch's `weight_decay`: twice the paper's gamma. At least 0.
        per_distance: Whether to divide by the distance ``|P theta|`` from the symmetric states. In a
            symmetric state that is 0 / 0, NaN: the quotient then depends on the direction of approach.

    Returns:
        A non-negative number, in the unit of the loss (per unit of the parameters with `per_distance`).
        Shape: (...).

    Raises:
        ValueError: if the shapes do not fit, or the strength is negative or not finite.
        TypeError: if the projector does not hold real floating-point numbers, or the strength is not a
            number.

    Examples:
        >>> projector, theta = torch.diag(torch.tensor([0.0, 1.0])), torch.tensor([5.0, 3.0])
        >>> reflection_removal(projector, theta, torch.ones(2), strength=0.5).item()  # 2 x 0.5 x |3 x 1|
        3.0
    """
    strength = require_number("strength", strength, minimum=0.0)
    broken = _projected(projector, "theta", theta)
    _require_parameters(projector, "anchor", anchor)
    removal = 2 * strength * (broken * anchor).sum(-1).abs()
    return removal / torch.linalg.vector_norm(broken, dim=-1) if per_distance else removal


def group_escape_gradient(symmetric: Tensor, anchor: Tensor, strength: float) -> Tensor:
    """Return the norm of the gradient out of a symmetric state, the same in all of them (Ziyin et al., 2025).

    ``strength · |(I - P_sym) anchor|``: the broken part of the gradient of the loss with the penalty
    ``strength / 2 * |theta - anchor|^2``. A loss that is symmetric under the group adds nothing to it.

    Args:
        symmetric: P_sym, from `group_projector`. Shape: (parameters, parameters).
        anchor: The random point theta_0. Shape: (..., parameters).
        strength: Decay strength, as torch's `weight_decay`: twice the paper's gamma. At least 0.

    Returns:
        A non-negative number, in units of the loss per unit of the parameters. Shape: (...).

    Raises:
        ValueError: if the shapes do not fit, or the strength is negative or not finite.
        TypeError: if the projector does not hold real floating-point numbers, or the strength is not a
            number.

    Examples:
        >>> symmetric = torch.diag(torch.tensor([1.0, 0.0]))
        >>> group_escape_gradient(symmetric, torch.tensor([7.0, 4.0]), strength=0.5).item()
        2.0
    """
    strength = require_number("strength", strength, minimum=0.0)
    return strength * symmetry_distance(broken_projector(symmetric), anchor)


def expected_group_escape(symmetric: Tensor, strength: float, sigma_0: float) -> Tensor:
    """Return the mean square of `group_escape_gradient` over anchors with entries from N(0, sigma_0²).

    ``strength² · sigma_0² · rank(I - P_sym)``: the more directions a symmetry breaks, the sooner it is left.

    Args:
        symmetric: P_sym, from `group_projector`. Shape: (parameters, parameters).
        strength: Decay strength, as torch's `weight_decay`: twice the paper's gamma. At least 0.
        sigma_0: Standard deviation of an anchor's entry, in the unit of the parameters: the setting `sigma`
            divided by √fan-in. At least 0.

    Returns:
        A non-negative number, in squared units of the gradient. Shape: ().

    Raises:
        ValueError: if the projector is not square, or a number is negative or not finite.
        TypeError: if the projector does not hold real floating-point numbers, or an argument is not a number.

    Examples:
        >>> symmetric = torch.diag(torch.tensor([1.0, 0.0, 0.0]))
        >>> expected_group_escape(symmetric, strength=0.5, sigma_0=2.0).item()  # 0.25 x 4 x two directions
        2.0
    """
    strength = require_number("strength", strength, minimum=0.0)
    sigma_0 = require_number("sigma_0", sigma_0, minimum=0.0)
    # The rank of a projector is its trace: no decomposition.
    rank = broken_projector(symmetric).trace().round()
    return (strength * sigma_0) ** 2 * rank


def _projected(projector: Tensor, name: str, vectors: Tensor) -> Tensor:
    _require_square(projector)
    _require_parameters(projector, name, vectors)
    return vectors @ projector.T


def _identity_like(projector: Tensor) -> Tensor:
    _require_square(projector)
    return torch.eye(len(projector), dtype=projector.dtype, device=projector.device)


def _indices(name: str, block: Sequence[int] | Tensor, size: int) -> list[int]:
    entries: list[object] = block.tolist() if isinstance(block, Tensor) else list(block)
    return [
        require_integer(f"{name}[{position}]", entry, minimum=0, maximum=size - 1)
        for position, entry in enumerate(entries)
    ]


def _require_square(projector: Tensor) -> None:
    require_real("a projector", projector)
    if projector.dim() != 2 or projector.shape[0] != projector.shape[1]:
        raise ValueError(
            f"a projector must have shape (parameters, parameters), got {tuple(projector.shape)}; "
            "make one with reflection_projector, swap_projector or group_projector"
        )


def _require_parameters(projector: Tensor, name: str, vectors: Tensor) -> None:
    if vectors.dim() == 0 or vectors.shape[-1] != len(projector):
        raise ValueError(
            f"{name} has shape {tuple(vectors.shape)}, expected (..., {len(projector)}): as many parameters "
            "as the projector; flatten them in its order"
        )
