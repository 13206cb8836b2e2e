import math

import pytest
import torch
from hypothesis import given, settings, strategies
from networks_in_training import Training
from torch import nn

from plasticity.mitigations import FIRE
from plasticity.mitigations.attach import attach
from plasticity.mitigations.fire import isometry, polar_factor


def from_isometry(matrix):
    return (matrix.mT @ matrix - torch.eye(matrix.shape[-1], dtype=matrix.dtype)).square().sum()


def test_the_polar_factor_is_the_nearest_isometry():
    matrix = torch.diag(torch.tensor([3.0, 0.5]))
    # (9 - 1)^2 + (0.25 - 1)^2, and (3 - 1)^2 + (0.5 - 1)^2
    assert from_isometry(matrix).item() == 64.5625
    found = polar_factor(matrix)
    torch.testing.assert_close(found, torch.eye(2))
    assert (found - matrix).square().sum().item() == pytest.approx(4.25)


@pytest.mark.parametrize(
    # 3 / |W| = 0.98639 and 0.5 / |W| = 0.16440; each x becomes 1.5 x - 0.5 x^3
    ("iterations", "expected"),
    [(1, (0.99972, 0.24438)), (2, (1.0, 0.35927)), (3, (1.0, 0.51572))],
)
def test_iterations_approach_it(iterations, expected):
    found = polar_factor(torch.diag(torch.tensor([3.0, 0.5])), iterations)
    torch.testing.assert_close(found, torch.diag(torch.tensor(expected)), atol=1e-5, rtol=0)


@settings(deadline=None, max_examples=30)
@given(
    rows=strategies.integers(1, 6),
    columns=strategies.integers(1, 6),
    seed=strategies.integers(0, 1000),
)
def test_it_is_orthonormal_and_twice_is_once(rows, columns, seed):
    draws = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, columns, generator=draws, dtype=torch.float64)
    found = polar_factor(matrix)
    small = found if rows >= columns else found.mT
    torch.testing.assert_close(small.mT @ small, torch.eye(min(rows, columns)).double())
    torch.testing.assert_close(polar_factor(found), found)
    # W = P H with the symmetric, positive H: only then is P nearest
    symmetric = found.mT @ matrix if rows >= columns else matrix @ found.mT
    torch.testing.assert_close(symmetric, symmetric.mT)
    assert torch.linalg.eigvalsh(symmetric).min() > -1e-12
    assert torch.allclose(polar_factor(matrix, iterations=60), found, atol=1e-4)


def test_a_weight_is_scaled_by_its_sizes():
    dense = isometry(torch.randn(8, 2))
    torch.testing.assert_close(dense.mT @ dense, 8 / 2 * torch.eye(2))
    kernels = isometry(torch.randn(8, 2, 3, 3))
    for row in range(3):
        for column in range(3):
            each = kernels[:, :, row, column]
            torch.testing.assert_close(each.mT @ each, 8 / 2 / 81 * torch.eye(2))
    stacked = torch.randn(4, 8, 2, 3, 3)
    found = isometry(stacked, lead=1)
    torch.testing.assert_close(found, torch.stack([isometry(each) for each in stacked]))


@pytest.mark.parametrize("iterations", [None, 10])
def test_zeros_stay(iterations):
    assert not isometry(torch.zeros(3, 2), iterations=iterations).any()


@pytest.mark.parametrize("head", [True, False])
def test_weights_are_replaced_and_all_else_stays(head):
    run = Training((FIRE(head=head),)).train(5)
    before = run.everything()
    run.hooks.boundary(1, [0])
    replaced = {"conv.weight", "fc.weight", *(["head.weight"] if head else [])}
    for name, each in run.everything().items():
        if name in replaced:
            torch.testing.assert_close(each, isometry(before[name]))
            assert not torch.equal(each, before[name])
        elif "/" in name:
            assert not each.any()
        else:
            assert torch.equal(each, before[name]), name


def test_queries_keys_and_values_are_a_matrix_each():
    attention = nn.MultiheadAttention(4, 2)
    model = nn.Sequential(nn.Linear(3, 4), Attending(attention), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs = torch.randn(5, 3)
    readers = {"0": "2"}  # the attention cannot be followed
    attach(model, optimizer, FIRE(), inputs=inputs, readers=readers).boundary(1)
    for part in attention.in_proj_weight.detach().chunk(3):
        torch.testing.assert_close(part.mT @ part, torch.eye(4))


class Attending(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, inputs):
        return self.attention(inputs, inputs, inputs)[0]


@pytest.mark.parametrize(("field", "value"), [("head", 1), ("iterations", 0), ("every", 0)])
def test_a_wrong_setting_is_refused(field, value):
    with pytest.raises((ValueError, TypeError), match=field):
        FIRE(**{field: value})


@pytest.mark.parametrize("iterations", [None, 5])
def test_all_forms_agree(trains_alike, iterations):
    trains_alike(*[(FIRE(every=3, iterations=iterations),)] * 2)


def test_the_frobenius_norm_follows_from_the_sizes():
    # min(units, inputs) singular values of sqrt(units / inputs)
    assert isometry(torch.randn(6, 24)).norm().item() == pytest.approx(math.sqrt(6 * 6 / 24))


@pytest.mark.parametrize("iterations", [None, 10])
def test_a_network_that_has_diverged_stays_as_the_only_one_of_a_stack(iterations):
    weights = torch.stack([torch.full((3, 2), torch.nan), torch.ones(3, 2), torch.eye(3)[:, :2]])
    weights[1, 0] = torch.inf
    found = isometry(weights, 1, iterations)
    assert torch.equal(found[:2].nan_to_num(9, 8), weights[:2].nan_to_num(9, 8))
    torch.testing.assert_close(found[2], math.sqrt(1.5) * weights[2], rtol=0, atol=0.05)
