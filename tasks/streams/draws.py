"""Draws of streams: integers and orders that are pure functions of a seed and keys, the same everywhere.

They come from the raw output of PCG64, seeded by `SeedSequence(seed, spawn_key=keys)`. numpy guarantees that
neither ever changes, which it does not for the methods of `Generator`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def random_integers(count: int, below: int, seed: int, *keys: int) -> Tensor:
    """Draw integers uniformly from 0 to `below` - 1.

    They are remainders of 64-bit integers: the probabilities of two of them differ by less than
    `below` / 2^64 of their size.

    Args:
        count: Number of integers.
        below: Number of values, at least 1.
        seed: Seed, 0 or more, of any number of bits.
        keys: Numbers that tell the draws of one seed apart, such as the index of a task; 0 or more.

    Returns:
        The integers, int64, on the CPU. Shape: (count,).
    """
    return torch.from_numpy((_raw(count, seed, keys) % np.uint64(below)).astype(np.int64))


def random_uniforms(count: int, seed: int, *keys: int) -> Tensor:
    """Draw numbers uniformly from 0 to 1, which 1 itself is never: multiples of 2^-24.

    Arguments are those of `random_integers`.

    Returns:
        The numbers, float32, on the CPU. Shape: (count,).
    """
    numbers = _raw(count, seed, keys) >> np.uint64(40)  # 24 bits, as many as float32 holds exactly
    return torch.from_numpy(numbers.astype(np.float32) * np.float32(2**-24))


def random_order(count: int, seed: int, *keys: int) -> Tensor:
    """Draw a permutation of 0 to `count` - 1: the order that sorts one random 64-bit integer for each.

    The sort is stable, so that the result is unique even if integers are equal. Arguments and result are
    those of `random_integers`.
    """
    return torch.from_numpy(np.argsort(_raw(count, seed, keys), kind="stable").astype(np.int64))


def _raw(count: int, seed: int, keys: tuple[int, ...]) -> np.ndarray:
    raw: np.ndarray = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=keys)).random_raw(
        count
    )
    return raw
