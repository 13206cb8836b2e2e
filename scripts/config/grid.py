"""Grids of a sweep: any setting of a run, several values of each, every combination."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plasticity.checks import require_known
from plasticity.mitigations import mitigation_names
from plasticity.scripts.config.command_line import parse_value
from plasticity.scripts.config.nested import shortest
from plasticity.scripts.config.options import RunOptions
from plasticity.scripts.config.settings_by_option import (
    concerns,
    require_use,
    settings_by_option,
    with_options,
)

OWN = "own"
"""Word of a grid for each mitigation's own search."""


@dataclass(frozen=True)
class Axis:
    """One setting of a grid."""

    option: str
    """Name of its option."""

    values: tuple[Any, ...]
    """Values to try, as its field has them."""


def parse_grid(words: Sequence[str], options: RunOptions, given: Collection[str]) -> list[Axis]:
    """Read a grid as it is typed: `learning-rate=0.001,0.01 syre.sigma=0.1,1`.

    Args:
        words: An option and its values each. A value with several numbers separates them by blanks:
            "hidden=64,64 64". The word `own` stands for the settings that the mitigations of the methods
            search, but for those that other words name.
        options: Options that the runs of the sweep share.
        given: Names of the options that were typed beside the grid.

    Returns:
        The axes in the order given, those of `own` last. No words are as the word `own`.

    Raises:
        ValueError: if a word has no values or names the same value or setting twice; if a setting is unknown
            (the message suggests the nearest), is given as an option too, or concerns no method.
        SystemExit: if a value has the wrong type; the message is printed.
    """
    axes = _named([word for word in words if word != OWN], options)
    named = {axis.option for axis in axes}
    if OWN in words or not words:
        axes += [axis for axis in _searches(options) if axis.option not in named]
    names = [axis.option for axis in axes]
    for name in names:
        if name in given:
            other = "instead of own" if words else "with --grid"
            remedy = "take it off --grid" if name in named else f"name the settings to try {other}"
            raise ValueError(f"--{name} is in the grid: leave out the option, or {remedy}.")
        if names.count(name) > 1:
            raise ValueError(f"--grid names {name} twice: once is enough.")
        require_use(name, options, f"--grid {name}")
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
        Axis(f"{name}.{key.replace('_', '-')}", values)
        for name in names
        for key, values in options.mitigations[name].search.items()
    ]


def _known_option(name: str, options: RunOptions) -> str:
    option = name.replace("_", "-")
    if option in options.presets:
        raise ValueError(
            f"--grid {option}=… is no setting of a run: it chooses the defaults of others. Sweep once for"
            f" each value, with --{option} VALUE and an --out of its own, or name those settings in the grid."
        )
    require_known("setting of a grid", option, settings_by_option(options))
    return option


def _values(option: str, texts: Sequence[str], options: RunOptions) -> tuple[Any, ...]:
    found = []
    for text in texts:
        value = parse_value(options, option, text)
        if value in found:
            raise ValueError(f"--grid {option} names {text} twice: once is enough.")
        found.append(value)
    return tuple(found)


def points(
    axes: Sequence[Axis], method: str, options: RunOptions
) -> Iterator[tuple[str, RunOptions]]:
    """Yield the settings that the runs of a method try, each with the name of its folder.

    A method that uses none of the grid's settings has one point, whose name is empty.
    """
    used = [axis for axis in axes if concerns(axis.option, method)]
    for values in itertools.product(*(axis.values for axis in used)):
        chosen = {axis.option: value for axis, value in zip(used, values, strict=True)}
        yield settings_name(chosen), with_options(options, chosen)


def settings_name(settings: Mapping[str, Any]) -> str:
    """Return the name of the folder of runs with these settings, by option; empty without any."""
    return ",".join(f"{option}={_text(value)}" for option, value in settings.items())


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return "-".join(map(_text, value))
    text = shortest(value) if isinstance(value, float) else str(value)
    return text.replace("/", "-")  # the name is one of a folder
