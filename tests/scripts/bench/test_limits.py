import pytest
import torch

from plasticity.scripts.bench import limits as bench_limits
from plasticity.scripts.bench.limits import (
    DeviceLimits,
    classifier_step,
    limits,
    measure_limits,
    ppo_update,
)
from plasticity.scripts.bench.rows import Effort
from plasticity.scripts.bench.work_counter import Work, count_work
from plasticity.scripts.config.benchmarks import benchmark_config
from plasticity.scripts.config.run_config import SupervisedRunConfig

MNIST = benchmark_config("permuted-mnist", SupervisedRunConfig)


def test_the_least_times_by_hand():
    device = DeviceLimits(operations_per_second=1e9, bytes_per_second=1e8, seconds_per_kernel=1e-5)
    # 2e6 / 1e9, 3e5 / 1e8, 7 * 1e-5
    least = device.seconds(Work(operations=2_000_000, bytes=300_000, kernels=7))
    assert least == pytest.approx({"arithmetic": 2e-3, "memory": 3e-3, "launches": 7e-5})


def test_the_operations_of_a_ppo_update_are_those_of_its_products():
    update = ppo_update(Effort())
    update()
    inputs, hidden, actions, steps = 27, 256, 8, 2048
    first, second = inputs * hidden, hidden * hidden
    # per sample and network: the forward pass, the gradients of the weights, and those of the features,
    # which the first layer's inputs do not need; two operations for each product
    operations = sum(
        2 * (2 * (first + second + hidden * outputs) + second + hidden * outputs)
        for outputs in (actions, 1)
    )
    counted = count_work(update).operations
    # torch counts no product of a matrix and a vector, of which log_std has one
    assert counted == 10 * steps * operations


def test_the_operations_of_a_cnn_step():
    step = classifier_step(MNIST.network, MNIST.agent, Effort())
    step()
    # 3 x 3 kernels with a stride of 2: 28 x 28 pixels become 14 x 14 of 8 channels and 7 x 7 of 16
    first, second = 14 * 14 * 8 * (9 * 1), 7 * 7 * 16 * (9 * 8)
    dense, head = 7 * 7 * 16 * 64, 64 * 10
    forward = first + second + dense + head
    backward = forward + (second + dense + head)  # the images need no gradient
    assert count_work(step).operations == 2 * 64 * (forward + backward)


def test_the_device_is_measured():
    device = measure_limits(Effort(quick=True))
    assert device.operations_per_second > 1e6
    assert device.bytes_per_second > 1e6
    assert 0 < device.seconds_per_kernel < 1


def test_every_row_names_the_nearest_limit():
    device, *rows = limits(Effort(quick=True))
    assert device.value is None
    assert "GB/s" in device.note
    assert len(rows) == 3
    for row in rows:
        assert row.value > 0
        assert "nearest limit: " in row.note
        assert 0 < row.lower <= row.value <= row.upper


def test_the_share_of_the_nearest_limit_by_hand(monkeypatch):
    monkeypatch.setattr(bench_limits, "_times", lambda *args, **kwargs: [2e-3, 4e-3, 8e-3])
    left, right = torch.ones(10, 100), torch.ones(100, 20)
    # 2 * 10 * 100 * 20 = 40 000 operations take 1 ms; 4 (1000 + 2000 + 200) = 12 800 bytes take less
    device = DeviceLimits(4e7, 12.8e9, 1e-9)
    row = bench_limits._row("a product", lambda: left @ right, device, Effort(quick=True))
    # of 1 / 2, 1 / 4 and 1 / 8, with quartiles halfway between them
    assert (row.value, row.lower, row.upper) == pytest.approx((0.25, 0.1875, 0.375))
    assert (row.ours, row.theirs) == pytest.approx((4e-3, 1e-3))
    assert "nearest limit: arithmetic;" in row.note


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_measured():
    rows = limits(Effort(device="cuda", quick=True))
    assert len(rows) == 4
