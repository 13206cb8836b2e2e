"""Random teachers: their function, their draws, their scale."""

import pytest
import torch

from plasticity.tasks.synthetic.teachers import Teacher, random_teacher


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_teacher_of_three_layers_by_hand():
    teacher = Teacher(
        (torch.tensor([[1.0], [-1.0]]), torch.tensor([[2.0, 3.0]]), torch.tensor([[5.0], [-1.0]])),
        torch.relu,
    )
    # 2: (2, 0), 4, (20, -4); -1: (0, 1), 3, (15, -3). No activation after the last layer.
    assert teacher(torch.tensor([[2.0], [-1.0]])).tolist() == [[20.0, -4.0], [15.0, -3.0]]
    assert teacher.divided(torch.tensor(2.0))(torch.tensor([[2.0]])).tolist() == [[10.0, -2.0]]


def test_two_widths_are_a_linear_map():
    teacher = random_teacher((3, 2), generator())
    inputs = torch.randn(5, 3, generator=generator(1))
    assert torch.equal(teacher(inputs), inputs @ teacher.weights[0].T)


def test_weights_are_normal_and_scaled_by_their_number_of_inputs():
    weights = random_teacher((50, 400, 100), generator(), activation=torch.tanh).weights
    assert [tuple(weight.shape) for weight in weights] == [(400, 50), (100, 400)]
    for weight in weights:  # 20,000 and 40,000 draws: a standard error under 0.5 %
        assert weight.std().item() * weight.shape[1] ** 0.5 == pytest.approx(1.0, rel=0.02)
        assert weight.mean().item() == pytest.approx(0.0, abs=0.01)
    unscaled = random_teacher((50, 400, 100), generator(), scaled=False).weights
    for weight, whole in zip(weights, unscaled, strict=True):
        torch.testing.assert_close(weight * weight.shape[1] ** 0.5, whole)


def test_normalized_labels_have_a_mean_square_of_1():
    inputs = torch.randn(64, 4, generator=generator(1))
    teacher = random_teacher((4, 8, 8, 3), generator(), activation=torch.tanh)
    labels, normalized = teacher(inputs), teacher.normalized(inputs)(inputs)
    assert normalized.square().mean().item() == pytest.approx(1.0, rel=1e-5)
    torch.testing.assert_close(normalized, labels * (normalized[0, 0] / labels[0, 0]))


def test_what_makes_no_teacher():
    with pytest.raises(ValueError, match="inputs and outputs"):
        random_teacher((4,), generator())
    with pytest.raises(ValueError, match="a width of a teacher must be at least 1: 0"):
        random_teacher((4, 0, 1), generator())
    with pytest.raises(ValueError, match="all 0"):
        random_teacher((4, 1), generator()).normalized(torch.zeros(2, 4))
