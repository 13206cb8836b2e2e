"""Flushing of numbers below the normal range."""

import torch

from plasticity.agents.execution.denormals import flushed_denormals


def test_flushed_denormals_ends_with_its_block():
    tiny = torch.full((), 1e-40)
    assert tiny * 1.0 != 0
    with flushed_denormals():
        assert tiny * 1.0 == 0
        with flushed_denormals():
            pass
        assert tiny * 1.0 == 0
    assert tiny * 1.0 != 0
