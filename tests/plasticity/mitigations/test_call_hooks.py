"""Copies of a model that mitigations are attached to: nothing acts on them, and they say so."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

from plasticity.mitigations import ReDo, Syre
from plasticity.mitigations.attach import attach

INPUTS = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


def make_attached():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    return model, optimizer, attach(model, optimizer, ReDo(every=1, tau=1e9), Syre(), inputs=INPUTS)


def train(model, optimizer):
    optimizer.zero_grad()
    model(INPUTS).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))]
)
def test_copy_warns_once_in_training_and_nothing_acts(duplicate):
    model, optimizer, attached = make_attached()
    train(model, optimizer)
    attached.take_counts()
    other, plain = duplicate(model), nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    plain.load_state_dict(model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with torch.no_grad():
            other(INPUTS)  # as a target network
        other.eval()
        other(INPUTS)
        other.train()
    with pytest.warns(
        UserWarning, match=r"copy of one that mitigations are attached to.*attach\(\)"
    ):
        train(other, torch.optim.SGD(other.parameters(), lr=0.1))
    train(plain, torch.optim.SGD(plain.parameters(), lr=0.1))
    torch.testing.assert_close(other.state_dict(), plain.state_dict(), rtol=0, atol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other(INPUTS)
    assert attached.take_counts() == {"reset_units/0": 0.0}


def test_attaching_to_the_copy_ends_the_warning():
    model, _, _ = make_attached()
    other = copy.deepcopy(model)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.0)
    attached = attach(other, optimizer, ReDo(every=1, tau=1e9), inputs=INPUTS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(other, optimizer)
    assert attached.take_counts() == {"reset_units/0": 8.0}


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))]
)
def test_copy_of_the_optimizer_is_the_plain_one(duplicate):
    model, optimizer, attached = make_attached()
    other = duplicate(optimizer)
    assert not other._optimizer_step_pre_hooks
    for each in other.param_groups[0]["params"]:
        each.grad = torch.zeros_like(each)
    before = [each.detach().clone() for each in other.param_groups[0]["params"]]
    other.step()
    for each, old in zip(other.param_groups[0]["params"], before, strict=True):
        assert torch.equal(each, old)
    train(model, optimizer)
    assert attached.take_counts() == {"reset_units/0": 8.0}
