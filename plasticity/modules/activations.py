"""Activations that keep a unit's gradient alive, as modules."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def negative_relu(sums: Tensor) -> Tensor:
    """Return relu(-sums): how far each is below 0."""
    return functional.relu(-sums)


def identity(sums: Tensor) -> Tensor:
    """Return the sums."""
    return sums


class _Concatenation(nn.Module):
    """Two functions of the same sums, whose outputs are concatenated.

    Args:
        dim: Axis of the units: -1 behind a linear layer, -3 behind a two-dimensional convolution.
    """

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def extra_repr(self) -> str:
        """Return the axis of the units."""
        return f"dim={self.dim}"


class CReLU(_Concatenation):
    """Concatenated ReLU (Shang et al., 2016): relu(z), then relu(-z), along the axis of the units.

    The layer that reads it has twice as many inputs.

    Examples:
        >>> CReLU()(torch.tensor([1.0, -2.0]))
        tensor([1., 0., 0., 2.])
    """

    def forward(self, sums: Tensor) -> Tensor:
        """Return both. Shape: (…, units, …) to (…, 2 units, …)."""
        return torch.cat([functional.relu(sums), negative_relu(sums)], self.dim)


class FourierFeatures(_Concatenation):
    """Deep Fourier features (Lewandowski et al., 2025): sin(z), then cos(z), along the axis of the units.

    The layer that reads them has twice as many inputs.

    Examples:
        >>> FourierFeatures()(torch.zeros(3))
        tensor([0., 0., 0., 1., 1., 1.])
    """

    def forward(self, sums: Tensor) -> Tensor:
        """Return both. Shape: (…, units, …) to (…, 2 units, …)."""
        return torch.cat([torch.sin(sums), torch.cos(sums)], self.dim)


class SmoothLeakyReLU(nn.Module):
    """Smooth-Leaky activation ``a z + (1 - a) z sigmoid(s z)`` (Lillo & Cheney, 2025).

    Args:
        slope: Slope a far below 0.
        sharpness: Factor s within the sigmoid: the paper's c / p.

    Examples:
        >>> SmoothLeakyReLU(slope=0.1)(torch.tensor([-100.0, 0.0, 100.0]))
        tensor([-10.,   0., 100.])
    """

    def __init__(self, slope: float = 0.1, sharpness: float = 5 / 3) -> None:
        super().__init__()
        self.slope, self.sharpness = slope, sharpness

    def forward(self, sums: Tensor) -> Tensor:
        """Return the activation of each entry. Shape: any, which stays."""
        return sums * smooth_factors(sums, self.slope, self.sharpness)

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"slope={self.slope:g}, sharpness={self.sharpness:g}"


def smooth_factors(sums: Tensor, slope: float | Tensor, sharpness: float) -> Tensor:
    """Return the factors of the sums in a Smooth-Leaky activation: from the slope far below 0 to 1 far above.

    Args:
        sums: Shape: any.
        slope: A number, or one for each entry.
        sharpness: Factor of the sums within the sigmoid.
    """
    return slope + (1 - slope) * torch.sigmoid(sharpness * sums)
