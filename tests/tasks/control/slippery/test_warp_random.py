"""Random numbers of Warp's walkers, against the published ones of Philox."""

import numpy as np
import pytest

wp = pytest.importorskip("warp", reason="needs plasticity[gpu]")

# Counter, key and result: the known answers shipped with its authors' own library, Random123.
KNOWN = [
    ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF,) * 4,
        0xFFFFFFFFFFFFFFFF,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        0x299F31D0A4093822,
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def test_philox_gives_the_known_answers():
    from plasticity.tasks.control.slippery import warp_physics

    warp_physics.load_modules("ant")
    from plasticity.tasks.control.slippery import warp_random

    counters, keys, expected = zip(*KNOWN, strict=True)
    bits = wp.zeros(3, dtype=wp.vec4ui, device="cpu")
    wp.launch(
        warp_random.random_bits,
        dim=3,
        inputs=[
            wp.array(np.array(keys, np.uint64), dtype=wp.uint64, device="cpu"),
            wp.array(np.array(counters, np.uint32), dtype=wp.vec4ui, device="cpu"),
            bits,
        ],
        device="cpu",
    )
    np.testing.assert_array_equal(bits.numpy(), np.array(expected, np.uint32))
