"""Named child seeds: the random numbers for one purpose do not depend on any other purpose."""

from __future__ import annotations

import hashlib

from plasticity.checks import MAX_SEED, require_integer


def child_seed(seed: int, name: str) -> int:
    """Derive the seed of one purpose from a run's seed.

    Args:
        seed: Seed of the run, 0 to 2**64 - 1.
        name: Name of the purpose, such as "weights" or "order/3/0".

    Returns:
        An integer from 0 to 2**63 - 1, the same on every machine (the leading bits of a SHA-256 digest).

    Raises:
        TypeError: if the seed is not an integer.
        ValueError: if it is out of range.
    """
    require_integer("seed", seed, minimum=0, maximum=MAX_SEED)
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
