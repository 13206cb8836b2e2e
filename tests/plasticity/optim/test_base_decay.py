"""Tests of the detection of a base's weight decay: torch's classes by table and measured, others measured."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from plasticity import regularized
from plasticity.optim import base_decay

TORCH = {
    name: base
    for name, base in vars(torch.optim).items()
    if isinstance(base, type)
    and issubclass(base, torch.optim.Optimizer)
    and name not in ("Optimizer", "LBFGS", "Rprop", "SparseAdam")
}
SYRE = {"regularizer": "syre", "strength": 0.1}


@pytest.mark.parametrize("name", TORCH)
def test_the_known_form_of_torchs_classes_equals_the_measured_one(name):
    base = TORCH[name]
    optimizer = regularized(base)([nn.Parameter(torch.ones(3, 4))], lr=0.1)
    (group,) = optimizer.param_groups
    known = base_decay.base_decay_of(optimizer, base, group)
    assert known == base_decay._measured(optimizer, base, group)
    if "decoupled_weight_decay" in group and name != "AdamW":
        decoupled = {**group, "decoupled_weight_decay": True}
        assert base_decay.base_decay_of(optimizer, base, decoupled) == "decoupled"
        assert base_decay._measured(optimizer, base, decoupled) == "decoupled"


class Foreign(torch.optim.Optimizer):
    """Base outside torch; `form` selects its decay."""

    def __init__(self, params, lr=0.1, weight_decay=0.0, form="coupled", closure_only=False):
        self.closure_only = closure_only
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "form": form})

    @torch.no_grad()
    def step(self, closure=None):
        if self.closure_only:
            with torch.enable_grad():
                closure()
        for group in self.param_groups:
            lr, decay = group["lr"], group["weight_decay"]
            for p in group["params"]:
                gradient = p.grad
                if group["form"] == "coupled":
                    gradient = gradient + decay * p
                elif group["form"] == "lion":
                    p.mul_(1 - lr * decay)
                elif group["form"] == "fixed":  # by the strength alone, without the rate
                    p.mul_(1 - decay)
                elif group["form"] == "matrices":  # as in Kron, vectors are not decayed
                    p.mul_(1 - lr * decay * (p.dim() > 1))
                elif group["form"] == "projected":  # as in AdamP, less if orthogonal
                    cosine = (gradient * p).sum() / (gradient.norm() * p.norm() + 1e-12)
                    p.mul_(1 - lr * decay * (0.1 if cosine.abs() < 1e-3 else 1.0))
                update = gradient.sign()
                if group["form"] == "late":
                    update = update + decay * p.sign()
                p.sub_(lr * update)


class SubAdamW(torch.optim.AdamW):
    """Subclass that overrides the step: measured, not guessed from its parent."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(group["lr"] * (p.grad + group["weight_decay"] * p).sign())


@pytest.mark.parametrize(
    ("form", "decoupled"), [("coupled", False), ("lion", True), ("ignored", False)]
)
@pytest.mark.parametrize("closure_only", [False, True])
@pytest.mark.parametrize("given", [None, False, True])
def test_syre_without_spread_is_weight_decay(form, decoupled, closure_only, given):
    """Compare the two for every accepted form of a base, and every value of `decoupled`."""
    paths = []
    for settings in ({"regularizer": "weight-decay"}, {"regularizer": "syre", "sigma": 1e-12}):
        parameter = nn.Parameter(torch.linspace(-1, 1, 12).view(3, 4).double())
        optimizer = regularized(Foreign)(
            [parameter],
            lr=0.01,
            form=form,
            closure_only=closure_only,
            strength=0.1,
            decoupled=given,
            **settings,
        )
        for step in range(6):

            def closure(step=step, parameter=parameter):
                waves = torch.sin(torch.arange(12.0) + step).view(3, 4).double()
                parameter.grad = 0.1 * waves
                return 0.0

            closure()
            optimizer.step(closure if closure_only else None)
        paths.append(parameter.detach())
        assert optimizer.param_groups[0]["decoupled"] is (decoupled if given is None else given)
    torch.testing.assert_close(paths[0], paths[1], rtol=0, atol=1e-10)


def test_lion_decays_a_weight_by_lr_times_strength():
    """Check the decay without a gradient: lr 1e-2 times strength 0.1 is 1e-3 of a weight of one."""
    for settings in ({"regularizer": "weight-decay"}, {"regularizer": "syre", "sigma": 1e-12}):
        parameter = nn.Parameter(torch.ones(2, 2))
        optimizer = regularized(Foreign)(
            [parameter], lr=1e-2, form="lion", strength=0.1, **settings
        )
        parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        torch.testing.assert_close(parameter.detach(), torch.full((2, 2), 1 - 1e-3))


@pytest.mark.parametrize("form", ["fixed", "late", "matrices", "projected"])
@pytest.mark.parametrize("decoupled", [None, True])
def test_a_decay_of_another_kind_is_refused(form, decoupled):
    parameters = [nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))]
    with pytest.raises(ValueError, match=r"Foreign's own weight decay.*Give decoupled=False"):
        regularized(Foreign)(parameters, form=form, decoupled=decoupled, **SYRE)
    # Without an anchor, the base's own decay is the requested one.
    ours = regularized(Foreign)(parameters, form=form, regularizer="weight-decay", strength=0.1)
    assert ours.param_groups[0]["weight_decay"] == 0.1


def test_only_the_shapes_of_the_group_are_measured():
    """Measure a base that decays matrices alone in the usual way (as Muon, which takes only those)."""
    optimizer = regularized(Foreign)([nn.Parameter(torch.ones(2, 2))], form="matrices", **SYRE)
    assert optimizer.param_groups[0]["decoupled"] is True


class Wrapping(torch.optim.Optimizer):
    """Base that wraps another optimizer and exposes its groups."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})
        self.param_groups = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=lr).param_groups


def test_a_base_that_wraps_another_is_refused():
    with pytest.raises(ValueError, match=r"Wrapping has groups.*Regularize the wrapped optimizer"):
        regularized(Wrapping)([nn.Parameter(torch.ones(2, 2))], **SYRE)


def test_a_group_that_is_switched_to_an_unknown_decay_is_refused():
    parameter = nn.Parameter(torch.ones(2, 2))
    optimizer = regularized(Foreign)(
        [parameter], form="fixed", regularizer="weight-decay", strength=0.1
    )
    optimizer.param_groups[0]["regularizer"] = "syre"
    parameter.grad = torch.zeros_like(parameter)
    with pytest.raises(ValueError, match=r"Give decoupled=False"):
        optimizer.step()


def test_a_subclass_of_torch_is_measured():
    optimizer = regularized(SubAdamW)([nn.Parameter(torch.ones(2, 2))], lr=0.1, **SYRE)
    assert optimizer.param_groups[0]["decoupled"] is False


def test_adafactor_scales_by_the_norm_before_its_decay():
    parameter = nn.Parameter(torch.ones(3, 3))
    with pytest.raises(ValueError, match=r"Adafactor's own weight decay.*decoupled=False"):
        regularized(torch.optim.Adafactor)([parameter], **SYRE)
    regularized(torch.optim.Adafactor)([parameter], decoupled=False, **SYRE)


class Drawing(Foreign):
    """Base that draws random numbers at every step, as Kron does from NumPy to decide on balancing."""

    def step(self, closure=None):
        self.drawn = (torch.rand(1), np.random.random(), random.random())  # noqa: NPY002
        super().step(closure)


def test_measuring_preserves_random_state_and_leaves_no_state():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    state = torch.get_rng_state()
    numbers = np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    parameter = nn.Parameter(torch.ones(2, 2))
    optimizer = regularized(Drawing)([parameter], form="lion", **SYRE)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numbers[0])  # noqa: NPY002
    assert random.getstate() == numbers[1]
    assert not optimizer.state
    assert torch.equal(parameter, torch.ones(2, 2))
    assert parameter.grad is None


class WritesArguments(Foreign):
    """Base whose constructor writes its own arguments into the given groups."""

    def __init__(self, params, lr=0.1, weight_decay=0.1):
        super().__init__([{**group, "weight_decay": weight_decay} for group in params], lr=lr)


def test_keys_that_a_base_writes_into_groups_are_not_taken_for_the_users():
    weight, bias = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    groups = [{"params": [weight]}, {"params": [bias], "weight_decay": 0.0}]
    optimizer = regularized(WritesArguments)(groups, **SYRE)
    assert [group["regularizer"] for group in optimizer.param_groups] == ["syre", "none"]


def test_gradients_with_a_graph_are_refused():
    parameter = nn.Parameter(torch.ones(2, 2))
    foreign = regularized(Foreign)([parameter], **SYRE)
    ours = regularized(torch.optim.Adam)([parameter], **SYRE)
    # As after backward(create_graph=True), which would warn of the reference cycle.
    (parameter.grad,) = torch.autograd.grad(parameter.pow(3).sum(), [parameter], create_graph=True)
    with pytest.raises(RuntimeError, match=r"create_graph=True.*Foreign may.*decoupled=True"):
        foreign.step()
    ours.step()  # torch's own do not differentiate
    parameter.grad = None


# ---- side effects of measuring -----------------------------------------------------------------------


class Counting(torch.optim.SGD):
    """Base that counts steps in its own containers and tensors, and in those of its groups."""

    def __init__(self, params, lr=0.1, weight_decay=0.0):
        self.counts, self.total = {"steps": 0}, torch.zeros(())
        super().__init__(params, lr=lr, weight_decay=weight_decay)
        for group in self.param_groups:
            group["visited"] = []

    def step(self, closure=None):
        self.counts["steps"] += 1
        self.total += 1
        for group in self.param_groups:
            group["visited"].append(len(group["visited"]))
        return super().step(closure)


def test_measuring_leaves_no_trace_in_the_optimizer():
    parameter = nn.Parameter(torch.ones(2, 2))
    optimizer = regularized(Counting)([parameter], regularizer="syre", strength=0.1, sigma=0.3)
    parameter.grad = torch.zeros(2, 2)
    optimizer.step()
    assert (optimizer.counts["steps"], optimizer.total.item()) == (1, 1)
    assert optimizer.param_groups[0]["visited"] == [0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_measuring_does_not_depend_on_the_default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        parameter = nn.Parameter(torch.ones(2, 2))
        optimizer = regularized(Counting)([parameter], regularizer="syre", strength=0.1, sigma=0.3)
    finally:
        torch.set_default_dtype(before)
    assert optimizer.param_groups[0]["decoupled"] is False
