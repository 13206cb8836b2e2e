"""Environments that are stepped on the learner's device, and an adapter for those that run on the host."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plasticity.agents.ppo.episodes import noted
from plasticity.agents.ppo.rollout import Spaces

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

__all__ = ["DeviceEnvironments", "DeviceStep", "HostEnvironments", "HostStep"]

Array = NDArray[Any]


class DeviceStep(Protocol):
    """Results of a vector step, on the device. The next step may reuse their memory."""

    @property
    def observations(self) -> Tensor:
        """Observations after the step, or after the reset that followed it.

        Shape: (num_envs, observation_size).
        """

    @property
    def rewards(self) -> Tensor:
        """Rewards of the step. Shape: (num_envs,)."""

    @property
    def terminated(self) -> Tensor:
        """Deaths; bool. Shape: (num_envs,)."""

    @property
    def truncated(self) -> Tensor:
        """Time limits; bool. Shape: (num_envs,)."""

    @property
    def final_observations(self) -> Tensor:
        """Observations after the step and before any reset: `observations` where no episode ended.

        Shape: (num_envs, observation_size).
        """


class DeviceEnvironments(Protocol):
    """Continuous-control environments on a device: no method waits for it unless its docstring says so.

    An episode that ends is followed by a reset within the same step. The random draws of an environment
    depend only on its own seed and the number of its own episode, never on its index or on how many
    environments there are.
    """

    num_envs: int
    """Number of environments."""

    observation_size: int
    """Size of an observation."""

    action_size: int
    """Size of an action."""

    device: torch.device
    """Device of all tensors."""

    action_low: Tensor
    """Lower bound of the actions. Shape: (action_size,)."""

    action_high: Tensor
    """Upper bound of the actions. Shape: (action_size,)."""

    def reset(self) -> Tensor:
        """Reset all environments with the seeds given to the constructor.

        Returns:
            Observations, (num_envs, observation_size).
        """

    def step(self, actions: Tensor) -> DeviceStep:
        """Step all environments.

        Args:
            actions: Actions within the bounds. Shape: (num_envs, action_size).
        """

    @property
    def tasks(self) -> Tensor:
        """Tasks of the current episodes; int64, -1: none. Shape: (num_envs,)."""

    @property
    def frictions(self) -> Tensor:
        """Frictions of the current episodes; nan: none. Shape: (num_envs,)."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next steps depend on.

        The first dimension of every entry is num_envs, so that a slice is the state of one stacked agent.
        """

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`, or from one concatenated from slices."""

    def check(self) -> None:
        """Check for errors on the device since the last check; this waits for the device.

        Raises:
            RuntimeError: if any buffer of the simulation overflowed, so that its numbers are invalid.
        """

    def close(self) -> None:
        """Release all resources of the environments."""


class HostStep(NamedTuple):
    """Results of a step of `HostEnvironments`: a `DeviceStep`."""

    observations: Tensor
    """Observations after the step, or after the reset that followed it.

    Shape: (num_envs, observation_size).
    """

    rewards: Tensor
    """Rewards of the step; float64. Shape: (num_envs,)."""

    terminated: Tensor
    """Deaths; bool. Shape: (num_envs,)."""

    truncated: Tensor
    """Time limits; bool. Shape: (num_envs,)."""

    final_observations: Tensor
    """Observations after the step and before any reset. Shape: (num_envs, observation_size)."""


class HostEnvironments:
    """Adapter that presents a Gymnasium vector environment, which runs on the host, as `DeviceEnvironments`.

    Each vector step copies one block from the device and one block to it, through page-locked memory if the
    device is CUDA. The actions come from the device; observations, rewards and flags go to it, along with
    everything else that changes when an episode ends. The step waits for the actions, and for nothing else.

    Rewards and frictions are float64, as on the host; observations have torch's default dtype.

    Args:
        envs: Vector environment with SAME_STEP autoreset, a Box of observations and a Box of floats for
            actions. `info` may have an integer "task" and a number "friction".
        seeds: Seed of each environment's first reset (`environment_seeds` returns those of a run).
        device: Device of the learner.

    Raises:
        TypeError: if a space has the wrong type, or actions are discrete.
        ValueError: if the environments use another autoreset mode, or there is not one seed for each.
    """

    def __init__(
        self,
        envs: VectorEnv[Any, Any, Any],
        seeds: Sequence[int],
        device: str | torch.device = "cpu",
    ) -> None:
        self._spaces = Spaces.of(envs)
        if self._spaces.discrete:
            raise TypeError(
                f"Stacked agents need continuous actions, not {envs.single_action_space}: train each run"
                " separately with PPO."
            )
        if len(seeds) != envs.num_envs:
            raise ValueError(
                f"{envs.num_envs} environments need as many seeds, not {len(seeds)}: give one for each."
            )
        self.envs = envs
        self.num_envs = envs.num_envs
        self.observation_size = self._spaces.observation_size
        self.action_size = self._spaces.action_size
        self.device = torch.device(device)
        self.action_low, self.action_high = (
            torch.from_numpy(bound).to(self.device, torch.get_default_dtype())
            for bound in (self._spaces.low, self._spaces.high)
        )
        self._seeds = list(seeds)
        number = torch.get_default_dtype()
        observed, each = (self.num_envs, self.observation_size), (self.num_envs,)
        self._block = _Block(
            {
                "rewards": (each, torch.float64),
                "observations": (observed, number),
                "terminated": (each, torch.bool),
                "truncated": (each, torch.bool),
            },
            {
                "tasks": (each, torch.int64),
                "frictions": (each, torch.float64),
                "final_observations": (observed, number),
            },
            self.device,
        )
        self._actions = torch.zeros(
            self.num_envs, self.action_size, pin_memory=self.device.type == "cuda"
        )
        self._tasks: Array | None = None
        self._frictions: Array | None = None
        self._note({})

    @property
    def tasks(self) -> Tensor:
        """Tasks of the current episodes; int64, -1: none. Shape: (num_envs,)."""
        return self._block.on_device["tasks"]

    @property
    def frictions(self) -> Tensor:
        """Frictions of the current episodes; float64, nan: none. Shape: (num_envs,)."""
        return self._block.on_device["frictions"]

    def reset(self) -> Tensor:
        """Reset all environments with the seeds given to the constructor.

        Returns:
            Observations, (num_envs, observation_size).
        """
        observations, infos = self.envs.reset(seed=self._seeds)  # type: ignore[arg-type]
        self._tasks = self._frictions = None
        self._block.wait()
        self._note(infos)
        self._block.on_host["observations"][:] = self._flat(observations)
        self._block.send(whole=True, wait=True)
        return self._block.on_device["observations"]

    def step(self, actions: Tensor) -> HostStep:
        """Step all environments. Shape of the actions: (num_envs, action_size)."""
        self._actions.copy_(actions)  # waits for the device
        to_environments = self._actions.numpy().astype(self._spaces.action_dtype)
        observations, rewards, terminated, truncated, infos = self.envs.step(
            to_environments.reshape(-1, *self._spaces.action_shape)
        )
        self._block.wait()
        host, device = self._block.on_host, self._block.on_device
        host["rewards"][:] = rewards
        host["observations"][:] = self._flat(observations)
        host["terminated"][:] = terminated
        host["truncated"][:] = truncated
        ended = np.flatnonzero(host["terminated"] | host["truncated"]).tolist()
        if ended:
            host["final_observations"][:] = host["observations"]
            for index in ended:
                host["final_observations"][index] = np.ravel(infos["final_obs"][index])
        changed = self._note(infos)
        self._block.send(whole=bool(ended) or changed)
        return HostStep(
            device["observations"],
            device["rewards"],
            device["terminated"],
            device["truncated"],
            device["final_observations" if ended else "observations"],
        )

    def _note(self, infos: Mapping[str, Any]) -> bool:
        """Store tasks and frictions given in `infos`; return whether any of them changed."""
        self._tasks = noted(self._tasks, infos, "task", self.num_envs, np.dtype(np.int64))
        self._frictions = noted(
            self._frictions, infos, "friction", self.num_envs, np.dtype(np.float64)
        )
        tasks = -1 if self._tasks is None else self._tasks
        frictions = math.nan if self._frictions is None else self._frictions
        host = self._block.on_host
        same = np.array_equal(host["tasks"], np.broadcast_to(tasks, self.num_envs))
        same &= np.array_equal(
            host["frictions"], np.broadcast_to(frictions, self.num_envs), equal_nan=True
        )
        host["tasks"][:], host["frictions"][:] = tasks, frictions
        return not same

    def _flat(self, observations: Array) -> Array:
        return np.asarray(observations).reshape(self.num_envs, -1)

    def state_dict(self) -> dict[str, Any]:
        """Return a list of the environments' states, and the tasks and frictions of their episodes.

        Raises:
            AttributeError: if the vector environment has no `state_dict` (those of this package have one).
        """
        own = {} if self._tasks is None else {"tasks": torch.tensor(self._tasks)}
        if self._frictions is not None:
            own["frictions"] = torch.tensor(self._frictions)
        return self.envs.state_dict() | own  # type: ignore[attr-defined, no-any-return]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`, or from one concatenated from slices.

        Raises:
            ValueError: if it has another number of environments.
        """
        self.envs.load_state_dict({"environments": state["environments"]})  # type: ignore[attr-defined]
        self._tasks = self._frictions = None
        own = {"task": state.get("tasks"), "friction": state.get("frictions")}
        self._block.wait()
        self._note({key: array.numpy() for key, array in own.items() if array is not None})
        self._block.send(whole=True, wait=True)

    def check(self) -> None:
        """Do nothing: environments on the host raise errors where they occur."""

    def close(self) -> None:
        """Close the vector environment."""
        self.envs.close()


class _Block:
    """Named arrays copied to a device in one transfer: the first ones always, the others on request.

    Args:
        often: Shape and dtype of each array that is copied every time.
        seldom: Shape and dtype of each array that is copied on request.
        device: Device to copy to.
    """

    def __init__(
        self,
        often: dict[str, tuple[tuple[int, ...], torch.dtype]],
        seldom: dict[str, tuple[tuple[int, ...], torch.dtype]],
        device: torch.device,
    ) -> None:
        layout, end = {}, 0
        for name, (shape, dtype) in (often | seldom).items():
            start = -(-end // 8) * 8  # aligned for any dtype
            end = start + math.prod(shape) * dtype.itemsize
            layout[name] = (start, end, shape, dtype)
        self._often = max(layout[name][1] for name in often)
        self._host = torch.zeros(end, dtype=torch.uint8, pin_memory=device.type == "cuda")
        # On a CPU no copy is needed.
        self._device = self._host if device.type == "cpu" else self._host.to(device)

        def views(memory: Tensor) -> dict[str, Tensor]:
            return {
                name: memory[start:end].view(dtype).view(shape)
                for name, (start, end, shape, dtype) in layout.items()
            }

        self.on_host = {name: view.numpy() for name, view in views(self._host).items()}
        """Arrays to write to, after `wait`."""
        self.on_device = views(self._device)
        """Copies of the arrays on the device."""
        self._arrived: torch.cuda.Event | None = None
        if device.type == "cuda":
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        """Wait until the last copy has arrived; until then, the host's arrays must not be changed."""
        if self._arrived is not None:
            self._arrived.synchronize()

    def send(self, *, whole: bool, wait: bool = False) -> None:
        """Copy to the device, waiting for it only if `wait` is True."""
        if self._device is self._host:
            return
        end = len(self._host) if whole else self._often
        self._device[:end].copy_(self._host[:end], non_blocking=not wait)
        if self._arrived is not None:
            self._arrived.record()
