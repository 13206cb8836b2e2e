"""Walkers in MuJoCo Warp: thousands stepped at once on a GPU, each with its own friction."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from plasticity.checks import require_integer, require_number
from plasticity.tasks.control.slippery.actions import not_finite, too_large
from plasticity.tasks.control.slippery.friction import FrictionSchedule
from plasticity.tasks.control.slippery.warp_frictions import ComingTasks
from plasticity.tasks.control.slippery.warp_physics import (
    LEAST_FRICTION,
    Replay,
    WarpBody,
    WarpPhysics,
    numbered_device,
)

_MOST_SEED = 2**63 - 1


class WarpStep(NamedTuple):
    """Results of a step, on the device. The next step overwrites them: copy what you keep."""

    observations: Tensor
    """Observations of the step, or of the reset after it. Shape: (num_envs, observation_size)."""

    rewards: Tensor
    """Rewards of the step. Shape: (num_envs,)."""

    terminated: Tensor
    """Whether the walker fell or jumped too high; bool. Shape: (num_envs,)."""

    truncated: Tensor
    """Whether it was the episode's 1000th step; bool. Shape: (num_envs,)."""

    final_observations: Tensor
    """Observations of the step, before any reset. Shape: (num_envs, observation_size)."""


class SlipperyWarp:
    """Walkers of one body, many at once in float32, on floors whose friction changes.

    The friction is that of every contact with the floor, as it is set on both floor and walker. It is
    constant (`friction`), or follows the stream of `plasticity.tasks.control.slippery.friction`, and changes
    when an episode ends.

    The start of an episode is a pure function of the environment's seed and of the episode's number. An
    environment thus does not depend on the others beside it, bitwise on a CPU. (On a GPU, the order of a
    walker's contacts, and with it that of float32 sums, may differ from run to run: MuJoCo Warp 4.0.0 has a
    switch for that, but does not sort yet.)

    A state that is not finite, or above 1e10, ends its episode like a fall: its reward is only minus the cost
    of the action, its final observation is the previous one, and `unstable_episodes` counts the episode.

    A subclass says which body (`body`, `num_joints`, `action_limit`, `position_entry`), and its kernels what
    is observed and rewarded.

    Args:
        num_envs: Number of walkers.
        reset_seeds: Seeds of the episodes' starts, one for each environment, 0 to 2^63 - 1.
        observation_size: Number of entries of an observation.
        friction: Constant friction, at least 0.01: below, float32 is too coarse for the contact forces, and
            the walkers deviate from MuJoCo's.
        task_seeds: Seeds of the streams of frictions: one for all, or one for each environment.
        num_tasks: Length of the streams, whose last task stays. None: they are endless.
        change_every: Steps of each environment from one task to the next.
        device: Device of the walkers: "cuda", "cuda:1", "cpu" …
        max_contacts: Capacity for contacts, per walker. None: one that suffices for anything that the body
            can do; if a smaller one does not suffice, `check` raises an error.
        refine: Whether contact forces are solved for a second time, from the first solution: a second run of
            the solver in each of the 20 evaluations of a step.
        record: Whether the work of a step is recorded once and replayed from then on (on a GPU as a CUDA
            graph), which avoids launching about a thousand kernels one by one. Without it, every step on a
            GPU synchronizes: the solver checks on the host after each iteration whether to continue.

    Raises:
        ModuleNotFoundError: if MuJoCo, Warp or MuJoCo Warp is not installed.
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range, there is not one seed for each environment, or both a
            friction and a stream are given.
    """

    body: ClassVar[WarpBody]
    """Body of the walkers."""
    num_joints: ClassVar[int]
    """Number of joints; an action has a torque for each."""
    action_limit: ClassVar[float] = 1.0
    """Largest absolute value of an entry of an action, to which MuJoCo clips it."""
    position_entry: ClassVar[str]
    """Entry of the state with the position along x whose velocity is rewarded."""

    def __init__(
        self,
        num_envs: int,
        *,
        reset_seeds: Sequence[int],
        observation_size: int,
        friction: float | None = None,
        task_seeds: int | Sequence[int] | None = None,
        num_tasks: int | None = None,
        change_every: int | None = None,
        device: str | torch.device = "cuda",
        max_contacts: int | None = None,
        refine: bool = True,
        record: bool = True,
    ) -> None:
        self.num_envs = require_integer("num_envs", num_envs, minimum=1)
        self._seeds = _one_each("reset_seeds", reset_seeds, self.num_envs)
        if max(self._seeds) > _MOST_SEED:
            raise ValueError(f"reset_seeds must be under 2^63: {max(self._seeds)}.")
        schedules = self._schedules(
            task_seeds, friction=friction, num_tasks=num_tasks, change_every=change_every
        )
        if friction is not None:
            require_number(
                f"The friction of Warp's {self.body.name}s", friction, minimum=LEAST_FRICTION
            )
        most = self.body.most_contacts
        if max_contacts is not None:
            max_contacts = require_integer("max_contacts", max_contacts, minimum=1)
            if max_contacts > most:
                raise ValueError(
                    f"One {self.body.name} has at most {most} contacts: max_contacts = {max_contacts}."
                )
        self.device = numbered_device(device)
        self.observation_size = observation_size
        self.action_size = self.num_joints
        self.discrete = False
        self.action_high = torch.full(
            (self.num_joints,), self.action_limit, dtype=torch.float32, device=self.device
        )
        self.action_low = -self.action_high
        self._physics = WarpPhysics(
            self.body, self.num_envs, self.device, max_contacts=max_contacts, refine=refine
        )
        self._coming = ComingTasks(schedules, self.device)
        self._allocate()
        self._begin_all: Callable[[], None] = Replay(self._physics, self._begin, record=False)
        self._restore_frictions: Callable[[], None] = Replay(
            self._physics,
            partial(self._launch, self._physics.shared_kernels.restore_frictions),
            record=False,
        )
        # The first step compiles and loads the kernels, which cannot be recorded.
        self.reset()
        Replay(self._physics, self._work, record=False)()
        self._physics.require_callbacks()
        self._step: Callable[[], None] = Replay(self._physics, self._work, record=record)
        self.reset()

    def _schedules(
        self, task_seeds: int | Sequence[int] | None, **settings: Any
    ) -> list[FrictionSchedule]:
        """Return the schedule of each environment; those with one seed share it."""
        seeds: Sequence[int | None]
        if task_seeds is None or hasattr(task_seeds, "__index__"):
            seeds = [task_seeds] * self.num_envs  # type: ignore[list-item]
        else:
            seeds = _one_each("task_seeds", task_seeds, self.num_envs)
        kinds = {seed: FrictionSchedule(task_seed=seed, **settings) for seed in seeds}
        return [kinds[seed] for seed in seeds]

    def _allocate(self) -> None:
        """Allocate what a step reads and writes, at addresses that never change."""
        physics, device, envs = self._physics, self.device, self.num_envs

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(*shape, dtype=dtype, device=device)

        self._actions = physics.tensor(physics.data.ctrl)
        self._result = WarpStep(
            zeros(envs, self.observation_size),
            zeros(envs),
            zeros(envs, dtype=torch.bool),
            zeros(envs, dtype=torch.bool),
            zeros(envs, self.observation_size),
        )
        self._unstable = zeros(envs, dtype=torch.bool)
        self._refused = zeros(envs, dtype=torch.bool)
        self._refused_actions = zeros(envs, self.num_joints)
        self._reset_seeds = torch.tensor(self._seeds, device=device)
        # Everything that the next steps depend on, and the observations, which cannot be recomputed.
        self._state = {
            "qpos": physics.tensor(physics.data.qpos),
            "qvel": physics.tensor(physics.data.qvel),
            "qacc_warmstart": physics.tensor(physics.data.qacc_warmstart),
            "observations": self._result.observations,
            self.position_entry: zeros(envs),
            "episodes": zeros(envs, dtype=torch.int64),
            "episode_steps": zeros(envs, dtype=torch.int64),
            "tasks": zeros(envs, dtype=torch.int64),
            "frictions": zeros(envs),
            "unstable_episodes": zeros(envs, dtype=torch.int64),
        }
        self._walkers = self._kernels_arguments()

    def _kernels_arguments(self) -> Any:
        """Return all that the kernels read and write, as their one argument."""
        physics, data = self._physics, self._physics.data
        state = dict(self._state)
        tensors = {
            "x": state.pop(self.position_entry),
            **state,
            **self._result._asdict(),
            "actions": self._actions,
            "unstable": self._unstable,
            "refused": self._refused,
            "refused_actions": self._refused_actions,
            "coming_tasks": self._coming.tasks,
            "coming_frictions": self._coming.frictions,
            "cinert": physics.tensor(data.cinert),  # (num_envs, num_bodies, 10)
        }
        walkers = physics.shared_kernels.Walkers()
        for name, tensor in tensors.items():
            setattr(walkers, name, physics.array(tensor))
        walkers.reset_seeds = physics.array(self._reset_seeds, physics.warp.uint64)
        walkers.initial_qpos, walkers.mass_shares = physics.initial_qpos, physics.mass_shares
        walkers.geom_friction = physics.model.geom_friction
        walkers.xpos, walkers.xipos = data.xpos, data.xipos
        walkers.cvel, walkers.cfrc_ext = data.cvel, data.cfrc_ext
        walkers.qfrc_actuator = data.qfrc_actuator
        walkers.efc_J, walkers.efc_D = data.efc.J, data.efc.D
        return walkers

    def _launch(self, kernel: Any) -> None:
        self._physics.launch(kernel, self._walkers)

    @property
    def tasks(self) -> Tensor:
        """Tasks of the current episodes; int64. Shape: (num_envs,)."""
        return self._state["tasks"]

    @property
    def unstable_episodes(self) -> Tensor:
        """Number of episodes that ended in an unstable state, per environment; int64. Shape: (num_envs,)."""
        return self._state["unstable_episodes"]

    def reset(self) -> Tensor:
        """Start over from the constructor's seeds, with all counts at 0.

        Returns:
            Observations, shape (num_envs, observation_size).
        """
        self._forget()
        self._coming.restart(np.zeros(self.num_envs, np.int64))
        self._state["episodes"].fill_(-1)
        self._state["unstable_episodes"].zero_()
        self._result.terminated.fill_(True)
        self._unstable.fill_(True)
        self._begin_all()
        self._result.terminated.fill_(False)
        return self._result.observations

    def _forget(self) -> None:
        """Clear the errors that `check` would raise, as they belong to a previous state."""
        self._physics.forget()
        self._refused.zero_()

    def step(self, actions: Tensor) -> WarpStep:
        """Let every walker move, and reset those whose episode ends, without waiting for the device.

        Actions that the environment in MuJoCo refuses, which are not finite or whose absolute values add up
        to more than 1e15, are noticed only on the device: `check` raises the error that it raises at once.
        Until then, the reward has the cost of the action before it is clipped, which is not finite if the
        action is not; and if it contains nan, the episode ends as if the state were not finite.

        Args:
            actions: Real numbers, copied at once. Shape: (num_envs, action_size).

        Returns:
            The results of the step, which the next one overwrites.

        Raises:
            TypeError: if the actions are not a tensor of real numbers.
            ValueError: if the actions have another shape.
            RuntimeError: if the environments were closed.
        """
        if not isinstance(actions, Tensor):
            raise TypeError(f"The actions must be a torch tensor: {type(actions).__name__}.")
        if actions.dtype.is_complex or actions.dtype == torch.bool:
            raise TypeError(f"The actions must be real numbers, not of type {actions.dtype}.")
        if actions.shape != self._actions.shape:
            raise ValueError(
                f"The actions must have the shape {tuple(self._actions.shape)}: {tuple(actions.shape)}."
            )
        self._actions.copy_(actions.detach())
        self._coming.advance()
        self._step()
        return self._result

    def _work(self) -> None:
        self._physics.step()
        self._launch(self._physics.kernels.finish_step)
        self._begin()

    def _begin(self) -> None:
        """Begin the next episode of each environment whose episode ended."""
        self._launch(self._physics.kernels.begin_episodes)

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that the next steps depend on; waits for the device.

        Returns:
            Copies of tensors whose first dimension is num_envs: a slice is the state of those environments.
        """
        steps = torch.from_numpy(self._coming.steps).to(self.device)
        return {name: tensor.clone() for name, tensor in self._state.items()} | {
            "reset_seeds": self._reset_seeds.clone(),
            "steps": steps,
            "coming_tasks": self._coming.tasks.clone(),
            "coming_frictions": self._coming.frictions.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a `state_dict`, or from one assembled from slices; waits for the device.

        Raises:
            ValueError: if an entry is missing, or of another shape; or if the reset seeds, or the coming
                tasks, differ from those of the constructor: the next episodes would match neither.
        """
        own = self.state_dict()
        if set(state) != set(own):
            raise ValueError(f"The state must have {sorted(own)}: {sorted(state)}.")
        for name, tensor in own.items():
            if state[name].shape != tensor.shape:
                raise ValueError(
                    f"{name} of the state must have the shape {tuple(tensor.shape)}, that of "
                    f"{self.num_envs} environments: {tuple(state[name].shape)}."
                )
        if not torch.equal(state["reset_seeds"].to(self.device), self._reset_seeds):
            raise ValueError(
                "The state is that of environments with other reset_seeds: pass theirs to the constructor."
            )
        steps = state["steps"].cpu().numpy()
        tasks, frictions = self._coming.after(steps)
        if not (
            torch.equal(state["coming_tasks"].cpu(), tasks)
            and torch.equal(state["coming_frictions"].cpu(), frictions)
        ):
            raise ValueError(
                "The state is that of environments with other coming frictions: pass their friction, or "
                "their task_seeds, num_tasks and change_every, to the constructor."
            )
        for name, tensor in self._state.items():
            tensor.copy_(state[name])
        self._forget()
        self._coming.restart(steps)
        self._restore_frictions()

    def check(self) -> None:
        """Raise any error noted on the device since the last `reset` or `load_state_dict`; waits for it.

        Raises:
            SimulationError: if contacts did not fit and were left out.
            ValueError: if an action was not finite, or its absolute values added up to more than 1e15.
        """
        self._physics.check()
        if bool(self._refused.any()):
            env = int(self._refused.nonzero()[0])
            values = self._refused_actions[env].tolist()
            finite = all(map(math.isfinite, values))
            raise ValueError(
                f"Environment {env}: {too_large(values) if finite else not_finite(values)} Its rewards are "
                "invalid: start again, or from the last checkpoint."
            )

    def close(self) -> None:
        """Wait for the device and release the simulator; closing twice is fine.

        Tensors returned earlier stay valid.
        """
        self._step = self._begin_all = self._restore_frictions = partial(_closed, self.body.name)
        self._physics.close()


def _closed(name: str) -> None:
    raise RuntimeError(f"The Warp {name}s were closed: make new ones.")


def _one_each(name: str, seeds: Sequence[int], num_envs: int) -> list[int]:
    checked = [require_integer(f"An entry of {name}", seed, minimum=0) for seed in seeds]
    if len(checked) != num_envs:
        raise ValueError(
            f"{num_envs} environments need {num_envs} {name}, one for each: {len(checked)}."
        )
    return checked
