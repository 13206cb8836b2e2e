import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity.metrics.dormancy import dead_fraction, dead_units, dormant_fraction, dormant_units

examples = settings(max_examples=30, deadline=None, database=None, derandomize=True)


def test_hand_computed_layer():
    # Columns: always 0; 0 except for one sample; constant; ordinary.
    activations = torch.tensor(
        [
            [0.0, 0.00, 1.0, 2.0],
            [0.0, 0.12, 1.0, 4.0],
            [0.0, 0.00, 1.0, 0.0],
        ]
    )
    assert dead_units(activations).tolist() == [True, False, False, False]
    assert dead_fraction(activations).item() == 0.25
    # Standard deviations: 0, 0.057, 0, 1.6.
    assert dead_units(activations, saturating=True).tolist() == [True, False, True, False]
    assert dead_fraction(activations, saturating=True).item() == 0.5
    # Means: 0, 0.04, 1, 2; over the layer 0.76; scores: 0, 0.0526, 1.316, 2.63.
    assert dormant_units(activations, tau=0.025).tolist() == [True, False, False, False]
    assert dormant_units(activations, tau=0.06).tolist() == [True, True, False, False]
    assert dormant_fraction(activations, tau=0.06).item() == 0.5
    assert dormant_fraction(activations).item() == 0.25


def test_units_are_counted_not_entries():
    # Half of the entries are 0 and no unit is dead.
    activations = torch.eye(2).repeat(4, 1)
    assert (activations == 0).float().mean() == 0.5
    assert dead_fraction(activations).item() == 0


def test_negative_outputs_count_by_magnitude():
    # Means of the magnitude 1 and 1; plain means would be 0 and 1.
    activations = torch.tensor([[-1.0, 1.0], [1.0, 1.0]])
    assert dormant_fraction(activations).item() == 0
    assert dead_fraction(activations).item() == 0
    # A leaky unit that is always negative still passes on its input.
    assert dead_fraction(-activations.abs()).item() == 0


def test_score_equal_to_tau_is_dormant():
    # Means 1 and 3 over a layer mean of 2: scores 0.5 and 1.5.
    activations = torch.tensor([[1.0, 3.0]])
    assert dormant_units(activations, tau=0.5).tolist() == [True, False]


def test_a_layer_of_zeros_is_entirely_dormant_and_dead():
    zeros = torch.zeros(5, 3)
    assert dormant_fraction(zeros).item() == 1
    assert dormant_fraction(zeros, tau=0.0).item() == 1
    assert dead_fraction(zeros).item() == 1
    assert dead_fraction(zeros, saturating=True).item() == 1


def test_bound_of_saturation_is_a_thousandth():
    # Values ±d around a mean have a standard deviation of d (dividing by the batch, not by batch - 1).
    for deviation, expected in ((0.9e-3, True), (1.1e-3, False)):
        activations = torch.tensor([[1 + deviation], [1 - deviation]], dtype=torch.float64)
        assert dead_units(activations, saturating=True).item() is expected


@pytest.mark.parametrize("factor", [1e-38, 1e30, 1e38])
def test_extreme_scales_neither_overflow_nor_vanish(factor):
    activations = torch.tensor([[0.01, 1.0, 2.0]]).repeat(1000, 1) * factor
    assert dormant_units(activations).tolist() == [True, False, False]


def test_half_precision():
    # 70 000 samples of 1: in float16 their sum and their number would overflow.
    activations = torch.ones(70_000, 2, dtype=torch.float16)
    activations[:, 1] = 0
    assert dormant_fraction(activations).item() == 0.5
    assert dormant_fraction(activations).dtype == torch.float32
    assert dead_fraction(activations, saturating=True).item() == 1


def test_leading_dimensions_are_batched():
    generator = torch.Generator().manual_seed(0)
    activations = torch.randn(2, 3, 20, 8, generator=generator).relu()
    activations[0, 1, :, :3] = 0
    activations[1, 2, :, 5] *= 1e-4
    for count, mark in ((dead_fraction, dead_units), (dormant_fraction, dormant_units)):
        assert count(activations).shape == (2, 3)
        assert mark(activations).shape == (2, 3, 8)
        for i in range(2):
            for j in range(3):
                assert torch.equal(count(activations)[i, j], count(activations[i, j]))
                assert torch.equal(mark(activations)[i, j], mark(activations[i, j]))
    assert dead_fraction(activations)[0, 1].item() == 3 / 8
    assert dormant_fraction(activations)[1, 2].item() == 1 / 8


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_diverged_layer_is_not_reported_as_healthy(value):
    activations = torch.rand(2, 4, 3)
    activations[1, 2, 0] = value
    for fraction in (
        dead_fraction(activations),
        dead_fraction(activations, saturating=True),
        dormant_fraction(activations),
    ):
        assert fraction.isnan().tolist() == [False, True]


@examples
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9), st.floats(0, 1))
def test_invariances(seed, batch, width, tau):
    generator = torch.Generator().manual_seed(seed)
    activations = torch.randn(batch, width, generator=generator, dtype=torch.float64).relu()
    units = torch.randperm(width, generator=generator)
    samples = torch.randperm(batch, generator=generator)
    marked = dormant_units(activations, tau)
    assert torch.equal(dormant_units(activations[:, units], tau), marked[units])
    assert torch.equal(dormant_units(activations[samples], tau), marked)
    assert torch.equal(dormant_units(activations * 1e6, tau), marked)
    # Dead units are dormant at any tau; a larger tau marks no fewer.
    assert bool((dead_units(activations) <= marked).all())
    assert bool((marked <= dormant_units(activations, tau + 0.1)).all())
    assert torch.equal(dormant_units(activations, 0.0), dead_units(activations))


def test_wrong_input_is_rejected():
    for function in (dead_fraction, dead_units, dormant_fraction, dormant_units):
        with pytest.raises(ValueError, match="batch, width"):
            function(torch.ones(3))
        with pytest.raises(ValueError, match="empty"):
            function(torch.ones(0, 3))
        with pytest.raises(TypeError, match=r"torch\.bool"):
            function(torch.ones(2, 3, dtype=torch.bool))
    for tau in (-0.1, math.nan):
        with pytest.raises(ValueError, match="tau"):
            dormant_fraction(torch.ones(2, 3), tau)
