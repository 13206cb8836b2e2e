"""What replicas draw, each as if it were alone: exploration noise, and the order of minibatches.

Drawn on the CPU, by each replica's own generators, while the device works on what it has.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plasticity.agents.ppo.agent import seeded_generator


class StackedDraws:
    """The random numbers of R replicas of PPO: numbers and generators are those of PPO with that seed.

    Args:
        seeds: One for each replica.
        noise_shape: Of one replica's exploration noise in a rollout: (steps, envs, action_size).
        orders_shape: (epochs, rollout_steps).
        device: Where they are used.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        noise_shape: tuple[int, int, int],
        orders_shape: tuple[int, int],
        device: torch.device,
    ) -> None:
        self._noise_generators = [seeded_generator(seed, "exploration") for seed in seeds]
        self._order_generators = [seeded_generator(seed, "minibatches") for seed in seeds]
        replicas = len(seeds)
        self._noise = _Crossing(torch.zeros(replicas, *noise_shape), device)
        self._orders = _Crossing(torch.zeros(replicas, *orders_shape, dtype=torch.int64), device)
        # Before the noise that was drawn ahead; None: nothing was.
        self._states: list[Tensor | None] = [None] * replicas

    def draw_ahead(self) -> None:
        """Draw the next rollout's noise, if that is not done. For while the device is busy."""
        for index, generator in enumerate(self._noise_generators):
            if self._states[index] is None:
                self._states[index] = generator.get_state()
                self._noise.to_write()[index].normal_(generator=generator)

    def noise(self) -> Tensor:
        """Standard normal numbers for a rollout, to be written over.

        Returns:
            On the device, until the next call: (replicas, steps, envs, action_size).
        """
        self.draw_ahead()
        self._states = [None] * len(self._states)
        return self._noise.send()

    def orders(self) -> Tensor:
        """A permutation of the rollout's steps for every epoch of every replica.

        Returns:
            On the device, until the next call: (replicas, epochs, rollout_steps).
        """
        drawn = self._orders.to_write()
        for orders, generator in zip(drawn, self._order_generators, strict=True):
            for order in orders:
                torch.randperm(len(order), generator=generator, out=order)
        return self._orders.send()

    def noise_state(self, index: int) -> Tensor:
        """State of a replica's noise generator, as if nothing were drawn ahead."""
        ahead = self._states[index]
        return self._noise_generators[index].get_state() if ahead is None else ahead.clone()

    def order_state(self, index: int) -> Tensor:
        """State of a replica's generator of orders."""
        return self._order_generators[index].get_state()

    def set_states(self, index: int, noise: Tensor, order: Tensor) -> None:
        """Continue a replica's generators from these states."""
        self._states[index] = None
        self._noise_generators[index].set_state(noise.cpu())
        self._order_generators[index].set_state(order.cpu())


class _Crossing:
    """Memory of the host that is written there and then copied to the device, which nobody waits for.

    Args:
        example: Of its shape and type.
        device: Where to.
    """

    def __init__(self, example: Tensor, device: torch.device) -> None:
        crosses = device.type == "cuda"
        self._here = torch.empty_like(example, pin_memory=crosses)
        self._there = torch.empty_like(example, device=device)
        self._arrived: torch.cuda.Event | None = None
        if crosses:
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def to_write(self) -> Tensor:
        """The host's memory, once what was sent before has arrived."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._here

    def send(self) -> Tensor:
        """The device's copy of it."""
        self._there.copy_(self._here, non_blocking=True)
        if self._arrived is not None:
            self._arrived.record()
        return self._there
