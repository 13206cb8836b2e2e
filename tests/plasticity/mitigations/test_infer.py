import pytest
import torch
from networks_in_training import marker
from torch import nn
from training_by_hooks import (
    assert_attached_as_learned,
    assert_continues,
    assert_same,
    assert_stacked_as_alone,
    weights_after,
)

from plasticity.agents.networks import MLP, ResNet
from plasticity.mitigations import InFeR, Parseval
from plasticity.mitigations.attach import attach


def attached_to(network, inputs, **settings):
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    attached = attach(network, optimizer, InFeR(**settings), inputs=inputs)
    network(inputs)
    return attached, optimizer


def ones():
    """Return a network with two features of 1/2 whatever the input, and functionals that make 1 of them."""
    network = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        network[0].weight.zero_()
        network[0].bias.fill_(0.5)
    return network


def test_value_and_gradient_by_hand():
    # Functionals (1, 1) of the features (1/2, 1/2) make 1, and a scale of 3 wants 3: (1 - 3)² = 4. The
    # gradient with respect to what they make is 2 · (1 - 3) / heads each.
    class Fixed(InFeR):
        def initial_weights(self, network, seed):
            super().initial_weights(network, seed)
            nn.init.ones_(network[2].infer.weight)

    network, inputs = ones(), torch.zeros(5, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    attached = attach(network, optimizer, Fixed(strength=1.0, scale=3.0, heads=2), inputs=inputs)
    network(inputs)
    penalty = attached.penalty()
    assert penalty.item() == pytest.approx(4.0)
    penalty.backward()
    functionals = network[2].infer.weight
    torch.testing.assert_close(functionals.grad, torch.full((2, 2), -2 * 0.5))
    torch.testing.assert_close(network[0].bias.grad, torch.tensor([-4.0, -4.0]))
    assert network[2].weight.grad is None
    optimizer.step()
    torch.testing.assert_close(functionals.detach(), torch.full((2, 2), 1.1))  # it is trained
    torch.testing.assert_close(network[0].bias.detach(), torch.full((2,), 0.9))
    network(inputs)  # 1.1 · 0.9 · 2 = 1.98; the target stays
    assert attached.penalty().item() == pytest.approx((1.98 - 3) ** 2, rel=1e-5)


def test_there_is_none_at_the_beginning_with_a_scale_of_1():
    attached, _ = attached_to(marker(), torch.randn(6, 1, 3, 3), scale=1.0)
    assert attached.penalty().item() == 0


def test_the_network_computes_what_it_did():
    network = ones()
    before = network(torch.ones(2, 1))
    attached_to(network, torch.ones(2, 1))
    assert torch.equal(network(torch.ones(2, 1)), before)
    with pytest.raises(ValueError, match="functionals of infer already"):
        attached_to(network, torch.ones(2, 1))


def test_the_draw_of_the_functionals_depends_on_the_seed_alone():
    drawn = []
    for seed in (0, 0, 1):
        network, random = marker(), torch.get_rng_state()
        InFeR().initial_weights(network, seed)
        assert torch.equal(torch.get_rng_state(), random)
        drawn.append(network.head.infer.weight)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert drawn[0].abs().max() <= 5**-0.5  # of 5 features


@pytest.mark.parametrize("network", [MLP(hidden=(8, 8)), ResNet(width=4, blocks=(1, 1))])
def test_features_of_our_networks(network):
    model = network.make((3, 8, 8), 4, (InFeR(),))
    attached, _ = attached_to(model, torch.randn(6, 3, 8, 8), scale=1.0)
    before = attached.penalty().item()
    assert before < 1e-4  # a pass in training mode has moved the running statistics
    with torch.no_grad():
        next(model.parameters()).mul_(-1.0)
    assert attached.penalty().item() > before


def test_an_output_layer_that_is_not_the_last_one_is_refused():
    class Swapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.body = nn.Linear(4, 2), nn.Linear(3, 4)

        def forward(self, inputs):
            return self.head(torch.tanh(self.body(inputs)))

    with pytest.raises(ValueError, match=r"took 'body', .* but that is \['head'\]"):
        attached_to(Swapped(), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="there is none"):
        InFeR().initial_weights(nn.Sequential(nn.Conv2d(1, 1, 1)), 0)


def test_training_is_as_without_at_a_strength_of_0():
    found, plain = weights_after((InFeR(strength=0.0),)), weights_after(())
    del found.head.infer
    assert_same(found, plain)


def test_stacked_as_alone(ppo_stacked_as_alone):
    methods = [(InFeR(strength=each, scale=2.0),) for each in (0.1, 1.0)]
    assert_stacked_as_alone(*methods)
    ppo_stacked_as_alone(*methods, updates=2)


def test_an_agent_continues_exactly(ppo_continues_exactly):
    ppo_continues_exactly((InFeR(),))


def test_attached_as_learned():
    assert_attached_as_learned((InFeR(scale=2.0),))


def test_training_continues_exactly():
    assert_continues((InFeR(scale=2.0),))


@pytest.mark.parametrize(("field", "value"), [("strength", -1.0), ("scale", -1.0), ("heads", 0)])
def test_a_wrong_setting_is_refused(field, value):
    with pytest.raises(ValueError, match=field):
        InFeR(**{field: value})


def test_a_frozen_output_layer_keeps_the_penalty():
    attached, _ = attached_to(ones(), torch.zeros(5, 1), scale=3.0)
    expected = attached.penalty()
    attached._model[2].weight.requires_grad_(requires_grad=False)
    attached._model[2].bias.requires_grad_(requires_grad=False)
    assert expected > 0
    torch.testing.assert_close(attached.penalty(), expected)


def test_other_mitigations_leave_the_functionals_alone():
    inputs = torch.randn(3, 4)
    values = []
    for method in ((Parseval(),), (InFeR(scale=1.0), Parseval())):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        attached = attach(network, optimizer, *method, inputs=inputs)
        network(inputs)
        values.append(attached.penalty().item())
    assert values[0] == pytest.approx(values[1])
