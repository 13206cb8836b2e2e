"""Passes that add up to one step: accumulation, GradScaler, schedulers, clipping."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import pytest
import torch
from torch import nn

from plasticity.mitigations import Mitigation, ReDo, Syre
from plasticity.mitigations.attach import attach


@dataclass(frozen=True, kw_only=True)
class Watch(Mitigation):
    """Record of the features and gradients at each step."""

    name: ClassVar[str] = "watch"
    claims: ClassVar[str] = "nothing"
    reads_units: ClassVar[bool] = True
    features: list
    gradients: list
    sizes: list

    def before_step(self, context):
        self.gradients.append({name: each.clone() for name, each in context.gradients.items()})

    def after_step(self, context):
        self.features.append(context.features("0").detach())
        self.sizes.append(context.batch_size)


@dataclass(frozen=True, kw_only=True)
class Activity(Mitigation):
    """Penalty on the features of the current pass."""

    name: ClassVar[str] = "activity"
    claims: ClassVar[str] = "the activity"
    reads_units: ClassVar[bool] = True

    def penalty(self, context):
        return context.features("0").square().mean()


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3))


INPUTS = torch.randn(32, 5, generator=torch.Generator().manual_seed(1))


def assert_close(model, other):
    torch.testing.assert_close(model.state_dict(), other.state_dict())


def assert_equal(model, other):
    torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=0, atol=0)


def watched(model, optimizer):
    watch = Watch(features=[], gradients=[], sizes=[])
    attach(model, optimizer, watch)
    return watch


@pytest.mark.parametrize("micro_batches", [2, 4])
def test_micro_batches_are_one_batch(micro_batches):
    found = []
    for parts in (1, micro_batches):
        model = make_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        watch = Watch(features=[], gradients=[], sizes=[])
        attached = attach(model, optimizer, watch, ReDo(every=2, tau=0.5), seed=2)
        for step in range(4):
            optimizer.zero_grad()
            for part in (INPUTS + 0.1 * step).chunk(parts):
                (model(part).square().mean() / parts).backward()
            optimizer.step()
        found.append((model, watch, attached.take_counts()))
    (whole, one, counts), (accumulated, several, own_counts) = found
    assert own_counts == counts
    assert counts["reset_units/0"] > 0
    assert_close(accumulated, whole)
    torch.testing.assert_close(several.features, one.features)
    torch.testing.assert_close(several.gradients, one.gradients)


def test_penalty_is_that_of_the_pass_in_each_micro_batch():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attached = attach(model, optimizer, Activity())
    gradients = []
    for part in INPUTS.chunk(2):
        model(part)
        penalty = attached.penalty()
        expected = model[:2](part).square().mean()
        torch.testing.assert_close(penalty, expected)
        gradients.append(torch.autograd.grad(expected, model[0].weight)[0])
        penalty.backward()
    torch.testing.assert_close(model[0].weight.grad, sum(gradients))
    optimizer.step()


@pytest.mark.parametrize("zero_grad", ["before the pass", "after the pass"])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_passes_of_gradients_that_were_dropped_do_not_count(zero_grad, accumulated):
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = watched(model, optimizer)
    expected = []
    for attempt in range(3):  # the last of which leads to a step
        for part in (INPUTS + attempt).chunk(accumulated):
            is_first = part[0, 0] == INPUTS[0, 0] + attempt
            if is_first and zero_grad == "before the pass":
                optimizer.zero_grad()
            outputs = model(part)
            if is_first and zero_grad == "after the pass":
                optimizer.zero_grad()
            outputs.square().mean().backward()
        expected = model[:2](INPUTS + attempt).detach()
    optimizer.step()
    torch.testing.assert_close(watch.features, [expected])
    assert watch.sizes == [32]


def test_loop_that_calls_the_layers_themselves():
    model = make_model()  # as Stable-Baselines3 calls the parts of its policy
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = Watch(features=[], gradients=[], sizes=[])
    attach(model, optimizer, watch, inputs=INPUTS)
    model[2](model[:2](INPUTS)).square().mean().backward()
    expected = make_model()[:2](INPUTS).detach()
    optimizer.step()
    torch.testing.assert_close(watch.features, [expected])
    assert watch.sizes == [32]


OPTIMIZERS = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "fused SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, fused=True),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    "fused AdamW": lambda parameters: torch.optim.AdamW(
        parameters, lr=0.01, weight_decay=0.0, fused=True
    ),
}


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_steps_that_a_scaler_skips_are_none(kind, unscale):
    """Steps 1 and 4 overflow: the loop is that of the other four batches without a scaler."""
    method = ReDo(every=2, tau=0.5), Syre(strength=0.1, sigma=0.5)
    runs = []
    for scaled in (False, True):
        model = make_model()
        optimizer = OPTIMIZERS[kind](model.parameters())
        # before each step the scale is another: it is halved by an overflow, and doubled by two steps
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2, enabled=scaled)
        watch = Watch(features=[], gradients=[], sizes=[])
        attached = attach(model, optimizer, watch, *method, inputs=INPUTS)
        for step in range(6):
            if step in (1, 4) and not scaled:
                continue
            optimizer.zero_grad()
            loss = model(INPUTS * (1 + step / 10)).square().mean()
            loss = loss * (float("inf") if step in (1, 4) else 1.0)
            scaler.scale(loss).backward()
            if unscale:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            elif not scaled:
                pass
            scaler.step(optimizer)
            scaler.update()
        assert not hasattr(optimizer, "grad_scale")
        counts = attached.take_counts()
        runs.append((model, watch, counts, attached.state_dict()["mitigations"]["steps"]))
    (plain, one, counts, steps), (model, other, own_counts, own_steps) = runs
    assert steps == own_steps == 4
    assert own_counts == counts
    assert counts["reset_units/0"] > 0
    assert_close(model, plain)
    torch.testing.assert_close(other.features, one.features)
    torch.testing.assert_close(other.gradients, one.gradients)


@pytest.mark.parametrize("kind", ["fused SGD", "fused AdamW"])
def test_scaled_steps_keep_their_bits(kind):
    runs = []
    for is_attached in (False, True):
        model = make_model()
        optimizer = OPTIMIZERS[kind](model.parameters())
        scaler = torch.amp.GradScaler("cpu", init_scale=1000.0)  # no power of two
        if is_attached:
            attach(model, optimizer, ReDo(every=100))
        for step in range(4):
            optimizer.zero_grad()
            scaler.scale(model(INPUTS + step).square().mean()).backward()
            scaler.step(optimizer)
            scaler.update()
        runs.append(model)
    assert_equal(*runs)


@dataclass(frozen=True, kw_only=True)
class Shrink(Mitigation):
    """Weights times 1 - (the learning rate) after each step."""

    name: ClassVar[str] = "shrink"

    def after_step(self, context):
        for name, each in context.parameters.items():
            each.mul_(1 - context.learning_rate(name))


@pytest.mark.parametrize("kind", [torch.optim.SGD, partial(torch.optim.SGD, fused=True)])
def test_projection_follows_steps_accumulation_schedule_and_scaler(kind):
    """Two micro-batches are a step; of three steps the scaler skips the second; rates are 0.5 and 0.25."""
    model = make_model()
    optimizer = kind(model.parameters(), lr=0.5)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    attach(model, optimizer, Shrink())
    weight = model[0].weight.detach().clone()
    for factor, kept in ((0.0, 0.5), (float("inf"), 0.5), (0.0, 0.375)):
        optimizer.zero_grad()
        for _ in range(2):
            scaler.scale(factor * model(INPUTS).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        if factor == 0.0:
            schedule.step()
        # 1 * (1 - 0.5) = 0.5, then 0.5 * (1 - 0.25) = 0.375; gradients are 0
        torch.testing.assert_close(model[0].weight.detach(), kept * weight)


def test_schedule_scales_a_decoupled_decay():
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    attach(model, optimizer, Syre(strength=1.0, sigma=0.0))
    weight = model[0].weight.detach().clone()
    for rate in (0.1, 0.05, 0.025):
        for each in model.parameters():
            each.grad = torch.zeros_like(each)
        optimizer.step()
        schedule.step()
        weight *= 1 - rate
        torch.testing.assert_close(model[0].weight.detach(), weight)


def test_clipping_comes_before_the_decay():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    attach(model, optimizer, Syre(strength=0.5, sigma=0.0))
    before = model[0].weight.detach().clone()
    model(INPUTS).square().sum().backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    clipped = model[0].weight.grad.clone()
    optimizer.step()
    torch.testing.assert_close(model[0].weight.detach(), 0.5 * before - clipped)
    assert torch.equal(model[0].weight.grad, clipped)  # as it was
