"""Training of small networks by the hooks alone, of one and of stacked ones, in float64."""

import copy

import torch
from networks_in_training import adam, images, marker, single, stacked

from plasticity.agents.execution.single import SingleNetwork
from plasticity.mitigations import SeededMethod
from plasticity.mitigations.attach import attach
from plasticity.mitigations.hooks import Hooks
from plasticity.seeds import child_seed


def learn(run, optimizer, hooks, batches):
    """Take a step on each batch, as a learner does."""
    hooks.begin(lambda: batches[0])
    for inputs in batches:
        optimizer.zero_grad()
        outputs, layer_inputs = run.with_inputs_of(hooks.recorded_layers, inputs)
        hooks.observe(inputs, layer_inputs)
        losses = torch.sin(outputs + 1).mean((-1, -2))
        penalty = hooks.penalty()
        losses = losses if penalty is None else losses + penalty
        losses.backward(torch.ones_like(losses))
        hooks.before_step()
        optimizer.step()
        hooks.after_step()


def prepared(method, seed=0, make=marker):
    """Return a network in float64, as a method wants it before its optimizer is made."""
    model = make(seed).double()
    SeededMethod(method, anchor_seed=seed).prepare(model)
    return model


def alone(model, method, seed=0, make_optimizer=adam):
    """Return a network as it is run, its optimizer, and the hooks of a method."""
    optimizer = make_optimizer(model)
    networks = single(model, optimizer, images().double())
    return SingleNetwork(model), optimizer, Hooks([method], networks, [seed])


def assert_stacked_as_alone(*methods, steps=7, make=marker, make_optimizer=adam):
    """Check that each network has the weights and the state of a stack's row, to 1e-9."""
    models = [prepared(method, seed, make) for seed, method in enumerate(methods)]
    rows = [[images(seed=10 * step + run).double() for step in range(steps)] for run in range(3)]
    rows = rows[: len(models)]
    networks, run, optimizer = stacked(copy.deepcopy(models), images().double(), make_optimizer)
    together = Hooks(methods, networks, range(len(models)))
    learn(run, optimizer, together, [torch.stack(each) for each in zip(*rows, strict=True)])
    for index, (model, method, batches) in enumerate(zip(models, methods, rows, strict=True)):
        own_run, own_optimizer, hooks = alone(model, method, index, make_optimizer)
        learn(own_run, own_optimizer, hooks, batches)
        expected, found = dict(model.named_parameters()), networks.of_run(index).parameters
        states = [each.state_dict(number) for each, number in ((hooks, 0), (together, index))]
        for name, each in expected.items():
            torch.testing.assert_close(found[name], each.detach(), rtol=1e-9, atol=1e-9)
        for mitigation in method:
            own, of_stack = (each[mitigation.name]["state"] for each in states)
            torch.testing.assert_close(own, of_stack, rtol=1e-9, atol=1e-9)


def batches_of(steps):
    return [images(seed=step).double() for step in range(steps)]


def weights_after(method, steps=7, make=marker, make_optimizer=adam):
    """Return a network that was trained with a method."""
    model = prepared(method, make=make)
    run, optimizer, hooks = alone(model, method, make_optimizer=make_optimizer)
    learn(run, optimizer, hooks, batches_of(steps))
    return model


def assert_same(model, other):
    expected = other.state_dict()
    for name, each in expected.items():
        assert torch.equal(model.state_dict()[name], each), name


def assert_continues(method, steps=7, stop=4, make=marker):
    """Check that training goes on exactly from a state in its middle."""
    whole = weights_after(method, steps, make)
    models = [prepared(method, make=make) for _ in range(2)]
    first, second = (alone(model, method) for model in models)
    learn(*first, batches_of(steps)[:stop])
    models[1].load_state_dict(models[0].state_dict())
    for own, other in zip(second[1:], first[1:], strict=True):  # of the optimizer and the hooks
        own.load_state_dict(copy.deepcopy(other.state_dict()))
    learn(*second, batches_of(steps)[stop:])
    assert_same(models[1], whole)


def assert_attached_as_learned(method, steps=7, make=marker):
    """Check that an attached model has the weights of a learner's."""
    model = prepared((), make=make)
    optimizer = adam(model)
    attached = attach(model, optimizer, *method, inputs=images(seed=0).double(), seed=0)
    for inputs in batches_of(steps):
        optimizer.zero_grad()
        loss = torch.sin(model(inputs) + 1).mean() + attached.penalty()
        loss.backward()
        optimizer.step()
    other = prepared((), make=make)
    seeded = SeededMethod(method, child_seed(0, "anchor"), child_seed(0, "mitigations"))
    seeded.prepare(other)
    learn(*alone(other, method, seeded.noise_seed), batches_of(steps))
    for name, each in other.named_parameters():
        found = model.get_parameter(name)
        torch.testing.assert_close(found, each, rtol=1e-9, atol=1e-9)
