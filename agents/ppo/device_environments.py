"""Environments that are stepped on the learner's device, and others made to look like them."""

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
    """What a vector step gave, on the device. Its memory may be used again by the next step."""

    @property
    def observations(self) -> Tensor:
        """Of the step, or of the reset after it. Shape: (num_envs, observation_size)."""

    @property
    def rewards(self) -> Tensor:
        """Shape: (num_envs,)."""

    @property
    def terminated(self) -> Tensor:
        """Deaths; bool. Shape: (num_envs,)."""

    @property
    def truncated(self) -> Tensor:
        """Time limits; bool. Shape: (num_envs,)."""

    @property
    def final_observations(self) -> Tensor:
        """What each environment last said before any reset: `observations` where no episode ended.

        Shape: (num_envs, observation_size).
        """


class DeviceEnvironments(Protocol):
    """Continuous control on a device: nothing here waits for it, unless it says so.

    An episode that ends is followed by a reset within the same step. What an environment draws depends on
    its own seed and its own episode's number alone, never on its place or on how many there are.
    """

    num_envs: int
    """How many environments."""

    observation_size: int
    """Numbers in an observation."""

    action_size: int
    """Numbers in an action."""

    device: torch.device
    """Where everything is."""

    action_low: Tensor
    """Smallest action. Shape: (action_size,)."""

    action_high: Tensor
    """Largest action. Shape: (action_size,)."""

    def reset(self) -> Tensor:
        """Begin from the seeds that the constructor got.

        Returns:
            Observations, (num_envs, observation_size).
        """

    def step(self, actions: Tensor) -> DeviceStep:
        """Step all environments.

        Args:
            actions: Within the bounds. Shape: (num_envs, action_size).
        """

    @property
    def tasks(self) -> Tensor:
        """Tasks of the episodes now under way, -1: none; int64. Shape: (num_envs,)."""

    @property
    def frictions(self) -> Tensor:
        """Frictions of the episodes now under way, nan: none. Shape: (num_envs,)."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next steps depend on, first dimension num_envs: a slice is a replica's."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`, or from one put together of slices."""

    def check(self) -> None:
        """Read what went wrong on the device since the last check, once; this waits for it.

        Raises:
            RuntimeError: if the simulation ran out of room anywhere, so that its numbers are not to be used.
        """

    def close(self) -> None:
        """Release what the environments hold."""


class HostStep(NamedTuple):
    """The `DeviceStep` of `HostEnvironments`."""

    observations: Tensor
    """Shape: (num_envs, observation_size)."""

    rewards: Tensor
    """Float64. Shape: (num_envs,)."""

    terminated: Tensor
    """Bool. Shape: (num_envs,)."""

    truncated: Tensor
    """Bool. Shape: (num_envs,)."""

    final_observations: Tensor
    """Shape: (num_envs, observation_size)."""


class HostEnvironments:
    """A Gymnasium vector environment, which runs on the host, as `DeviceEnvironments`.

    At each vector step one block goes to the device and one comes back, through page-locked memory
    if the device is CUDA: out come the actions, in go observations, rewards and flags, and what else changed
    with an episode's end. The step waits for the actions, and for nothing else.

    Rewards and frictions are float64 as the host counts them, observations of torch's default type.

    Args:
        envs: With SAME_STEP autoreset, a Box of observations and a Box of floats for actions. `info` may
            have an integer "task" and a number "friction".
        seeds: Of each environment's first reset (`environment_seeds` gives those of a run).
        device: Of the learner.

    Raises:
        TypeError: if a space has the wrong type, or actions are discrete.
        ValueError: if the environments reset otherwise, or the seeds are not one for each.
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
                " alone with PPO."
            )
        if len(seeds) != envs.num_envs:
            raise ValueError(f"{envs.num_envs} environments need as many seeds: {len(seeds)}.")
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
        """Tasks of the episodes now under way, -1: none; int64. Shape: (num_envs,)."""
        return self._block.on_device["tasks"]

    @property
    def frictions(self) -> Tensor:
        """Frictions of the episodes now under way, nan: none; float64. Shape: (num_envs,)."""
        return self._block.on_device["frictions"]

    def reset(self) -> Tensor:
        """Begin from the seeds that the constructor got.

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
        """Note tasks and frictions that `infos` may have; whether any is another than before."""
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
        """The environments' own states, a list, and the tasks and frictions of their episodes.

        Raises:
            AttributeError: if the vector environment has no `state_dict` (those of this package have one).
        """
        own = {} if self._tasks is None else {"tasks": torch.tensor(self._tasks)}
        if self._frictions is not None:
            own["frictions"] = torch.tensor(self._frictions)
        return self.envs.state_dict() | own  # type: ignore[attr-defined, no-any-return]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`, or from one put together of slices.

        Raises:
            ValueError: if it is of another number of environments.
        """
        self.envs.load_state_dict({"environments": state["environments"]})  # type: ignore[attr-defined]
        self._tasks = self._frictions = None
        own = {"task": state.get("tasks"), "friction": state.get("frictions")}
        self._block.wait()
        self._note({key: array.numpy() for key, array in own.items() if array is not None})
        self._block.send(whole=True, wait=True)

    def check(self) -> None:
        """Nothing: environments on the host raise their errors where they happen."""

    def close(self) -> None:
        """Close the vector environment."""
        self.envs.close()


class _Block:
    """Named arrays that cross to a device in one copy: the first ones always, the others if wanted.

    Args:
        often: Shape and type of each array that crosses every time.
        seldom: Of each that crosses on demand.
        device: Where to.
    """

    def __init__(
        self,
        often: dict[str, tuple[tuple[int, ...], torch.dtype]],
        seldom: dict[str, tuple[tuple[int, ...], torch.dtype]],
        device: torch.device,
    ) -> None:
        places, end = {}, 0
        for name, (shape, dtype) in (often | seldom).items():
            start = -(-end // 8) * 8  # where a number of any type may stand
            end = start + math.prod(shape) * dtype.itemsize
            places[name] = (start, end, shape, dtype)
        self._often = max(places[name][1] for name in often)
        self._host = torch.zeros(end, dtype=torch.uint8, pin_memory=device.type == "cuda")
        # On the host there is nothing to cross.
        self._device = self._host if device.type == "cpu" else self._host.to(device)

        def views(memory: Tensor) -> dict[str, Tensor]:
            return {
                name: memory[start:end].view(dtype).view(shape)
                for name, (start, end, shape, dtype) in places.items()
            }

        self.on_host = {name: view.numpy() for name, view in views(self._host).items()}
        """The arrays to write, after `wait`."""
        self.on_device = views(self._device)
        """What arrived."""
        self._arrived: torch.cuda.Event | None = None
        if device.type == "cuda":
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        """Wait until what was sent has arrived: until then the host's arrays must stay as they are."""
        if self._arrived is not None:
            self._arrived.synchronize()

    def send(self, *, whole: bool, wait: bool = False) -> None:
        """Copy to the device, without waiting for it unless asked to."""
        if self._device is self._host:
            return
        end = len(self._host) if whole else self._often
        self._device[:end].copy_(self._host[:end], non_blocking=not wait)
        if self._arrived is not None:
            self._arrived.record()
