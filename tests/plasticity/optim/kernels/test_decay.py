"""Tests of the decay kernel against the eager decay and against float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from plasticity.optim import decay
from plasticity.optim.anchors import _box_muller, _unit_interval, _words, syre_anchor
from plasticity.optim.kernels.tensor_table import DrawnAnchor, TableCache
from plasticity.optim.regularizers import regularized

triton = pytest.importorskip("triton", reason="needs triton (Linux only)")
INTERPRETED = triton.knobs.runtime.interpret
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip(
        "needs a CUDA device (test_step.py runs this in Triton's interpreter)",
        allow_module_level=True,
    )
DEVICE = "cpu" if INTERPRETED else "cuda"

from plasticity.optim.kernels.decay import decay_toward_, decayed_gradients  # noqa: E402

sizes = st.lists(st.sampled_from([1, 2, 3, 5, 127, 1023, 1024, 1025, 2050]), min_size=1, max_size=3)


def draw(counts, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(c, generator=generator).to(DEVICE, dtype) for c in counts]


def anchors_of(kind, parameters, seed):
    """Return the anchors as arguments of the kernel and of the eager form."""
    if kind == "stored":
        stored = draw([p.numel() for p in parameters], seed + 2)
        return stored, stored
    if kind == "drawn":
        described = [DrawnAnchor(2**64 - 1 - seed, i, 0.1 + i) for i in range(len(parameters))]
        stored = [
            syre_anchor(p, seed=d.seed, position=d.position, standard_deviation=d[2])
            for p, d in zip(parameters, described, strict=True)
        ]
        return described, stored
    return None, None


@settings(deadline=None, max_examples=8)
@given(
    counts=sizes,
    seed=st.integers(0, 9999),
    amount=st.floats(-1, 1),
    on_device=st.booleans(),
)
@pytest.mark.parametrize("kind", ["zero", "stored", "drawn"])
def test_equals_the_eager_decay(kind, counts, seed, amount, on_device):
    parameters, gradients = draw(counts, seed), draw(counts, seed + 1)
    anchors, eager_anchors = anchors_of(kind, parameters, seed)
    given_amount = torch.tensor(amount, device=DEVICE) if on_device else amount
    before = [p.clone() for p in (*parameters, *gradients)]
    found = decayed_gradients(gradients, parameters, anchors, given_amount)
    expected = decay.decayed_gradients(gradients, parameters, eager_anchors, amount)
    # values up to 4 and anchors up to 12: a few roundings of 1e-6 at most
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=4e-6)
    assert all(map(torch.equal, (*parameters, *gradients), before))
    moved = [p.clone() for p in parameters]
    decay_toward_(moved, anchors, given_amount)
    decay.decay_toward_(parameters, eager_anchors, amount)
    torch.testing.assert_close(moved, parameters, rtol=1e-6, atol=4e-6)


def test_bfloat16_is_rounded_once():
    parameters, gradients, anchors = (draw([700, 3], s, torch.bfloat16) for s in (0, 1, 2))
    found = decayed_gradients(gradients, parameters, anchors, 0.1)
    for gradient, parameter, anchor, result in zip(
        gradients, parameters, anchors, found, strict=True
    ):
        exact = gradient.double() + 0.1 * (parameter.double() - anchor.double())
        # Half a unit of 8 digits, plus float32's own rounding. (Triton's interpreter truncates where
        # the device rounds: a whole unit.)
        unit = 2**-7 if INTERPRETED else 2**-8
        assert ((result.double() - exact).abs() <= unit * exact.abs() + 1e-6).all()


def test_unaligned_views():
    whole = torch.randn(1030, device=DEVICE)
    parameter = torch.cat([whole, whole])[1:1026]  # 4 bytes past an aligned address
    expected = parameter - 0.25 * (parameter - 1)
    decay_toward_([parameter], [torch.ones(1025, device=DEVICE)], 0.25)
    torch.testing.assert_close(parameter, expected)


def test_empty_tensors_and_no_elements():
    parameters = [torch.empty(0, device=DEVICE), torch.ones(2, device=DEVICE)]
    decay_toward_(parameters, None, 0.5)
    assert parameters[1].tolist() == [0.5, 0.5]
    decay_toward_(parameters[:1], None, 0.5)


def test_a_cache_follows_tensors_that_move():
    cache = TableCache()
    for seed in range(3):
        for counts in ([5, 1030], [7]):
            parameters = draw(counts, seed)
            expected = [p * 0.5 for p in parameters]
            decay_toward_(parameters, None, 0.5, cache)
            torch.testing.assert_close(parameters, expected)


def test_other_dtypes_are_refused():
    with pytest.raises(TypeError, match=r"not torch.float64: give kernel=\"eager\""):
        decay_toward_([torch.ones(2, dtype=torch.float64, device=DEVICE)], None, 0.5)


# ---- in an optimizer ------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["triton", "triton-drawn"])
@pytest.mark.parametrize("regularizer", ["weight-decay", "syre", "l2-init"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize(("decoupled", "maximize"), [(False, False), (True, False), (False, True)])
def test_the_decay_with_another_base_is_the_same(
    kernel, regularizer, momentum, decoupled, maximize
):
    def trained(kernel):
        generator = torch.Generator().manual_seed(1)
        shapes = [(3, 7), (3,)]
        parameters = [nn.Parameter(torch.randn(s, generator=generator).to(DEVICE)) for s in shapes]
        optimizer = regularized(torch.optim.SGD)(
            parameters,
            lr=0.01,
            regularizer=regularizer,
            strength=0.3,
            sigma=0.5,
            anchor_seed=2**63 + 1,
            decoupled=decoupled,
            maximize=maximize,
            kernel=kernel,
            momentum=momentum,
        )
        for _ in range(2):
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, generator=generator).to(DEVICE)
            gradients = [p.grad.clone() for p in parameters]
            optimizer.step()
            torch.testing.assert_close([p.grad for p in parameters], gradients)
        return [p.detach() for p in parameters]

    torch.testing.assert_close(trained(kernel), trained("eager"), rtol=1e-6, atol=1e-6)


# ---- on a GPU only --------------------------------------------------------------------------------


@pytest.mark.skipif(INTERPRETED, reason="needs a CUDA device with 10 GB")
def test_more_than_2_to_the_31_elements():
    count = 2**31 + 6
    if torch.cuda.mem_get_info()[0] < 6 * 2**30:
        pytest.skip("needs 6 GB of free memory on the CUDA device")
    parameter = torch.zeros(count, dtype=torch.bfloat16, device="cuda")
    decay_toward_([parameter], [DrawnAnchor(3, 1, 1.0)], 1.0)
    words = _words(3, 1, torch.arange(2**29, 2**29 + 2), 0)
    u = [_unit_interval(word) for word in words]
    expected = torch.stack([*_box_muller(*u[:2]), *_box_muller(*u[2:])], dim=-1).flatten()[:6]
    torch.testing.assert_close(parameter[2**31 :].cpu().float(), expected, rtol=2**-7, atol=0)
