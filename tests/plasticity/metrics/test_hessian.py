"""Rank of the Hessian: matrices with known eigenvalues, and losses with a known Hessian."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from plasticity.metrics.hessian import hessian_product, hessian_rank, ritz_values, symmetric_rank
from plasticity.metrics.tracker import Tracker


def product_of(matrix):
    return lambda vector: matrix @ vector


def diagonal(*entries):
    return torch.diag(torch.tensor(entries, dtype=torch.float64))


def test_one_direction_of_four():
    matrix = diagonal(1.0, 0.0, 0.0, 0.0)
    # One probe sees the square of its own first entry; the mean over probes is a quarter.
    start = torch.tensor([0.6, 0.8, 0.0, 0.0], dtype=torch.float64)
    values, weights = ritz_values(product_of(matrix), start, 10)
    assert values.tolist() == pytest.approx([0.0, 1.0], abs=1e-12)
    assert weights.tolist() == pytest.approx([0.64, 0.36])
    share = symmetric_rank(product_of(matrix), 4, epsilon=0.5, probes=2000)
    assert share.item() == pytest.approx(0.25, abs=0.02)


def test_the_identity_ends_at_the_first_step():
    calls = []

    def product(vector):
        calls.append(1)
        return vector

    assert symmetric_rank(product, 50, epsilon=0.5, probes=2).item() == pytest.approx(1.0)
    assert len(calls) == 2
    assert symmetric_rank(product, 50, epsilon=1.5).item() == 0.0


def test_the_zero_matrix_has_rank_0():
    assert symmetric_rank(torch.zeros_like, 7).item() == 0.0


def test_eigenvalues_below_0_count_by_their_magnitude():
    matrix = diagonal(-3.0, -0.1, 0.1, 2.0)
    share = symmetric_rank(product_of(matrix), 4, epsilon=0.5, probes=2000)
    assert share.item() == pytest.approx(0.5, abs=0.02)


def test_a_uniform_spectrum():
    # Of 400 eigenvalues even between -1 and 1, four fifths are beyond 0.2; a Krylov space of 100.
    matrix = torch.linspace(-1, 1, 400, dtype=torch.float64)
    share = symmetric_rank(lambda v: matrix * v, 400, epsilon=0.2, order=100, probes=20)
    assert share.item() == pytest.approx(0.8, abs=0.02)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.sampled_from([torch.float32, torch.float64]))
def test_a_whole_krylov_space_gives_the_eigenvalues(seed, size, dtype):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(size, size, generator=generator, dtype=dtype)
    matrix = matrix + matrix.T
    start = torch.randn(size, generator=generator, dtype=dtype)
    values, weights = ritz_values(product_of(matrix), start / start.norm(), 100)
    tolerance = 1e-3 if dtype is torch.float32 else 1e-9
    assert weights.sum().item() == pytest.approx(1.0)
    if len(values) == size:
        expected = torch.linalg.eigvalsh(matrix).tolist()
        assert values.tolist() == pytest.approx(expected, abs=tolerance)


def test_the_product_is_that_of_the_hessian():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    inputs, labels = torch.randn(5, 2, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1])
    names = [name for name, _ in model.named_parameters()]
    parameters = list(model.parameters())

    def loss_at(*values):
        outputs = torch.func.functional_call(model, dict(zip(names, values, strict=True)), inputs)
        return functional.cross_entropy(outputs, labels)

    blocks = torch.autograd.functional.hessian(loss_at, tuple(parameters))
    sizes = [each.numel() for each in parameters]
    hessian = torch.cat(
        [
            torch.cat([b.reshape(sizes[i], sizes[j]) for j, b in enumerate(row)], 1)
            for i, row in enumerate(blocks)
        ]
    )
    product = hessian_product(loss_at(*parameters), parameters)
    vector = torch.randn(sum(sizes), dtype=torch.float64)
    torch.testing.assert_close(product(vector), hessian @ vector)
    # All 17 steps: the mean over probes is the share of the true eigenvalues.
    share = hessian_rank(
        model, lambda m: functional.cross_entropy(m(inputs), labels), epsilon=0.05, probes=400
    )
    exact = (torch.linalg.eigvalsh(hessian).abs() > 0.05).double().mean().item()
    assert 0 < exact < 1
    assert share.item() == pytest.approx(exact, abs=0.03)


class Quadratic(nn.Module):
    """Loss of its own: half the square of the first of four weights; one more has no part in it."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.ones(4))
        self.unused = nn.Parameter(torch.ones(4))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, inputs):
        return self.weights[0].square() / 2 + self.weights[1:].sum() + inputs.sum()


def test_parameters_without_a_part_in_the_loss_count_and_frozen_ones_do_not():
    share = hessian_rank(Quadratic(), lambda m: m(torch.ones(1)), epsilon=0.5, probes=3000)
    assert share.item() == pytest.approx(1 / 8, abs=0.02)


def test_a_loss_that_is_linear_in_the_parameters_has_rank_0():
    model = nn.Linear(3, 1)
    assert hessian_rank(model, lambda m: m(torch.ones(2, 3)).sum()).item() == 0.0


def test_attention_can_be_differentiated_twice():
    model = nn.TransformerEncoderLayer(4, 2, 4, dropout=0.0, batch_first=True)
    share = hessian_rank(model, lambda m: m(torch.randn(2, 3, 4)).square().mean(), order=2)
    assert 0 <= share.item() <= 1


def test_what_is_refused():
    model = nn.Linear(2, 1)
    with pytest.raises(ValueError, match="one finite number"):
        hessian_rank(model, lambda m: m(torch.ones(3, 2)))
    with pytest.raises(ValueError, match="has the network diverged"):
        hessian_rank(model, lambda m: m(torch.full((1, 2), torch.nan)).sum())
    with pytest.raises(ValueError, match="unfreeze"):
        hessian_rank(model.requires_grad_(False), lambda m: m(torch.ones(1, 2)).sum())
    for name, value in (("epsilon", -1.0), ("order", 0), ("probes", 0)):
        with pytest.raises(ValueError, match=name):
            symmetric_rank(torch.zeros_like, 3, **{name: value})
    with pytest.raises(ValueError, match="not finite at Lanczos step 0"):
        symmetric_rank(lambda v: v * torch.inf, 3)


def test_a_tracker_measures_it_with_a_loss_and_disturbs_nothing():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    inputs, labels = torch.randn(4, 2), torch.tensor([0, 1, 1, 0])
    functional.cross_entropy(model(inputs), labels).backward()
    gradients = [each.grad.clone() for each in model.parameters()]
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=r"'hessian_rank' needs the loss.*loss=lambda model"):
        Tracker(model, inputs, ["hessian_rank"])
    tracker = Tracker(
        model,
        inputs,
        ["hessian_rank"],
        loss=lambda m: functional.cross_entropy(m(inputs), labels),
    )
    first = tracker.measure()["hessian_rank"]
    assert 0 < first < 1
    assert tracker.boundary(task=0)["hessian_rank"] == first  # the same directions every time
    assert torch.equal(torch.get_rng_state(), state)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, gradient)
