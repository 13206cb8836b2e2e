"""NT-Xent: closed forms, and the formula written as a loop."""

import math

import pytest
import torch

from plasticity.agents.self_supervised.nt_xent import nt_xent


def test_closed_forms():
    axes = torch.eye(2, dtype=torch.float64)
    # Each output: its partner with a cosine of 1, two others with 0.
    expected = math.log(1 + 2 * math.exp(-1 / 0.5))
    assert nt_xent(axes, 3 * axes, 0.5).item() == pytest.approx(expected)
    # All alike: one of three.
    assert nt_xent(torch.ones(2, 4), torch.ones(2, 4)).item() == pytest.approx(math.log(3))
    # Opposite views: the partner has -1, one other 0, and one 0.
    assert nt_xent(axes, -axes, 1.0).item() == pytest.approx(math.log(1 + 2 * math.e))
    # A single example has nothing to confuse it with.
    assert nt_xent(torch.rand(1, 3), torch.rand(1, 3)).item() == 0.0


def test_equals_the_loop():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    outputs, losses = torch.cat([first, second]), []
    for i in range(10):
        terms = {
            k: math.exp(torch.cosine_similarity(outputs[i], outputs[k], 0).item() / 0.2)
            for k in range(10)
            if k != i
        }
        losses.append(-math.log(terms[(i + 5) % 10] / sum(terms.values())))
    assert nt_xent(first, second, 0.2).item() == pytest.approx(sum(losses) / 10)


def test_gradients_are_finite_and_those_of_the_loss():
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda both: nt_xent(*both), (views,))


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"one shape \(n, size\): \(2, 3\), \(3, 3\)"):
        nt_xent(torch.rand(2, 3), torch.rand(3, 3))
    with pytest.raises(ValueError, match="temperature must be above 0"):
        nt_xent(torch.rand(2, 3), torch.rand(2, 3), 0.0)
