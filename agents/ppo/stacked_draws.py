"""Random draws of stacked agents, the same as in separate runs: exploration noise and data orders.

Drawn on the CPU, by each agent's own generators, while the device is busy.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plasticity.agents.ppo.agent import seeded_generator


class StackedDraws:
    """Random numbers of R stacked PPO agents: the numbers and generators equal those of `PPO` with each seed.

    Args:
        seeds: One seed for each agent.
        noise_shape: Shape of one agent's exploration noise in a rollout: (steps, envs, action_size).
        data_orders_shape: Shape of one agent's data orders in an update: (epochs, rollout_steps).
        device: Device on which they are used.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        noise_shape: tuple[int, int, int],
        data_orders_shape: tuple[int, int],
        device: torch.device,
    ) -> None:
        self._noise_generators = [seeded_generator(seed, "exploration") for seed in seeds]
        self._data_order_generators = [seeded_generator(seed, "minibatches") for seed in seeds]
        num_stacked = len(seeds)
        self._noise = _Crossing(torch.zeros(num_stacked, *noise_shape), device)
        self._data_orders = _Crossing(
            torch.zeros(num_stacked, *data_orders_shape, dtype=torch.int64), device
        )
        # Generator states before the noise that was drawn ahead; None: nothing was drawn ahead.
        self._states: list[Tensor | None] = [None] * num_stacked

    def draw_ahead(self) -> None:
        """Draw the next rollout's noise, unless already drawn. Call this while the device is busy."""
        for index, generator in enumerate(self._noise_generators):
            if self._states[index] is None:
                self._states[index] = generator.get_state()
                self._noise.to_write()[index].normal_(generator=generator)

    def noise(self) -> Tensor:
        """Return standard normal noise for a rollout, which the caller may overwrite.

        Returns:
            Noise on the device, valid until the next call: (R, steps, envs, action_size).
        """
        self.draw_ahead()
        self._states = [None] * len(self._states)
        return self._noise.send()

    def data_orders(self) -> Tensor:
        """Return a permutation of the rollout's steps for every epoch of every agent.

        Returns:
            Permutations on the device, valid until the next call: (R, epochs, rollout_steps).
        """
        drawn = self._data_orders.to_write()
        for data_orders, generator in zip(drawn, self._data_order_generators, strict=True):
            for data_order in data_orders:
                torch.randperm(len(data_order), generator=generator, out=data_order)
        return self._data_orders.send()

    def noise_state(self, index: int) -> Tensor:
        """Return the state of an agent's noise generator, as if nothing had been drawn ahead."""
        ahead = self._states[index]
        return self._noise_generators[index].get_state() if ahead is None else ahead.clone()

    def data_order_state(self, index: int) -> Tensor:
        """Return the state of an agent's generator of data orders."""
        return self._data_order_generators[index].get_state()

    def set_states(self, index: int, noise: Tensor, data_order: Tensor) -> None:
        """Set the states of an agent's generators."""
        self._states[index] = None
        self._noise_generators[index].set_state(noise.cpu())
        self._data_order_generators[index].set_state(data_order.cpu())


class _Crossing:
    """Host buffer that is written on the host and then copied to the device without waiting for it.

    Args:
        example: Tensor of the buffer's shape and dtype.
        device: Device to copy to.
    """

    def __init__(self, example: Tensor, device: torch.device) -> None:
        crosses = device.type == "cuda"
        self._here = torch.empty_like(example, pin_memory=crosses)
        self._there = torch.empty_like(example, device=device)
        self._arrived: torch.cuda.Event | None = None
        if crosses:
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def to_write(self) -> Tensor:
        """Return the host buffer, after its last copy has arrived."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._here

    def send(self) -> Tensor:
        """Copy the buffer to the device and return the copy."""
        self._there.copy_(self._here, non_blocking=True)
        if self._arrived is not None:
            self._arrived.record()
        return self._there
