"""Ranks of a feature matrix: six definitions, all functions of its singular values.

All of them share one decomposition, which is accurate enough for each of their thresholds. For features of
at most 32 bits it is that of the *smaller* Gram matrix, accumulated in float64: squaring the singular
values costs half of the digits, so those below about ``sqrt(max(batch, width)) * 4e-8`` of the largest are
lost in rounding. That is always below ``max(batch, width) * 1.2e-7``, the finest threshold in use
(`numerical_rank` in float32). A Gram matrix accumulated in float32 would not be accurate enough, nor would
one of float64 features: those are decomposed directly.

Decompositions on ``cuda`` always synchronize inside torch; ``mps`` has neither float64 nor decompositions, so
features there are decomposed on the CPU and the ranks are copied back.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "approximate_rank",
    "effective_rank",
    "feature_rank",
    "numerical_rank",
    "rank_summary",
    "srank",
    "stable_rank",
]


def effective_rank(features: Tensor) -> Tensor:
    """Compute the exponential of the entropy of the normalised singular values (Roy & Vetterli, 2007).

    ``exp(-Σ p_i ln p_i)`` with ``p = s / Σ s``. It does not depend on the scale of the features.

    Args:
        features: Activations of one layer, one row per sample. Convolution maps count one unit per channel:
            pass them as (samples × positions, channels). Float16 and bfloat16 are computed as float32.
            Shape: (..., batch, width).

    Returns:
        A number from 1 to min(batch, width), in the dtype of the features (at least float32). Zero features
        have rank 0. Shape: (...).

    Raises:
        ValueError: if a feature is not finite (the message names the first such entry; the check
            synchronizes with the device once), if batch or width is empty, or if there are fewer than two
            dimensions.
        TypeError: if the features are not real floating-point numbers.

    Examples:
        >>> effective_rank(torch.eye(8, 4)).item()  # four directions of equal size
        4.0
    """
    return _effective_rank_of(_spectrum(features))


def srank(features: Tensor, delta: float = 0.01) -> Tensor:
    """Count the singular values that hold a share ``1 - delta`` of their sum (Kumar et al., 2021).

    The smallest k with ``Σ_{i≤k} s_i / Σ s_i ≥ 1 - delta``. A share that misses the bound only by
    rounding meets it, so that an orthogonal matrix has the same rank in every dtype.

    Beware:
        Several papers and code bases (the reinforcement-learning logs of Dohare et al., Nature 2024;
        Plasticine) report this number as "stable rank". `stable_rank` is another quantity,
        usually much smaller.

    Args:
        features: As in `effective_rank`. Shape: (..., batch, width).
        delta: Share of the sum that may be left out, in [0, 1).

    Returns:
        An integer (int64) from 1 to min(batch, width). Zero features have rank 0. Shape: (...).

    Raises:
        ValueError: as in `effective_rank`, or if delta is outside [0, 1).
        TypeError: if the features are not real floating-point numbers.

    Examples:
        >>> features = torch.diag(torch.tensor([90.0, 9.0, 0.9, 0.1]))
        >>> srank(features).item()  # 90 + 9 is 99 % of their sum
        2
    """
    _require_delta(delta)
    spectrum = _spectrum(features)
    return _smallest_covering(spectrum.values, delta, spectrum)


def approximate_rank(features: Tensor, delta: float = 0.01) -> Tensor:
    """Count the principal directions that hold a share ``1 - delta`` of ``‖F‖²`` (Yang et al., 2020).

    The smallest k with ``Σ_{i≤k} s_i² / Σ s_i² ≥ 1 - delta``: `srank` with squared singular values.

    Args:
        features: As in `effective_rank`; the features are not centred. Shape: (..., batch, width).
        delta: Share of the squared norm that may be left out, in [0, 1).

    Returns:
        An integer (int64) from 1 to min(batch, width). Zero features have rank 0. Shape: (...).

    Raises:
        ValueError: as in `effective_rank`, or if delta is outside [0, 1).
        TypeError: if the features are not real floating-point numbers.

    Examples:
        >>> features = torch.diag(torch.tensor([10.0, 2.0, 0.1]))
        >>> approximate_rank(features).item()  # 100 is 96 % of 104.01, the sum of the squares
        2
    """
    _require_delta(delta)
    spectrum = _spectrum(features)
    return _smallest_covering(spectrum.values.square(), delta, spectrum)


def stable_rank(features: Tensor) -> Tensor:
    """Compute ``‖F‖_F² / ‖F‖_2²``, or ``Σ s_i² / s_1²`` (Rudelson & Vershynin, 2007).

    Beware:
        Several papers and code bases (the reinforcement-learning logs of Dohare et al., Nature 2024;
        Plasticine) report `srank` as "stable rank". To compare with their figures, use `srank`.

    Args:
        features: As in `effective_rank`. Shape: (..., batch, width).

    Returns:
        A number from 1 to min(batch, width), in the dtype of the features (at least float32). Zero features
        have rank 0. Shape: (...).

    Raises:
        ValueError: as in `effective_rank`.
        TypeError: if the features are not real floating-point numbers.

    Examples:
        >>> stable_rank(torch.diag(torch.tensor([2.0, 1.0, 1.0]))).item()  # (4 + 1 + 1) / 4
        1.5
    """
    return _stable_rank_of(_spectrum(features))


def numerical_rank(features: Tensor) -> Tensor:
    """Count the singular values above the rounding error (Golub & Van Loan).

    The number of ``s_i > max(batch, width) · eps · s_1``, as in `torch.linalg.matrix_rank`; ``eps`` is that
    of the features' dtype, or of float32 for float16 and bfloat16 (with their own, 1e-3 and 8e-3, the bound
    would exceed ``s_1`` for a batch of a thousand or more, and every rank would be 0). In float32 a batch of
    100 000 puts the bound at 1 % of ``s_1``: pass float64 features where that is too coarse.

    Args:
        features: As in `effective_rank`. Shape: (..., batch, width).

    Returns:
        An integer (int64) from 0 to min(batch, width). Zero features have rank 0. Shape: (...).

    Raises:
        ValueError: as in `effective_rank`.
        TypeError: if the features are not real floating-point numbers.

    Examples:
        >>> features = torch.ones(8, 4)  # all units are equal
        >>> numerical_rank(features).item()
        1
    """
    return _numerical_rank_of(_spectrum(features))


def feature_rank(features: Tensor, eps: float = 0.01) -> Tensor:
    """Count the ``s_i / sqrt(batch) > eps`` (Lyle et al., 2022), which depends on the scale of the features.

    Args:
        features: As in `effective_rank`. Shape: (..., batch, width).
        eps: Bound in the unit of the features, at least 0. Float32 features resolve bounds down to about
            ``max(batch, width) · 1e-7 · s_1 / sqrt(batch)``; below, rounding decides.

    Returns:
        An integer (int64) from 0 to min(batch, width). Shape: (...).

    Raises:
        ValueError: as in `effective_rank`, or if eps is negative or not finite.
        TypeError: if the features are not real floating-point numbers.

    Examples:
        >>> features = torch.diag(torch.tensor([1.0, 0.1, 0.001, 0.0]))
        >>> feature_rank(features).item()  # singular values over the root of 4: 0.5, 0.05, 0.0005, 0
        2
    """
    _require_eps(eps)
    return _feature_rank_of(_spectrum(features), eps)


def rank_summary(features: Tensor, *, delta: float = 0.01, eps: float = 0.01) -> dict[str, Tensor]:
    """Compute all six ranks from one decomposition, each bit for bit equal to its own function.

    Args:
        features: As in `effective_rank`. Shape: (..., batch, width).
        delta: As in `srank` and `approximate_rank`.
        eps: As in `feature_rank`.

    Returns:
        The ranks by function name. Shape of each: (...).

    Raises:
        ValueError: as in `effective_rank`, or if delta or eps is out of its range.
        TypeError: if the features are not real floating-point numbers.

    Examples:
        >>> ranks = rank_summary(torch.eye(8, 4))
        >>> ranks["srank"].item(), ranks["stable_rank"].item()
        (4, 4.0)
    """
    _require_delta(delta)
    _require_eps(eps)
    spectrum = _spectrum(features)
    return {
        "effective_rank": _effective_rank_of(spectrum),
        "srank": _smallest_covering(spectrum.values, delta, spectrum),
        "approximate_rank": _smallest_covering(spectrum.values.square(), delta, spectrum),
        "stable_rank": _stable_rank_of(spectrum),
        "numerical_rank": _numerical_rank_of(spectrum),
        "feature_rank": _feature_rank_of(spectrum, eps),
    }


def require_feature_matrices(features: Tensor) -> None:
    """Check the shape and dtype (not the values) of a stack of feature matrices, without synchronizing.

    Args:
        features: Matrices to check, of real floating-point numbers. Shape: (..., batch, width).

    Raises:
        ValueError: if there are fewer than two dimensions, or batch or width is empty.
        TypeError: if the features are not a tensor of real floating-point numbers.
    """
    if not isinstance(features, Tensor):
        raise TypeError(f"features must be a torch.Tensor, got {type(features).__name__}")
    if not features.is_floating_point():
        raise TypeError(
            f"features must be real floating-point numbers, got {features.dtype}; use features.float()"
        )
    shape = tuple(features.shape)
    if len(shape) < 2:
        raise ValueError(
            f"features must have shape (..., batch, width), got {shape}; flatten each sample to one row"
        )
    if shape[-2] == 0 or shape[-1] == 0:
        raise ValueError(f"features of shape {shape} are empty; batch and width must be at least 1")


class _Spectrum(NamedTuple):
    values: Tensor
    """Singular values divided by `scale`, float64, largest first. Shape: (..., min(batch, width))."""
    scale: Tensor
    """Scale in float64, above 0, such that the squares of `values` stay in range. Shape: (...)."""
    batch: int
    width: int
    dtype: torch.dtype
    """Dtype of the features, at least float32."""
    device: torch.device
    """Device that the ranks are returned on."""


def _spectrum(features: Tensor) -> _Spectrum:
    require_feature_matrices(features)
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    batch, width = features.shape[-2:]
    matrix = features.detach()
    if matrix.device.type == "mps":
        matrix = matrix.cpu()
    largest = matrix.abs().amax(dim=(-2, -1)).to(torch.float64)
    if not bool(largest.isfinite().all()):
        _raise_not_finite(features)
    if dtype == torch.float64:
        scale = torch.where(largest > 0, largest, 1.0)
        values = torch.linalg.svdvals(matrix / scale[..., None, None])
    else:
        # Squares of float32 numbers, 1e-90 to 1e77, are well inside the range of float64.
        scale = torch.ones_like(largest)
        values = _values_from_gram(matrix.to(torch.float64))
    return _Spectrum(values, scale, batch, width, dtype, features.device)


def _values_from_gram(matrix: Tensor) -> Tensor:
    batch, width = matrix.shape[-2:]
    gram = matrix.mT @ matrix if batch >= width else matrix @ matrix.mT
    squares = torch.linalg.eigvalsh(gram).flip(-1)
    # Below this floor an eigenvalue is rounding error; set to zero, it adds to no entropy and no count. The
    # root of the floor, sqrt(8 max(n, m) 2.2e-16), is below max(n, m) 1.2e-7 for every shape.
    floor = 8 * max(batch, width) * torch.finfo(torch.float64).eps * squares[..., :1]
    return torch.where(squares > floor, squares, 0.0).sqrt()


def _raise_not_finite(features: Tensor) -> None:
    position = (~features.detach().isfinite()).nonzero()[0].tolist()
    value = features.detach()[tuple(position)].item()
    raise ValueError(
        f"features{position} is {value}; ranks are defined for finite features only. "
        "Has the network diverged? Check its loss and its weight norm."
    )


def _require_delta(delta: float) -> None:
    if not 0 <= delta < 1:
        raise ValueError(f"delta must be in [0, 1), got {delta}; 0.01 leaves out one percent")


def _require_eps(eps: float) -> None:
    if not (eps >= 0 and math.isfinite(eps)):
        raise ValueError(
            f"eps must be at least 0 and finite, got {eps}; the published value is 0.01"
        )


def _effective_rank_of(spectrum: _Spectrum) -> Tensor:
    total = spectrum.values.sum(-1)
    shares = spectrum.values / torch.where(total > 0, total, 1.0)[..., None]
    rank = torch.special.entr(shares).sum(-1).exp()
    # Rounding may exceed the range by an ulp.
    rank = rank.clamp(1, spectrum.values.shape[-1])
    return torch.where(total > 0, rank, 0.0).to(spectrum.device, spectrum.dtype)


def _smallest_covering(amounts: Tensor, delta: float, spectrum: _Spectrum) -> Tensor:
    covered = amounts.cumsum(-1)
    total = covered[..., -1:]
    # Equal singular values put the bound exactly on a partial sum (99 of 100 ones, delta 0.01), where the
    # rounding of the features would decide: it moves the shares by at most about eps * sqrt(their number).
    rounding = torch.finfo(spectrum.dtype).eps * math.sqrt(amounts.shape[-1])
    missing = covered < (1 - delta - rounding) * total
    return torch.where(total[..., 0] > 0, missing.sum(-1) + 1, 0).to(spectrum.device)


def _stable_rank_of(spectrum: _Spectrum) -> Tensor:
    largest = spectrum.values[..., :1]
    ratios = spectrum.values / torch.where(largest > 0, largest, 1.0)
    return ratios.square().sum(-1).to(spectrum.device, spectrum.dtype)


def _numerical_rank_of(spectrum: _Spectrum) -> Tensor:
    relative = max(spectrum.batch, spectrum.width) * torch.finfo(spectrum.dtype).eps
    bound = relative * spectrum.values[..., :1]
    return (spectrum.values > bound).sum(-1).to(spectrum.device)


def _feature_rank_of(spectrum: _Spectrum, eps: float) -> Tensor:
    # In units of the scale: the singular values of float64 features may overflow.
    bound = eps * math.sqrt(spectrum.batch) / spectrum.scale
    return (spectrum.values > bound[..., None]).sum(-1).to(spectrum.device)
