"""Tests of one stacked optimizer against R ordinary ones, step by step."""

import copy
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from plasticity import StackedNetworks, StackedOptimizer, parameter_groups, regularized
from plasticity.optim import stacked_optimizer
from plasticity.optim.kernels import step as kernel_step

BASES = {"SGD": torch.optim.SGD, "Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}
every_base = pytest.mark.parametrize("base", BASES)

SGD_RATES = [{"lr": 0.1 / (i + 1), "momentum": m} for i, m in enumerate([0, 0.9, 0.5, 0, 0.9, 0.3])]
ADAM_RATES = [
    {"lr": 0.02 / (i + 1), "betas": betas, "eps": eps}
    for i, (betas, eps) in enumerate(
        [
            ((0.9, 0.999), 1e-8),
            ((0.0, 0.9), 1e-5),
            ((0.5, 0.99), 1e-8),
            ((0.99, 0.99), 1e-3),
            ((0.9, 0.999), 1e-8),
            ((0.8, 0.0), 1e-8),
        ]
    )
]
RATES = {"SGD": SGD_RATES, "Adam": ADAM_RATES, "AdamW": ADAM_RATES}
METHODS = [
    {"regularizer": "none", "strength": 0.0},
    {"regularizer": "weight-decay", "strength": 0.2},
    {"regularizer": "syre", "strength": 0.3, "sigma": 0.5, "anchor_seed": 1},
    {"regularizer": "syre", "strength": 0.1, "sigma": 1.0, "anchor_seed": 2, "anisotropy": 0.3},
    {"regularizer": "l2-init", "strength": 0.2},
    {"regularizer": "syre", "strength": 0.1, "sigma": 0.3, "anchor_seed": 3, "decoupled": True},
]
MORE_METHODS = [
    {"regularizer": "syre", "strength": 0.1, "sigma": 0.0},
    {"regularizer": "syre", "strength": 0.0, "sigma": 0.5},
    {"regularizer": "l2-init", "strength": 0.2, "decoupled": True},
    {"regularizer": "l2-init", "strength": 0.2, "decoupled": False},
    {"regularizer": "weight-decay", "strength": 0.2, "decoupled": False},
    {"regularizer": "weight-decay", "strength": 0.2, "decoupled": True},
]


def network(seed, dtype):
    torch.manual_seed(seed)
    # The normalisation's parameters are in a separate group, which is not regularized.
    return nn.Sequential(
        nn.Conv2d(2, 2, 3), nn.GroupNorm(1, 2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)
    ).to(dtype, memory_format=torch.channels_last)


class Pair:
    """Pair of R ordinary networks with their optimizers, and the same ones stacked."""

    def __init__(self, base, rates, methods, dtype=torch.float64):
        self.alone = [network(seed, dtype) for seed in range(len(rates))]
        self.optimizers = [
            regularized(BASES[base])(parameter_groups(n, **m), **r)
            for n, r, m in zip(self.alone, rates, methods, strict=True)
        ]
        self.networks = StackedNetworks(self.alone)
        self.stacked = StackedOptimizer(
            self.optimizers, self.networks.in_order_of(self.optimizers[0], self.alone[0])
        )
        self.generator = torch.Generator().manual_seed(7)

    def step(self, without=(), skip=()):
        """Take a step with random gradients, except for the parameters `without` and the networks `skip`."""
        for name, stacked in self.networks.parameters.items():
            shape, dtype = stacked.shape, stacked.dtype
            gradient = torch.randn(shape, generator=self.generator, dtype=torch.float64).to(dtype)
            stacked.grad = None if name in without else gradient
            for i, each in enumerate(self.alone):
                parameter = each.get_parameter(name)
                alone = torch.empty_like(parameter).copy_(gradient[i])
                parameter.grad = None if name in without else alone
        for i, optimizer in enumerate(self.optimizers):
            if i not in skip:
                optimizer.step()
        skipped = torch.tensor([i in skip for i in range(len(self.alone))])
        self.stacked.step(~skipped if skip else None)

    def require_equal(self, rtol=1e-9, atol=1e-9):
        for i, each in enumerate(self.alone):
            for name, expected in each.named_parameters():
                found = self.networks.parameters[name][i]
                torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


@every_base
@pytest.mark.parametrize("methods", [METHODS, MORE_METHODS], ids=["methods", "more"])
def test_every_method_in_one_stack(base, methods):
    pair = Pair(base, RATES[base], methods)
    for _ in range(25):
        pair.step()
    pair.require_equal()


@every_base
def test_one_step_in_float32(base):
    pair = Pair(base, RATES[base], METHODS, torch.float32)
    pair.step()
    pair.require_equal(rtol=1e-6, atol=1e-7)


@st.composite
def stacks(draw):
    base = draw(st.sampled_from(sorted(BASES)))
    count = draw(st.integers(1, 4))
    rates = draw(st.lists(st.sampled_from(RATES[base]), min_size=count, max_size=count))
    method = st.builds(
        dict,
        regularizer=st.sampled_from(["none", "weight-decay", "syre", "l2-init"]),
        strength=st.sampled_from([0.0, 1e-3, 0.3]),
        sigma=st.sampled_from([0.0, 0.5]),
        anisotropy=st.sampled_from([0.0, 0.2]),
        decoupled=st.sampled_from([None, False, True]),
        anchor_seed=st.integers(0, 2**64 - 1),
    )
    methods = draw(st.lists(method, min_size=count, max_size=count))
    steps = draw(
        st.lists(st.sampled_from([(), ("4.bias",), ("0.weight", "1.bias")]), min_size=1, max_size=4)
    )
    return base, rates, methods, steps


@given(stacks())
@settings(max_examples=25, deadline=None)
def test_any_mixture_of_settings_and_missing_gradients(drawn):
    base, rates, methods, steps = drawn
    pair = Pair(base, rates, methods)
    for without in steps:
        pair.step(without)
    pair.require_equal()
    for i, optimizer in enumerate(pair.optimizers):
        require_same_state(pair.stacked.state_dict(i), optimizer.state_dict())


def require_same_state(found, expected):
    assert found["param_groups"] == expected["param_groups"]
    assert found["state"].keys() == expected["state"].keys()
    for position, saved in expected["state"].items():
        entries = {key: value for key, value in saved.items() if value is not None}
        assert found["state"][position].keys() == entries.keys()
        for key, value in entries.items():
            assert found["state"][position][key].stride() == value.stride()
            torch.testing.assert_close(found["state"][position][key], value, rtol=1e-9, atol=1e-12)


@every_base
def test_states_move_between_a_stack_and_ordinary_optimizers(base):
    pair = Pair(base, RATES[base], METHODS)
    for _ in range(3):
        pair.step()
    # From the stack into new ordinary optimizers, whose other settings the state overrides.
    others = Pair(base, RATES[base][::-1], METHODS[::-1])
    for i in range(6):
        file = io.BytesIO()
        torch.save(pair.stacked.state_dict(i), file)
        file.seek(0)
        others.alone[i].load_state_dict(pair.networks.state_dict(i))
        others.optimizers[i].load_state_dict(torch.load(file, weights_only=True))
    # From the ordinary optimizers into the other stack.
    for i in range(6):
        others.networks.load_state_dict(i, pair.alone[i].state_dict())
        others.stacked.load_state_dict(i, pair.optimizers[i].state_dict())
    others.generator.set_state(pair.generator.get_state())
    for _ in range(3):
        pair.step()
        others.step()
    others.require_equal()
    for a, b in zip(pair.alone, others.alone, strict=True):
        for p, q in zip(a.parameters(), b.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-9)


def test_the_state_of_a_fused_optimizer():
    rates = [{**r, "fused": True} for r in ADAM_RATES]
    pair = Pair("Adam", rates, METHODS, torch.float32)
    pair.step()
    pair.require_equal(rtol=1e-6, atol=1e-7)
    other = Pair("Adam", rates, METHODS, torch.float32)
    for i in range(6):
        other.networks.load_state_dict(i, pair.alone[i].state_dict())
        other.stacked.load_state_dict(i, pair.optimizers[i].state_dict())
        other.alone[i].load_state_dict(pair.networks.state_dict(i))
        other.optimizers[i].load_state_dict(pair.stacked.state_dict(i))
    other.step()
    other.require_equal(rtol=1e-6, atol=1e-6)


def test_states_of_different_ages_in_one_stack():
    """Mix different step counts of two stacked networks, and of two parameters of one of them."""
    pair = Pair("Adam", ADAM_RATES[:3], METHODS[:3])
    other = Pair("Adam", ADAM_RATES[:3], METHODS[:3])
    for _ in range(4):
        pair.step()
    pair.step(without=("4.weight",))
    other.stacked.load_state_dict(1, pair.optimizers[1].state_dict())
    other.optimizers[1].load_state_dict(pair.optimizers[1].state_dict())
    other.networks.load_state_dict(1, pair.alone[1].state_dict())
    other.alone[1].load_state_dict(pair.alone[1].state_dict())
    for _ in range(3):
        other.step()
    other.require_equal()


def test_parameters_that_are_not_adjacent_in_memory():
    alone = [network(seed, torch.float64) for seed in range(3)]
    optimizers = [
        regularized(torch.optim.Adam)(n.parameters(), lr=0.1, **m)
        for n, m in zip(alone, METHODS[1:4], strict=True)
    ]
    stacked = [
        torch.stack([p.detach() for p in each]).contiguous().requires_grad_()
        for each in zip(*[n.parameters() for n in alone], strict=True)
    ]
    optimizer_of_all = StackedOptimizer(optimizers, stacked)
    for _ in range(3):
        for position, parameter in enumerate(stacked):
            parameter.grad = torch.randn_like(parameter)
            for i, n in enumerate(alone):
                list(n.parameters())[position].grad = parameter.grad[i].clone()
        optimizer_of_all.step()
        for optimizer in optimizers:
            optimizer.step()
    for position, parameter in enumerate(stacked):
        for i, n in enumerate(alone):
            expected = list(n.parameters())[position]
            torch.testing.assert_close(parameter[i], expected, rtol=1e-9, atol=0)


@every_base
def test_a_vector_before_any_weight_is_not_decayed_by_syre_only(base):
    """Put a vector without a fan-in into a group whose other parameters are decayed."""
    alone = [[torch.ones(3), torch.full((2, 3), 0.5)] for _ in range(3)]
    methods = [METHODS[2], METHODS[1], METHODS[4]]
    optimizers = [
        regularized(BASES[base])(each, lr=0.1, **method)
        for each, method in zip(alone, methods, strict=True)
    ]
    stacked = [torch.stack(each) for each in zip(*alone, strict=True)]
    optimizer_of_all = StackedOptimizer(optimizers, stacked)
    for step in range(3):
        for position, parameter in enumerate(stacked):
            parameter.grad = torch.full_like(parameter, 0.1 * (step + position))
            for i, each in enumerate(alone):
                each[position].grad = parameter.grad[i].clone()
        optimizer_of_all.step()
        for optimizer in optimizers:
            optimizer.step()
    for position, parameter in enumerate(stacked):
        for i, each in enumerate(alone):
            torch.testing.assert_close(parameter[i], each[position], rtol=1e-5, atol=1e-7)


@every_base
def test_a_frozen_network_never_changes(base):
    pair = Pair(base, RATES[base], METHODS)
    pair.step()
    pair.stacked.freeze(2)
    pair.stacked.freeze(5)
    before = {i: copy.deepcopy(pair.stacked.state_dict(i)) for i in (2, 5)}
    for _ in range(2):
        pair.step(skip=(2, 5))
    pair.require_equal()
    weights = {name: p.detach().clone() for name, p in pair.networks.parameters.items()}
    for parameter in pair.networks.parameters.values():
        parameter.grad = torch.randn_like(parameter)
        parameter.grad[2] = float("nan")
        parameter.grad[5] = float("inf")
    pair.stacked.step()
    for name, parameter in pair.networks.parameters.items():
        assert torch.equal(parameter[[2, 5]], weights[name][[2, 5]])
        assert parameter.isfinite().all()
        assert not torch.equal(parameter[3], weights[name][3])
    for i, state in before.items():
        require_same_state(pair.stacked.state_dict(i), state)


@every_base
def test_some_networks_skip_a_step(base):
    pair = Pair(base, RATES[base], METHODS)
    pair.step()
    pair.step(skip=(1, 4))
    pair.step()
    pair.require_equal()


@every_base
def test_adjacent_parameters_with_different_settings(base):
    """Step adjacent parameters as one only if their settings are equal in every stacked network."""
    alone = [nn.Linear(3, 2).double() for _ in range(2)]
    networks = StackedNetworks(alone)

    def groups(network, index):
        weight, bias = network.parameters()
        yield {"params": [weight], "regularizer": "weight-decay", "strength": 0.2}
        yield {"params": [bias], "lr": 0.05 if index else 0.1}  # in network 0 the weight's rate

    optimizers = [
        regularized(BASES[base])(list(groups(n, i)), lr=0.1, regularizer="none")
        for i, n in enumerate(alone)
    ]
    stacked = StackedOptimizer(optimizers, networks.parameters.values())
    for name, parameter in networks.parameters.items():
        parameter.grad = torch.randn_like(parameter)
        for gradient, each in zip(parameter.grad, alone, strict=True):
            each.get_parameter(name).grad = gradient.clone()
    for optimizer in (stacked, *optimizers):
        optimizer.step()
    for name, parameter in networks.parameters.items():
        expected = torch.stack([each.get_parameter(name) for each in alone])
        torch.testing.assert_close(parameter, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@every_base
def test_learning_rates_change(base, dtype, tolerance):
    pair = Pair(base, RATES[base], METHODS, dtype)
    for rates in (0.03, [0.01 * (i + 1) for i in range(6)], 0.0):
        pair.stacked.set_learning_rate(rates)
        for i, optimizer in enumerate(pair.optimizers):
            for group in optimizer.param_groups:
                group["lr"] = rates if isinstance(rates, float) else rates[i]
        pair.step()
        pair.require_equal(tolerance, tolerance)
        assert (
            pair.stacked.state_dict(3)["param_groups"]
            == (pair.optimizers[3].state_dict()["param_groups"])
        )


def test_zero_grad_and_a_step_without_any_gradient():
    pair = Pair("Adam", ADAM_RATES, METHODS)
    pair.step()
    pair.stacked.zero_grad()
    before = {name: p.detach().clone() for name, p in pair.networks.parameters.items()}
    pair.stacked.step()
    for name, parameter in pair.networks.parameters.items():
        assert parameter.grad is None
        assert torch.equal(parameter, before[name])


def test_anchors_take_memory_only_where_needed():
    pair = Pair("Adam", ADAM_RATES[:3], [METHODS[0], METHODS[1], MORE_METHODS[0]])
    assert all(block.anchors is None for block in pair.stacked._blocks)
    pair = Pair("SGD", [SGD_RATES[0], SGD_RATES[3]], [METHODS[0], METHODS[2]])
    # One block of decayed parameters with anchors, one of the normalisation without; no momentum.
    assert {block.anchors is None for block in pair.stacked._blocks} == {True, False}
    assert all(block.first is None for block in pair.stacked._blocks)


def test_kernels_are_not_stacked(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(kernel_step.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(
        ValueError, match=r"optimizers\[0\] has kernel='triton', and the stack has a"
    ):
        StackedOptimizer([optimizer_of(kernel="triton")], [torch.zeros(1, 2)])


def optimizer_of(base=torch.optim.SGD, **options):
    return regularized(base)([nn.Parameter(torch.zeros(2))], lr=0.1, **options)


@pytest.mark.parametrize(
    ("optimizers", "error", "message"),
    [
        ([], ValueError, "at least one optimizer"),
        ([optimizer_of(maximize=True)], ValueError, r"optimizers\[0\] has maximize=True"),
        ([optimizer_of(torch.optim.Adam, amsgrad=True)], ValueError, "amsgrad=True"),
        ([optimizer_of(momentum=0.9, nesterov=True)], ValueError, "nesterov=True"),
        ([optimizer_of(momentum=0.9, dampening=0.1)], ValueError, "dampening=0.1"),
        ([optimizer_of(torch.optim.RMSprop)], TypeError, "RegularizedRMSprop, which cannot"),
        (
            [torch.optim.SGD([torch.zeros(2)], lr=0.1)],
            TypeError,
            r"is a SGD, which .*: make it with regularized\(SGD\)",
        ),
        ([optimizer_of(), optimizer_of(torch.optim.Adam)], ValueError, "must be of one class"),
        (
            [optimizer_of(), regularized(torch.optim.SGD)([torch.zeros(2), torch.zeros(2)], lr=1)],
            ValueError,
            r"groups of \[2\] parameters, optimizers\[0\] of \[1\]",
        ),
        (
            [regularized(torch.optim.SGD)([torch.zeros(2)], lr=torch.tensor(0.1))],
            TypeError,
            "a tensor in lr",
        ),
    ],
)
def test_optimizers_that_cannot_be_stacked(optimizers, error, message):
    with pytest.raises(error, match=message):
        StackedOptimizer(optimizers, [torch.zeros(len(optimizers), 2)])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ([], "has 1 parameters, and 0 stacked"),
        ([torch.zeros(2, 2)], r"\(1, 2\) was expected"),
        ([torch.zeros(1, 2).double()], "both must be torch.float32"),
        ([torch.zeros(1, 4)[:, ::2]], "must be contiguous"),
    ],
)
def test_parameters_that_do_not_fit(parameters, message):
    with pytest.raises(ValueError, match=message):
        StackedOptimizer([optimizer_of()], parameters)


def test_names_instead_of_parameters_are_refused():
    networks = StackedNetworks([nn.Linear(2, 2)])
    optimizer = regularized(torch.optim.SGD)(networks.network(0).parameters(), lr=1)
    with pytest.raises(
        TypeError, match=r"not 'weight': for a StackedNetworks .* give .*parameters.values"
    ):
        StackedOptimizer([optimizer], networks.parameters)
    StackedOptimizer(iter([optimizer]), networks.parameters.values())


@pytest.mark.parametrize(
    ("active", "error", "message"),
    [
        (torch.ones(2), TypeError, "one for each stacked network, not torch.float32"),
        (lambda: 0.0, TypeError, "not function: evaluate .* before the step"),
        (torch.ones(1, dtype=torch.bool), ValueError, r"shape \(1,\), \(2,\) was expected"),
        (torch.ones(2, 1, dtype=torch.bool), ValueError, r"shape \(2, 1\), \(2,\) was expected"),
    ],
)
def test_a_wrong_mask_of_active_networks(active, error, message):
    with pytest.raises(error, match=message):
        Pair("SGD", SGD_RATES[:2], METHODS[:2]).stacked.step(active)


def test_bad_arguments():
    stacked = Pair("SGD", SGD_RATES[:2], METHODS[:2]).stacked
    with pytest.raises(ValueError, match="3 learning rates were given for 2 stacked networks"):
        stacked.set_learning_rate([0.1, 0.1, 0.1])
    with pytest.raises(ValueError, match=r"A learning rate must be .* -1"):
        stacked.set_learning_rate(-1)
    for call in (stacked.freeze, stacked.state_dict):
        with pytest.raises(IndexError, match="Index 2 is out of range"):
            call(2)
    state = stacked.state_dict(0)
    state["param_groups"][0]["nesterov"] = True
    with pytest.raises(ValueError, match="nesterov=True"):
        stacked.load_state_dict(1, state)


class Recording(TorchDispatchMode):
    """Simulation of a CUDA graph on a CPU: records operations, and repeats them in the same memory."""

    def __enter__(self):
        self.done = []
        return super().__enter__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        self.done.append((func, args, kwargs or {}, found))
        return found

    def replay(self):
        for func, args, kwargs, found in self.done:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(found), tree_leaves(again), strict=True):
                if new is not old and isinstance(old, torch.Tensor):
                    old.copy_(new)


@every_base
def test_a_replayed_step_follows_gradients_rates_and_freezing(base, monkeypatch):
    pair, other = (Pair(base, RATES[base], METHODS) for _ in range(2))
    for each in (pair, other):
        each.step()
    monkeypatch.setattr(stacked_optimizer, "_is_captured", lambda tensor: True)
    with Recording() as recorded:  # this also takes a step
        pair.stacked.step()
    monkeypatch.undo()
    other.stacked.step()
    for rate in (0.01, [0.02, 0.0, 0.01, 0.03, 0.1, 0.2], 0.03):
        for name, parameter in pair.networks.parameters.items():
            parameter.grad.normal_(generator=pair.generator)
            other.networks.parameters[name].grad.copy_(parameter.grad)
        for each in (pair, other):
            each.stacked.set_learning_rate(rate)
        recorded.replay()
        other.stacked.step()
        for name, parameter in pair.networks.parameters.items():
            torch.testing.assert_close(parameter, other.networks.parameters[name])
        for each in (pair, other):
            each.stacked.freeze(3 if isinstance(rate, float) else 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@every_base
def test_a_captured_step_on_cuda(base):
    """Check for no synchronization, a replay that follows rates and freezing, and agreement with the CPU."""
    pair = Pair(base, RATES[base], METHODS)
    parameters = {
        n: p.detach().cuda().requires_grad_() for n, p in pair.networks.parameters.items()
    }
    by_id = {id(p): name for name, p in pair.alone[0].named_parameters()}
    names = [by_id[id(p)] for g in pair.optimizers[0].param_groups for p in g["params"]]
    on_cuda = StackedOptimizer(pair.optimizers, [parameters[name] for name in names])
    gradients = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for name, parameter in parameters.items():
        parameter.grad = gradients[name]

    def step():
        pair.step()
        for name, gradient in gradients.items():
            gradient.copy_(pair.networks.parameters[name].grad)

    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        on_cuda.step()
        graph = torch.cuda.CUDAGraph()
        torch.cuda.set_sync_debug_mode("default")
        with torch.cuda.graph(graph):
            on_cuda.step()
        for rate in (0.01, 0.02):
            step()
            graph.replay()
            on_cuda.set_learning_rate(rate)
            pair.stacked.set_learning_rate(rate)
        for each in (on_cuda, pair.stacked):
            each.freeze(3)
        step()
        graph.replay()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for name, parameter in parameters.items():
        torch.testing.assert_close(
            parameter.cpu(), pair.networks.parameters[name], rtol=1e-9, atol=1e-12
        )


@every_base
def test_moments_are_those_of_each_optimizer_and_can_be_cleared(base):
    pair = Pair(base, RATES[base], METHODS)
    for _ in range(3):
        pair.step()
    for name, parameter in pair.networks.parameters.items():
        found = pair.stacked.moments(parameter)
        assert found
        assert all(each.shape == parameter.shape for each in found.values())
        for i, (own, optimizer) in enumerate(zip(pair.alone, pair.optimizers, strict=True)):
            state = optimizer.state[own.get_parameter(name)]
            for key, each in found.items():
                # one without momentum has no buffer of its own, and a row that nothing reads
                if state.get(key) is not None:
                    torch.testing.assert_close(each[i], state[key], rtol=1e-9, atol=1e-12)
                    state[key][0] = 0.0
                each[i][0] = 0.0
    pair.step()
    pair.require_equal()
    with pytest.raises(ValueError, match=r"shape \(2,\) is no parameter of the optimizer"):
        pair.stacked.moments(torch.zeros(2))
