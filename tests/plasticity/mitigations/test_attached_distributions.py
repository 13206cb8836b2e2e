"""Distributions of redrawn weights: measured, given by patterns, or declared by the model."""

import logging

import pytest
import torch
from plain_loops import make_batch, make_model, train
from torch import nn

from plasticity.initialization import Constant, Uniform
from plasticity.mitigations import ReDo, Shift
from plasticity.mitigations.attach import attach


def test_redraw_has_the_spread_of_before_the_shift(caplog):
    model = make_model()
    spread = model[0].weight.detach().std(correction=0).item()
    with caplog.at_level(logging.INFO, "plasticity"):
        attach(model, torch.optim.SGD(model.parameters(), lr=0.1), Shift(sigma=5.0), ReDo())
    assert f"0.weight (standard deviation {spread:.3g})" in caplog.text
    assert "initialize={pattern: distribution}" in caplog.text


def test_initialize_by_patterns():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    attached = attach(
        model,
        optimizer,
        ReDo(every=1, tau=1e9),
        initialize={"*.weight": Constant(0.25), "2.*": Uniform(1e-3)},
    )
    train(model, optimizer, range(1))
    assert torch.equal(model[0].weight, torch.full((16, 5), 0.25))
    assert torch.equal(model[2].weight, torch.zeros(12, 16))  # which reads units that were reset
    assert sum(attached.take_counts().values()) == 28
    with pytest.raises(ValueError, match=r"pattern 'conv\*', which matches no parameter"):
        attach(model, optimizer, Shift(), initialize={"conv*": Uniform(1.0)})


def test_declared_distributions_need_not_cover_all_weights():
    class Declares(nn.Sequential):
        def initialization(self):
            return {"0.weight": Constant(0.5)}

    torch.manual_seed(0)
    model = Declares(*make_model())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    attached = attach(model, optimizer, ReDo(every=1, tau=1e9), inputs=make_batch(0)[0])
    train(model, optimizer, range(1))
    assert torch.equal(model[0].weight, torch.full((16, 5), 0.5))
    assert attached.take_counts() == {"reset_units/0": 16.0, "reset_units/2": 12.0}
