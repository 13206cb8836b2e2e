"""Random draws of all agents, by generators of their own: exploration noise and data orders.

Drawn on the CPU, so that they are the same on every device; where a device is busy, ahead of their use.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plasticity.seeds import child_seed


def seeded_generator(seed: int, name: str) -> torch.Generator:
    """Return the CPU generator for one named purpose in a run with this seed."""
    generator = torch.Generator()
    generator.manual_seed(child_seed(seed, name))
    return generator


class Draws:
    """Random numbers of all agents. Those of an agent depend only on its own seed.

    Args:
        seeds: One seed for each agent.
        noise_shape: Shape of one agent's exploration noise in a rollout: (steps, envs, action_size).
        data_orders_shape: Shape of one agent's data orders in an update: (epochs, rollout_steps).
        lead: Leading dimensions: () for one agent, (R,) for R stacked ones.
        device: Device on which they are used.
        discrete: Whether the noise is Gumbel noise, for discrete actions, or normal.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        noise_shape: tuple[int, int, int],
        data_orders_shape: tuple[int, int],
        lead: tuple[int, ...],
        device: torch.device,
        *,
        discrete: bool = False,
    ) -> None:
        self._noise_generators = [seeded_generator(seed, "exploration") for seed in seeds]
        self._data_order_generators = [seeded_generator(seed, "minibatches") for seed in seeds]
        self._discrete = discrete
        self._noise = _Crossing(torch.zeros(*lead, *noise_shape), device)
        self._data_orders = _Crossing(
            torch.zeros(*lead, *data_orders_shape, dtype=torch.int64), device
        )
        # Generator states before the noise that was drawn ahead; None: nothing was drawn ahead.
        self._states: list[Tensor | None] = [None] * len(seeds)

    def draw_ahead(self) -> None:
        """Draw the next rollout's noise, unless already drawn. Call this while the device is busy."""
        for index, generator in enumerate(self._noise_generators):
            if self._states[index] is None:
                self._states[index] = generator.get_state()
                noise = self._of_each(self._noise)[index]
                if self._discrete:
                    noise.exponential_(generator=generator).log_().neg_()
                else:
                    noise.normal_(generator=generator)

    def _of_each(self, crossing: _Crossing) -> Tensor:
        """Return a host buffer as (R, …), also for one agent."""
        drawn = crossing.to_write()
        return drawn.view(len(self._states), *drawn.shape[-3 if crossing is self._noise else -2 :])

    def noise(self) -> Tensor:
        """Return the noise of a rollout, normal or Gumbel, which the caller may overwrite.

        Returns:
            Noise on the device, valid until the next call: (*lead, steps, envs, action_size).
        """
        self.draw_ahead()
        self._states = [None] * len(self._states)
        return self._noise.send()

    def data_orders(self) -> Tensor:
        """Return a permutation of the rollout's steps for every epoch of every agent.

        Returns:
            Permutations on the device, valid until the next call: (*lead, epochs, rollout_steps).
        """
        drawn = self._of_each(self._data_orders)
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
        device: Device to copy to; on a CPU there is no copy.
    """

    def __init__(self, example: Tensor, device: torch.device) -> None:
        is_cuda = device.type == "cuda"
        self._here = torch.empty_like(example, pin_memory=is_cuda)
        stays = device.type == "cpu"
        self._there = self._here if stays else torch.empty_like(example, device=device)
        self._arrived: torch.cuda.Event | None = None
        if is_cuda:
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def to_write(self) -> Tensor:
        """Return the host buffer, after its last copy has arrived."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._here

    def send(self) -> Tensor:
        """Copy the buffer to the device and return the copy."""
        if self._there is not self._here:
            self._there.copy_(self._here, non_blocking=True)
        if self._arrived is not None:
            self._arrived.record()
        return self._there
