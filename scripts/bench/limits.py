"""Share of the device's limits (arithmetic, memory, launches) that a training step reaches."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from plasticity.agents import PRESETS
from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.networks.image import ImageNetwork, NetworkConfig
from plasticity.agents.ppo.updates import (
    ActorBatch,
    ActorUpdate,
    CriticBatch,
    CriticUpdate,
    actor_optimizer,
    critic_optimizer,
    run_half,
)
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.agents.supervised.single import make_optimizer
from plasticity.optim.settings import RegularizerSettings
from plasticity.scripts.bench.ppo import SYRE, config_of
from plasticity.scripts.bench.rows import Effort, Row
from plasticity.scripts.bench.steps import BATCH_SIZE, SIGMA, STRENGTH, training_step
from plasticity.scripts.bench.timing import quartiles, synchronizer
from plasticity.scripts.bench.work_counter import Work, count_work
from plasticity.scripts.config.benchmarks import benchmark_config
from plasticity.scripts.config.run_config import SupervisedRunConfig

_OBSERVATION_SIZE, _ACTION_SIZE = 27, 8  # of MuJoCo's ant


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
    rows = [
        Row(
            "limits", "the device: a matrix product, a copy, a tiny one", None, "share", note=speeds
        )
    ]
    rows.append(
        _row("PPO update, 2 x 256, 10 epochs of 2048, syre", ppo_update(effort), device, effort)
    )
    for label, network, config in (
        ("CNN of permuted-mnist, syre", _MNIST.network, _SGD),
        ("MLP 3 x 2000, syre, Adam", _wide(effort), _ADAM),
    ):
        rows.append(
            _row(f"step: {label}", classifier_step(network, config, effort), device, effort)
        )
    return rows


_MNIST = benchmark_config("permuted-mnist", SupervisedRunConfig)
_SGD = _MNIST.agent
_ADAM = ClassifierConfig(optimizer="adam", learning_rate=1e-3)


def _wide(effort: Effort) -> NetworkConfig:
    return NetworkConfig(architecture="mlp", hidden=(effort.size(2000, 50),) * 3)


def _row(case: str, function: Callable[[], object], device: DeviceLimits, effort: Effort) -> Row:
    function()  # warm-up: creates what is created once
    work = count_work(function)
    least = device.seconds(work)
    nearest = max(least, key=lambda limit: least[limit])
    seconds = _times(function, effort, rounds=effort.size(15, 2))
    share = quartiles([least[nearest] / each for each in seconds])
    median = statistics.median(seconds)
    allowed = ", ".join(f"{limit} {1e3 * time_:.3g} ms" for limit, time_ in least.items())
    note = (
        f"{1e3 * median:.3g} ms; limits: {allowed}; nearest limit: {nearest};"
        f" {work.operations / 1e6:.3g} MFLOP, {work.bytes / 1e6:.3g} MB, {work.kernels} operations"
    )
    return Row(
        *("limits", case, share.median, "share"),
        lower=share.lower,
        upper=share.upper,
        ours=median,
        theirs=least[nearest],
        note=note,
    )


def _times(function: Callable[[], object], effort: Effort, *, rounds: int) -> list[float]:
    synchronize = synchronizer(effort.device)
    seconds = []
    for _ in range(effort.rounds or rounds):
        synchronize()
        started = time.perf_counter()
        function()
        synchronize()
        seconds.append(time.perf_counter() - started)
    return seconds


# ---- what is measured -------------------------------------------------------------------------------


def ppo_update(effort: Effort) -> Callable[[], None]:
    """Return a PPO update: all epochs of actor and critic at the published settings, on a random rollout."""
    config = config_of(effort) if effort.quick else PRESETS["standard"]
    generator = torch.Generator().manual_seed(0)
    policy = ActorCritic(
        _OBSERVATION_SIZE, _ACTION_SIZE, config, discrete=False, generator=generator
    ).to(effort.device)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(effort.device)

    steps = config.rollout_steps
    observations, values = normal(steps, _OBSERVATION_SIZE), normal(steps)
    # Roughly the log-density of 8 standard normal numbers, so that ratios stay near 1.
    actions = normal(steps, _ACTION_SIZE)
    old = -0.5 * (actions.square().sum(-1) + _ACTION_SIZE * 1.837877)
    actor = ActorUpdate(policy, config, actor_optimizer(policy, config, SYRE))
    critic = CriticUpdate(policy.critic, config, critic_optimizer(policy.critic, config, SYRE))
    data_orders = [
        torch.randperm(steps, generator=generator).to(effort.device) for _ in range(config.epochs)
    ]

    def update() -> None:
        actor.begin(ActorBatch(observations, actions, old, values), config.learning_rate)
        critic.begin(CriticBatch(observations, values, values + 1), config.learning_rate)
        run_half(actor, data_orders, config.num_minibatches)
        run_half(critic, data_orders, config.num_minibatches)

    return update


def classifier_step(
    network_config: NetworkConfig, config: ClassifierConfig, effort: Effort
) -> Callable[[], None]:
    """Return a step (forward, backward, update with syre), always on the same batch of random pixels."""
    torch.manual_seed(0)
    network = copy.deepcopy(ImageNetwork((1, 28, 28), 10, network_config)).to(effort.device)
    settings = RegularizerSettings("syre", STRENGTH, SIGMA, anchor_seed=0)
    optimizer = make_optimizer(network, config, settings)
    images = torch.rand(BATCH_SIZE, 1, 28, 28, device=effort.device)
    labels = torch.randint(0, 10, (BATCH_SIZE,), device=effort.device)
    return training_step(network, optimizer, lambda: (images, labels))


# ---- what the device can do -------------------------------------------------------------------------


def measure_limits(effort: Effort) -> DeviceLimits:
    """Measure the device: the best of several tries, as a limit is what is reached when undisturbed."""
    on_gpu = effort.device != "cpu"
    side = effort.size(8192 if on_gpu else 1024, 64)
    left = torch.rand(side, side, device=effort.device)
    product = torch.empty_like(left)
    megabytes = effort.size(1024 if on_gpu else 256, 1)
    source = torch.zeros(megabytes << 20, dtype=torch.uint8, device=effort.device)
    target = torch.empty_like(source)
    tiny = torch.zeros(1, device=effort.device)
    calls = effort.size(2000, 10)

    def many() -> None:
        for _ in range(calls):
            tiny.add_(1.0)

    def best(function: Callable[[], object]) -> float:
        function()
        return min(_times(function, effort, rounds=effort.size(9, 2)))

    return DeviceLimits(
        operations_per_second=2 * side**3 / best(lambda: torch.mm(left, left, out=product)),
        bytes_per_second=2 * source.numel() / best(lambda: target.copy_(source)),
        seconds_per_kernel=best(many) / calls,
    )
