import math

import pytest
import torch
from torch import nn

from plasticity.mitigations import WeightNoise
from plasticity.mitigations.attach import attach


def after_steps(noise, *, steps, decay=0.0, units=40_000):
    """Return weights that are 0 at first, after steps without gradients of the loss."""
    network = nn.Linear(1, units, bias=False)
    nn.init.zeros_(network.weight)
    # the decay is SGD's: each step multiplies the weights by 1 - 1 * decay
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0, weight_decay=decay)
    attach(network, optimizer, noise)
    for _ in range(steps):
        network.weight.grad = torch.zeros_like(network.weight)
        optimizer.step()
    return network.weight.detach()


def test_the_deviation_is_that_of_one_addition():
    weights = after_steps(WeightNoise(deviation=0.1), steps=1)
    assert weights.std().item() == pytest.approx(0.1, rel=0.02)
    assert abs(weights.mean().item()) < 0.002
    # three independent additions: the variances are added
    assert after_steps(WeightNoise(deviation=0.1), steps=3).std().item() == pytest.approx(
        0.1 * math.sqrt(3), rel=0.02
    )


def test_decay_and_noise_come_to_a_stationary_variance():
    # a = 1 - 0.5: 0.1^2 / (1 - 0.25) = 0.0133
    weights = after_steps(WeightNoise(deviation=0.1), steps=30, decay=0.5)
    assert weights.var().item() == pytest.approx(0.01 / 0.75, rel=0.03)
    # the same, if the mitigation shrinks
    weights = after_steps(WeightNoise(deviation=0.1, shrink=0.5), steps=30)
    assert weights.var().item() == pytest.approx(0.01 / 0.75, rel=0.03)


def test_noise_comes_at_its_cadence():
    assert not after_steps(WeightNoise(every=4), steps=3).any()
    assert after_steps(WeightNoise(every=4), steps=4).all()


def test_without_noise_training_is_as_without(leaves_alone):
    leaves_alone((WeightNoise(deviation=0.0),))


@pytest.mark.parametrize(("field", "value"), [("every", 0), ("deviation", -1), ("shrink", "a")])
def test_a_wrong_setting_is_refused(field, value):
    with pytest.raises((ValueError, TypeError), match=field):
        WeightNoise(**{field: value})


def test_all_forms_agree(trains_alike):
    trains_alike((WeightNoise(deviation=1e-2),), (WeightNoise(deviation=1e-3, shrink=0.99),))
