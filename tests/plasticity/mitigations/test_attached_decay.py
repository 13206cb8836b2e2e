"""Attached decays against `regularized` optimizers with the same groups."""

import pytest
import torch
from torch import nn

from plasticity.mitigations import L2Init, Syre, WeightDecay
from plasticity.mitigations.attach import attach
from plasticity.optim import parameter_groups, regularized
from plasticity.seeds import child_seed

DECAYS = {
    "weight-decay": lambda **more: WeightDecay(strength=0.1, **more),
    "syre": lambda **more: Syre(strength=0.1, sigma=0.5, **more),
    "anisotropic syre": lambda **more: Syre(strength=0.1, sigma=0.5, anisotropy=0.3, **more),
    "syre of factors alone": lambda **more: Syre(strength=0.1, sigma=0.0, anisotropy=0.3, **more),
    "l2-init": lambda **more: L2Init(strength=0.1, **more),
}
BASES = {
    "SGD": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "plain SGD": (torch.optim.SGD, {"lr": 0.1}),
    "Adam": (torch.optim.Adam, {"lr": 0.01}),
    "AdamW": (torch.optim.AdamW, {"lr": 0.01}),
    "Adam, decoupled": (torch.optim.Adam, {"lr": 0.01, "decoupled_weight_decay": True}),
    "RMSprop": (torch.optim.RMSprop, {"lr": 0.01}),
}


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(
        *(
            nn.Conv2d(1, 3, 3, bias=False),
            nn.BatchNorm2d(3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(12, 5),
        ),
        *(nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 2)),
    ).double()


def train(model, optimizer, steps=5, sign=1):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        inputs = torch.randn(6, 1, 4, 4, generator=generator, dtype=torch.float64)
        (sign * model(inputs).square().mean()).backward()
        optimizer.step()


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("decoupled", [None, True, False])
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("decay", DECAYS)
def test_agrees_with_a_regularized_optimizer(decay, base, decoupled, maximize):
    kind, options = BASES[base]
    options = options | {"maximize": maximize}
    method = DECAYS[decay](decoupled=decoupled)
    own, other, plain = make_model(), make_model(), make_model()
    if "AdamW" in base:
        optimizer = kind(own.parameters(), weight_decay=0.0, **options)
    else:
        optimizer = kind(own.parameters(), **options)
    attach(own, optimizer, method, seed=7)
    # the settings written out, without the hook of the method
    settings = {"regularizer": method.name, "strength": 0.1, "decoupled": decoupled}
    if method.name == "syre":
        settings |= {"sigma": method.sigma, "anisotropy": method.anisotropy}
    groups = parameter_groups(other, anchor_seed=child_seed(7, "anchor"), **settings)
    sign = -1 if maximize else 1
    train(own, optimizer, sign=sign)
    train(other, regularized(kind)(groups, **options), sign=sign)
    train(plain, kind(plain.parameters(), **options | ({"weight_decay": 0.0})), sign=sign)
    torch.testing.assert_close(own.state_dict(), other.state_dict(), rtol=1e-7, atol=1e-9)
    assert not torch.allclose(own[4].weight, plain[4].weight, rtol=1e-4)


def test_gradients_are_as_before_the_step():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(model, optimizer, WeightDecay(strength=0.5))
    model(torch.ones(2, 1, 4, 4, dtype=torch.float64)).square().mean().backward()
    gradients = {name: each.grad for name, each in model.named_parameters()}
    values = {name: each.clone() for name, each in gradients.items()}
    optimizer.step()
    for name, each in model.named_parameters():
        assert each.grad is gradients[name]
        assert torch.equal(each.grad, values[name])


def test_groups_decay_by_their_own_learning_rate_and_form():
    model = make_model()
    groups = [
        {"params": model[4].parameters(), "lr": 0.5, "decoupled_weight_decay": True},
        {"params": model[7].parameters(), "lr": 0.25, "decoupled_weight_decay": True},
        {"params": model[0].parameters(), "decoupled_weight_decay": False},
    ]
    optimizer = torch.optim.Adam(groups, lr=0.125)
    attach(model, optimizer, WeightDecay(strength=0.1))
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    for each in model.parameters():
        each.grad = torch.zeros_like(each)
    optimizer.step()
    torch.testing.assert_close(model[4].weight.detach(), before["4.weight"] * (1 - 0.05))
    torch.testing.assert_close(model[7].weight.detach(), before["7.weight"] * (1 - 0.025))
    # coupled: Adam's first step is lr * sign(strength * weight)
    expected = before["0.weight"] - 0.125 * before["0.weight"].sign()
    torch.testing.assert_close(model[0].weight.detach(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(model[5].weight, before["5.weight"])  # a normalization is not decayed


def test_parameters_without_a_gradient_stay():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(model, optimizer, Syre(strength=0.5, sigma=0.5))
    before = model[4].weight.detach().clone()
    model[7].weight.grad = torch.zeros_like(model[7].weight)
    frozen = model[7].weight.detach().clone()
    optimizer.step()
    assert torch.equal(model[4].weight, before)
    assert not torch.equal(model[7].weight, frozen)


def test_anchors_of_l2_init_are_saved():
    model, other = make_model(), make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attached = attach(model, optimizer, L2Init(strength=0.5))
    train(model, optimizer)
    other.load_state_dict(model.state_dict())
    continued = torch.optim.SGD(other.parameters(), lr=0.1)
    own = attach(other, continued, L2Init(strength=0.5))  # whose anchors are the trained weights
    own.load_state_dict(attached.state_dict())
    train(model, optimizer)
    train(other, continued)
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)
    small = nn.Sequential(nn.Linear(2, 2))
    refused = attach(small, torch.optim.SGD(small.parameters(), lr=0.1), L2Init())
    with pytest.raises(
        ValueError, match=r"The state has anchors of .*'4.weight'.* but this model needs"
    ):
        refused.load_state_dict(attached.state_dict())


@pytest.mark.parametrize(
    "make",
    [
        torch.optim.AdamW,
        lambda parameters: torch.optim.SGD(parameters, lr=0.1, weight_decay=0.1),
        lambda parameters: regularized(torch.optim.SGD)(
            parameters, lr=0.1, regularizer="syre", strength=0.1
        ),
    ],
)
def test_second_decay_is_refused(make):
    model = make_model()
    before = model[4].weight.detach().clone()
    with pytest.raises(ValueError, match=r"second one: set it to 0|is regularized already"):
        attach(model, make(model.parameters()), Syre())
    assert torch.equal(model[4].weight, before)


def test_optimizers_that_no_decay_can_join():
    model = make_model()
    with pytest.raises(ValueError, match="Rprop cannot be regularized: it uses only the sign"):
        attach(model, torch.optim.Rprop(model.parameters()), Syre())
    adafactor = torch.optim.Adafactor(model.parameters(), weight_decay=0.0)
    with pytest.raises(ValueError, match="give decoupled=False"):
        attach(model, adafactor, Syre())
    attach(model, adafactor, Syre(decoupled=False))


def test_sparse_gradients_take_a_decoupled_decay_only():
    model = nn.Embedding(5, 3, sparse=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    attached = attach(model, optimizer, WeightDecay(strength=0.5))
    model(torch.tensor([1])).sum().backward()
    with pytest.raises(
        RuntimeError, match="cannot be added to a sparse gradient: give decoupled=True"
    ):
        optimizer.step()
    attached.detach()
    before = model.weight.detach().clone()
    attach(model, optimizer, WeightDecay(strength=0.5, decoupled=True))
    optimizer.step()
    torch.testing.assert_close(model.weight.detach()[2], before[2] * 0.75)
