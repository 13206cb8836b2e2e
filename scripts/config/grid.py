"""Grids of a sweep: any setting of a run, several values of each, every combination."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from plasticity.checks import require_known
from plasticity.mitigations import mitigation_names
from plasticity.scripts.config.command_line import parse_value, run_settings
from plasticity.scripts.config.nested import shortest, with_values
from plasticity.scripts.config.options import CRITIC, RunOptions


@dataclass(frozen=True)
class Axis:
    """One setting of a grid."""

    option: str
    """Name of its option."""

    values: tuple[Any, ...]
    """Values to try, as its field has them."""

    @property
    def mitigation(self) -> str | None:
        """Name of the mitigation that it belongs to; None for a setting of all runs."""
        *prefixes, _ = self.option.split(".")
        return prefixes[-1] if prefixes else None

    def concerns(self, method: str) -> bool:
        """Return whether the runs of a method make use of the setting."""
        return self.mitigation is None or self.mitigation in mitigation_names(method)


def parse_grid(words: Sequence[str], options: RunOptions, defaults: RunOptions) -> list[Axis]:
    """Read a grid as it is typed: `learning-rate=0.001,0.01 syre.sigma=0.1,1`.

    Args:
        words: An option and its values each. A value with several numbers separates them by blanks:
            "hidden=64,64 64".
        options: Options that the runs of the sweep share.
        defaults: Options before the user changed any.

    Returns:
        The axes in the order given. Without words, those that the mitigations of the methods search.

    Raises:
        ValueError: if a word has no values or names the same value or setting twice; if a setting is unknown
            (the message suggests the nearest), has an option of its own too, or concerns no method.
        SystemExit: if a value has the wrong type; the message is printed.
    """
    axes = _named(words, options) if words else _searches(options)
    for axis in axes:
        if option_value(options, axis.option) != option_value(defaults, axis.option):
            remedy = "take it off --grid" if words else "name the settings to try with --grid"
            raise ValueError(f"--{axis.option} is in the grid: leave out the option, or {remedy}.")
        _require_meaning(axis, axes, options)
    return axes


def _named(words: Sequence[str], options: RunOptions) -> list[Axis]:
    axes = []
    for word in words:
        name, equals, values = word.partition("=")
        if not equals or not all(value.strip() for value in values.split(",")):
            raise ValueError(
                f"--grid {word!r}: give an option and its values, learning-rate=0.001,0.01."
            )
        option = _known_option(name.strip().removeprefix("--"), options)
        axes.append(Axis(option, _values(option, values.split(","), options)))
    return axes


def _searches(options: RunOptions) -> list[Axis]:
    names = dict.fromkeys(n for method in options.methods for n in mitigation_names(method))
    return [
        Axis(f"{name}.{key}", values)
        for name in names
        for key, values in options.mitigations[name].search.items()
    ]


def _known_option(name: str, options: RunOptions) -> str:
    known = list(run_settings(options.config))
    own = [
        f"{mitigation}.{each.name.replace('_', '-')}"
        for mitigation, settings in options.mitigations.items()
        for each in fields(settings)
    ]
    known += own
    if options.config.has_critic():
        known += [f"{CRITIC}.{option}" for option in own]
    option = name.replace("_", "-")
    require_known("setting of a grid", option, known)
    return option


def _values(option: str, texts: Sequence[str], options: RunOptions) -> tuple[Any, ...]:
    found = []
    for text in texts:
        value = parse_value(options, option, text)
        if value in found:
            raise ValueError(f"--grid {option} names {text} twice: once is enough.")
        found.append(value)
    return tuple(found)


def _require_meaning(axis: Axis, axes: Sequence[Axis], options: RunOptions) -> None:
    if [each.option for each in axes].count(axis.option) > 1:
        raise ValueError(f"--grid names {axis.option} twice: once is enough.")
    if not any(axis.concerns(method) for method in options.methods):
        raise ValueError(
            f"--grid {axis.option} means nothing to {', '.join(options.methods)}: leave it out, or add"
            f" {axis.mitigation} to --methods."
        )


def points(
    axes: Sequence[Axis], method: str, options: RunOptions
) -> Iterator[tuple[str, RunOptions]]:
    """Yield the settings that the runs of a method try, each with the name of its folder.

    A method that uses none of the grid's settings has one point, whose name is empty.
    """
    used = [axis for axis in axes if axis.concerns(method)]
    for values in itertools.product(*(axis.values for axis in used)):
        chosen = {axis.option: value for axis, value in zip(used, values, strict=True)}
        name = ",".join(f"{option}={_text(value)}" for option, value in chosen.items())
        yield name, with_options(options, chosen)


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return "-".join(map(_text, value))
    text = shortest(value) if isinstance(value, float) else str(value)
    return text.replace("/", "-")  # the name is one of a folder


def option_value(options: RunOptions, option: str) -> Any:
    """Return the value of a setting by its option; None for one of the critic that was not given."""
    *prefixes, key = option.split(".")
    if not prefixes:
        return run_settings(options.config)[option].value
    name, key = prefixes[-1], key.replace("-", "_")
    if prefixes[0] == CRITIC:
        return options.critic.get(name, {}).get(key)
    return getattr(options.mitigations[name], key)


def with_options(options: RunOptions, values: Mapping[str, Any]) -> RunOptions:
    """Return options with other values of some settings, by option; None for the critic is the actor's.

    Raises:
        ValueError, TypeError: if a value is out of range or does not go with others.
    """
    settings = run_settings(options.config)
    of_runs: dict[str, Any] = {}
    of_mitigations: dict[str, dict[str, Any]] = {}
    critic = {name: dict(given) for name, given in options.critic.items()}
    for option, value in values.items():
        *prefixes, key = option.split(".")
        if not prefixes:
            of_runs[settings[option].path] = value
        elif prefixes[0] == CRITIC:
            given = critic.setdefault(prefixes[1], {})
            given.pop(key.replace("-", "_"), None)
            if value is not None:
                given[key.replace("-", "_")] = value
        else:
            of_mitigations.setdefault(prefixes[0], {})[key.replace("-", "_")] = value
    changed = {n: replace(options.mitigations[n], **v) for n, v in of_mitigations.items()}
    return replace(
        options,
        config=with_values(options.config, of_runs),
        mitigations={**options.mitigations, **changed},
        critic=critic,
    )
