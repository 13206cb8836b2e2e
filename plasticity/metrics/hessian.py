"""Rank of the loss's Hessian by the Lanczos process, from products of the Hessian with vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from plasticity.checks import require_integer, require_number
from plasticity.precision import accumulator, wide_dtype

__all__ = ["hessian_product", "hessian_rank", "ritz_values", "symmetric_rank"]

Product = Callable[[Tensor], Tensor]
"""Product of a symmetric matrix with a vector. Shape: (dimension,) to (dimension,)."""

ORDER, PROBES, EPSILON = 100, 3, 0.01

BREAKDOWN = 10.0
"""Length of a remainder, in roundings of the largest number so far, at which the Krylov space ends."""


def hessian_rank(
    model: nn.Module,
    loss: Callable[[nn.Module], Tensor],
    *,
    epsilon: float = EPSILON,
    order: int = ORDER,
    probes: int = PROBES,
    seed: int = 0,
) -> Tensor:
    """Estimate the share of the Hessian's eigenvalues that exceed epsilon in magnitude.

    The share falls where the loss becomes flat in most directions (the spectral collapse of Prakash et al.,
    2026). It is the sum of the Lanczos weights of the Ritz values above epsilon (Ghorbani et al., 2019),
    averaged over probes. The values are not smoothed into a density: a kernel as wide as epsilon would count
    the many eigenvalues of 0 as larger ones. Epsilon is fixed in advance, not by what the share then
    predicts. With no more distinct eigenvalues than `order`, the expectation over probes is exact; with
    more, a Ritz value near 0 stands for many eigenvalues.

    Each of the `order × probes` products costs about two backward passes.

    Args:
        model: Network in the mode in which its loss is measured (`Tracker` and `preserve_state` set
            evaluation mode). Frozen parameters are left out. Its gradients are left as they are.
        loss: Function that returns the loss of the module that it is given on labelled samples, a scalar that
            can be differentiated twice.
        epsilon: Bound on the magnitude of an eigenvalue, at least 0.
        order: Most Lanczos steps of each probe; each keeps a vector as large as the network.
        probes: Number of random directions to begin from, at least 1.
        seed: Seed of the directions, drawn on the CPU from a generator of its own.

    Returns:
        A share from 0 to 1, float64, on the CPU: each step waits for the device. Shape: ().

    Raises:
        ValueError: if a number is out of range, the loss is not a scalar or not finite, a product with the
            Hessian is not finite, or no parameter is trainable.

    Examples:
        >>> model, inputs = nn.Linear(4, 1), torch.randn(32, 4)
        >>> share = hessian_rank(model, lambda model: model(inputs).square().mean(), order=5)
        >>> 0 <= share <= 1
        tensor(True)
    """
    parameters = [each for each in model.parameters() if each.requires_grad]
    if not parameters:
        raise ValueError("no parameter of the model requires a gradient; unfreeze those to measure")
    # Fused attention cannot be differentiated twice.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        value = loss(model)
        if value.ndim or not bool(value.isfinite()):
            raise ValueError(
                f"loss must return one finite number, got {value}; has the network diverged?"
            )
        product = hessian_product(value, parameters)
        return symmetric_rank(
            product,
            sum(each.numel() for each in parameters),
            epsilon=epsilon,
            order=order,
            probes=probes,
            seed=seed,
            like=parameters[0],
        )


def hessian_product(loss: Tensor, parameters: Sequence[Tensor]) -> Product:
    """Return the function that multiplies the Hessian of a loss with a vector.

    The graph of the gradient is made once; each product is one pass backwards through it.

    Args:
        loss: Scalar with a graph.
        parameters: Parameters of which the Hessian is taken; the vector's entries are in their order.
    """
    gradients = torch.autograd.grad(
        loss, parameters, create_graph=True, allow_unused=True, materialize_grads=True
    )
    curved = [position for position, each in enumerate(gradients) if each.requires_grad]
    sizes = [each.numel() for each in parameters]

    def product(vector: Tensor) -> Tensor:
        parts = torch.split(vector, sizes)
        if not curved:  # a loss that is linear in its parameters
            return torch.zeros_like(vector)
        found = torch.autograd.grad(
            [gradients[position] for position in curved],
            parameters,
            [
                parts[position].view_as(gradients[position]).to(gradients[position])
                for position in curved
            ],
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        return torch.cat([each.flatten().to(vector) for each in found])

    return product


def symmetric_rank(
    product: Product,
    dimension: int,
    *,
    epsilon: float = EPSILON,
    order: int = ORDER,
    probes: int = PROBES,
    seed: int = 0,
    like: Tensor | None = None,
) -> Tensor:
    """Estimate the share of a symmetric matrix's eigenvalues that exceed epsilon in magnitude.

    Args:
        product: Product of the matrix with a vector.
        dimension: Number of its rows.
        epsilon: As in `hessian_rank`.
        order: As in `hessian_rank`.
        probes: As in `hessian_rank`.
        seed: As in `hessian_rank`.
        like: Tensor on the device and in the dtype (at least float32) of the vectors. None: float64, on the
            CPU.

    Returns:
        The mean over probes of the sum of weights. Shape: ().

    Raises:
        ValueError: if a number is out of range, or a product is not finite.
    """
    require_number("epsilon", epsilon, minimum=0.0)
    require_integer("order", order, minimum=1)
    require_integer("probes", probes, minimum=1)
    generator = torch.Generator().manual_seed(seed)
    like = torch.empty(0, dtype=torch.float64) if like is None else like
    shares = []
    for _ in range(probes):
        probe = torch.randn(dimension, generator=generator, dtype=torch.float64)
        start = (probe / probe.norm()).to(like.device, wide_dtype(like), copy=True)
        values, weights = ritz_values(product, start, order)
        shares.append(weights[values.abs() > epsilon].sum())
    return torch.stack(shares).mean().clamp(0.0, 1.0)


def ritz_values(product: Product, start: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues of a symmetric matrix in the Krylov space of a vector, and their weights.

    The vectors are orthogonalised twice against all earlier ones, without which converged eigenvalues
    return as copies. Where the space is smaller than `order`, the process ends, and is exact.

    Args:
        product: Product of the matrix with a vector.
        start: Vector of norm 1. Shape: (dimension,).
        order: Most steps, at least 1.

    Returns:
        Ritz values, ascending, and the squares of the first entries of their vectors, which sum to 1;
        float64, on the CPU. Shape of each: (steps,).

    Raises:
        ValueError: if a product is not finite.
    """
    wide = accumulator(start.device)
    order = min(order, len(start))
    basis = start.new_zeros(order, len(start))
    diagonal: list[float] = []
    beside: list[float] = []
    vector, scale = start, 0.0
    for step in range(order):
        basis[step] = vector
        found = product(vector)
        known = basis[: step + 1]
        diagonal.append(float(torch.dot(found.to(wide), vector.to(wide))))
        for _ in range(2):
            found = found - known.T @ (known @ found)
        length = float(torch.linalg.vector_norm(found, dtype=wide))
        if not length < float("inf"):
            raise ValueError(
                f"the product of the Hessian with a vector is not finite at Lanczos step {step}; has the"
                " network diverged? Check its loss and its weight norm."
            )
        scale = max(scale, abs(diagonal[-1]), length)
        # What remains of a vector of the space already found is rounding, whose direction means nothing.
        if step + 1 == order or length <= BREAKDOWN * torch.finfo(start.dtype).eps * scale:
            break
        beside.append(length)
        vector = found / length
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    matrix += torch.diag(torch.tensor(beside, dtype=torch.float64), 1)
    matrix += torch.diag(torch.tensor(beside, dtype=torch.float64), -1)
    values, vectors = torch.linalg.eigh(matrix)
    return values, vectors[0].square()
