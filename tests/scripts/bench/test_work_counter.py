import pytest
import torch
from torch import nn

from plasticity.scripts.bench.work_counter import count_work

FLOAT = 4  # bytes


def test_a_matrix_product_reads_two_matrices_and_writes_one():
    left, right = torch.ones(64, 32), torch.ones(32, 16)
    work = count_work(lambda: left @ right)
    # one multiplication and one addition for each of 64 x 32 x 16 triples
    assert work.operations == 2 * 64 * 32 * 16
    assert work.bytes == FLOAT * (64 * 32 + 32 * 16 + 64 * 16)
    assert work.kernels == 1


def test_a_result_in_existing_memory_is_written_once():
    left, right, out = torch.ones(4, 8), torch.ones(8, 2), torch.empty(4, 2)
    work = count_work(lambda: torch.mm(left, right, out=out))
    assert work.bytes == FLOAT * (4 * 8 + 8 * 2 + 4 * 2)


def test_a_tensor_changed_in_place_is_read_and_written():
    numbers, others = torch.ones(100), torch.ones(100)
    assert count_work(lambda: numbers.mul_(2)).bytes == FLOAT * 200
    assert count_work(lambda: numbers.add_(others)).bytes == FLOAT * 300


def test_views_and_allocations_cost_nothing():
    numbers = torch.ones(6, 4)
    work = count_work(lambda: torch.empty_like(numbers.t().reshape(4, 6)[1:].detach()))
    assert (work.operations, work.bytes, work.kernels) == (0, 0, 0)


def test_an_expanded_tensor_counts_only_its_memory():
    row = torch.ones(1, 10)
    work = count_work(lambda: row.expand(50, 10).clone())
    assert work.bytes == FLOAT * (10 + 500)


def test_a_list_of_tensors_is_one_operation():
    tensors = [torch.ones(10), torch.ones(20)]
    work = count_work(lambda: torch._foreach_add_(tensors, 1.0))
    assert (work.bytes, work.kernels) == (FLOAT * 60, 1)


def test_the_backward_pass_counts():
    layer = nn.Linear(8, 4)
    inputs = torch.ones(16, 8)

    def step():
        layer.zero_grad()
        layer(inputs).sum().backward()

    # forward, and the gradient of the weights; the inputs need none
    assert count_work(step).operations == 2 * (2 * 16 * 8 * 4)


@pytest.mark.parametrize("fused", [True, False])
def test_adam_moves_at_least_seven_numbers_for_each_parameter(fused):
    parameter = nn.Parameter(torch.ones(1000))
    parameter.grad = torch.ones(1000)
    optimizer = torch.optim.Adam([parameter], fused=fused)
    optimizer.step()
    # read: parameter, gradient, two moments; written: parameter, two moments
    assert count_work(optimizer.step).bytes >= FLOAT * 7 * 1000
