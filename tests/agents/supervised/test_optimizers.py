"""Optimizers of classifiers: their settings, Muon with AdamW, and SOAP where it is installed."""

import sys
from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch.nn import functional

from plasticity.agents.networks import CNN, MLP
from plasticity.agents.supervised.config import ClassifierConfig, Optimizer
from plasticity.agents.supervised.optimizers import OPTIMIZERS, make_optimizer
from plasticity.agents.supervised.single import Classifier
from plasticity.agents.supervised.stacked import StackedClassifier
from plasticity.mitigations import PLAIN_METHOD, UPGD, SeededMethod, Syre, WeightDecay, WeightNoise
from plasticity.tasks.streams.base import TaskSpec

MUON = ClassifierConfig(optimizer="muon", learning_rate=0.01)
BATCHES = 6


def network(architecture=MLP, seed=0):
    torch.manual_seed(seed)
    made = architecture(hidden=(6, 5))
    return made.build(made.spec((1, 8, 8), 3))


def data(seed=0):
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(BATCHES, 7, 1, 8, 8, generator=draws), torch.randint(
        3, (BATCHES, 7), generator=draws
    )


def classifier(config, *method, own=None):
    made = Classifier(own or network(), config, SeededMethod(method), data_order_seed=0)
    made._loss.follow(TaskSpec(input_shape=(1, 8, 8), output_size=3))
    if made._hooks is not None:
        made._hooks.begin(lambda: data()[0][0])
    return made


def train(trainer, batches=range(BATCHES)):
    inputs, labels = data()
    for index in batches:
        trainer._train_step(inputs[index], labels[index])
    return {name: each.detach().clone() for name, each in trainer.network.named_parameters()}


def test_every_name_has_an_optimizer():
    assert {*OPTIMIZERS, "muon", "soap"} == set(get_args(Optimizer))


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_betas_and_epsilon_are_those_of_the_optimizer(optimizer):
    config = ClassifierConfig(optimizer=optimizer, betas=(0.99, 0.98), epsilon=1e-3)
    (group, *_) = make_optimizer(network(), config, PLAIN_METHOD.regularizer).param_groups
    assert (group["betas"], group["eps"]) == ((0.99, 0.98), 1e-3)


@pytest.mark.parametrize(
    ("betas", "size"),
    # after many steps without a gradient, the first with one: (1 - b1) / sqrt(1 - b2) learning rates
    [((0.9, 0.999), 3.1623), ((0.99, 0.99), 0.1), ((0.9, 0.9), 0.31623)],
)
def test_equal_betas_bound_the_step_after_a_pause(betas, size):
    config = ClassifierConfig(optimizer="adam", learning_rate=0.01, betas=betas, epsilon=1e-12)
    own = network()
    optimizer = make_optimizer(own, config, PLAIN_METHOD.regularizer)
    for value, steps in ((0.0, 1), (1.0, 1)):
        for each in own.parameters():
            each.grad = torch.full_like(each, value)
        before = own.fc1.bias.detach().clone()
        for _ in range(steps):
            optimizer.step()
        for state in optimizer.state.values():  # as after 10^5 steps
            state["step"].fill_(100_000)
    torch.testing.assert_close(before - own.fc1.bias.detach(), torch.full((6,), 0.01 * size))


def test_muon_has_the_hidden_matrices_and_adamw_the_rest():
    """They take the steps that torch's own take by themselves."""
    found = train(classifier(MUON, WeightDecay(strength=0.1)))
    own = network()
    matrices = [own.fc1.weight, own.fc2.weight]
    others = [own.fc3.weight, *(layer.bias for layer in (own.fc1, own.fc2, own.fc3))]
    shared = {"lr": 0.01, "weight_decay": 0.1}
    muon = torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **shared)
    adamw = torch.optim.AdamW(others, fused=True, **shared)
    for inputs, labels in zip(*data(), strict=True):
        own.zero_grad()
        functional.cross_entropy(own(inputs), labels).backward()
        muon.step()
        adamw.step()
    for name, each in own.named_parameters():
        torch.testing.assert_close(found[name], each.detach(), msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("architecture", [MLP, CNN])
@pytest.mark.parametrize("method", [(), (Syre(strength=0.1, sigma=1.0),), (UPGD(),)])
def test_a_state_of_muon_continues_exactly(architecture, method):
    whole = train(classifier(MUON, *method, own=network(architecture)))
    first = classifier(MUON, *method, own=network(architecture))
    train(first, range(3))
    second = classifier(MUON, *method, own=network(architecture, seed=1))
    second.load_state_dict(first.state_dict())
    continued = train(second, range(3, BATCHES))
    for name, each in whole.items():
        assert torch.equal(continued[name], each), name


@pytest.mark.parametrize("optimizer", ["muon", "soap"])
def test_optimizers_without_a_stacked_form_refuse_a_stack_by_name(optimizer):
    if optimizer == "soap":
        pytest.importorskip("pytorch_optimizer")
    config = replace(MUON, optimizer=optimizer)
    with pytest.raises(TypeError, match=r"(Joint|SOAP).*cannot be stacked"):
        StackedClassifier(
            [network(), network(seed=1)], config, [PLAIN_METHOD] * 2, data_order_seeds=[0, 1]
        )


def test_soap_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'plasticity\[optimizers\]'"):
        classifier(replace(MUON, optimizer="soap"))


@pytest.mark.parametrize(
    "method", [(), (WeightDecay(strength=0.1),), (WeightNoise(deviation=0.01),)]
)
def test_soap_takes_its_steps_and_continues_exactly(method):
    package = pytest.importorskip("pytorch_optimizer")
    config = replace(MUON, optimizer="soap", betas=(0.95, 0.95))
    whole = train(classifier(config, *method))
    first = classifier(config, *method)
    train(first, range(3))
    second = classifier(config, *method, own=network(seed=1))
    second.load_state_dict(first.state_dict())
    continued = train(second, range(3, BATCHES))
    for name, each in whole.items():
        assert torch.equal(continued[name], each), name
    if method == ():
        own = network()
        optimizer = package.SOAP(own.parameters(), lr=0.01, betas=(0.95, 0.95), weight_decay=0.0)
        for inputs, labels in zip(*data(), strict=True):
            own.zero_grad()
            functional.cross_entropy(own(inputs), labels).backward()
            optimizer.step()
        for name, each in own.named_parameters():
            torch.testing.assert_close(whole[name], each.detach())
