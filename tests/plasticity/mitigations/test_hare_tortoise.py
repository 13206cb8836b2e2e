import pytest
import torch
from networks_in_training import Training
from torch import nn

from plasticity.mitigations import HareTortoise
from plasticity.mitigations.attach import attach


def test_the_tortoise_follows_and_the_hare_returns_to_it():
    layer = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(layer.weight)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1.0)
    attached = attach(layer, optimizer, HareTortoise(mu=0.5, copy_every=3))
    nn.init.ones_(layer.weight)
    optimizer.param_groups[0]["lr"] = 0.0
    found = []
    for _ in range(3):
        layer.weight.grad = torch.ones(1, 1)
        optimizer.step()
        with attached.evaluating():
            found.append(layer.weight.item())
        if len(found) < 3:
            assert layer.weight.item() == 1
    assert found == [0.5, 0.75, 0.875]
    assert layer.weight.item() == 0.875
    state = optimizer.state[layer.weight]
    assert not any(state[name].any() for name in ("exp_avg", "exp_avg_sq", "step"))


def test_the_hare_runs_as_without_until_it_is_set_back(leaves_alone):
    leaves_alone((HareTortoise(copy_every=1000),))


def test_the_optimizer_keeps_its_state_if_asked():
    method = HareTortoise(copy_every=4, restart_optimizer=False)
    run = Training((method,)).train(4).everything()
    assert run["fc.weight/0"].any()
    torch.testing.assert_close(
        run["fc.weight/0"], Training(()).train(4).everything()["fc.weight/0"]
    )


@pytest.mark.parametrize(
    ("field", "value"), [("mu", 1.1), ("copy_every", 0), ("restart_optimizer", 1)]
)
def test_a_wrong_setting_is_refused(field, value):
    with pytest.raises((ValueError, TypeError), match=field):
        HareTortoise(**{field: value})


def test_all_forms_agree(trains_alike):
    trains_alike((HareTortoise(mu=0.9, copy_every=4),), (HareTortoise(mu=0.5, copy_every=4),))


def test_small_steps_are_not_lost_in_half_precision():
    layer = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    nn.init.ones_(layer.weight)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    attach(layer, optimizer, HareTortoise(mu=0.999, copy_every=1000))
    nn.init.constant_(layer.weight, 2.0)
    for _ in range(1000):
        layer.weight.grad = torch.zeros_like(layer.weight)
        optimizer.step()
    # 2 - 0.999^1000, to the 8 bits of a weight; a tortoise of 8 bits would never leave 1
    assert layer.weight.item() == pytest.approx(2 - 0.999**1000, abs=0.01)


def test_weights_that_are_frozen_later_stay():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    attached = attach(network, optimizer, HareTortoise(mu=0.9, copy_every=2))
    for _ in range(2):
        optimizer.zero_grad()
        network(torch.ones(3, 2)).sum().backward()
        optimizer.step()
        network[0].requires_grad_(requires_grad=False)
        before = network[0].weight.clone()
    assert torch.equal(network[0].weight, before)
    with attached.evaluating():
        assert not torch.equal(network[0].weight, before)
