"""Families of environments that change: the settings that all have, and what a family says of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import gymnasium
from numpy.typing import NDArray

from plasticity.checks import require_integer
from plasticity.tasks.control.schedule import share_of_environment
from plasticity.tasks.streams.base import Stream
from plasticity.tasks.vector.environments import VectorEnvironments


@dataclass(frozen=True)
class View:
    """Properties of an environment that are needed to record it."""

    step_seconds: float
    """Simulated time of a step, in seconds."""

    steps_per_frame: int
    """Number of steps from one picture to the next."""

    ending: str
    """Description of a termination before the time limit."""

    speed: Callable[[NDArray[Any]], float] | None = None
    """Function that returns the speed toward the target, in m/s, from an observation. None: there is no
    target."""


@dataclass(frozen=True, kw_only=True)
class EnvironmentConfig:
    """Settings that all families of changing environments have.

    All environments of a run share one stream of tasks, drawn from the run's seed; steps are counted over
    all of them together, so that the stream's schedule does not depend on their number.

    A family is a subclass, with settings of its own. It makes a stream that describes the tasks
    (`make_stream`) and a single environment that follows it (`make_env`), which has `state_dict` and
    `load_state_dict`, as a `ChangingEnv` does. If the environments of several runs are stepped at once on a
    device, it has `on_device` and `make_on_device`.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, or the environments cannot share the interval evenly.
    """

    fixed: ClassVar[tuple[str, ...]] = ()
    """Settings that the name of a benchmark stands for."""

    num_steps: int = field(metadata={"option": "steps"})
    """Steps of all environments together. A run ends with the first row of metrics at or past it; a
    larger number extends a finished run."""

    change_every: int
    """Steps of all environments together between two changes of the task. The change comes at the first end
    of an episode after that."""

    num_envs: int = 8
    """Environments that are stepped together; they share one stream of tasks."""

    cores: int | None = None
    """Cores for each run: with more than one, the environments step in that many processes, and actor and
    critic learn side by side unless they wait for each other (clipped gradients, a target of the KL); the
    results do not depend on it. None: the machine's, shared by the runs that go on at once."""

    def __post_init__(self) -> None:
        require_integer("num_steps", self.num_steps, minimum=1)
        if self.cores is not None:
            require_integer("cores", self.cores, minimum=1)
        share_of_environment(self.change_every, self.num_envs)

    @property
    def num_cores(self) -> int:
        """Cores that one run by itself may use: one, unless a number is given."""
        return 1 if self.cores is None else self.cores

    @property
    def env_change_every(self) -> int:
        """Steps that each environment makes between two changes."""
        return share_of_environment(self.change_every, self.num_envs)

    # ---- the family ----------------------------------------------------------------------------------

    def make_stream(self, num_tasks: int, seed: int) -> Stream[Any]:
        """Return the stream of tasks, whose `describe(k)` gives a row what task `k` changed."""
        raise NotImplementedError

    @property
    def described(self) -> tuple[str, ...]:
        """Keys of a row under which the stream tells what its task is (`Stream.describe`)."""
        return tuple(self.make_stream(1, seed=0).describe(0))

    def make_env(
        self,
        values: Mapping[str, float] | None = None,
        *,
        task_seed: int | None = None,
        change_every: int | None = None,
        render_mode: str | None = None,
    ) -> gymnasium.Env[Any, Any]:
        """Make one environment.

        Args:
            values: What a task changes, by name, of a task that stays. None: the tasks follow the stream.
            task_seed: Seed of the stream.
            change_every: Steps of this environment between two changes.
            render_mode: "rgb_array" for pictures, or None.

        Raises:
            ModuleNotFoundError: if a package is not installed; the message says how to install it.
            RuntimeError: if pictures cannot be drawn here.
            ValueError: if a value is out of range.
        """
        raise NotImplementedError

    @property
    def view(self) -> View | None:
        """Properties that `plasticity video` needs; None: there are no pictures."""
        return None

    @property
    def on_device(self) -> bool:
        """Whether the environments of several runs are stepped at once on a device, and such runs stacked."""
        return False

    def require_installed(self) -> None:
        """Raise a ModuleNotFoundError, which says how to install it, if a package is missing."""
        self.make_env(task_seed=0, change_every=1).close()

    def make_vector(self, task_seeds: Sequence[int]) -> VectorEnvironments:
        """Make environments on the host, which step in `num_cores` processes, at most one for each.

        Args:
            task_seeds: Seed of the stream of each environment.
        """
        make = partial(self.make_env, change_every=self.env_change_every)
        return VectorEnvironments(
            [partial(make, task_seed=seed) for seed in task_seeds],
            num_workers=min(self.num_cores, self.num_envs) if self.num_cores > 1 else 0,
            copy=False,
        )

    def make_on_device(
        self, reset_seeds: Sequence[int], task_seeds: Sequence[int], device: str
    ) -> Any:
        """Make environments that are stepped at once on a device: `plasticity.agents.Environments`.

        Their `check` raises a `SimulationError` if the simulator's numbers are wrong.

        Args:
            reset_seeds: Seed of the first reset of each environment.
            task_seeds: Seed of the stream of each.
            device: Device to step them on.

        Raises:
            torch.cuda.OutOfMemoryError: if they do not fit into its memory.
        """
        raise NotImplementedError
