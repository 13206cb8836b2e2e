"""What mitigations cannot be attached to."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from plasticity.mitigations import LayerNorm, Mitigation, ReDo
from plasticity.mitigations.attach import attach


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = make_model()

    def forward(self, inputs):
        return self.body(inputs)


@dataclass(frozen=True, kw_only=True)
class Zero(Mitigation):
    """Weights of 0 after each step."""

    name: ClassVar[str] = "zero"

    def after_step(self, context):
        for each in context.parameters.values():
            each.zero_()


# The compiler itself reads the gradient of an activation where it stops before a hook.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")


@pytest.fixture
def compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def test_mitigations_of_the_architecture_are_refused():
    model = make_model()
    with pytest.raises(
        ValueError, match=r"layer-norm changes the architecture.*build the network with it"
    ):
        attach(model, torch.optim.SGD(model.parameters(), lr=0.1), LayerNorm())


def test_lbfgs_is_refused():
    model = make_model()
    with pytest.raises(TypeError, match="LBFGS evaluates its closure several times"):
        attach(model, torch.optim.LBFGS(model.parameters()), ReDo())


def test_optimizer_of_another_model_is_refused():
    with pytest.raises(ValueError, match="has none of the model's parameters"):
        attach(make_model(), torch.optim.SGD(make_model().parameters(), lr=0.1), ReDo())


def test_what_is_no_optimizer_is_refused():
    with pytest.raises(TypeError, match=r"must be a torch\.optim\.Optimizer, not Sequential"):
        attach(make_model(), make_model(), ReDo())


def test_wrapper_of_an_optimizer():
    """Like Accelerate's, whose own step is not hooked, and which may leave out the inner one."""

    class Wrapper(torch.optim.Optimizer):
        def __init__(self, optimizer):
            self.optimizer = optimizer

        def step(self):
            self.optimizer.step()

    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    attached = attach(model, Wrapper(optimizer), ReDo(every=1, tau=1e9))
    model(torch.ones(3, 4)).sum().backward()
    optimizer.step()
    assert attached.take_counts() == {"reset_units/0": 8.0}


@pytest.mark.parametrize("make", [make_model, Net])
@pytest.mark.parametrize("form", ["wrapper", "in place"])
@pytest.mark.parametrize("inputs", [None, torch.ones(2, 4)])
def test_compiled_model_that_was_not_called(compiler, make, form, inputs):
    runs = []
    for is_compiled in (False, True):
        model = make()
        called = model
        if is_compiled and form == "wrapper":
            called = torch.compile(model, backend="eager")
        elif is_compiled:
            model.compile(backend="eager")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        attached = attach(called, optimizer, ReDo(every=3, tau=0.8), inputs=inputs)
        generator = torch.Generator().manual_seed(0)
        for _ in range(12):
            optimizer.zero_grad()
            called(torch.randn(16, 4, generator=generator)).square().mean().backward()
            optimizer.step()
        runs.append((model.state_dict(), attached.take_counts()))
    (plain, counts), (compiled, own_counts) = runs
    assert sum(counts.values()) > 0
    assert own_counts == counts
    torch.testing.assert_close(compiled, plain)


@pytest.mark.parametrize("make", [make_model, Net])
def test_compiled_model_computes_with_projected_weights(compiler, make):
    model = make()
    compiled = torch.compile(model, backend="eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    attach(compiled, optimizer, Zero())
    assert compiled(torch.ones(2, 4)).abs().sum() > 0
    compiled(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    assert compiled(torch.ones(2, 4)).abs().sum() == 0


@pytest.mark.parametrize("make", [make_model, Net])
def test_compiled_model_that_was_called_is_refused_with_a_remedy_that_works(compiler, make):
    model = make()
    compiled = torch.compile(model, backend="eager")
    compiled(torch.ones(2, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with pytest.raises(ValueError, match=r"compiled and called before.*torch\.compiler\.reset\(\)"):
        attach(compiled, optimizer, ReDo())
    torch.compiler.reset()
    attached = attach(compiled, optimizer, ReDo(every=1, tau=1e9))
    compiled(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    assert sum(attached.take_counts().values()) == 8


def test_hooks_that_a_compiled_model_does_not_call_are_reported(compiler):
    model = Net()
    compiled = torch.compile(model, backend="eager")
    compiled(torch.ones(2, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(model, optimizer, ReDo(every=1), inputs=torch.ones(2, 4))  # which does not show it
    compiled(torch.ones(2, 4)).sum().backward()
    with pytest.raises(RuntimeError, match="no forward pass in training mode"):
        optimizer.step()
