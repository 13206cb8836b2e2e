import pytest
import torch
from networks_in_training import Training
from torch import nn

from plasticity.initialization import Constant
from plasticity.mitigations import ShrinkPerturb
from plasticity.mitigations.attach import attach


@pytest.mark.parametrize("source", ["fresh", "initial"])
def test_weights_are_mixed_with_others(source):
    layer = nn.Linear(2, 1)
    nn.init.constant_(layer.weight, 10.0)
    nn.init.constant_(layer.bias, -1.0)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    initialize = {"*": Constant(10.0)} if source == "fresh" else {}
    method = ShrinkPerturb(shrink=0.4, perturb=0.1, source=source)
    attached = attach(layer, optimizer, method, initialize=initialize)
    with torch.no_grad():
        layer.weight.fill_(2.0)
        layer.bias.fill_(5.0)
    attached.boundary(1)
    # 0.4 * 2 + 0.1 * 10; 0.4 * 5 + 0.1 * (10, or the first bias, -1)
    torch.testing.assert_close(layer.weight, torch.full((1, 2), 1.8))
    torch.testing.assert_close(layer.bias, torch.tensor([3.0 if source == "fresh" else 1.9]))


def test_with_a_shrinkage_of_0_the_network_is_a_new_one():
    torch.manual_seed(0)
    run = Training((ShrinkPerturb(shrink=0.0, perturb=1.0),)).train(5)
    before = run.everything()
    run.hooks.boundary(1, [0])
    after = run.everything()
    for name in ("conv.weight", "fc.bias", "head.weight"):
        assert (after[name] != before[name]).all()
        assert after[name].abs().max() <= after[name][0].numel() ** -0.5 or "bias" in name
    # those of normalizations, running statistics included, are 1 and 0 in a new network
    for name in ("norm.weight", "norm.running_var", "scale.weight"):
        assert (after[name] == 1).all()
    for name in ("norm.bias", "norm.running_mean", "norm.num_batches_tracked", "scale.bias"):
        assert (after[name] == 0).all()
    assert not any(after[name].any() for name in after if "/" in name)  # moments


def test_the_optimizer_begins_anew_only_if_asked():
    run = Training((ShrinkPerturb(restart_optimizer=False),)).train(5)
    before = run.everything()
    run.hooks.boundary(1, [0])
    after = run.everything()
    assert all(torch.equal(after[name], before[name]) for name in after if "/" in name)
    assert not torch.equal(after["fc.weight"], before["fc.weight"])


def test_factors_of_1_and_0_leave_weights_alone():
    network = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(network.parameters())
    attached = attach(
        network, optimizer, ShrinkPerturb(shrink=1.0, perturb=0.0, restart_optimizer=False)
    )
    before = network.weight.clone()
    attached.boundary(1)
    assert torch.equal(network.weight, before)


def test_frozen_weights_stay():
    network = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    network[0].weight.requires_grad_(requires_grad=False)
    optimizer = torch.optim.Adam([network[0].weight, *network[1].parameters()])
    before = {name: each.clone() for name, each in network.named_parameters()}
    attach(network, optimizer, ShrinkPerturb()).boundary(1)
    changed = {
        name for name, each in network.named_parameters() if not torch.equal(each, before[name])
    }
    assert changed == {"1.weight", "1.bias"}  # not 0.bias, which the optimizer does not have


@pytest.mark.parametrize(
    ("field", "value"),
    [("shrink", -0.1), ("perturb", "a"), ("source", "saved"), ("restart_optimizer", 1)],
)
def test_a_wrong_setting_is_refused(field, value):
    with pytest.raises((ValueError, TypeError), match=field):
        ShrinkPerturb(**{field: value})


@pytest.mark.parametrize("source", ["fresh", "initial"])
def test_all_forms_agree(trains_alike, source):
    settings = {"every": 3, "source": source}
    trains_alike((ShrinkPerturb(**settings),), (ShrinkPerturb(shrink=0.9, **settings),))


def test_weights_that_are_trained_later_return_to_the_first_ones_too():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    network[0].requires_grad_(requires_grad=False)
    first = network[0].weight.detach().clone()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    attached = attach(network, optimizer, ShrinkPerturb(shrink=0.0, perturb=1.0, source="initial"))
    network.requires_grad_()
    nn.init.ones_(network[0].weight)
    attached.boundary(1)
    assert torch.equal(network[0].weight, first)
