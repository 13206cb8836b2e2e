"""Command line of `plasticity run` and `plasticity sweep`, made from the configuration of a benchmark."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, Literal, get_origin

import tyro

from plasticity.scripts.config.benchmark import Benchmark
from plasticity.scripts.config.nested import Setting, setting_at, settings_of
from plasticity.scripts.config.options import CRITIC, CommandOptions, RunOptions
from plasticity.scripts.config.settings_by_option import settings_by_option, with_options

COMMAND_GROUPS = {
    "slurm": "What each job of --launcher slurm asks for.",
    "ray": "Where the Ray of --launcher ray is, and what each task asks for.",
}
"""Titles of the command's own options that are dotted (--slurm.minutes), by the prefix."""


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """Options of a sweep."""

    grid: tuple[str, ...] = ()
    """Values to try, by option: learning-rate=0.001,0.01 syre.sigma=0.1,1. Every combination has runs of its
    own, in OUT/learning-rate=0.001,syre.sigma=0.1/…; a mitigation's options concern the methods that use it.
    The word own: also each mitigation's own search, of what is not named. Nothing: as own."""


def parse_options(
    defaults: RunOptions,
    arguments: Sequence[str],
    *,
    program: str,
    description: str,
    extra: Any = None,
) -> tuple[RunOptions, Any, list[str]]:
    """Read the command line.

    Args:
        defaults: Options before the user changes any.
        arguments: What follows the name of the benchmark.
        program: Name of the command, for help and messages.
        description: Text of the help before the options.
        extra: Dataclass with the defaults of the command's own options, such as `SweepOptions`. None: it has
            none.

    Returns:
        The options; the command's own ones; and the names of the settings that were typed, also those at
        their default values.

    Raises:
        SystemExit: after a help text, or an error of the user, which is printed.
        ValueError: if --grid is given twice.
    """
    # The second would replace the first, as with every option: here, half of a sweep.
    if sum(word.partition("=")[0] == "--grid" for word in arguments) > 1:
        raise ValueError("--grid is given twice: give it once, with all settings after it.")
    kind = _parsed_type(defaults, extra)
    parsed = _parse(kind, arguments, prog=program, description=description)
    settings = settings_by_option(defaults)
    own = {each.name: getattr(parsed, each.name) for each in fields(CommandOptions)}
    for group in COMMAND_GROUPS:  # parsed into dataclasses that know no checks
        default = getattr(defaults, group)
        own[group] = replace(
            default, **{e.name: getattr(own[group], e.name) for e in fields(default)}
        )
    typed = {word.partition("=")[0].replace("_", "-") for word in arguments}
    given = [option for option in settings if f"--{option}" in typed]
    values = {option: setting_at(parsed, _identifier(option)) for option in given}
    options = replace(with_options(defaults, values), **own)
    if extra is not None:
        found = {each.name: getattr(parsed, each.name) for each in fields(extra)}
        extra = replace(extra, **found)
    return options, extra, given


def chosen_presets(benchmark: Benchmark, arguments: Sequence[str]) -> dict[str, str]:
    """Read the options that change the defaults of others: the name that is chosen, by option.

    Args:
        benchmark: Benchmark whose presets they choose between.
        arguments: What follows the name of the benchmark.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in benchmark.all_presets:
        # Without a value, it is reported with the other options.
        parser.add_argument(f"--{option}", nargs="?")
    given = vars(parser.parse_known_args(arguments)[0])
    return {option: name for option, name in given.items() if name is not None}


def parse_value(defaults: RunOptions, option: str, text: str) -> Any:
    """Read one value of an option, as its field has it.

    Args:
        defaults: Options that have a setting of this name.
        option: Name of the option, such as "syre.sigma".
        text: The value as it is typed; a field of several has them separated by blanks.

    Raises:
        SystemExit: if it has the wrong type; the message is printed.
    """
    kind = _parsed_type(defaults)
    is_list = get_origin(settings_by_option(defaults)[option].type) is tuple
    words = text.split() if is_list else [text.strip()]
    found = _parse(kind, [f"--{option}", *words], prog=f"plasticity sweep {defaults.benchmark}")
    return setting_at(found, _identifier(option))


def _parse(kind: type, arguments: Sequence[str], *, prog: str, description: str = "") -> Any:
    markers = (tyro.conf.FlagConversionOff,)
    return tyro.cli(kind, prog=prog, description=description, args=arguments, config=markers)


def _parsed_type(defaults: RunOptions, extra: Any = None) -> type:
    """Make the dataclass that tyro reads the command line into."""
    own = {each.name for each in fields(CommandOptions)}
    entries = [_setting_entry(each) for each in settings_of(defaults) if each.path in own]
    for group, title in COMMAND_GROUPS.items():
        kind = _dataclass(group, [_setting_entry(e) for e in settings_of(getattr(defaults, group))])
        entries.append(_entry(group, kind, title, default_factory=kind))
    if extra is not None:
        entries += [_setting_entry(each) for each in settings_of(extra)]
    for option, presets in defaults.presets.items():
        names = Literal[tuple(presets.groups)]  # type: ignore[valid-type]
        entries.append(_entry(option, names, presets.help, default=presets.default))
    titles = {CRITIC: "Mitigations of the critic."}
    for name, each in defaults.mitigations.items():
        titles[name] = first_line(type(each))
        titles[f"{CRITIC}.{name}"] = f"Settings of the critic's {name}."
    entries += _entries_of(settings_by_option(defaults), titles)
    return _dataclass("Options", entries)


_Entry = tuple[str, Any, Any]


def _entries_of(
    settings: Mapping[str, Setting], titles: Mapping[str, str], prefix: str = ""
) -> Iterator[_Entry]:
    """Yield the entries of some settings; dotted options become entries of groups, which have titles."""
    groups: dict[str, dict[str, Setting]] = {}
    for option, each in settings.items():
        group, dot, rest = option.partition(".")
        if dot:
            groups.setdefault(group, {})[rest] = each
        else:
            yield _setting_entry(each)
    for group, inner in groups.items():
        kind = _dataclass(group, list(_entries_of(inner, titles, f"{prefix}{group}.")))
        yield _entry(group, kind, titles[prefix + group], default_factory=kind)


def _setting_entry(each: Setting) -> _Entry:
    return _entry(each.option, each.type, each.help, default=each.value)


def _entry(option: str, kind: Any, text: str, **default: Any) -> _Entry:
    # A blank at a line's end would be a paragraph to tyro.
    argument = tyro.conf.arg(name=option, help=" ".join(text.split()))
    return (_identifier(option), Annotated[kind, argument], field(**default))


def _dataclass(name: str, entries: list[_Entry]) -> type:
    made = dataclasses.make_dataclass(_identifier(name), entries, frozen=True, kw_only=True)
    made.__doc__ = ""  # else a signature, which help texts would show
    return made


def _identifier(option: str) -> str:
    return option.replace("-", "_")


def first_line(kind: type) -> str:
    """Return the first line of a class's docstring."""
    return (kind.__doc__ or "").strip().split("\n")[0]
