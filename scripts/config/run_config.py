"""Configuration of one run: nested dataclasses, saved as `config.json` and read back.

Nothing is stated a second time: the command line, its help, `config.json`, `--config` and the grid of a sweep
are all made from these fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, TypeVar

from plasticity.agents.networks import CNN, NETWORKS, Network
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.sb3 import ALGORITHMS, SB3Config
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.checks import (
    MAX_SEED,
    require_integer,
    require_known,
    require_name,
)
from plasticity.metrics.registry import DEFAULT_METRICS, METRICS, require_policy_metrics
from plasticity.mitigations import (
    MITIGATIONS,
    Mitigation,
    method_name,
    mitigation_names,
    require_compatible,
)
from plasticity.mitigations.stacked_settings import acts_on_steps, overrides
from plasticity.scripts.config.nested import (
    flattened,
    from_plain,
    require_object,
    setting_at,
    to_plain,
    with_values,
)
from plasticity.scripts.trackers.base import TRACKERS
from plasticity.tasks.control.base import EnvironmentConfig
from plasticity.tasks.streams.base import SupervisedStreamConfig

_Config = TypeVar("_Config", bound="RunConfig")

LENGTHS = {"task": "stream.num_tasks", "step": "stream.num_steps"}
"""Path of the setting that gives the length of a run, by the axis of its rows."""

FREE_TO_CHANGE = (
    *LENGTHS.values(),
    "stream.data_dir",
    "stream.cores",
    "agent.compile",
    "agent.kernel",
    "device",
    "imports",
    "track",
    "tuned_on",
)
"""Settings that may differ when a run is continued: its length, where and how it runs (which changes
numbers by rounding at most), where its data lie, which modules are imported (a run needs its own ones,
and its method, stream and network name what they registered), where its rows go too, and where its
settings are from."""

METHOD_FIELDS = ("method", "critic_method")
"""Fields that hold mitigations."""

MADE_BY = ("versions", "git_commit")
"""Keys of a run folder's `config.json` that are not settings."""


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """Measurements of the network while it learns.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a metric is unknown or named twice.
    """

    metrics: tuple[str, ...] = DEFAULT_METRICS
    """Metrics of each layer (see `plasticity list`)."""

    def __post_init__(self) -> None:
        for name in self.metrics:
            if not isinstance(name, str):
                raise TypeError(f"metrics must be names, not {name!r}.")
            require_known("metric", name, METRICS)
            if self.metrics.count(name) > 1:
                raise ValueError(f"metrics names {name!r} twice: once is enough.")


@dataclass(frozen=True, kw_only=True)
class SupervisedTracking(Tracking):
    """Measurements of a classifier, at the end of every task."""

    probe_size: int = 512
    """Test examples of the task (the first ones) that the metrics are measured on; training examples if it
    has no test set."""

    reference_every: int | None = None
    """Tasks from one fresh reference to the next. At task 0 and every so many tasks, a newly initialised
    network of the same settings, method and seed learns the same task in the same order; the row gets its
    accuracies, reference_…, and the plasticity_gap: its accuracy minus the run's. Such a task takes twice the
    time. None: no references. Control benchmarks have none: a fresh agent would need an environment of its
    own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("probe_size", self.probe_size, minimum=2)
        if self.reference_every is not None:
            require_integer("reference_every", self.reference_every, minimum=1)


@dataclass(frozen=True, kw_only=True)
class ControlTracking(Tracking):
    """Measurements of an agent, every so many steps."""

    metrics: tuple[str, ...] = (*DEFAULT_METRICS, "gradient_norm", "update_norm")
    """Metrics of each layer of actor and critic (see `plasticity list`)."""

    measure_every: int = 20_480
    """Steps between two rows of metrics: a multiple of --rollout-steps, or of --train-freq times --num-envs
    for agents with a replay buffer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("measure_every", self.measure_every, minimum=1)
        require_policy_metrics(METRICS[name] for name in self.metrics)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Configuration that the runs of all benchmarks have in common: one method, one seed.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    experiment: ClassVar[str]
    """Class that trains the runs, as "module:Class"; `experiment_class` imports it when it is needed."""

    axes: ClassVar[tuple[str, ...]]
    """Keys of a row that tell its position, from the coarsest to the finest, in which progress is counted."""

    length_path: ClassVar[str]
    """Path of the setting that gives the length of a run: with a larger one, it can be continued."""

    compiles_on: ClassVar[tuple[str, ...]] = ()
    """Kinds of devices that the agent's steps can be compiled for; none where there is no such setting."""

    benchmark: str
    """Name of the benchmark."""

    method: tuple[Mitigation, ...] = ()
    """Mitigations that the run trains with; none for the plain optimizer."""

    seed: int = 0
    """Seed that the stream, the weights, the data order and the anchor have named child seeds of."""

    device: str = "cpu"
    """Device that the run trains on: cpu, cuda, cuda:1, mps; auto before one is chosen, in `RunOptions`."""

    imports: tuple[str, ...] = ()
    """Modules of the user's own, imported first: they register what the run is made of."""

    track: tuple[str, ...] = ()
    """Trackers that get a copy of every row: wandb, mlflow (extras of these names)."""

    tuned_on: tuple[int, ...] = ()
    """Seeds on which the settings were chosen by `plasticity tune`; a report says so."""

    stream: Any
    """Stream of tasks; its settings are of the same kind as those in the benchmark's default
    configuration."""

    agent: Any
    """Settings of the learner."""

    tracking: Any
    """Measurements along the way."""

    def __post_init__(self) -> None:
        for name in ("benchmark", "device"):
            require_name(name, getattr(self, name))
        for each in self.imports:
            require_name("a name in imports", each)
        for each in self.track:
            require_name("a name in track", each)
            require_known("tracker", each, TRACKERS)
        for tuned_seed in self.tuned_on:
            require_integer("a seed in tuned_on", tuned_seed, minimum=0, maximum=MAX_SEED)
        require_integer("seed", self.seed, minimum=0, maximum=MAX_SEED)
        require_compatible(self.method)
        kind = self.device.split(":", maxsplit=1)[0]
        if self.compiles and kind not in ("auto", *self.compiles_on):
            raise ValueError(
                f"--compile works on {' and '.join(self.compiles_on)}, and --device is {self.device}:"
                " leave it out."
            )

    @property
    def compiles(self) -> bool:
        """Whether the agent's steps are compiled."""
        return bool(self.compiles_on) and self.agent.compile

    @property
    def method_name(self) -> str:
        """Name of the method, as `--methods` takes it."""
        return method_name(self.method)

    @property
    def length(self) -> int:
        """Length of the run, in units of its finest axis."""
        return int(setting_at(self, self.length_path))

    @property
    def fixed(self) -> tuple[str, ...]:
        """Paths of the settings that the name of the benchmark stands for."""
        return tuple(f"stream.{name}" for name in self.stream.fixed)

    @property
    def cores(self) -> int:
        """Cores that the run occupies."""
        return 1

    @property
    def has_video(self) -> bool:
        """Whether `plasticity video` can show what the run has learned."""
        return False

    def with_cores(self: _Config, cores: int) -> _Config:
        """Return the configuration of a run that uses this many cores, unless the user gave a number."""
        return self

    @classmethod
    def method_fields(cls) -> tuple[str, ...]:
        """Return the names of the fields that hold mitigations."""
        return tuple(each.name for each in fields(cls) if each.name in METHOD_FIELDS)

    def methods(self) -> tuple[tuple[Mitigation, ...], ...]:
        """Return the mitigations of each network that the run trains."""
        return (self.method,)

    @property
    def not_stackable(self) -> str | None:
        """Name of a mitigation that stacked networks cannot have; None if there is none."""
        every = (each for method in self.methods() for each in method)
        return next((each.name for each in every if not each.stackable), None)

    @classmethod
    def has_critic(cls) -> bool:
        """Return whether the runs have a critic, whose mitigations can have settings of their own."""
        return "critic_method" in cls.method_fields()

    def is_like(self, other: RunConfig) -> bool:
        """Return whether another configuration has settings of the same names."""
        return (type(self), type(self.stream)) == (type(other), type(other.stream))

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as nested objects; a method is an object of its mitigations by name."""
        return {each.name: self._plain(each.name) for each in fields(self)}

    def _plain(self, name: str) -> Any:
        value = getattr(self, name)
        if name in self.method_fields() and value is not None:
            return {each.name: to_plain(each) for each in value}
        return to_plain(value)

    def read(self: _Config, saved: Mapping[str, Any], fallback: _Config | None = None) -> _Config:
        """Read the configuration of a run of the same kind of benchmark, as `to_json` gave it.

        What a run folder adds to it is left out. Of this configuration only the kinds of its parts count.

        Args:
            saved: The configuration.
            fallback: Configuration that missing keys take their values from, its method apart. None: a
                missing key has the default of its dataclass.

        Raises:
            ValueError: if a key is unknown (the message names the nearest), or missing without a default.
            TypeError: if a value has the wrong type.
        """
        plain = without_origin(saved)
        methods: dict[str, Any] = {
            name: method_from_plain(given, name)
            for name in self.method_fields()
            if (given := plain.pop(name, None)) is not None
        }
        made = from_plain(type(self), plain, "", fallback, self.kinds_of(plain))
        return replace(made, **methods)

    def kinds_of(self, plain: Mapping[str, Any]) -> dict[str, type]:
        """Return the dataclasses of the parts that differ from benchmark to benchmark, by path.

        Args:
            plain: The configuration that is read, of which a part may name its own kind.
        """
        return {"stream": type(self.stream)}


def method_from_plain(
    plain: object, where: str = "method", defaults: Mapping[str, Mitigation] | None = None
) -> tuple[Mitigation, ...]:
    """Make the mitigations of a method from their settings by name, or from their names alone.

    Args:
        plain: An object (`{"syre": {"sigma": 0.3}}`), or the method's name (`"syre"`).
        where: Key of the configuration, for messages.
        defaults: Mitigations that missing settings are taken from, by name. None: a missing setting has
            the default of its dataclass.

    Raises:
        ValueError, TypeError: if it names no method, a setting is wrong, or two mitigations exclude each
            other.
    """
    if isinstance(plain, str):
        plain = dict.fromkeys(mitigation_names(plain))
    given = require_object(plain, where)
    for name in given:
        require_known("method", name, MITIGATIONS)
    known: Mapping[str, Mitigation] = {} if defaults is None else defaults
    made = tuple(
        from_plain(kind, {} if settings is None else settings, f"{where}.{name}", known.get(name))
        for name, settings in given.items()
        for kind in (MITIGATIONS[name],)
    )
    require_compatible(made)
    return made


@dataclass(frozen=True, kw_only=True)
class SupervisedRunConfig(RunConfig):
    """Configuration of one run of a classifier on a stream of tasks.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    experiment: ClassVar[str] = "plasticity.scripts.run.supervised_experiment:SupervisedExperiment"
    axes: ClassVar[tuple[str, ...]] = ("task",)
    length_path: ClassVar[str] = LENGTHS["task"]
    compiles_on: ClassVar[tuple[str, ...]] = ("cpu", "cuda")

    stream: SupervisedStreamConfig
    """Stream of tasks."""

    tracking: SupervisedTracking = field(default_factory=SupervisedTracking)
    """Measurements along the way."""

    network: Network = field(default_factory=CNN)
    """Network, of any architecture."""

    agent: ClassifierConfig = field(default_factory=ClassifierConfig)
    """Settings of the training."""

    def kinds_of(self, plain: Mapping[str, Any]) -> dict[str, type]:
        """Return the kinds of the stream and of the network, which names its architecture."""
        network = plain.get("network")
        named = network.get("architecture") if isinstance(network, Mapping) else None
        if named is None:
            return {**super().kinds_of(plain), "network": type(self.network)}
        require_known("architecture", named, NETWORKS)
        return {**super().kinds_of(plain), "network": NETWORKS[named]}


@dataclass(frozen=True, kw_only=True)
class ControlRunConfig(RunConfig):
    """Configuration of one run of an agent in a changing environment.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, or if values do not go together.
    """

    experiment: ClassVar[str] = "plasticity.scripts.run.control_experiment:ControlExperiment"
    axes: ClassVar[tuple[str, ...]] = ("task", "step")
    length_path: ClassVar[str] = LENGTHS["step"]
    compiles_on: ClassVar[tuple[str, ...]] = ("cuda",)

    critic_method: tuple[Mitigation, ...] | None = None
    """Mitigations of the critic. None: those of the actor, which are `method`."""

    stream: EnvironmentConfig
    """Environments, and their schedule of changes."""

    tracking: ControlTracking = field(default_factory=ControlTracking)
    """Measurements along the way."""

    agent: PPOConfig | SB3Config = field(default_factory=PPOConfig)
    """Settings of the agent: our PPO, or an algorithm of Stable-Baselines3."""

    @property
    def compiles(self) -> bool:
        """Whether the agent's steps are compiled: those of Stable-Baselines3 never are."""
        return isinstance(self.agent, PPOConfig) and self.agent.compile

    @property
    def round_steps(self) -> int:
        """Environment steps, summed over all environments, from one update of the agent to the next."""
        if isinstance(self.agent, PPOConfig):
            return self.agent.rollout_steps
        return self.agent.round_steps(self.stream.num_envs)

    def kinds_of(self, plain: Mapping[str, Any]) -> dict[str, type]:
        """Return the kinds of the stream and of the agent, which names its algorithm unless it is our PPO."""
        agent = plain.get("agent")
        named = agent.get("algorithm") if isinstance(agent, Mapping) else None
        if named is None:
            return {**super().kinds_of(plain), "agent": type(self.agent)}
        require_known("algorithm", named, ALGORITHMS)
        return {**super().kinds_of(plain), "agent": ALGORITHMS[named]}

    @property
    def length(self) -> int:
        """Steps at which the run ends: those of the first row at or past `num_steps`."""
        every = self.tracking.measure_every
        return -(-self.stream.num_steps // every) * every

    @property
    def cores(self) -> int:
        """Cores that the environments are shared among."""
        return self.stream.num_cores

    @property
    def has_video(self) -> bool:
        """Whether the environments can be drawn."""
        return self.stream.view is not None

    def with_cores(self, cores: int) -> ControlRunConfig:
        """Return the configuration of environments on this many cores, unless the user gave a number."""
        return self if self.stream.cores is not None else with_values(self, {"stream.cores": cores})

    def methods(self) -> tuple[tuple[Mitigation, ...], ...]:
        """Return the mitigations of actor and critic."""
        return self.method, self.method_of_critic

    @property
    def method_of_critic(self) -> tuple[Mitigation, ...]:
        """Mitigations of the critic."""
        return self.method if self.critic_method is None else self.critic_method

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.critic_method is not None:
            require_compatible(self.critic_method)
        self._require_fitting_mitigations()
        if isinstance(self.agent, SB3Config):
            self._require_fitting_algorithm(self.agent)
            self.agent.arguments(self.stream.num_envs)  # which checks what they share
        elif self.agent.rollout_steps % self.stream.num_envs:
            raise ValueError(
                f"rollout_steps {self.agent.rollout_steps} cannot be shared by {self.stream.num_envs}"
                " environments: give a multiple of num_envs."
            )
        if self.tracking.measure_every % self.round_steps:
            of = (
                "rollout_steps" if hasattr(self.agent, "rollout_steps") else "train_freq * num_envs"
            )
            raise ValueError(
                f"measure_every {self.tracking.measure_every} must be a multiple of {of}"
                f" {self.round_steps}: metrics are measured between two rollouts."
            )

    def _require_fitting_mitigations(self) -> None:
        every = [each for method in self.methods() for each in method]
        reading = [each.name for each in every if each.reads_batches]
        if reading:
            raise ValueError(
                f"{reading[0]} needs the examples of the task that begins, and {self.benchmark} has none:"
                " choose another method, or a benchmark of images."
            )
        acting = [each.name for each in every if acts_on_steps(each)]
        if acting and self.compiles:
            raise ValueError(
                f"--compile makes one CUDA graph of all steps of an update, and {acting[0]} acts between"
                " them: leave out one of the two."
            )
        if self.stream.on_device and self.not_stackable is not None:
            raise ValueError(
                f"The agents of {self.benchmark} are stacked, on the device of their environments, and"
                f" {self.not_stackable} does not support that: choose another method, or another benchmark."
            )
        target = self.agent.target_kl if isinstance(self.agent, PPOConfig) else None
        if acting and target is not None and self.stream.on_device:
            raise ValueError(
                f"--target-kl {target} ends the updates of stacked agents at different steps,"
                f" and {acting[0]} counts the steps: leave out one of the two."
            )

    def _require_fitting_algorithm(self, agent: SB3Config) -> None:
        """Refuse what an algorithm of Stable-Baselines3 cannot be combined with, each by its name."""
        if self.stream.on_device:
            raise ValueError(
                f"The agents of {self.benchmark} are stacked, on the device of their environments, and those"
                f" of {agent.algorithm} learn one by one on the host: choose another benchmark, or our PPO."
            )
        if self.critic_method is not None:
            raise ValueError(
                f"{agent.algorithm} has the same mitigations for all its networks, and --critic.… would give"
                " the critic its own: leave it out, or choose our PPO."
            )
        for each in self.method:
            if overrides(each, "network"):
                raise ValueError(
                    f"{each.name} changes the architecture, and Stable-Baselines3 builds the networks of"
                    f" {agent.algorithm} itself: choose another method, or our PPO."
                )
            if each.needs_logits:
                raise ValueError(
                    f"{each.name} needs networks whose outputs are logits, and those of {agent.algorithm} are"
                    " values, means, or logits beside a value: choose another method, or our PPO."
                )


def differences(saved: Mapping[str, Any], wanted: RunConfig) -> list[str]:
    """Name what keeps a run from being continued: each setting, its saved and its wanted value.

    Args:
        saved: Configuration of a run folder, as `RunConfig.to_json` gives it.
        wanted: Configuration to continue with.
    """
    free = (*FREE_TO_CHANGE, wanted.length_path)
    there, now = flattened(without_origin(saved)), flattened(wanted.to_json())
    return [
        f"{path} (there {there.get(path)!r}, now {now.get(path)!r})"
        for path in dict.fromkeys([*now, *there])
        if path not in free and there.get(path) != now.get(path)
    ]


def without_origin(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without what a run folder adds to it."""
    return {name: value for name, value in saved.items() if name not in MADE_BY}
