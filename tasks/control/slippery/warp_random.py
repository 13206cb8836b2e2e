"""Random numbers of environments in Warp: pure functions of seed, episode and position.

This module imports Warp, so that only other modules of kernels may import it.
"""
# mypy: ignore-errors
# The function bodies are in Warp's language, whose types are not Python's.

import warp as wp

# No gradients; and loops stay loops, which compile in a fraction of the time.
wp.set_module_options({"enable_backward": False, "max_unroll": 1})

# Philox 4x32: J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
PHILOX_MULTIPLIER_0 = wp.constant(wp.uint64(0xD2511F53))
PHILOX_MULTIPLIER_1 = wp.constant(wp.uint64(0xCD9E8D57))
PHILOX_WEYL_0 = wp.constant(wp.uint32(0x9E3779B9))
PHILOX_WEYL_1 = wp.constant(wp.uint32(0xBB67AE85))
PHILOX_ROUNDS = wp.constant(10)


@wp.func
def _low(number: wp.uint64) -> wp.uint32:
    return wp.uint32(number & wp.uint64(0xFFFFFFFF))


@wp.func
def _high(number: wp.uint64) -> wp.uint32:
    return wp.uint32(number >> wp.uint64(32))


@wp.func
def philox(counter: wp.vec4ui, key: wp.uint64) -> wp.vec4ui:
    """Return 128 random bits, a pure function of counter and key."""
    key_0 = _low(key)
    key_1 = _high(key)
    for _ in range(PHILOX_ROUNDS):
        product_0 = PHILOX_MULTIPLIER_0 * wp.uint64(counter[0])
        product_1 = PHILOX_MULTIPLIER_1 * wp.uint64(counter[2])
        counter = wp.vec4ui(
            _high(product_1) ^ counter[1] ^ key_0,
            _low(product_1),
            _high(product_0) ^ counter[3] ^ key_1,
            _low(product_0),
        )
        key_0 += PHILOX_WEYL_0
        key_1 += PHILOX_WEYL_1
    return counter


@wp.func
def random_block(seed: wp.uint64, episode: wp.uint64, block: int) -> wp.vec4ui:
    """Return four random numbers of 32 bits: block `block` of an episode's."""
    return philox(wp.vec4ui(wp.uint32(block), wp.uint32(0), _low(episode), _high(episode)), seed)


@wp.func
def uniform(bits: wp.uint32) -> float:
    """Return a float in (0, 1): the midpoint of one of 2^23 equal intervals, exact in float32."""
    return (float(bits >> wp.uint32(9)) + 0.5) * 1.1920928955078125e-07


@wp.func
def uniform_noise(seed: wp.uint64, episode: wp.uint64, number: int, half_width: float) -> float:
    """Return the number `number` of an episode's, uniform in (-half_width, half_width)."""
    bits = random_block(seed, episode, number // 4)
    return half_width * (2.0 * uniform(bits[number % 4]) - 1.0)


@wp.kernel
def random_bits(
    seeds: wp.array[wp.uint64], counters: wp.array[wp.vec4ui], bits: wp.array[wp.vec4ui]
) -> None:
    """Write the raw output of Philox, for its test."""
    i = wp.tid()
    bits[i] = philox(counters[i], seeds[i])
