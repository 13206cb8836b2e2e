"""Each stacked agent draws the same as PPO with its seed, whether or not drawn ahead."""

import torch

from plasticity.agents.ppo.stacked_draws import StackedDraws
from plasticity.seeds import child_seed

SEEDS = (4, 7)
NOISE, ORDERS = (5, 3, 2), (2, 15)


def make():
    return StackedDraws(SEEDS, NOISE, ORDERS, torch.device("cpu"))


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
