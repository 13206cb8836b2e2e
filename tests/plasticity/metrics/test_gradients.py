import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from plasticity.metrics.gradients import (
    gradient_covariance_rank,
    neural_tangent_kernel,
    ntk_rank,
    per_sample_gradients,
)


def convolutional():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(12, 4),
    )


def images(count=6):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 1, 4, 4, generator=generator)


LABELS = torch.tensor([0, 1, 2, 3, 0, 1])


def half_squares(outputs, targets):
    return 0.5 * (outputs - targets).square().sum()


def test_per_sample_gradients_of_a_linear_network_are_residual_times_input():
    # L_i = |W x_i + b - y_i|² / 2: dL/dW = r xᵀ, dL/db = r, with r = W x + b - y.
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    inputs, targets = torch.randn(5, 3).double(), torch.randn(5, 2).double()
    residuals = (model(inputs) - targets).detach()
    expected = torch.cat(
        [torch.einsum("ba,bi->bai", residuals, inputs).flatten(1), residuals], dim=1
    )
    actual = per_sample_gradients(model, inputs, targets, half_squares)
    torch.testing.assert_close(actual, expected)
    assert not actual.requires_grad


def test_per_sample_gradients_equal_a_loop_of_backward_passes():
    model = convolutional()
    actual = per_sample_gradients(model, images(), LABELS)
    assert actual.shape == (6, sum(parameter.numel() for parameter in model.parameters()))
    model.eval()
    for row, image, label in zip(actual, images(), LABELS, strict=True):
        loss = functional.cross_entropy(model(image[None]), label[None])
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        torch.testing.assert_close(row, torch.cat([g.flatten() for g in gradients]))


def test_frozen_parameters_are_left_out():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    gradients = per_sample_gradients(model, torch.randn(5, 3), torch.zeros(5, dtype=torch.long))
    assert gradients.shape == (5, 4 * 2 + 2)


def test_shared_parameters_count_once():
    # f(x) = w² x: df/dw = 2 w x.
    layer = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(layer.weight, 3.0)
    other = nn.Linear(1, 1, bias=False).double()
    other.weight = layer.weight
    inputs = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    kernel = neural_tangent_kernel(nn.Sequential(layer, other), inputs)
    torch.testing.assert_close(kernel, 36 * inputs @ inputs.T)


def test_kernel_of_a_linear_network_is_a_kronecker_product():
    torch.manual_seed(0)
    inputs = torch.randn(6, 4)
    model = nn.Linear(4, 3, bias=False)
    gram = inputs.double() @ inputs.double().T
    expected = torch.kron(gram, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(neural_tangent_kernel(model, inputs), expected, rtol=1e-6, atol=1e-6)
    # 6 samples span the 4 input dimensions, times 3 outputs.
    assert ntk_rank(model, inputs).item() == 4 * 3
    # A bias adds 1 ⊗ I: a fifth dimension.
    assert ntk_rank(nn.Linear(4, 3), inputs).item() == 5 * 3


def test_kernel_of_a_two_layer_linear_network():
    # f = A B x: K = |A_a·A_b| x_i·x_j (from B) + δ_ab (B x_i)·(B x_j) (from A).
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 5, bias=False), nn.Linear(5, 2, bias=False)).double()
    inner, outer = model[0].weight.detach(), model[1].weight.detach()
    inputs = torch.randn(7, 4, dtype=torch.float64)
    hidden = inputs @ inner.T
    expected = torch.kron(inputs @ inputs.T, outer @ outer.T)
    expected += torch.kron(hidden @ hidden.T, torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(neural_tangent_kernel(model, inputs), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_effective_rank_of_a_known_kernel(dtype):
    # Orthogonal samples of lengths 2, 1, 1: eigenvalues 4, 1, 1, so p = 2/3, 1/6, 1/6.
    inputs = torch.diag(torch.tensor([2.0, 1.0, 1.0], dtype=dtype))
    model = nn.Linear(3, 1, bias=False, dtype=dtype)
    entropy = -(2 / 3 * math.log(2 / 3) + 2 / 6 * math.log(1 / 6))
    rank = ntk_rank(model, inputs, measure="effective")
    assert rank.item() == pytest.approx(math.exp(entropy), rel=1e-6)
    assert rank.dtype == dtype
    assert ntk_rank(model, inputs).dtype == torch.int64


def test_covariance_rank_counts_distinct_gradient_directions():
    # One output, no bias: g_i = r_i x_i, so the rank is that of the samples with a residual.
    model = nn.Linear(4, 1, bias=False)
    nn.init.zeros_(model.weight)
    inputs = torch.eye(4)[[0, 1, 1, 2, 3]]
    targets = torch.tensor([[1.0], [1.0], [2.0], [3.0], [0.0]])
    # The last sample has no residual; the second and third share a direction.
    assert gradient_covariance_rank(model, inputs, targets, half_squares).item() == 3


def test_the_gradients_are_not_centred():
    model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(model.weight)
    inputs, targets = torch.ones(4, 2), torch.ones(4, 1)
    for measure in ("numerical", "effective"):
        rank = gradient_covariance_rank(model, inputs, targets, half_squares, measure=measure)
        assert rank.item() == pytest.approx(1)


def test_covariance_rank_does_not_depend_on_the_scale_of_the_loss():
    model, labels = convolutional(), LABELS
    expected = gradient_covariance_rank(model, images(), labels, measure="effective").item()

    def tiny(outputs, targets):
        # Gradients near 1e-28, whose products are out of range in float32.
        return 1e-28 * functional.cross_entropy(outputs, targets)

    actual = gradient_covariance_rank(model, images(), labels, tiny, measure="effective").item()
    assert actual == pytest.approx(expected, rel=1e-5)
    assert expected > 1.5


def test_no_gradient_at_all_has_rank_zero():
    model = nn.Linear(3, 2, bias=False)
    assert ntk_rank(model, torch.zeros(4, 3)).item() == 0
    assert ntk_rank(model, torch.zeros(4, 3), measure="effective").item() == 0


def test_samples_of_rank_deficient_data_in_float32():
    # 64 samples in a 5-dimensional subspace of 200: rounding must not add to the rank.
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 5, generator=generator) @ torch.randn(5, 200, generator=generator)
    assert ntk_rank(nn.Linear(200, 2, bias=False), inputs).item() == 5 * 2


@pytest.mark.parametrize("chunk_size", [1, 2, 4, 6, 100])
def test_chunks_change_nothing(chunk_size):
    model = convolutional()
    torch.testing.assert_close(
        neural_tangent_kernel(model, images(), chunk_size=chunk_size),
        neural_tangent_kernel(model, images()),
        rtol=1e-5,
        atol=1e-6,
    )
    for measure in ("numerical", "effective"):
        whole = gradient_covariance_rank(model, images(), LABELS, measure=measure)
        parts = gradient_covariance_rank(
            model, images(), LABELS, measure=measure, chunk_size=chunk_size
        )
        torch.testing.assert_close(parts, whole, rtol=1e-5, atol=0)


class Counting(nn.Module):
    """Network that counts its calls in a buffer, even in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, inputs):
        self.calls += 1
        return inputs


def test_measuring_leaves_the_model_unchanged():
    model = nn.Sequential(convolutional(), Counting())
    model.train()
    model[0][1].eval()
    model[0][4].eval()
    modes = [module.training for module in model.modules()]
    model(images()).sum().backward()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    random_state = torch.get_rng_state()

    with torch.no_grad():
        per_sample_gradients(model, images(), LABELS)
        gradient_covariance_rank(model, images(), LABELS, chunk_size=4)
        ntk_rank(model, images())

    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, gradient)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_modes_are_restored_after_a_failure():
    model = convolutional().train()
    with pytest.raises(ValueError, match=r"scalar.*\(1,\)"):
        per_sample_gradients(model, images(), LABELS, nn.CrossEntropyLoss(reduction="none"))
    assert all(module.training for module in model.modules())


def test_a_batch_norm_that_mixes_samples_is_rejected():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False))
    with pytest.raises(ValueError, match=r"1 is a BatchNorm1d.*track_running_stats=True"):
        ntk_rank(model, torch.randn(5, 3))


def test_wrong_input_is_rejected():
    model, inputs, targets = nn.Linear(3, 2), torch.randn(4, 3), torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match="4 samples"):
        per_sample_gradients(model, inputs, targets[:3])
    with pytest.raises(ValueError, match="no sample"):
        ntk_rank(model, inputs[:0])
    with pytest.raises(ValueError, match="chunk_size"):
        ntk_rank(model, inputs, chunk_size=0)
    with pytest.raises(ValueError, match="'stable'"):
        ntk_rank(model, inputs, measure="stable")
    with pytest.raises(ValueError, match="'stable'"):
        gradient_covariance_rank(model, inputs, targets, measure="stable")
    with pytest.raises(ValueError, match="unfreeze"):
        ntk_rank(model.requires_grad_(False), inputs)


def test_a_gradient_that_is_not_finite_is_named():
    inputs = torch.ones(4, 3)
    inputs[2, 1] = math.inf
    with pytest.raises(ValueError, match="row 2 of the Gram matrix is not finite"):
        ntk_rank(nn.Linear(3, 1), inputs)
