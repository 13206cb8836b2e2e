"""Adapter that presents a Gymnasium vector environment, which runs on the host, as `Environments`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plasticity.agents.networks.images import ImageFormat
from plasticity.agents.ppo.normalization import widest_float

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

__all__ = ["HostEnvironments", "HostStep", "Spaces"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Spaces:
    """Observations and actions of a vector environment, as PPO sees them."""

    observation_size: int
    """Size of a flattened observation."""

    observation_dtype: np.dtype[Any]
    """Data type of the observations."""

    action_size: int
    """Size of a flattened continuous action, or number of discrete actions."""

    discrete: bool
    """Whether actions are discrete."""

    action_shape: tuple[int, ...]
    """Shape of one continuous action; () for discrete actions."""

    action_dtype: np.dtype[Any]
    """Data type of the actions that the environment accepts."""

    low: Array
    """Lower bounds of a flattened continuous action, (action_size,), or the first discrete action, ()."""

    high: Array
    """Upper bounds of a flattened continuous action, (action_size,), or the last discrete action, ()."""

    images: ImageFormat | None
    """Form of the observations, if they are uint8 images with their channels first."""

    @classmethod
    def of(cls, envs: VectorEnv[Any, Any, Any]) -> Spaces:
        """Read the spaces of one environment.

        Raises:
            TypeError: if observations are not a Box, or actions neither a Box nor Discrete.
            ValueError: if the environments do not reset themselves within the step that ends an episode.
        """
        # Callers that have an environment have already imported gymnasium; importing this module must not.
        from gymnasium import spaces  # noqa: PLC0415

        mode = envs.metadata.get("autoreset_mode")
        if getattr(mode, "value", mode) != "SameStep":
            raise ValueError(
                f"PPO needs environments that reset within the last step of an episode, not {mode!r}: set"
                " autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP."
            )
        observations, actions = envs.single_observation_space, envs.single_action_space
        if not isinstance(observations, spaces.Box):
            raise TypeError(
                f"PPO needs observations from a Box, not {observations}: wrap each environment in"
                " gymnasium.wrappers.FlattenObservation."
            )
        observed = int(np.prod(observations.shape)), np.dtype(observations.dtype)
        images = None
        if observed[1] == np.uint8 and len(observations.shape) == 3:
            images = ImageFormat(observations.shape, int(observations.high.max()))
        if isinstance(actions, spaces.Discrete):
            first = np.asarray(actions.start)
            dtype = np.dtype(actions.dtype)
            last = first + int(actions.n) - 1
            return cls(*observed, int(actions.n), True, (), dtype, first, last, images)
        if not isinstance(actions, spaces.Box) or not np.issubdtype(actions.dtype, np.floating):
            raise TypeError(
                f"PPO needs actions from a Box of floats or from Discrete, not {actions}: wrap each"
                " environment to convert them."
            )
        low, high = (bound.astype(np.float32).ravel() for bound in (actions.low, actions.high))
        dtype = np.dtype(actions.dtype)
        return cls(*observed, low.size, False, actions.shape, dtype, low, high, images)


class HostStep(NamedTuple):
    """Results of a step of `HostEnvironments`: an `EnvironmentStep`."""

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
    """Observations after the step and before any reset; the same tensor as `observations` if no episode
    ended. Shape: (num_envs, observation_size)."""


class HostEnvironments:
    """Gymnasium vector environment presented as `Environments`.

    On a CPU, observations are the vector environment's own array. Elsewhere, each vector step copies one
    block from the device and one block to it, through page-locked memory if the device is CUDA. The actions
    come from the device; observations, rewards and flags go to it, along with everything else that changes
    when an episode ends. The step waits for the actions, and for nothing else.

    Rewards are float64, as on the host, and observations keep their type (float32 on MPS, which has no
    float64).

    Args:
        envs: Vector environment with SAME_STEP autoreset, a Box of observations, and a Box of floats or
            Discrete for actions. `info` may have an integer "task" of at least 0; others count as none.
        seeds: Seed of each environment's first reset (`environment_seeds` returns those of a run).
        device: Device of the learner.

    Raises:
        TypeError: if a space has the wrong type.
        ValueError: if the environments use another autoreset mode, or there is not one seed for each.

    Examples:
        >>> import gymnasium
        >>> from gymnasium.vector import AutoresetMode, SyncVectorEnv
        >>> envs = SyncVectorEnv(
        ...     [lambda: gymnasium.make("CartPole-v1")] * 2, autoreset_mode=AutoresetMode.SAME_STEP
        ... )
        >>> HostEnvironments(envs, [5, 6]).reset().shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        envs: VectorEnv[Any, Any, Any],
        seeds: Sequence[int],
        device: str | torch.device = "cpu",
    ) -> None:
        self._spaces = spaces = Spaces.of(envs)
        if len(seeds) != envs.num_envs:
            raise ValueError(
                f"{envs.num_envs} environments need as many seeds, not {len(seeds)}: give one for each."
            )
        self.envs = envs
        self.num_envs = envs.num_envs
        self.observation_size = spaces.observation_size
        self.action_size = spaces.action_size
        self.discrete = spaces.discrete
        self.images = spaces.images
        """Form of the observations before they are flattened, if they are images; None: they are not."""
        self.device = torch.device(device)
        self.action_low: Tensor | None = None
        self.action_high: Tensor | None = None
        if not spaces.discrete:
            self.action_low, self.action_high = (
                torch.from_numpy(bound).to(self.device, torch.get_default_dtype())
                for bound in (spaces.low, spaces.high)
            )
        self._seeds = list(seeds)
        self._tasks = torch.full((self.num_envs,), -1)
        self._actions = torch.zeros(
            (self.num_envs,) if spaces.discrete else (self.num_envs, self.action_size),
            dtype=torch.int64 if spaces.discrete else None,
            pin_memory=self.device.type == "cuda",
        )
        self._block = None if self.device.type == "cpu" else self._make_block()

    def _make_block(self) -> _Block:
        observed, each = (self.num_envs, self.observation_size), (self.num_envs,)
        number = widest_float(self.device)
        of_observations = torch.from_numpy(np.zeros(0, self._spaces.observation_dtype)).dtype
        if of_observations == torch.float64:
            of_observations = number
        return _Block(
            {
                "rewards": (each, number),
                "observations": (observed, of_observations),
                "terminated": (each, torch.bool),
                "truncated": (each, torch.bool),
                # seldom sent, and therefore last
                "tasks": (each, torch.int64),
                "final_observations": (observed, of_observations),
            },
            self.device,
        )

    @property
    def tasks(self) -> Tensor:
        """Tasks of the current episodes; int64, -1: none. Shape: (num_envs,)."""
        if self._block is None:
            return self._tasks
        return self._block.on_device["tasks"]

    def reset(self) -> Tensor:
        """Reset all environments with the seeds given to the constructor.

        Returns:
            Observations, (num_envs, observation_size).
        """
        observations, infos = self.envs.reset(seed=self._seeds)  # type: ignore[arg-type]
        self._tasks.fill_(-1)
        self._note(infos)
        flat = self._flat(observations)
        if self._block is None:
            return _tensor(flat)
        self._block.send({"observations": flat, "tasks": self._tasks.numpy()}, wait=True)
        return self._block.on_device["observations"]

    def step(self, actions: Tensor) -> HostStep:
        """Step all environments.

        Args:
            actions: Actions within the bounds, (num_envs, action_size), or the numbers of discrete actions
                from 0, (num_envs,).
        """
        observations, rewards, terminated, truncated, infos = self.envs.step(
            self._to_environments(actions)
        )
        found = final = self._flat(observations)
        ended = bool(np.logical_or(terminated, truncated).any())
        if ended:
            final = found.copy()
            for index in np.flatnonzero(np.logical_or(terminated, truncated)).tolist():
                final[index] = np.ravel(infos["final_obs"][index])
        changed = self._note(infos)
        arrays = {
            "observations": found,
            "rewards": np.asarray(rewards, np.float64),
            "terminated": np.asarray(terminated, np.bool_),
            "truncated": np.asarray(truncated, np.bool_),
        }
        if self._block is None:
            tensors = {name: _tensor(array) for name, array in arrays.items()}
            last = _tensor(final) if ended else tensors["observations"]
            return HostStep(**tensors, final_observations=last)
        if changed or ended:
            arrays["tasks"] = self._tasks.numpy()
        if ended:
            arrays["final_observations"] = final
        self._block.send(arrays)
        there = self._block.on_device
        return HostStep(
            there["observations"],
            there["rewards"],
            there["terminated"],
            there["truncated"],
            there["final_observations" if ended else "observations"],
        )

    def _to_environments(self, actions: Tensor) -> Array:
        spaces = self._spaces
        here = (
            actions if self._block is None else self._actions.copy_(actions)
        )  # waits for the device
        given: Array = here.numpy()
        if spaces.discrete:
            return (given + spaces.low).astype(spaces.action_dtype)
        return given.astype(spaces.action_dtype).reshape(-1, *spaces.action_shape)

    def _note(self, infos: Mapping[str, Any]) -> bool:
        """Store the tasks given in `infos`; return whether any of them changed.

        Environments may put values of any type there: a task that is not an integer (such as a name) counts
        as none.
        """
        if "task" not in infos:
            return False
        known = self._tasks.numpy()
        before = known.copy()
        found = np.asarray(infos["task"])
        if found.dtype.kind in "iu" and found.shape in ((), (self.num_envs,)):
            # Gymnasium's vector environments add a mask of the environments that provided the key.
            given = infos.get("_task", True)
            np.copyto(known, found, casting="same_kind", where=given)
        else:
            known.fill(-1)
        return not np.array_equal(before, known)

    def _flat(self, observations: Array) -> Array:
        return np.asarray(observations).reshape(self.num_envs, -1)

    def state_dict(self) -> dict[str, Any]:
        """Return a list of the environments' states, and the tasks of their episodes.

        Raises:
            AttributeError: if the vector environment has no `state_dict` (those of this package have one).
        """
        return self.envs.state_dict() | {"tasks": self._tasks.clone()}  # type: ignore[attr-defined, no-any-return]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`, or from one concatenated from slices.

        Raises:
            ValueError: if it has another number of environments.
        """
        self.envs.load_state_dict({"environments": state["environments"]})  # type: ignore[attr-defined]
        self._tasks.copy_(state["tasks"])
        if self._block is not None:
            self._block.send({"tasks": self._tasks.numpy()}, wait=True)

    def check(self) -> None:
        """Do nothing: environments on the host raise errors where they occur."""

    def close(self) -> None:
        """Close the vector environment."""
        self.envs.close()


def _tensor(array: Array) -> Tensor:
    """Return a tensor on the array's memory, or on that of a copy if torch cannot use it as it is.

    It cannot use a read-only array, nor a reversed view.
    """
    flags = array.flags
    return torch.from_numpy(array if flags.writeable and flags.c_contiguous else array.copy())


class _Block:
    """Named arrays that are copied to a device in one transfer.

    Args:
        arrays: Shape and dtype of each array; a transfer goes from the first array to the last one given.
        device: Device to copy to.
    """

    def __init__(
        self, arrays: Mapping[str, tuple[tuple[int, ...], torch.dtype]], device: torch.device
    ) -> None:
        bounds, end = {}, 0
        for name, (shape, dtype) in arrays.items():
            start = -(-end // 8) * 8  # aligned for any dtype
            end = start + math.prod(shape) * dtype.itemsize
            bounds[name] = (start, end)
        self._ends = {name: end for name, (_, end) in bounds.items()}
        self._host = torch.zeros(end, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._device = self._host.to(device)

        def views(memory: Tensor) -> dict[str, Tensor]:
            return {
                name: memory[slice(*bounds[name])].view(dtype).view(shape)
                for name, (shape, dtype) in arrays.items()
            }

        self._on_host = {name: view.numpy() for name, view in views(self._host).items()}
        self.on_device = views(self._device)
        """Copies of the arrays on the device."""
        self._arrived: torch.cuda.Event | None = None
        if device.type == "cuda":
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def send(self, arrays: Mapping[str, Array], *, wait: bool = False) -> None:
        """Copy arrays to the device, waiting for it only if `wait` is True."""
        if self._arrived is not None:
            self._arrived.synchronize()  # the last copy has arrived: its memory may be changed
        for name, array in arrays.items():
            self._on_host[name][...] = array
        end = max(self._ends[name] for name in arrays)
        self._device[:end].copy_(self._host[:end], non_blocking=not wait)
        if self._arrived is not None:
            self._arrived.record()
