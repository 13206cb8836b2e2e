"""Noise of hidden units that is a function of a seed and of the number of passes so far."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from plasticity.modules.activations import smooth_factors

BITS = 32
"""Bits of a random number."""

MASK = 2**BITS - 1


class SeededNoise(nn.Module):
    """Base of layers whose noise is a function of a seed and of the number of passes so far.

    Both are buffers. A run that continues from them draws the same noise, on any device, and stacked networks
    draw what each would draw alone, which torch's generators cannot do. Layers of one network need seeds of
    their own, or their noise is the same.

    Args:
        seed: Seed, 0 to 2**63 - 1.
    """

    seed: Tensor
    passes: Tensor

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.register_buffer("seed", torch.tensor(seed))
        self.register_buffer("passes", torch.tensor(0))

    def next_bits(self, like: Tensor) -> Tensor:
        """Return a random number of 32 bits for each entry of a tensor, and count a pass. Int64."""
        entries = torch.arange(like.numel(), device=like.device).view(like.shape)
        bits = random_bits(self.seed, self.passes, entries)
        self.passes += 1
        return bits


class SeededDropout(SeededNoise):
    """Inverted dropout with the noise of `SeededNoise`.

    Args:
        probability: Probability that an entry is dropped, below 1.
        seed: Seed, 0 to 2**63 - 1.

    Examples:
        >>> dropped = SeededDropout(0.5)(torch.ones(1000))
        >>> dropped.unique()  # the others make up for those that are missing
        tensor([0., 2.])
    """

    def __init__(self, probability: float, seed: int = 0) -> None:
        super().__init__(seed)
        self.probability = probability

    def forward(self, features: Tensor) -> Tensor:
        """Return the features with some entries dropped, or as they are in evaluation mode.

        Shape: any, which stays.
        """
        if not self.training:
            return features
        kept = self.next_bits(features) >= self.probability * 2**BITS
        return torch.where(kept, features / (1 - self.probability), 0)

    def extra_repr(self) -> str:
        """Return the probability."""
        return f"probability={self.probability}"


class RandomSlopes(SeededNoise):
    """Factors of sums in a leaky ReLU whose slope is random: uniform, drawn for each entry at each pass.

    In evaluation mode, the slope is the middle of its range.

    Args:
        lower: Smallest slope.
        upper: Largest slope.
        sharpness: Factor of the sums within the sigmoid of the Smooth-Leaky activation. None: not smooth,
            with the slope for sums up to 0, and 1 for others.
        seed: Seed, 0 to 2**63 - 1.
    """

    def __init__(
        self,
        lower: float = 1 / 8,
        upper: float = 1 / 3,
        sharpness: float | None = 5 / 3,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self.lower, self.upper, self.sharpness = lower, upper, sharpness

    def forward(self, sums: Tensor) -> Tensor:
        """Return the factors. Shape: any, which stays."""
        slopes: float | Tensor = (self.lower + self.upper) / 2
        if self.training:
            uniform = self.next_bits(sums) / 2**BITS
            slopes = (self.lower + (self.upper - self.lower) * uniform).to(sums.dtype)
        if self.sharpness is not None:
            return smooth_factors(sums, slopes, self.sharpness)
        return torch.where(sums > 0, torch.ones_like(sums), slopes)

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"lower={self.lower:g}, upper={self.upper:g}, sharpness={self.sharpness}"


class RandomizedLeakyReLU(RandomSlopes):
    """Randomized Smooth-Leaky activation (Lillo & Cheney, 2025), or randomized leaky ReLU (Xu et al., 2015).

    The arguments are those of `RandomSlopes`, whose factors the sums are multiplied by.

    Examples:
        >>> activation = RandomizedLeakyReLU(sharpness=None)
        >>> activation(torch.tensor([1.0, 2.0]))  # what is positive stays
        tensor([1., 2.])
    """

    def forward(self, sums: Tensor) -> Tensor:
        """Return the activation of each entry. Shape: any, which stays."""
        return sums * super().forward(sums)


def random_bits(seed: Tensor, passes: Tensor, entries: Tensor) -> Tensor:
    """Return a random number of 32 bits for each entry, a function of the arguments alone.

    Args:
        seed: Seed, at least 0. Int64. Shape: ().
        passes: Number of earlier passes. Int64. Shape: ().
        entries: Indices of entries. Int64. Shape: any.

    Returns:
        Int64, 0 to 2**32 - 1. Shape: that of the entries.
    """
    key = _mixed(_mixed(_mixed(seed >> BITS) ^ seed) ^ passes)
    return _mixed(_mixed(entries ^ key) + _mixed(key ^ MASK))


def _mixed(numbers: Tensor) -> Tensor:
    """Mix the lower 32 bits: a bijection of low bias, by C. Wellons ("hash-prospector", lowbias32)."""
    numbers = numbers & MASK
    # A product may overflow 64 bits, but its lower 32 are right.
    numbers = ((numbers ^ (numbers >> 16)) * 0x7FEB352D) & MASK
    numbers = ((numbers ^ (numbers >> 15)) * 0x846CA68B) & MASK
    return numbers ^ (numbers >> 16)
