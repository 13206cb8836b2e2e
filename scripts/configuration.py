"""The full configuration of one run, as it is saved in `config.json`: flat, and read back as it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from plasticity.agents.classifier import ClassifierConfig
from plasticity.agents.networks import NetworkConfig
from plasticity.metrics import DEFAULT_METRICS, METRICS
from plasticity.settings import (
    MAX_SEED,
    RegularizerSettings,
    nearest,
    require_integer,
    require_number,
)

# What may differ when a run is continued: where it runs, where its data lies, and how far it goes.
FREE_TO_CHANGE = ("num_tasks", "device", "data_dir")


ADDED_TO_FOLDERS = ("versions", "git_commit")
"""Keys of a run folder's `config.json` that are no settings."""


@dataclass(frozen=True)
class ImageRunConfig:
    """One run of an image benchmark: one method, one seed.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    benchmark: str
    """Name of the benchmark."""

    method: str
    """Name of the method."""

    seed: int
    """Gives the stream, the weights, the data order and the anchor a named child seed each."""

    dataset: str
    """mnist, fashion-mnist, kmnist, digits, or images (any folder of such files)."""

    num_tasks: int
    """Length of the stream; a larger number extends a finished run."""

    strength: float = 0.0
    """Of the method's decay, as torch's weight_decay."""

    sigma: float = 0.0
    """Spread of syre's anchor, relative to the usual initialisation."""

    anisotropy: float = 0.0
    """Of syre's Eq. 7."""

    decoupled: bool | None = None
    """Decay apart from the gradient; None: as the optimizer's own weight decay."""

    data_dir: str | None = None
    """Folder with the four files of the data; None: looked for, then downloaded."""

    device: str = "cpu"
    """cpu, cuda, cuda:1, mps."""

    metrics: tuple[str, ...] = DEFAULT_METRICS
    """What is measured at every task's end, layer by layer."""

    probe_size: int = 512
    """Test images (the first ones, of the task) that the metrics are measured on."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    """Shape of the network."""

    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    """How it is trained."""

    def __post_init__(self) -> None:
        for name in ("benchmark", "method", "dataset", "device"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"{name} must be a name, not {getattr(self, name)!r}.")
        if self.data_dir is not None and not isinstance(self.data_dir, str):
            raise TypeError(f"data_dir must be a folder's name or None, not {self.data_dir!r}.")
        self._check_metrics()
        require_integer("seed", self.seed, minimum=0, maximum=MAX_SEED)
        require_integer("tasks", self.num_tasks, minimum=1)
        require_integer("probe_size", self.probe_size, minimum=2)
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

    def to_json(self) -> dict[str, Any]:
        """Flatten: the fields of `network` and `classifier` stand beside the others."""
        flat: dict[str, Any] = {}
        for name, value in dataclasses.asdict(self).items():
            flat.update(value if isinstance(value, dict) else {name: value})
        return {name: list(v) if isinstance(v, tuple) else v for name, v in flat.items()}

    @classmethod
    def from_json(cls, flat: Mapping[str, Any]) -> ImageRunConfig:
        """Read what `to_json` gave, and what a run folder adds to it.

        Raises:
            ValueError: if a field is missing, or one is unknown; the message names the nearest.
            TypeError: if a list stands where none belongs, or is missing where one does.
        """
        parts: dict[type, dict[str, Any]] = {cls: {}, NetworkConfig: {}, ClassifierConfig: {}}
        remaining = {name: value for name, value in flat.items() if name not in ADDED_TO_FOLDERS}
        expected = {field_.name: None for part in parts for field_ in _plain_fields(part)}
        for name in remaining:
            require_known("key of a configuration", name, expected)
        missing = [name for name in expected if name not in remaining]
        if missing:
            raise ValueError(
                f"The configuration lacks {', '.join(missing)}: give a config.json as a run of this"
                " version saves it."
            )
        for part, values in parts.items():
            for field_ in _plain_fields(part):
                values[field_.name] = _plain_value(field_, remaining[field_.name])
        return cls(
            **parts[cls],
            network=NetworkConfig(**parts[NetworkConfig]),
            classifier=ClassifierConfig(**parts[ClassifierConfig]),
        )


def _plain_fields(config_class: type) -> list[dataclasses.Field[Any]]:
    """The fields that are saved under their own names."""
    return [f for f in fields(config_class) if f.name not in ("network", "classifier")]


def _plain_value(field_: dataclasses.Field[Any], value: Any) -> Any:
    """A value as JSON gives it, as the field wants it: JSON has no tuples."""
    if str(field_.type).startswith("tuple"):
        if not isinstance(value, (list, tuple)):
            raise TypeError(f"{field_.name} must be a list, not {value!r}.")
        return tuple(value)
    if isinstance(value, (list, tuple, dict)):
        raise TypeError(f"{field_.name} must be a single value, not {value!r}.")
    return value


def differences(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Name what keeps a run from being continued: each key, its saved and its wanted value."""
    keys = [key for key in wanted if key not in FREE_TO_CHANGE]
    return [
        f"{key} (there {saved.get(key)!r}, now {wanted[key]!r})"
        for key in keys
        if saved.get(key) != wanted[key]
    ]


def require_known(kind: str, name: str, known: Mapping[str, object]) -> None:
    """Raise a ValueError that suggests the nearest known name, if this one is not known."""
    if name not in known:
        raise ValueError(f"Unknown {kind} {name!r}.{nearest(name, known)}")
