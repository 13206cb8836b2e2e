"""Tests of the Adam kernel against eager `regularized(Adam)` and `regularized(AdamW)`."""

import copy
import io
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from plasticity.optim.regularizers import regularized

triton = pytest.importorskip("triton", reason="needs triton (Linux only)")
INTERPRETED = triton.knobs.runtime.interpret
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip(
        "needs a CUDA device (test_step.py runs this in Triton's interpreter)",
        allow_module_level=True,
    )
DEVICE = "cpu" if INTERPRETED else "cuda"

RATE = 0.01
every_kernel = pytest.mark.parametrize("kernel", ["triton", "triton-drawn"])
METHODS = {
    "none": {},
    "weight-decay": {"regularizer": "weight-decay", "strength": 0.1},
    "syre": {"regularizer": "syre", "strength": 0.1, "sigma": 0.5, "anchor_seed": 2**63 + 9},
    "l2-init": {"regularizer": "l2-init", "strength": 0.1},
}
every_method = pytest.mark.parametrize("method", METHODS)


def parameters_of(shapes, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(s, generator=generator).to(DEVICE, dtype)) for s in shapes]


def give_gradients(parameters, step, present=lambda step, index: True):
    generator = torch.Generator().manual_seed(100 + step)
    for index, parameter in enumerate(parameters):
        gradient = torch.randn(parameter.shape, generator=generator).to(DEVICE, parameter.dtype)
        parameter.grad = gradient if present(step, index) else None


SHAPES = [(3, 5, 1), (3,), (35, 30)]  # the last has more than one chunk


def trained(make, *, steps=3, shapes=SHAPES, **kwargs):
    parameters = parameters_of(shapes)
    optimizer = make(parameters)
    for step in range(steps):
        give_gradients(parameters, step, **kwargs)
        optimizer.step()
    return parameters, optimizer


def state_of(optimizer, key):
    every = [p for group in optimizer.param_groups for p in group["params"]]
    return [optimizer.state[p][key].cpu() for p in every if p in optimizer.state]


def assert_same(found, expected):
    """Compare two results of `trained`: the weights to 1e-6, a small part of their change, and the state."""
    torch.testing.assert_close(found[0], expected[0], rtol=1e-6, atol=1e-6)
    for key in ("exp_avg", "exp_avg_sq"):
        ours, theirs = (state_of(optimizer, key) for _, optimizer in (found, expected))
        torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=1e-6)
    assert state_of(found[1], "step") == state_of(expected[1], "step")


# ---- the eager form -------------------------------------------------------------------------------


@every_kernel
@every_method
@pytest.mark.parametrize(
    ("base", "decoupled"),
    [(torch.optim.Adam, False), (torch.optim.Adam, True), (torch.optim.AdamW, None)],
)
def test_equals_eager(kernel, base, method, decoupled):
    make = regularized(base)
    extra = {"lr": RATE, "decoupled": decoupled, **METHODS[method]}
    found = trained(lambda parameters: make(parameters, kernel=kernel, **extra))
    assert_same(found, trained(lambda parameters: make(parameters, **extra)))


@settings(deadline=None, max_examples=6)
@given(
    sizes=st.lists(st.integers(1, 2100), min_size=1, max_size=3),
    beta1=st.floats(0, 0.99),
    beta2=st.floats(0.5, 0.9999),
    eps=st.sampled_from([1e-8, 1e-3]),
    strength=st.floats(0, 1),
    maximize=st.booleans(),
    as_tensor=st.booleans(),
)
@every_kernel
def test_any_sizes_and_settings(kernel, sizes, beta1, beta2, eps, strength, maximize, as_tensor):
    make = regularized(torch.optim.Adam)
    extra = {
        "betas": (beta1, beta2),
        "eps": eps,
        "maximize": maximize,
        **METHODS["syre"],
        "strength": strength,
    }
    shapes = [(1, size) for size in sizes]
    rate = torch.tensor(RATE, device=DEVICE) if as_tensor else RATE
    found = trained(
        lambda parameters: make(parameters, lr=rate, kernel=kernel, **extra), shapes=shapes, steps=2
    )
    expected = trained(
        lambda parameters: make(parameters, lr=RATE, **extra), shapes=shapes, steps=2
    )
    torch.testing.assert_close(found[0], expected[0], rtol=1e-6, atol=2e-6)


def test_is_as_close_to_float64_as_eager():
    def distance(**kwargs):
        wide = [nn.Parameter(p.detach().double()) for p in parameters_of(SHAPES)]
        exact = regularized(torch.optim.Adam)(wide, lr=RATE, **METHODS["syre"])
        narrow = parameters_of(SHAPES)
        optimizer = regularized(torch.optim.Adam)(narrow, lr=RATE, **METHODS["syre"], **kwargs)
        for step in range(8):
            give_gradients(narrow, step)
            for p, q in zip(narrow, wide, strict=True):
                q.grad = p.grad.double()
            exact.step()
            optimizer.step()
        return max((p - q).abs().max() for p, q in zip(narrow, wide, strict=True))

    for kernel in ("triton", "triton-drawn"):
        assert distance(kernel=kernel) < 2 * distance()


def stored_anchors(optimizer):
    anchors = [
        each for targets in optimizer._targets.values() for each in targets._anchors.values()
    ]
    return [each for each in anchors if isinstance(each, torch.Tensor)]


def test_drawn_anchors_are_never_stored():
    _, drawing = trained(
        lambda p: regularized(torch.optim.Adam)(p, kernel="triton-drawn", **METHODS["syre"])
    )
    parameters, storing = trained(
        lambda p: regularized(torch.optim.Adam)(p, kernel="triton", **METHODS["syre"])
    )
    for ours, theirs in zip(drawing.param_groups[0]["params"], parameters, strict=True):
        assert torch.equal(drawing.anchor(ours), storing.anchor(theirs))
    assert stored_anchors(storing)
    assert not stored_anchors(drawing)


# ---- use in an optimizer --------------------------------------------------------------------------


@every_kernel
def test_different_groups_and_missing_gradients(kernel):
    def make(**kwargs):
        return lambda parameters: regularized(torch.optim.AdamW)(
            [
                {"params": parameters[:1], **METHODS["syre"], "lr": 0.02, "betas": (0.8, 0.99)},
                {"params": parameters[1:3], **METHODS["weight-decay"], "decoupled": False},
                {"params": parameters[3:], "maximize": True},
            ],
            lr=RATE,
            **kwargs,
        )

    def present(step, index):
        return (step + index) % 3 != 0

    found = trained(make(kernel=kernel), present=present, steps=5)
    assert_same(found, trained(make(), present=present, steps=5))


@every_kernel
def test_a_vector_before_any_weight_is_updated_and_not_decayed(kernel):
    make = regularized(torch.optim.Adam)
    shapes = [(4,), (3, 4), (3,)]
    found = trained(lambda p: make(p, kernel=kernel, **METHODS["syre"]), shapes=shapes)
    assert_same(found, trained(lambda p: make(p, **METHODS["syre"]), shapes=shapes))


@every_kernel
def test_closures_see_their_own_gradients(kernel):
    def run(**kwargs):
        (parameter,) = parameters = parameters_of([(3, 4)])
        optimizer = regularized(torch.optim.Adam)(parameters, lr=RATE, **METHODS["syre"], **kwargs)

        def closure():
            optimizer.zero_grad()
            loss = (parameter**2).sum()
            loss.backward()
            return loss

        losses = [optimizer.step(closure).item() for _ in range(3)]
        return torch.tensor(losses), parameter.detach()

    torch.testing.assert_close(run(kernel=kernel), run())


@every_kernel
def test_a_run_continues_with_another_kernel(kernel):
    make = regularized(torch.optim.Adam)
    names = [kernel, "eager", kernel]
    parameters = parameters_of(SHAPES)
    optimizer = None
    for step, name in enumerate(names):
        state = None if optimizer is None else optimizer.state_dict()
        extra = {"fused": True} if name == "eager" else {}  # ignored by the other kernel
        optimizer = make(parameters, lr=RATE, kernel=name, **METHODS["syre"], **extra)
        if state is not None:
            file = io.BytesIO()
            torch.save(state, file)
            file.seek(0)
            optimizer.load_state_dict(torch.load(file, weights_only=True))
        give_gradients(parameters, step)
        optimizer.step()
    expected = trained(lambda p: make(p, lr=RATE, **METHODS["syre"]))
    assert_same((parameters, optimizer), expected)
    state, plain = optimizer.state_dict(), expected[1].state_dict()
    assert state["param_groups"] == plain["param_groups"]
    assert [each["step"].device.type for each in state["state"].values()] == ["cpu"] * len(SHAPES)


def test_a_state_created_by_a_lookup_is_saved_empty():
    parameters = parameters_of(SHAPES)
    optimizer = regularized(torch.optim.Adam)(parameters, kernel="triton")
    assert optimizer.state[parameters[1]] == {}
    state = optimizer.state_dict()
    assert state["state"] == {1: {}}
    optimizer.load_state_dict(state)
    give_gradients(parameters, 0)
    optimizer.step()
    assert state_of(optimizer, "step") == [1.0] * len(SHAPES)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_copy_keeps_the_kernel(duplicate):
    _, optimizer = trained(
        lambda p: regularized(torch.optim.Adam)(p, kernel="triton-drawn", **METHODS["syre"])
    )
    other = duplicate(optimizer)
    parameters = other.param_groups[0]["params"]
    give_gradients(parameters, 7)
    other.step()
    give_gradients(optimizer.param_groups[0]["params"], 7)
    optimizer.step()
    assert all(map(torch.equal, parameters, optimizer.param_groups[0]["params"]))
    assert not stored_anchors(other)


@every_kernel
def test_a_compiled_step_agrees(kernel):
    make = regularized(torch.optim.Adam)
    parameters = parameters_of(SHAPES)
    optimizer = make(parameters, lr=RATE, kernel=kernel, **METHODS["syre"])
    torch._dynamo.reset()
    step = torch.compile(optimizer.step, backend="aot_eager")
    for count in range(3):
        give_gradients(parameters, count)
        step()
    assert_same((parameters, optimizer), trained(lambda p: make(p, lr=RATE, **METHODS["syre"])))


def test_a_gradient_scaler_skips_and_unscales():
    def run(**kwargs):
        (parameter,) = parameters = parameters_of([(3, 4)])
        optimizer = regularized(torch.optim.Adam)(parameters, lr=RATE, **METHODS["syre"], **kwargs)
        scaler = torch.amp.GradScaler(DEVICE, init_scale=16.0)
        for factor in (1.0, float("inf"), 2.0):
            optimizer.zero_grad()
            scaler.scale((parameter * factor).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
        return parameter.detach()

    torch.testing.assert_close(run(kernel="triton-drawn"), run())


# ---- layouts and dtypes ---------------------------------------------------------------------------


def test_any_dense_layout_with_stored_anchors():
    def run(**kwargs):
        parameter = nn.Parameter(
            parameters_of([(2, 3, 4, 5)])[0].detach().to(memory_format=torch.channels_last)
        )
        optimizer = regularized(torch.optim.Adam)([parameter], lr=RATE, **METHODS["syre"], **kwargs)
        for step in range(2):
            give_gradients([parameter], step)  # contiguous
            optimizer.step()
        parameter.grad = torch.ones((), device=DEVICE).expand_as(parameter)  # one number in memory
        optimizer.step()
        return parameter.detach()

    torch.testing.assert_close(run(kernel="triton"), run(), rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match=r"contiguous.*row-major.*kernel=\"triton\""):
        run(kernel="triton-drawn")


@pytest.mark.parametrize("method", ["syre", "l2-init"])
@pytest.mark.parametrize(("base", "momentum"), [("Adam", {}), ("SGD", {"momentum": 0.9})])
def test_weights_may_change_their_memory_format(base, momentum, method):
    def run(**kwargs):
        convolution = nn.Conv2d(3, 4, 2, device=DEVICE)
        weight = convolution.weight
        weight.data = parameters_of([weight.shape])[0].detach()
        optimizer = regularized(getattr(torch.optim, base))(
            [weight], lr=RATE, **METHODS[method], **momentum, **kwargs
        )
        for step in range(3):
            if step == 1:  # the anchors exist by now
                convolution.to(memory_format=torch.channels_last)
            give_gradients([weight], step)
            optimizer.step()
        return weight.detach()

    torch.testing.assert_close(run(kernel="triton"), run(), rtol=1e-6, atol=1e-6)


def test_gaps_in_memory_are_refused():
    parameter = nn.Parameter(torch.randn(4, 6, device=DEVICE)[:, ::2])
    optimizer = regularized(torch.optim.Adam)([parameter], kernel="triton")
    parameter.grad = torch.ones_like(parameter)
    with pytest.raises(ValueError, match=r"strides \(6, 2\).*dense.*kernel=\"eager\""):
        optimizer.step()


@every_kernel
@every_method
def test_bfloat16_is_computed_in_float32(kernel, method):
    parameters = parameters_of([(3, 40), (3,)], dtype=torch.bfloat16)
    twins = [nn.Parameter(p.detach().float()) for p in parameters]
    make = regularized(torch.optim.Adam)
    optimizer = make(parameters, lr=0.1, kernel=kernel, **METHODS[method])
    twin = make(twins, lr=0.1, **METHODS[method])
    give_gradients(parameters, 0)
    for p, q in zip(parameters, twins, strict=True):
        q.grad = p.grad.float()
    optimizer.step()
    twin.step()
    # one unit of 8 digits: the anchor has no more, and Triton's interpreter truncates instead of rounding
    for p, q in zip(parameters, twins, strict=True):
        torch.testing.assert_close(p.float(), q, rtol=2**-7, atol=1e-3)
        for key in ("exp_avg", "exp_avg_sq"):
            ours, theirs = optimizer.state[p][key], twin.state[q][key]
            assert ours.dtype == torch.bfloat16
            torch.testing.assert_close(ours.float(), theirs, rtol=2**-6, atol=1e-4)


# ---- refused settings -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"amsgrad": True}, "amsgrad=True"),
        ({"fused": True}, "fused=True"),
        ({"foreach": True}, "foreach=True"),
        ({"anisotropy": 0.1}, "anisotropy=0.1"),
    ],
)
def test_unsupported_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=f'{message}.*kernel="eager"'):
        regularized(torch.optim.Adam)(
            parameters_of([(2, 3)]), kernel="triton", **METHODS["syre"], **setting
        )


def test_an_edited_group_is_checked_again():
    parameters = parameters_of([(2, 3)])
    optimizer = regularized(torch.optim.Adam)(parameters, kernel="triton", **METHODS["syre"])
    optimizer.param_groups[0]["anisotropy"] = 0.2
    with pytest.raises(ValueError, match=r"anisotropy=0\.2"):
        optimizer.step()


def test_float64_is_refused():
    parameters = parameters_of([(2, 3)], dtype=torch.float64)
    optimizer = regularized(torch.optim.Adam)(parameters, kernel="triton")
    give_gradients(parameters, 0)
    with pytest.raises(TypeError, match="float32 and bfloat16"):
        optimizer.step()


def test_sparse_gradients_are_refused():
    layer = nn.Embedding(4, 3, sparse=True, device=DEVICE)
    optimizer = regularized(torch.optim.Adam)(layer.parameters(), kernel="triton")
    layer(torch.tensor([1], device=DEVICE)).sum().backward()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()


# ---- on a GPU only --------------------------------------------------------------------------------


@pytest.mark.skipif(INTERPRETED, reason="needs a CUDA device")
@every_kernel
def test_a_cuda_graph_replays_the_step(kernel):
    def make(parameters, **kwargs):
        return regularized(torch.optim.Adam)(parameters, lr=RATE, **METHODS["syre"], **kwargs)

    parameters = parameters_of(SHAPES)
    optimizer = make(parameters, kernel=kernel)
    give_gradients(parameters, 0)
    optimizer.step()
    give_gradients(parameters, 1)
    static = [p.grad for p in parameters]  # at other addresses than in the first step
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    for step in range(1, 4):
        give_gradients(parameters, step)
        for held, parameter in zip(static, parameters, strict=True):
            held.copy_(parameter.grad)
        graph.replay()
    give_gradients(parameters, 4)
    optimizer.step()  # an ordinary step continues from there
    assert_same((parameters, optimizer), trained(make, steps=5))
