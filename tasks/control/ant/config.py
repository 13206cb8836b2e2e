"""Settings of the Slippery-Ant stream, for all engines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from plasticity.checks import require_integer, require_known, require_name
from plasticity.tasks.control.ant.engines import ENGINES, share_of_environment


@dataclass(frozen=True, kw_only=True)
class SlipperyAntConfig:
    """Settings of ants on ground whose friction changes (Dohare et al., Nature 2024).

    All environments of a run share one schedule of frictions, drawn from the run's seed; steps are counted
    over all of them together, so that a schedule does not depend on their number.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, or the environments cannot share the interval evenly.
    """

    fixed: ClassVar[tuple[str, ...]] = ("engine",)
    """Settings that the name of a benchmark stands for."""

    engine: str
    """Physics engine, a key of `plasticity.tasks.ENGINES`: bullet, mujoco or warp."""

    num_steps: int = field(metadata={"option": "steps"})
    """Steps of all environments together. A run ends with the first row of metrics at or past it; a
    larger number extends a finished run."""

    change_every: int
    """Steps of all environments together between two changes of friction."""

    num_envs: int = 8
    """Environments that are stepped together; they share one schedule of frictions."""

    cores: int | None = None
    """Cores for each run: with more than one, the environments step in that many processes, and actor and
    critic learn side by side; the results do not depend on it. None: the machine's, shared by the runs
    that go on at once."""

    def __post_init__(self) -> None:
        require_name("engine", self.engine)
        require_known("engine", self.engine, ENGINES)
        require_integer("num_steps", self.num_steps, minimum=1)
        if self.cores is not None:
            require_integer("cores", self.cores, minimum=1)
        share_of_environment(self.change_every, self.num_envs)

    @property
    def num_cores(self) -> int:
        """Cores that one run by itself may use: one, unless a number is given."""
        return 1 if self.cores is None else self.cores
