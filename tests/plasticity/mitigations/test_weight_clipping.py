import pytest
import torch
from networks_in_training import Training
from torch import nn

from plasticity.initialization import Normal, Uniform
from plasticity.mitigations import WeightClipping
from plasticity.mitigations.attach import attach

INPUTS = torch.ones(2, 4)


def clipped(network, weights, *, method=WeightClipping(), layer=None, **settings):  # noqa: B008
    """Return a layer's weights and bias after a step with a rate of 0, in which they have these values."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    attach(network, optimizer, method, inputs=INPUTS, **settings)
    layer = network if layer is None else layer
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weights))
        layer.bias.fill_(-0.9)
    network(INPUTS).sum().backward()
    optimizer.step()
    return layer.weight.flatten().tolist(), layer.bias.tolist()


def test_entries_are_clipped_to_the_bound_of_the_fan_in():
    # fan-in of 4: 0.5
    weights, bias = clipped(nn.Linear(4, 1), [0.7, -0.8, 0.3, -0.5])
    assert weights == pytest.approx([0.5, -0.5, 0.3, -0.5])
    assert bias == [-0.5]
    weights, _ = clipped(nn.Linear(4, 1), [0.7, -0.9, 0.3, 2], method=WeightClipping(kappa=1.6))
    assert weights == pytest.approx([0.7, -0.8, 0.3, 0.8])


@pytest.mark.parametrize(("bound", "expected"), [(1.2, 1.2), (0.5, 0.5), (0.01, 0.5)])
def test_the_bound_is_that_of_a_uniform_distribution_if_it_is_wider(bound, expected):
    network = nn.Linear(4, 1)
    nn.init.uniform_(network.weight, -bound, bound)
    initialize = {"weight": Uniform(bound)}
    weights, bias = clipped(network, [2.0, -0.4, -2.0, 0.0], initialize=initialize)
    assert weights == pytest.approx([expected, -0.4, -expected, 0.0])
    assert bias == [-0.5]


def test_normalizations_and_a_head_that_is_left_out_are_not_clipped():
    network = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 1))
    weights, _ = clipped(
        network, [9.0, 9.0, 9.0, 9.0], method=WeightClipping(head=False), layer=network[3]
    )
    assert weights == [9, 9, 9, 9]
    assert (network[1].weight == 1).all()
    weights, _ = clipped(network[:1], [[9.0] * 4] * 4, layer=network[0])
    assert set(weights) == {0.5}


def test_a_kappa_that_clips_initial_weights_is_refused():
    network = nn.Linear(4, 1)
    nn.init.constant_(network.bias, 0.1)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[0.1, -1.5, 0.2, 1.0]]))
    settings = {"inputs": INPUTS, "initialize": {"weight": Normal(0.7)}}
    for kappa, fits in ((2.9, False), (3.0, True)):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        if fits:
            attach(network, optimizer, WeightClipping(kappa=kappa), **settings)
        else:
            with pytest.raises(ValueError, match="up to 3 times s: give a kappa of at"):
                attach(network, optimizer, WeightClipping(kappa=kappa), **settings)


def test_torchs_own_weights_are_not_clipped_at_first(leaves_alone):
    run = Training((WeightClipping(),))
    before = run.everything()
    run.hooks.after_step()
    torch.testing.assert_close(run.everything(), before, rtol=0, atol=0)
    leaves_alone((WeightClipping(kappa=100.0),))


@pytest.mark.parametrize(("field", "value"), [("every", 0), ("kappa", 0.0), ("head", 1)])
def test_a_wrong_setting_is_refused(field, value):
    with pytest.raises((ValueError, TypeError), match=field):
        WeightClipping(**{field: value})


def test_clipping_twice_is_clipping_once():
    run = Training((WeightClipping(),)).train(6)
    before = run.everything()
    run.hooks.after_step()
    torch.testing.assert_close(run.everything(), before, rtol=0, atol=0)


def test_all_forms_agree(trains_alike):
    found = trains_alike((WeightClipping(),), (WeightClipping(kappa=1.05),))
    assert [each["fc.weight"].abs().max().item() * 12**0.5 for each in found] == pytest.approx(
        [1, 1.05]
    )


def test_frozen_weights_are_neither_clipped_nor_refused():
    network = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    nn.init.constant_(network[0].weight, 9.0)
    network[0].requires_grad_(requires_grad=False)
    weights, _ = clipped(network, [[9.0] * 4], layer=network[2])
    assert set(weights) == {0.5}
    assert (network[0].weight == 9).all()


def test_without_any_layer_to_clip_nothing_happens():
    weights, _ = clipped(nn.Linear(4, 1), [9.0] * 4, method=WeightClipping(head=False))
    assert weights == [9, 9, 9, 9]
