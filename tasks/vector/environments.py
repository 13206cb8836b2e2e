"""Vector environment that steps several environments in each of several processes."""

from __future__ import annotations

import itertools
import mmap
import operator
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import CloudpickleWrapper, batch_space
from numpy.typing import NDArray

from plasticity.checks import require_integer
from plasticity.tasks.vector.environment_group import EnvFn, Layout, Report, require_same
from plasticity.tasks.vector.workers import (
    HURRY_SECONDS,
    Host,
    InThisProcess,
    Worker,
    end,
    unnamed_file,
)

StepResult = tuple[
    NDArray[Any], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]
]


class VectorEnvironments(VectorEnv[NDArray[Any], NDArray[Any], NDArray[Any]]):
    """Gymnasium vector environment with several environments in each process, this one included.

    An environment whose episode ends is reset in the same step (`AutoresetMode.SAME_STEP`): the
    observation is then the first of the next episode, and `infos["final_obs"]` and `infos["final_info"]`
    hold the last ones of the ended episode. `infos` have the format of Gymnasium's own vector environments:
    an array per entry, with a mask under the same name prefixed with "_".

    The results do not depend on `num_workers`.

    An error in a worker, or its death, is raised by the call that waits for it, and ends all environments.
    Workers end with this object, and with its process, even if that is killed. They ignore Ctrl-C and
    SIGTERM, which are left to this process.

    Args:
        env_fns: Functions without arguments, each of which makes an environment. They are sent to workers by
            cloudpickle, so that lambdas work. All environments must have the same spaces.
        num_workers: Number of processes that step the environments, in blocks. This process is the first of
            them, as it would have to wait for the others anyway: 2 adds one process and keeps two cores
            busy; 0 or 1 adds none. At most one per environment.
        copy: Whether returned arrays are copies, which are never overwritten. If not, they are views of the
            memory that this process shares with the workers, valid until the next step or reset, for callers
            that copy what they keep. `infos` are new ones in either case.

    Raises:
        TypeError: if an argument has the wrong type, or observation or action is not an array of fixed shape.
        ValueError: if there are no environments, or fewer than workers, or they differ in their spaces.
        RuntimeError: if environments cannot be made in a worker; the message has its traceback. (An error
            in this process is raised as it is.)

    Examples:
        >>> import gymnasium
        >>> vector = VectorEnvironments([lambda: gymnasium.make("CartPole-v1")] * 4, num_workers=1)
        >>> vector.reset(seed=0)[0].shape
        (4, 4)
        >>> vector.close()
    """

    # Steps per second of 8 (16) Slippery-Ants on 2 cores: all in this process 4500 (4700); Gymnasium's
    # AsyncVectorEnv with shared memory 4900 (5500); two workers and this process waiting for them 6700
    # (7600); one worker and this process 7800 (8500), and with a worker that spins for a while before it
    # sleeps 8200 to 8900 (8300 to 8600). Spinning helps most when a policy acts in between: 6200 vs. 5300.

    def __init__(
        self, env_fns: Sequence[EnvFn], num_workers: int = 0, *, copy: bool = True
    ) -> None:
        env_fns = list(env_fns)
        self.num_envs = require_integer("The number of environments", len(env_fns), minimum=1)
        self.num_workers = require_integer("num_workers", num_workers, minimum=0)
        if self.num_workers > self.num_envs:
            raise ValueError(
                f"num_workers must be at most the number of environments, {self.num_envs}: {num_workers}."
            )
        if not isinstance(copy, bool):
            raise TypeError(f"copy must be True or False: {copy!r}.")
        self.copy = copy
        self._hosts: list[Host] = []
        self._owner = os.getpid()
        self._end = weakref.finalize(self, end, self._hosts, self._owner)
        try:
            self._open(env_fns)
        except BaseException:
            self._end_after_error()
            raise

    def _open(self, env_fns: Sequence[EnvFn]) -> None:
        first, *others = _parts(self.num_envs, max(self.num_workers, 1))
        memory = unnamed_file()
        try:
            self._hosts.append(InThisProcess(first, memory))
            spin = self.num_workers <= available_cores()
            for number, part in enumerate(others, start=1):
                self._hosts.append(Worker(number, part, memory, spin=spin))
            made = dict(self._ask("make", each=[CloudpickleWrapper(env_fn) for env_fn in env_fns]))
            description = require_same(
                [description for description, _ in made.values()],
                [environments.start for environments in made],
            )
            layout = Layout.of(description, self.num_envs)
            os.ftruncate(memory, layout.num_bytes)
            list(self._ask("attach", layout))
            block = mmap.mmap(memory, layout.num_bytes)
        finally:
            os.close(memory)
        self._arrays = layout.arrays(block)
        self.single_observation_space = description.observation_space
        self.single_action_space = description.action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.render_mode = description.render_mode
        self.metadata = {**made[first][1], "autoreset_mode": AutoresetMode.SAME_STEP}
        self._environment_infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        self._infos: dict[str, Any] = {}

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Reset all environments.

        Args:
            seed: One seed, of which environment i gets seed + i; or one for each environment; or None, to
                leave the generators as they are.
            options: Options passed to every environment.

        Returns:
            The observations, shape (num_envs, *observation), and infos.
        """
        seeds: list[int | None]
        if seed is None:
            seeds = [None] * self.num_envs
        elif isinstance(seed, int | np.integer):
            seeds = [int(seed) + i for i in range(self.num_envs)]
        else:
            seeds = [None if each is None else operator.index(each) for each in seed]
            if len(seeds) != self.num_envs:
                raise ValueError(
                    f"{self.num_envs} environments need {self.num_envs} seeds, one for each: {len(seeds)}."
                )
        with self._all_or_none():
            infos = self._gather(self._ask("reset", options, each=seeds))
        observations = self._arrays.observations
        return observations.copy() if self.copy else observations, infos

    def step(self, actions: NDArray[Any]) -> StepResult:
        """Step all environments.

        Args:
            actions: Numbers, cast to the type of the action space. Shape: (num_envs, *action).

        Returns:
            Observations (num_envs, *observation), rewards, terminated and truncated (num_envs,), infos.

        Raises:
            TypeError: if the actions are not real numbers.
            ValueError: if the actions have another shape.
            RuntimeError: if a worker has died or failed; all environments are then ended.
        """
        actions = np.asarray(actions)
        if (
            actions.dtype.kind not in "biuf"
        ):  # the cast would drop imaginary parts, and make None NaN
            raise TypeError(f"The actions must be real numbers, not of type {actions.dtype}.")
        if actions.shape != self._arrays.actions.shape:
            raise ValueError(
                f"The actions must have the shape {self._arrays.actions.shape}: {actions.shape}."
            )
        with self._all_or_none():
            np.copyto(self._arrays.actions, actions, casting="unsafe")
            infos = self._gather(self._ask("step"))
        _, observations, rewards, terminated, truncated = self._arrays
        if not self.copy:
            return observations, rewards, terminated, truncated, infos
        return observations.copy(), rewards.copy(), terminated.copy(), truncated.copy(), infos

    def _ask(
        self, name: str, *shared: Any, each: Sequence[Any] | None = None
    ) -> Iterator[tuple[range, Any]]:
        """Call a method of every group, at once, when iterated over.

        Args:
            name: Name of the method.
            shared: Arguments for all groups.
            each: One entry for each environment, of which a group gets its own as first argument.

        Returns:
            An iterator over the groups: indices of their environments, and result.
        """
        for host in self._hosts:
            part = host.environments
            own = () if each is None else (each[part.start : part.stop],)
            host.ask(name, *own, *shared)
        for host in self._hosts:
            yield host.environments, host.answer()

    def _gather(self, answers: Iterator[tuple[range, list[Report]]]) -> dict[str, Any]:
        """Collect the reports of all groups, and return the infos."""
        finals = []
        for environments, reports in answers:
            for number, info, final in reports:
                environment = environments[number]
                if info is not None:
                    self._environment_infos[environment] = info
                    self._infos = {}
                if final is not None:
                    finals.append((environment, final))
        if not self._infos:
            for environment, info in enumerate(self._environment_infos):
                self._infos = self._add_info(self._infos, info, environment)
        infos = _copy(self._infos)
        for environment, (observation, info) in finals:
            entries = {"final_obs": observation, "final_info": info}
            infos = self._add_info(infos, entries, environment)
        return infos

    @contextmanager
    def _all_or_none(self) -> Iterator[None]:
        """End all environments on any error: answers left unread would be mistaken for later ones."""
        if self.closed:
            raise gymnasium.error.ClosedEnvironmentError(
                "The environments were closed, by close() or after an error: make new ones."
            )
        try:
            yield
        except BaseException:
            self._end_after_error()
            raise

    def _end_after_error(self) -> None:
        self.closed = True
        self._end.detach()
        with suppress(Exception):  # an error on closing would hide its cause
            end(self._hosts, self._owner, HURRY_SECONDS)

    def call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        """Call a method of every environment, or read an attribute, and return the results."""
        return self._call(name, [arguments] * self.num_envs)

    def _call(self, name: str, arguments: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
        with self._all_or_none():
            answers = self._ask("call", name, each=arguments)
            return tuple(result for _, results in answers for result in results)

    def render(self) -> tuple[Any, ...]:
        """Return the result of every environment's `render`."""
        return self.call("render")

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all environments, each from its own `state_dict`.

        Raises:
            TypeError: if an environment has no `state_dict`, or its outermost wrapper has none (as those
                that `gymnasium.make` adds): the wrapper's state would be lost.
        """
        self._require_own("state_dict")
        return {"environments": list(self.call("state_dict"))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`, which may have been saved with another number of workers.

        Raises:
            TypeError: if an environment, or its outermost wrapper, has no `load_state_dict` of its own.
            ValueError: if the state was saved from another number of environments.
        """
        self._require_own("load_state_dict")
        states = state["environments"]
        if len(states) != self.num_envs:
            raise ValueError(
                f"The state is that of {len(states)} environments, not of {self.num_envs}: load it into "
                "as many environments as it was saved from."
            )
        self._call("load_state_dict", [(each,) for each in states])

    def _require_own(self, method: str) -> None:
        with self._all_or_none():
            without = [env for _, names in self._ask("without", method) for env in names]
        if without:
            raise TypeError(
                f"{without[0]} has no {method} of its own, and the state of a wrapper, such as TimeLimit's "
                "count of steps, would be lost: pass env_fns that make the bare class instead "
                "of gymnasium.make, or wrappers that have the method."
            )

    def close_extras(self, **kwargs: Any) -> None:
        """End all environments and their workers.

        Raises:
            Exception: the first error of an environment's `close` in this process; all are still ended.
        """
        self.closed = True
        self._end()


def available_cores() -> int:
    """Return the number of cores that this process may use, which a container or batch system may limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS


def _parts(num_envs: int, num_parts: int) -> list[range]:
    """Divide the environments into blocks whose sizes differ by at most one."""
    bounds = [num_envs * part // num_parts for part in range(num_parts + 1)]
    return [range(start, stop) for start, stop in itertools.pairwise(bounds)]


def _copy(infos: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _copy(value) if isinstance(value, dict) else value.copy()
        for key, value in infos.items()
    }
