"""Each agent draws what its own seed gives, alone or stacked, whether or not drawn ahead."""

import math

import pytest
import torch

from plasticity.agents.ppo.draws import Draws
from plasticity.seeds import child_seed

SEEDS = (4, 7)
NOISE, ORDERS = (5, 3, 2), (2, 15)


def make(discrete=False):
    return Draws(SEEDS, NOISE, ORDERS, (2,), torch.device("cpu"), discrete=discrete)


def generators(name):
    return [torch.Generator().manual_seed(child_seed(seed, name)) for seed in SEEDS]


def test_noise_and_data_orders_are_those_of_the_seeds():
    draws, noise, data_orders = make(), generators("exploration"), generators("minibatches")
    for _ in range(2):
        expected = torch.stack([torch.empty(NOISE).normal_(generator=g) for g in noise])
        assert torch.equal(draws.noise(), expected)
        expected = torch.stack(
            [torch.stack([torch.randperm(15, generator=g) for _ in range(2)]) for g in data_orders]
        )
        assert torch.equal(draws.data_orders(), expected)
        draws.draw_ahead()


@pytest.mark.parametrize("discrete", [False, True])
def test_one_agent_draws_the_same_as_in_a_stack(discrete):
    stacked = make(discrete)
    noise, data_orders = stacked.noise(), stacked.data_orders()
    for index, seed in enumerate(SEEDS):
        alone = Draws([seed], NOISE, ORDERS, (), torch.device("cpu"), discrete=discrete)
        assert torch.equal(alone.noise(), noise[index])
        assert torch.equal(alone.data_orders(), data_orders[index])


def test_discrete_actions_need_gumbel_noise():
    """Its mean is Euler's constant, 0.577, and its variance pi^2 / 6."""
    draws = Draws([0], (100, 100, 10), (1, 1), (), torch.device("cpu"), discrete=True)
    noise = draws.noise()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.02)  # 5 deviations
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, rel=0.05)


def test_drawing_ahead_does_not_change_the_state():
    draws = make()
    draws.noise()
    before = [draws.noise_state(index) for index in range(2)]
    draws.draw_ahead()
    draws.draw_ahead()
    for index in range(2):
        assert torch.equal(draws.noise_state(index), before[index])
    expected = draws.noise().clone()
    draws.set_states(1, before[1], draws.data_order_state(1))
    found = draws.noise()
    assert torch.equal(found[1], expected[1])
    assert not torch.equal(found[0], expected[0])


def test_a_loaded_state_replaces_noise_drawn_ahead():
    draws, other = make(), make()
    other.noise()
    other.data_orders()
    draws.draw_ahead()
    draws.set_states(0, other.noise_state(0), other.data_order_state(0))
    assert torch.equal(draws.noise()[0], other.noise()[0])
    assert torch.equal(draws.data_orders()[0], other.data_orders()[0])


def test_noise_may_be_overwritten():
    draws = make()
    draws.noise().zero_()
    assert draws.noise().all()
