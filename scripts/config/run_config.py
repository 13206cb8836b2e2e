"""The full configuration of one run, as it is saved in `config.json`: flat, and read back as it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeVar

from plasticity.agents.networks.image import NetworkConfig
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.supervised.classifier import ClassifierConfig
from plasticity.checks import (
    MAX_SEED,
    nearest,
    require_integer,
    require_known,
    require_name,
    require_number,
)
from plasticity.metrics.registry import DEFAULT_METRICS, METRICS
from plasticity.optim.settings import RegularizerSettings

ANT_METRICS = (*DEFAULT_METRICS, "gradient_norm", "update_norm")
"""What is measured of an agent, unless said otherwise."""

ENGINES = ("bullet", "mujoco", "warp")
"""The physics of the ants, by the names that `plasticity.tasks.ENGINES` has."""

_Config = TypeVar("_Config", bound="RunConfig")

LENGTHS = {"task": "num_tasks", "step": "num_steps"}
"""What a run's rows are placed by, and the setting that says how far the run goes."""

FREE_TO_CHANGE = (*LENGTHS.values(), "device", "cores", "compile", "data_dir")
"""What may differ when a run is continued: how far it goes, where and how it runs (which changes numbers
by rounding at most), where its data lies."""

ADDED_TO_FOLDERS = ("versions", "git_commit")
"""Keys of a run folder's `config.json` that are no settings."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What the runs of all benchmarks have in common: one method, one seed.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    axis: ClassVar[str]
    """What the rows are placed by, a key of `LENGTHS`."""

    benchmark: str
    """Name of the benchmark."""

    method: str
    """Name of the method."""

    seed: int
    """Gives the stream, the weights, the data and the anchor a named child seed each."""

    strength: float = 0.0
    """Of the method's decay, as torch's weight_decay."""

    sigma: float = 0.0
    """Spread of syre's anchor, relative to the usual initialisation."""

    anisotropy: float = 0.0
    """Of syre's Eq. 7."""

    decoupled: bool | None = None
    """Decay apart from the gradient; None: as the optimizer's own weight decay."""

    device: str = "cpu"
    """cpu, cuda, cuda:1, mps."""

    metrics: tuple[str, ...] = DEFAULT_METRICS
    """What is measured, layer by layer."""

    def __post_init__(self) -> None:
        for name in ("benchmark", "method", "device"):
            require_name(name, getattr(self, name))
        self._check_metrics()
        require_integer("seed", self.seed, minimum=0, maximum=MAX_SEED)
        require_number("strength", self.strength, minimum=0.0)
        RegularizerSettings(
            strength=self.strength,
            sigma=self.sigma,
            anisotropy=self.anisotropy,
            decoupled=self.decoupled,
        )

    def _check_metrics(self) -> None:
        for name in self.metrics:
            if not isinstance(name, str):
                raise TypeError(f"metrics must be names, not {name!r}.")
            require_known("metric", name, METRICS)
            if self.metrics.count(name) > 1:
                raise ValueError(f"metrics names {name!r} twice: once is enough.")

    @property
    def length(self) -> int:
        """How far the run goes, in tasks or steps."""
        return int(getattr(self, LENGTHS[self.axis]))

    def to_json(self) -> dict[str, Any]:
        """Flatten: the fields of the parts (a network's, an agent's) stand beside the others."""
        flat: dict[str, Any] = {}
        for name, value in dataclasses.asdict(self).items():
            flat.update(value if isinstance(value, dict) else {name: value})
        return {name: list(v) if isinstance(v, tuple) else v for name, v in flat.items()}

    @classmethod
    def from_json(cls: type[_Config], flat: Mapping[str, Any]) -> _Config:
        """Read what `to_json` gave, and what a run folder adds to it.

        Raises:
            ValueError: if a field is missing, or one is unknown; the message names the nearest.
            TypeError: if a list stands where none belongs, or is missing where one does.
        """
        parts = _parts(cls)
        remaining = {
            name: value for name, value in completed(flat).items() if name not in ADDED_TO_FOLDERS
        }
        expected = {
            each.name: each for part in (cls, *parts.values()) for each in _plain_fields(part)
        }
        for name in remaining:
            require_known("key of a configuration", name, expected)
        missing = [name for name in expected if name not in remaining]
        if missing:
            raise ValueError(
                f"The configuration lacks {', '.join(missing)}: give a config.json as a run of this"
                " version saves it."
            )

        def values(part: type) -> dict[str, Any]:
            plain = _plain_fields(part)
            return {each.name: _plain_value(each, remaining[each.name]) for each in plain}

        made = {name: part(**values(part)) for name, part in parts.items()}
        return cls(**values(cls), **made)


@dataclass(frozen=True, kw_only=True)
class ImageRunConfig(RunConfig):
    """One run of an image benchmark: one method, one seed.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    axis: ClassVar[str] = "task"

    dataset: str
    """mnist, fashion-mnist, kmnist, digits, or images (any folder of such files)."""

    num_tasks: int
    """Length of the stream; a larger number extends a finished run."""

    data_dir: str | None = None
    """Folder with the four files of the data; None: looked for, then downloaded."""

    probe_size: int = 512
    """Test images (the first ones, of the task) that the metrics are measured on."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    """Shape of the network."""

    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    """How it is trained."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_name("dataset", self.dataset)
        if self.data_dir is not None and not isinstance(self.data_dir, str):
            raise TypeError(f"data_dir must be a folder's name or None, not {self.data_dir!r}.")
        require_integer("tasks", self.num_tasks, minimum=1)
        require_integer("probe_size", self.probe_size, minimum=2)


@dataclass(frozen=True, kw_only=True)
class AntRunConfig(RunConfig):
    """One run of a Slippery-Ant benchmark: one method, one seed.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, or if values do not go together.
    """

    axis: ClassVar[str] = "step"

    metrics: tuple[str, ...] = ANT_METRICS
    """What is measured, layer by layer of actor and critic."""

    num_steps: int
    """Steps of all environments together. The run ends with the first row at or past it; a larger
    number extends a finished run."""

    change_every: int
    """Steps of all environments together between two changes of friction."""

    engine: str = "bullet"
    """The physics: one of `ENGINES`."""

    num_envs: int = 8
    """Environments that are stepped together; they share one schedule of frictions."""

    measure_every: int = 20_480
    """Steps between two rows of metrics: whole rollouts."""

    critic_strength: float | None = None
    """Of the critic's decay. None: the actor's, which is `strength`."""

    critic_sigma: float | None = None
    """Of the critic's anchor. None: the actor's, which is `sigma`."""

    cores: int = 1
    """Cores that the run may use: more than one, and the environments step in that many processes,
    and actor and critic learn side by side. What comes out does not depend on it."""

    agent: PPOConfig = field(default_factory=PPOConfig)
    """How the agent learns."""

    @property
    def length(self) -> int:
        """Steps at which the run ends: those of the first row at or past `num_steps`."""
        return -(-self.num_steps // self.measure_every) * self.measure_every

    def __post_init__(self) -> None:
        super().__post_init__()
        require_name("engine", self.engine)
        if self.engine not in ENGINES:
            raise ValueError(f"Unknown engine {self.engine!r}.{nearest(self.engine, ENGINES)}")
        for name in ("num_steps", "change_every", "num_envs", "measure_every", "cores"):
            require_integer(name, getattr(self, name), minimum=1)
        for name in ("critic_strength", "critic_sigma"):
            if getattr(self, name) is not None:
                require_number(name, getattr(self, name), minimum=0.0)
        for name in ("rollout_steps", "change_every"):
            steps = self.agent.rollout_steps if name == "rollout_steps" else self.change_every
            if steps % self.num_envs:
                raise ValueError(
                    f"{name} {steps} cannot be shared by {self.num_envs} environments: give a"
                    " multiple of num_envs."
                )
        if self.measure_every % self.agent.rollout_steps:
            raise ValueError(
                f"measure_every {self.measure_every} must be a multiple of rollout_steps"
                f" {self.agent.rollout_steps}: metrics are measured between two rollouts."
            )


def _parts(config_class: type) -> dict[str, type]:
    """Fields that are dataclasses themselves, and which."""
    found: dict[str, type] = {}
    for each in fields(config_class):
        made: Any = each.default_factory
        if isinstance(made, type) and dataclasses.is_dataclass(made):
            found[each.name] = made
    return found


def _plain_fields(config_class: type) -> list[dataclasses.Field[Any]]:
    """The fields that are saved under their own names."""
    parts = _parts(config_class)
    return [each for each in fields(config_class) if each.name not in parts]


def _plain_value(field_: dataclasses.Field[Any], value: Any) -> Any:
    """A value as JSON gives it, as the field wants it: JSON has no tuples."""
    if str(field_.type).startswith("tuple"):
        if not isinstance(value, (list, tuple)):
            raise TypeError(f"{field_.name} must be a list, not {value!r}.")
        return tuple(value)
    if isinstance(value, (list, tuple, dict)):
        raise TypeError(f"{field_.name} must be a single value, not {value!r}.")
    return value


def completed(saved: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as it was saved, with the keys that it lacks because they came later.

    Their values are what a run did before there was a choice: all ants were Bullet's, all classifiers
    learnt in float32, and nothing was compiled.
    """
    if LENGTHS["step"] in saved:
        return {"engine": "bullet", "compile": False, **saved}
    if LENGTHS["task"] in saved:
        return {"precision": "float32", "compile": False, **saved}
    return dict(saved)


def differences(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Name what keeps a run from being continued: each key, its saved and its wanted value."""
    saved = completed(saved)
    keys = [key for key in wanted if key not in FREE_TO_CHANGE]
    return [
        f"{key} (there {saved.get(key)!r}, now {wanted[key]!r})"
        for key in keys
        if saved.get(key) != wanted[key]
    ]
