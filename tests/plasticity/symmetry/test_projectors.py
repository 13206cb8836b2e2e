import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity.symmetry.projectors import (
    broken_projector,
    expected_group_escape,
    group_escape_gradient,
    group_projector,
    reflection_matrix,
    reflection_projector,
    reflection_removal,
    swap_projector,
    symmetry_distance,
)

examples = settings(max_examples=30, deadline=None, database=None, derandomize=True)
STRENGTH = 0.3


def permutation_matrix(order):
    return torch.eye(len(order), dtype=torch.float64)[list(order)]


def symmetric_group(count, block=1):
    """Return all permutations of `count` blocks of `block` coordinates each."""
    inside = torch.eye(block, dtype=torch.float64)
    return torch.stack(
        [
            torch.kron(permutation_matrix(order), inside)
            for order in itertools.permutations(range(count))
        ]
    )


def cyclic_group(count):
    return torch.stack(
        [
            permutation_matrix([(index + shift) % count for index in range(count)])
            for shift in range(count)
        ]
    )


def dihedral_group(corners, basis):
    """Return the rotations and reflections of a polygon in the first two coordinates of a basis."""
    elements = []
    for turn in range(corners):
        angle = 2 * math.pi * turn / corners
        cosine, sine = math.cos(angle), math.sin(angle)
        for mirror in (1.0, -1.0):
            element = torch.eye(len(basis), dtype=torch.float64)
            turned = [[cosine, -sine * mirror], [sine, cosine * mirror]]
            element[:2, :2] = torch.tensor(turned, dtype=torch.float64)
            elements.append(basis @ element @ basis.T)
    return torch.stack(elements)


def random_basis(seed, size):
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return basis


def network_loss(theta, hidden=3):
    """Return the loss of a tanh network: 2 inputs, neurons of 2 incoming weights, bias, outgoing weight."""
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(20, 2, generator=generator, dtype=torch.float64)
    targets = torch.sin(2 * inputs[:, 0]) + inputs[:, 1]
    neurons = theta.view(hidden, 4)
    features = torch.tanh(inputs @ neurons[:, :2].T + neurons[:, 2])
    return ((features @ neurons[:, 3] - targets) ** 2).mean()


def cyclic_loss(theta):
    """Return a loss that is invariant under cyclic shifts, but not under other permutations."""
    shifted = theta.roll(1)
    return (theta**2 * shifted).sum() + torch.cos(theta - 2 * shifted).sum()


def with_decay(loss, anchor):
    return lambda theta: loss(theta) + STRENGTH / 2 * ((theta - anchor) ** 2).sum()


def gradient(loss, theta):
    theta = theta.clone().requires_grad_()
    (result,) = torch.autograd.grad(loss(theta), theta)
    return result


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# Projectors


def test_projector_of_one_vector():
    # n = (3, 4) / 5: P = n nT = [[9, 12], [12, 16]] / 25, and I - 2P maps (3, 4) to (-3, -4).
    vector = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    projector = reflection_projector(vector)
    expected = torch.tensor([[9.0, 12.0], [12.0, 16.0]], dtype=torch.float64) / 25
    torch.testing.assert_close(projector, expected)
    torch.testing.assert_close(reflection_matrix(projector) @ vector[0], -vector[0])
    torch.testing.assert_close(symmetry_distance(projector, vector[0]).item(), 5.0)
    # (4, -3) is orthogonal to it and unchanged.
    other = torch.tensor([4.0, -3.0], dtype=torch.float64)
    torch.testing.assert_close(reflection_matrix(projector) @ other, other)


def test_vectors_need_not_be_orthonormal_or_independent():
    # All three lie in the plane of the first two axes.
    vectors = torch.tensor([[1.0, 1.0, 0.0], [1.0, 2.0, 0.0], [2.0, 3.0, 0.0]])
    expected = torch.diag(torch.tensor([1.0, 1.0, 0.0]))
    torch.testing.assert_close(reflection_projector(vectors), expected)
    assert reflection_projector(vectors).dtype == torch.float32
    assert reflection_projector(vectors.half()).dtype == torch.float32


@examples
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 6))
def test_reflections_are_involutions(seed, count, size):
    projector = reflection_projector(normal(count, size, seed=seed))
    reflection = reflection_matrix(projector)
    torch.testing.assert_close(projector @ projector, projector)
    torch.testing.assert_close(projector, projector.T)
    torch.testing.assert_close(projector.trace().item(), float(min(count, size)))
    torch.testing.assert_close(reflection @ reflection, torch.eye(size, dtype=torch.float64))


def test_swap_exchanges_the_blocks_in_order():
    projector = swap_projector([0, 1], [4, 2], 5, dtype=torch.float64)
    theta = torch.tensor([10.0, 11.0, 12.0, 13.0, 14.0], dtype=torch.float64)
    # 0 <-> 4 and 1 <-> 2.
    expected = torch.tensor([14.0, 12.0, 11.0, 13.0, 10.0], dtype=torch.float64)
    torch.testing.assert_close(reflection_matrix(projector) @ theta, expected)
    # theta[first] - theta[second] = (-4, -1): |P theta| = √17 / √2.
    torch.testing.assert_close(symmetry_distance(projector, theta).item(), math.sqrt(17 / 2))
    spanned = torch.tensor([[1.0, 0, 0, 0, -1], [0, 1, -1, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(projector, reflection_projector(spanned))
    tensors = swap_projector(torch.tensor([0, 1]), torch.tensor([4, 2]), 5, dtype=torch.float64)
    assert torch.equal(tensors, projector)
    assert swap_projector([0], [1], 2).dtype == torch.get_default_dtype()


@pytest.mark.parametrize(
    ("group", "dimension"),
    [
        # Unchanged: vectors equal in all permuted blocks; the axis and rest that a polygon does not move.
        (symmetric_group(3), 1),
        (symmetric_group(3, block=4), 4),
        (cyclic_group(5), 1),
        (dihedral_group(6, random_basis(1, 4)), 2),
        (torch.eye(3, dtype=torch.float64)[None], 3),
    ],
)
def test_group_projector_keeps_vectors_that_the_group_leaves_unchanged(group, dimension):
    projector = group_projector(group)
    torch.testing.assert_close(projector.trace().item(), float(dimension))
    torch.testing.assert_close(projector @ projector, projector)
    for element in group:
        torch.testing.assert_close(element @ projector, projector)
    # Conversely: the vectors that all elements leave unchanged are the null space of the stacked g - I.
    moved = torch.cat([element - torch.eye(len(element), dtype=torch.float64) for element in group])
    fixed = len(projector) - int(torch.linalg.matrix_rank(moved))
    assert fixed == dimension


@examples
@given(st.integers(0, 10_000), st.integers(2, 7), st.integers(2, 5))
def test_group_projector_invariants_in_any_basis(seed, corners, size):
    group = dihedral_group(corners, random_basis(seed, size))
    projector = group_projector(group)
    assert torch.equal(projector, projector.T)
    torch.testing.assert_close(projector @ projector, projector)
    for element in group:
        torch.testing.assert_close(element @ projector, projector @ element)
    broken = broken_projector(projector)
    torch.testing.assert_close(broken @ projector, torch.zeros_like(projector))


def test_a_reflection_is_a_group_of_two():
    projector = reflection_projector(normal(2, 5))
    group = [torch.eye(5, dtype=torch.float64), reflection_matrix(projector)]
    torch.testing.assert_close(broken_projector(group_projector(group)), projector)


def test_a_group_given_twice_is_the_same_group():
    group = cyclic_group(3)
    torch.testing.assert_close(group_projector(torch.cat([group, group])), group_projector(group))


def test_float32_groups_pass_the_check():
    group = dihedral_group(7, random_basis(3, 20)).float()
    projector = group_projector(group)
    assert projector.dtype == torch.float32
    torch.testing.assert_close(projector.trace().item(), 18.0)


def test_the_rank_is_an_integer_although_the_trace_is_rounded():
    groups = [dihedral_group(7, random_basis(seed, 20)).float() for seed in range(10)]
    projectors = [group_projector(group) for group in groups]
    assert {expected_group_escape(each, 1.0, 1.0).item() for each in projectors} == {2.0}
    assert {broken_projector(each).trace().item() for each in projectors} != {2.0}


@pytest.mark.parametrize(
    "incomplete",
    [
        cyclic_group(4)[:3],
        cyclic_group(3)[1:],
        symmetric_group(4)[:-1],
        torch.cat([cyclic_group(3), cyclic_group(3)[:1]]),
    ],
)
def test_incomplete_groups_are_rejected(incomplete):
    with pytest.raises(ValueError, match="not a full group"):
        group_projector(incomplete)


# Strength of removal, against the loss


@examples
@given(st.integers(0, 10_000))
def test_losses_of_mirror_images_differ_as_the_formula_says(seed):
    theta, anchor = normal(12, seed=seed), normal(12, seed=seed + 1)
    # Neurons 0 and 2 of three: coordinates 0 to 3 and 8 to 11.
    projector = swap_projector(range(4), range(8, 12), 12, dtype=torch.float64)
    mirrored = reflection_matrix(projector) @ theta
    torch.testing.assert_close(network_loss(theta), network_loss(mirrored))
    loss = with_decay(network_loss, anchor)
    difference = (loss(theta) - loss(mirrored)).abs()
    predicted = reflection_removal(projector, theta, anchor, STRENGTH)
    torch.testing.assert_close(predicted, difference, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        reflection_removal(projector, theta, anchor, STRENGTH, per_distance=True),
        difference / symmetry_distance(projector, theta),
        rtol=1e-9,
        atol=1e-12,
    )


def test_sign_flip_of_a_tanh_neuron_is_a_reflection():
    projector = reflection_projector(torch.eye(12, dtype=torch.float64)[4:8])
    theta, anchor = normal(12, seed=8), normal(12, seed=9)
    mirrored = reflection_matrix(projector) @ theta
    torch.testing.assert_close(mirrored[4:8], -theta[4:8])
    torch.testing.assert_close(network_loss(theta), network_loss(mirrored))
    loss = with_decay(network_loss, anchor)
    torch.testing.assert_close(
        reflection_removal(projector, theta, anchor, STRENGTH),
        (loss(theta) - loss(mirrored)).abs(),
    )


def test_hand_computed_removal():
    # P = nnT with n = (1, -1)/√2, theta = (3, 1): P theta = (1, -1); anchor (0.5, 0.1): <,> = 0.4.
    # 2 · 0.3 · 0.4 = 0.24, over |P theta| = √2.
    projector = swap_projector([0], [1], 2, dtype=torch.float64)
    theta, anchor = torch.tensor([[3.0, 1.0], [0.5, 0.1]], dtype=torch.float64)
    assert reflection_removal(projector, theta, anchor, 0.3).item() == pytest.approx(0.24)
    per_distance = reflection_removal(projector, theta, anchor, 0.3, per_distance=True)
    assert per_distance.item() == pytest.approx(0.24 / math.sqrt(2))
    # Without decay, or with the anchor at zero, nothing is removed.
    assert reflection_removal(projector, theta, anchor, 0.0).item() == 0
    assert reflection_removal(projector, theta, torch.zeros_like(anchor), 0.3).item() == 0


def test_removal_in_a_symmetric_state_is_zero_and_nan_per_distance():
    projector = swap_projector([0], [1], 2, dtype=torch.float64)
    theta = torch.ones(2, dtype=torch.float64)
    anchor = torch.tensor([1.0, 2.0], dtype=torch.float64)
    assert reflection_removal(projector, theta, anchor, 1.0).item() == 0
    assert reflection_removal(projector, theta, anchor, 1.0, per_distance=True).isnan()


@pytest.mark.parametrize(
    ("loss", "group", "size"),
    [
        (network_loss, symmetric_group(3, block=4), 12),
        (lambda theta: network_loss(theta, hidden=2), symmetric_group(2, block=4), 8),
        (cyclic_loss, cyclic_group(5), 5),
    ],
    ids=["three neurons", "two neurons", "cyclic"],
)
def test_escape_gradient_is_the_broken_part_of_the_gradient(loss, group, size):
    theta, anchor = normal(size, seed=2), normal(size, seed=3)
    for element in group:
        torch.testing.assert_close(loss(element @ theta), loss(theta))
    projector = group_projector(group)
    broken = broken_projector(projector)
    symmetric_state = projector @ theta
    assert gradient(loss, symmetric_state).norm() > 0.1
    # The loss itself never leads out of a symmetric state, and decay toward zero does not either.
    assert symmetry_distance(broken, gradient(loss, symmetric_state)) < 1e-12
    toward_zero = with_decay(loss, torch.zeros_like(anchor))
    assert symmetry_distance(broken, gradient(toward_zero, symmetric_state)) < 1e-12
    escape = symmetry_distance(broken, gradient(with_decay(loss, anchor), symmetric_state))
    assert escape > 0.01
    torch.testing.assert_close(group_escape_gradient(projector, anchor, STRENGTH), escape)


def test_the_test_losses_have_no_further_symmetry():
    # Otherwise the group tests could pass with the projector of another group.
    theta = normal(5, seed=2)
    exchanged = theta[[1, 0, 2, 3, 4]]
    assert (cyclic_loss(theta) - cyclic_loss(exchanged)).abs() > 0.01


def test_mean_square_of_the_escape_gradient():
    # Three neurons of four weights: the broken subspace has 12 - 4 = 8 dimensions.
    projector = group_projector(symmetric_group(3, block=4))
    sigma_0, draws = 0.05, 20_000
    expected = expected_group_escape(projector, STRENGTH, sigma_0).item()
    assert expected == pytest.approx(STRENGTH**2 * sigma_0**2 * 8, rel=1e-12)
    anchors = sigma_0 * normal(draws, 12, seed=4)
    squares = group_escape_gradient(projector, anchors, STRENGTH) ** 2
    # A chi-squared variable of 8 degrees has a relative deviation of √(2 / 8); 4 standard errors.
    error = expected * math.sqrt(2 / 8 / draws)
    assert abs(squares.mean().item() - expected) < 4 * error
    assert 4 * error < 0.02 * expected


@examples
@given(st.integers(2, 6), st.floats(0, 10), st.floats(0, 10))
def test_expected_escape_of_cyclic_groups(count, strength, sigma_0):
    # All directions but the constant vector are broken: rank count - 1.
    expected = (strength * sigma_0) ** 2 * (count - 1)
    result = expected_group_escape(group_projector(cyclic_group(count)), strength, sigma_0)
    assert result.item() == pytest.approx(expected, rel=1e-12)


def test_leading_dimensions_are_batched():
    projector = swap_projector([0, 1], [2, 3], 5, dtype=torch.float64)
    thetas, anchors = normal(3, 2, 5), normal(2, 5, seed=1)
    removal = reflection_removal(projector, thetas, anchors, STRENGTH)
    assert removal.shape == (3, 2)
    torch.testing.assert_close(
        removal[2, 1], reflection_removal(projector, thetas[2, 1], anchors[1], STRENGTH)
    )
    assert symmetry_distance(projector, thetas).shape == (3, 2)


# Bad input


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: reflection_projector(torch.ones(3)), ValueError, r"shape \(count, parameters\)"),
        (lambda: reflection_projector(torch.zeros(2, 3)), ValueError, "all are zero"),
        (lambda: reflection_projector(torch.full((1, 2), torch.nan)), ValueError, "finite"),
        (lambda: reflection_projector(torch.ones(1, 2).long()), TypeError, "int64"),
        (lambda: reflection_matrix(torch.ones(2, 3)), ValueError, r"\(2, 3\)"),
        (lambda: swap_projector([0], [1, 2], 3), ValueError, "first has 1 indices and second 2"),
        (lambda: swap_projector([], [], 3), ValueError, "at least 1"),
        (lambda: swap_projector([0, 1], [1, 2], 3), ValueError, "index 1 occurs twice"),
        (lambda: swap_projector([0], [3], 3), ValueError, r"second\[0\] must be at least 0 and at most 2"),
        (lambda: swap_projector([-1], [1], 3), ValueError, r"first\[0\]"),
        (lambda: swap_projector([0.5], [1], 3), TypeError, r"first\[0\] must be an integer"),
        (lambda: group_projector([]), ValueError, "empty"),
        (lambda: group_projector(torch.ones(2, 2)), ValueError, "elements, parameters, parameters"),
        (lambda: group_projector(2 * torch.eye(2)[None]), ValueError, r"matrices\[0\] is not orthogonal"),
        (lambda: group_projector(torch.full((1, 2, 2), torch.nan)), ValueError, "not orthogonal"),
        (lambda: group_projector(torch.eye(2).long()[None]), TypeError, "int64"),
        (lambda: symmetry_distance(torch.eye(2), torch.ones(3)), ValueError, r"theta has shape \(3,\)"),
        (
            lambda: reflection_removal(torch.eye(2), torch.ones(2), torch.ones(3), 1.0),
            ValueError,
            r"anchor has shape \(3,\)",
        ),
        (
            lambda: reflection_removal(torch.eye(2), torch.ones(2), torch.ones(2), -1.0),
            ValueError,
            "strength",
        ),
        (lambda: group_escape_gradient(torch.eye(2), torch.ones(2), math.nan), ValueError, "strength"),
        (lambda: expected_group_escape(torch.eye(2), 1.0, -0.1), ValueError, "sigma_0"),
        (lambda: expected_group_escape(torch.eye(2), "1", 0.1), TypeError, "strength"),
    ],
)  # fmt: skip
def test_errors_name_the_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
