import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from plasticity.metrics.trainability import Trainability, trainability


def network(width=32, outputs=4):
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, outputs))


def inputs(count=32):
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(9))


def dead_network():
    """Return a network whose hidden units are all 0 on every input: only the last bias still learns."""
    model = network()
    nn.init.constant_(model[0].bias, -1e3)
    return model


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_dead_network_learns_no_more_than_a_constant(task):
    torch.manual_seed(0)
    result = trainability(dead_network(), inputs(), task=task, steps=300, learning_rate=1e-2)
    # The best constant output for the same targets, which depend only on the seed.
    generator = torch.Generator().manual_seed(0)
    if task == "classification":
        labels = torch.randint(4, (32,), generator=generator)
        shares = torch.bincount(labels, minlength=4) / 32
        best = -(shares * shares.log()).sum().item()
    else:
        targets = torch.randn(32, 4, generator=generator, dtype=torch.float64)
        best = targets.var(0, correction=0).mean().item()
    assert result.loss == pytest.approx(best, rel=0.02)
    assert result.fresh_loss < 0.3 * best
    assert result.ratio > 3


def test_a_new_network_is_about_as_trainable_as_a_new_network():
    torch.manual_seed(5)
    result = trainability(network(), inputs(), steps=100, learning_rate=1e-2)
    assert 0.5 < result.ratio < 2


def test_with_itself_as_the_fresh_network_the_ratio_is_one():
    # Both draw the same dropout masks, too.
    torch.manual_seed(5)
    model = with_everything()
    result = trainability(model, inputs(), steps=20, fresh=model)
    assert result.loss == result.fresh_loss
    assert result.ratio == 1


def test_one_step_on_a_linear_network_by_hand():
    # f = w x with w = 0: Adam's first step is learning_rate · sign(-gradient), its gradient -2 E[x y].
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    samples = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    targets = torch.randn(2, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    weight = 0.1 * (samples * targets).sum().sign()
    expected = (weight * samples - targets).square().mean().item()
    result = trainability(
        model, samples, task="regression", steps=1, learning_rate=0.1, seed=3, fresh=model
    )
    assert result.loss == pytest.approx(expected, rel=1e-6)


def with_everything():
    return nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 4)
    )


def test_the_loss_is_taken_in_evaluation_mode_after_training_in_training_mode():
    # At a vanishing learning rate only the running statistics change, once per step.
    torch.manual_seed(0)
    model = with_everything()
    result = trainability(model, inputs(), steps=2, learning_rate=1e-12, fresh=model)
    labels = torch.randint(4, (32,), generator=torch.Generator().manual_seed(0))
    model.train()
    for _ in range(2):
        model(inputs())
    expected = functional.cross_entropy(model.eval()(inputs()), labels).item()
    assert result.loss == pytest.approx(expected, rel=1e-6)


def test_same_seed_same_result_other_seed_other_task():
    torch.manual_seed(0)
    model = with_everything()
    first = trainability(model, inputs(), steps=5, seed=1)
    torch.manual_seed(99)
    assert trainability(model, inputs(), steps=5, seed=1) == first
    other = trainability(model, inputs(), steps=5, seed=2)
    assert other.loss != first.loss
    assert other.fresh_loss != first.fresh_loss


def test_the_fresh_loss_does_not_depend_on_the_state_of_the_network():
    torch.manual_seed(0)
    healthy = trainability(network(), inputs(), steps=5)
    dead = trainability(dead_network(), inputs(), steps=5)
    assert healthy.fresh_loss == dead.fresh_loss
    assert healthy.loss != dead.loss


def test_the_model_and_the_global_state_are_unchanged():
    torch.manual_seed(0)
    model, newcomer = with_everything(), with_everything()
    for module in (model, newcomer):
        module(inputs()).sum().backward()
        module[3].eval()
    before = [
        (
            {k: v.clone() for k, v in m.state_dict().items()},
            [p.grad.clone() for p in m.parameters()],
        )
        for m in (model, newcomer)
    ]
    samples = inputs()
    random_state = torch.get_rng_state()

    trainability(model, samples, steps=3, fresh=newcomer)
    trainability(model, samples, steps=3)

    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(samples, inputs())
    for module, (state, gradients) in zip((model, newcomer), before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
        for parameter, gradient in zip(module.parameters(), gradients, strict=True):
            assert torch.equal(parameter.grad, gradient)
        assert [child.training for child in module] == [True, True, True, False, True]


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_it_learns_with_gradients_disabled(off):
    torch.manual_seed(0)
    model = network()
    expected = trainability(model, inputs(), steps=5)
    with off():
        assert trainability(model, inputs() * 1, steps=5) == expected


def test_frozen_parameters_stay_frozen():
    # Only the last bias is free: no better than a constant, however long it trains.
    torch.manual_seed(0)
    model = network().requires_grad_(False)
    nn.init.zeros_(model[2].weight)
    model[2].bias.requires_grad_(True)
    result = trainability(model, inputs(), steps=300, learning_rate=1e-2, fresh=model)
    labels = torch.randint(4, (32,), generator=torch.Generator().manual_seed(0))
    logits = (torch.bincount(labels, minlength=4) / 32).log().expand(32, 4)
    assert result.loss == pytest.approx(functional.cross_entropy(logits, labels).item(), rel=1e-3)


class Scaled(nn.Module):
    """Module that owns a parameter, with or without `reset_parameters`."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, values):
        return values * self.scale


def test_a_module_that_cannot_be_reset_needs_a_fresh_network():
    model = nn.Sequential(Scaled(), network())
    with pytest.raises(ValueError, match=r"0 \(Scaled\) has parameters.*fresh="):
        trainability(model, inputs(), steps=1)
    result = trainability(model, inputs(), steps=1, fresh=nn.Sequential(Scaled(), network()))
    assert math.isfinite(result.ratio)


class Zeroed(nn.Module):
    """Module whose own scheme sets the weights to zero that its child would draw."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def reset_parameters(self):
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, values):
        return self.linear(values)


def test_a_modules_own_scheme_overrides_its_children():
    model = Zeroed()
    result = trainability(model, inputs(), steps=1, learning_rate=1e-12)
    # Zero weights: every class has probability 1/4.
    assert result.fresh_loss == pytest.approx(math.log(4), rel=1e-6)


def test_divergence_is_reported_not_hidden():
    model = network()
    nn.init.constant_(model[0].weight, math.nan)
    result = trainability(model, inputs(), steps=1)
    assert math.isnan(result.loss)
    assert math.isnan(result.ratio)
    assert math.isfinite(result.fresh_loss)


def test_result_is_a_frozen_pair_of_numbers():
    assert Trainability(loss=3.0, fresh_loss=2.0).ratio == 1.5
    assert Trainability(loss=0.0, fresh_loss=0.0).ratio == 1
    assert Trainability(loss=3.0, fresh_loss=0.0).ratio == math.inf
    with pytest.raises(dataclasses.FrozenInstanceError):
        Trainability(1.0, 1.0).loss = 2.0


def test_wrong_input_is_rejected():
    model = network()
    with pytest.raises(ValueError, match="no sample"):
        trainability(model, inputs(0))
    with pytest.raises(ValueError, match="steps"):
        trainability(model, inputs(), steps=0)
    for rate in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="learning_rate"):
            trainability(model, inputs(), learning_rate=rate)
    with pytest.raises(ValueError, match="'ranking'"):
        trainability(model, inputs(), task="ranking")
    with pytest.raises(ValueError, match=r"two classes or more, got \(32, 1\)"):
        trainability(network(outputs=1), inputs())
    with pytest.raises(ValueError, match="frozen"):
        trainability(network().requires_grad_(False), inputs())
