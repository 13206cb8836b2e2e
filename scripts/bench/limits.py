"""Share of the device's limits (arithmetic, memory, launches) that a training step reaches."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace

import torch

from plasticity.agents.networks import Network
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.scripts.bench.comparison import Effort, Side
from plasticity.scripts.bench.kernels import copy_call
from plasticity.scripts.bench.learners import (
    CLASSIFIERS,
    MNIST,
    image_network,
    learning_step,
    on_batches,
    ppo_update,
    syre_optimizer,
    wide_mlp,
)
from plasticity.scripts.bench.rows import Row, ratio_row
from plasticity.scripts.bench.work_counter import Work, count_work

_OBSERVATION_SIZE = 27  # of MuJoCo's ant


@dataclass(frozen=True)
class DeviceLimits:
    """Limits of a device, as measured on it."""

    operations_per_second: float
    """Operations per second of a large matrix product in float32, at torch's current precision (TF32 if that
    is allowed)."""

    bytes_per_second: float
    """Bytes read and written per second by a copy that is too large for any cache."""

    seconds_per_kernel: float
    """Seconds per tiny operation in a long series of them: torch's cost of launching one."""

    def seconds(self, work: Work) -> dict[str, float]:
        """Return the shortest time, in seconds, that each limit allows for some work."""
        return {
            "arithmetic": work.operations / self.operations_per_second,
            "memory": work.bytes / self.bytes_per_second,
            "launches": work.kernels * self.seconds_per_kernel,
        }


def limits(effort: Effort) -> list[Row]:
    """Measure a PPO update and classifier steps: the time that the device's limits allow over the real one.

    The result is the share of the nearest limit that is reached: 1 is as fast as torch's operations,
    one by one, can be on this device. A result above 1 means that the data stays in a cache.
    """
    device = measure_limits(effort)
    speeds = (
        f"{device.operations_per_second / 1e9:.0f} GFLOP/s, {device.bytes_per_second / 1e9:.0f} GB/s,"
        f" {device.seconds_per_kernel * 1e6:.1f} us per operation"
    )
    functions = {
        "PPO update, 2 x 256, 10 epochs of 2048, syre": ppo_update(effort, _OBSERVATION_SIZE),
        "step: CNN of permuted-mnist, syre": classifier_step(MNIST.network, MNIST.agent, effort),
        "step: MLP 3 x 2000, syre, Adam": classifier_step(
            wide_mlp(effort), CLASSIFIERS["Adam"], effort
        ),
    }
    return [
        Row("the device: a matrix product, a copy, a tiny one", None, "share", note=speeds),
        *(limit_row(case, function, device, effort) for case, function in functions.items()),
    ]


def classifier_step(network_config: Network, config: ClassifierConfig, effort: Effort) -> Side:
    """Return a step (forward, backward, update with syre) on batches of random pixels."""
    network = image_network(network_config).to(effort.device)
    return on_batches(learning_step(network, syre_optimizer(network, config)), effort)


def limit_row(case: str, function: Side, device: DeviceLimits, effort: Effort) -> Row:
    """Return the row of a function: the time that the nearest limit allows over its own."""
    function()  # warm-up: creates what is created once
    work = count_work(function)
    least = device.seconds(work)
    nearest = max(least, key=lambda limit: least[limit])
    seconds = _times(function, effort, rounds=15)
    allowed = ", ".join(f"{limit} {1e3 * time_:.3g} ms" for limit, time_ in least.items())
    note = (
        f"{1e3 * statistics.median(seconds):.3g} ms; limits: {allowed}; nearest limit: {nearest};"
        f" {work.operations / 1e6:.3g} MFLOP, {work.bytes / 1e6:.3g} MB, {work.kernels} operations"
    )
    row = ratio_row(case, "share", [least[nearest]] * len(seconds), seconds, note=note)
    return replace(row, ours=row.theirs, theirs=row.ours)


def _times(function: Side, effort: Effort, *, rounds: int) -> tuple[float, ...]:
    (seconds,) = effort.in_turns({"alone": function}, rounds=rounds, warmup=0).values()
    return seconds


# ---- what the device can do -------------------------------------------------------------------------


def measure_limits(effort: Effort) -> DeviceLimits:
    """Measure the device: the best of several tries, as a limit is what is reached when undisturbed."""
    side = effort.size(8192 if effort.on_gpu else 1024, 64)
    left = torch.rand(side, side, device=effort.device)
    product = torch.empty_like(left)
    megabytes = effort.size(1024 if effort.on_gpu else 256, 1)
    moved = 2 * megabytes << 20
    tiny = torch.zeros(1, device=effort.device)
    calls = effort.size(2000, 10)

    def many() -> None:
        for _ in range(calls):
            tiny.add_(1.0)

    def best(function: Side) -> float:
        function()
        return min(_times(function, effort, rounds=9))

    return DeviceLimits(
        operations_per_second=2 * side**3 / best(lambda: torch.mm(left, left, out=product)),
        bytes_per_second=moved / best(copy_call(moved, effort.device)),
        seconds_per_kernel=best(many) / calls,
    )
