import math

import pytest
import torch
from torch.nn import functional

from plasticity.agents.supervised.task_loss import TaskLoss
from plasticity.tasks import TaskSpec

CPU = torch.device("cpu")


def loss_of(kind="cross-entropy", lead=(), active=None, chosen=None):
    made = TaskLoss(kind, lead, CPU)
    made.follow(TaskSpec(input_shape=(1,), output_size=3, loss=chosen, active=active))
    return made


def test_losses_by_hand():
    logits = torch.tensor([[0.0, math.log(3), 0.0]])
    # probabilities 1/5, 3/5, 1/5
    assert loss_of()(logits, torch.tensor([1])).item() == pytest.approx(-math.log(3 / 5))
    # (0, ln 3, 0) against (1, 0, 0): (1 + ln(3)^2) / 3
    found = loss_of("squared-error")(logits, torch.tensor([0])).item()
    assert found == pytest.approx((1 + math.log(3) ** 2) / 3)
    assert loss_of(chosen="squared-error")(logits, torch.tensor([0])).item() == pytest.approx(found)


def test_the_loss_of_a_regression_by_hand():
    outputs = torch.tensor([[0.0, 2.0, 1.0], [1.0, 1.0, 1.0]])
    labels = torch.tensor([[1.0, 0.0, 1.0], [1.0, 4.0, 1.0]])
    loss = loss_of(chosen="regression")
    assert loss.is_regression
    assert loss(outputs, labels).item() == pytest.approx((1 + 4 + 9) / 6)
    stacked = loss_of(lead=(2,), chosen="regression")
    found = stacked(outputs.unsqueeze(1), labels.unsqueeze(1)).tolist()
    assert found == pytest.approx([5 / 3, 9 / 3])
    assert not loss_of().is_regression


def test_inactive_classes_count_neither_in_the_sum_nor_in_the_mean():
    logits = torch.tensor([[5.0, math.log(3), 0.0]])
    loss = loss_of(active=(1, 2))
    masked = loss.masked(logits)
    assert masked[0, 0] == -math.inf
    assert loss(masked, torch.tensor([1])).item() == pytest.approx(-math.log(3 / 4))
    loss = loss_of("squared-error", active=(1, 2))
    # (ln 3, 0) against (0, 1), over two classes
    expected = (math.log(3) ** 2 + 1) / 2
    assert loss(loss.masked(logits), torch.tensor([2])).item() == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["cross-entropy", "squared-error"])
def test_stacked_networks_have_losses_of_their_own(kind):
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 6, 3, dtype=torch.float64), torch.randint(1, 3, (2, 6))
    active = ((1, 2), (0, 1, 2))
    loss = loss_of(kind, (2,), active)
    found = loss(loss.masked(logits), labels)
    for own, given, wanted, classes in zip(found, logits, labels, active, strict=True):
        single = loss_of(kind, (), classes)
        torch.testing.assert_close(own, single(single.masked(given), wanted))
    # the second is an ordinary loss
    ordinary = {
        "cross-entropy": functional.cross_entropy(logits[1], labels[1]),
        "squared-error": functional.mse_loss(
            logits[1], functional.one_hot(labels[1], 3).to(logits.dtype)
        ),
    }
    torch.testing.assert_close(found[1], ordinary[kind])


def test_what_a_captured_step_reads_stays_where_it_is():
    loss = loss_of(active=(0, 1))
    before = loss._inactive.data_ptr()
    loss.follow(TaskSpec(input_shape=(1,), output_size=3, active=(1, 2)))
    assert loss._inactive.data_ptr() == before
    assert loss._inactive.tolist() == [True, False, False]
    assert loss.constants == ("cross-entropy", False)
    loss.follow(TaskSpec(input_shape=(1,), output_size=3))
    assert loss.constants == ("cross-entropy", True)


@pytest.mark.parametrize("kind", ["cross-entropy", "squared-error"])
@pytest.mark.parametrize("active", [None, (0, 2)])
@pytest.mark.parametrize("batch", [1, 5])
def test_gradients_by_the_logits_equal_autograd(kind, active, batch):
    loss = loss_of(kind, active=active)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, 3, generator=generator)
    labels = 2 * torch.randint(0, 2, (batch,), generator=generator)
    leaf = logits.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(loss.masked(leaf), labels), leaf)
    found = loss.gradient(loss.masked(logits), labels)
    assert not found.requires_grad
    torch.testing.assert_close(found, expected)


def test_the_gradient_follows_the_number_of_classes_and_the_precision():
    loss = loss_of()
    for classes, dtype in ((3, torch.float32), (2, torch.float32), (2, torch.float64)):
        found = loss.gradient(torch.zeros(1, classes, dtype=dtype), torch.tensor([1]))
        # softmax of equal logits, minus one-hot
        expected = torch.full((1, classes), 1 / classes, dtype=dtype)
        expected[0, 1] -= 1
        torch.testing.assert_close(found, expected)


def test_losses_of_examples():
    loss = loss_of()
    logits, labels = torch.tensor([[0.0, math.log(3), 0.0], [0.0, 0.0, 0.0]]), torch.tensor([1, 2])
    assert loss.is_of_examples
    assert loss.of_examples(logits, labels).tolist() == pytest.approx(
        [-math.log(3 / 5), math.log(3)]
    )
    assert not loss_of("squared-error").is_of_examples
