"""Command line of `plasticity run` and `plasticity sweep`, made from the configuration of a benchmark."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, fields, replace
from typing import Annotated, Any, Literal, get_origin, get_type_hints

import tyro

from plasticity.mitigations import Mitigation
from plasticity.scripts.config.nested import Setting, field_docstrings, settings_of, with_values
from plasticity.scripts.config.options import CRITIC, CommandOptions, RunOptions
from plasticity.scripts.config.run_config import RunConfig

NOT_OPTIONS = ("benchmark", "seed", "device")
"""Fields of a run that the command's own options fill in, as they do those of its methods."""


def run_settings(config: RunConfig) -> dict[str, Setting]:
    """Return the settings of a run that the command line changes, by option name.

    Raises:
        ValueError: if two settings have the same option.
    """
    found: dict[str, Setting] = {}
    taken = {each.name.replace("_", "-") for each in fields(CommandOptions)}
    for each in settings_of(config):
        if each.path in (*NOT_OPTIONS, *config.method_fields(), *config.fixed):
            continue
        if each.option in taken | set(found):
            raise ValueError(
                f"Two settings of {config.benchmark} have the option --{each.option}"
                f" ({each.path} is one): give one of them another name."
            )
        found[each.option] = each
    return found


def parse_options(
    defaults: RunOptions,
    arguments: Sequence[str],
    *,
    program: str,
    description: str,
    with_grid: bool = False,
) -> tuple[RunOptions, tuple[str, ...]]:
    """Read the command line.

    Args:
        defaults: Options before the user changes any.
        arguments: What follows the name of the benchmark.
        program: Name of the command, for help and messages.
        description: Text of the help before the options.
        with_grid: Whether there is an option --grid, as for a sweep.

    Returns:
        The options, and the words of --grid.

    Raises:
        SystemExit: after a help text, or an error of the user, which is printed.
        ValueError: if --grid is given twice.
    """
    # The second would replace the first, as with every option: here, half of a sweep.
    if sum(word.partition("=")[0] == "--grid" for word in arguments) > 1:
        raise ValueError("--grid is given twice: give it once, with all settings after it.")
    kind = _parsed_type(defaults, with_grid=with_grid)
    parsed = _parse(kind, arguments, prog=program, description=description)
    return _with_parsed(defaults, parsed), getattr(parsed, "grid", ())


def parse_value(defaults: RunOptions, option: str, text: str) -> Any:
    """Read one value of an option, as its field has it.

    Args:
        defaults: Options that have a setting of this name.
        option: Name of the option, such as "syre.sigma".
        text: The value as it is typed; a field of several has them separated by blanks.

    Raises:
        SystemExit: if it has the wrong type; the message is printed.
    """
    kind = _parsed_type(defaults, with_grid=False)
    *prefixes, _ = option.split(".")
    is_list = not prefixes and _is_list(run_settings(defaults.config)[option])
    words = text.split() if is_list else [text.strip()]
    found = _parse(kind, [f"--{option}", *words], prog=f"plasticity sweep {defaults.benchmark}")
    for name in option.split("."):
        found = getattr(found, _identifier(name))
    return found


def _is_list(setting: Setting) -> bool:
    return get_origin(setting.type) is tuple


def _parse(kind: type, arguments: Sequence[str], *, prog: str, description: str = "") -> Any:
    markers = (tyro.conf.FlagConversionOff,)
    return tyro.cli(kind, prog=prog, description=description, args=arguments, config=markers)


def _with_parsed(defaults: RunOptions, parsed: Any) -> RunOptions:
    settings = run_settings(defaults.config)
    values = {each.path: getattr(parsed, _identifier(name)) for name, each in settings.items()}
    mitigations = {
        name: replace(each, **vars(getattr(parsed, _identifier(name))))
        for name, each in defaults.mitigations.items()
    }
    given = getattr(parsed, CRITIC, None)
    critic: dict[str, dict[str, Any]] = {name: dict(v) for name, v in defaults.critic.items()}
    for name in defaults.mitigations if given is not None else ():
        settings_given = vars(getattr(given, _identifier(name)))
        critic.setdefault(name, {}).update(
            {key: value for key, value in settings_given.items() if value is not None}
        )
    own = {each.name: getattr(parsed, each.name) for each in fields(CommandOptions)}
    # With its own device, a run checks whether it can be compiled there.
    config = with_values(defaults.config, {**values, "device": "auto"})
    return replace(defaults, **own, config=config, mitigations=mitigations, critic=critic)


def _parsed_type(defaults: RunOptions, *, with_grid: bool) -> type:
    """Make the dataclass that tyro reads the command line into."""
    entries = list(_command_entries(defaults))
    if with_grid:
        entries.append(_entry("grid", tuple[str, ...], (), GRID_HELP))
    for option, presets in defaults.presets.items():
        names = Literal[tuple(presets.values)]  # type: ignore[valid-type]
        entries.append(_entry(option, names, presets.default, presets.help))
    for option, each in run_settings(defaults.config).items():
        entries.append(_entry(option, each.type, each.value, each.help))
    entries += [_mitigation_entry(each) for each in defaults.mitigations.values()]
    if defaults.config.has_critic():
        overrides = [
            _override_entry(each, defaults.critic.get(name, {}))
            for name, each in defaults.mitigations.items()
        ]
        entries.append(_group(CRITIC, overrides, "Mitigations of the critic."))
    return _dataclass("Options", entries)


GRID_HELP = (
    "Values to try, by option: learning-rate=0.001,0.01 syre.sigma=0.1,1. Every combination has runs of its"
    " own, in OUT/learning-rate=0.001,syre.sigma=0.1/…; a mitigation's options concern the methods that use"
    " it. Nothing: each mitigation's own search."
)

_Entry = tuple[str, Any, Any]


def _command_entries(defaults: RunOptions) -> Iterator[_Entry]:
    types = get_type_hints(CommandOptions, include_extras=True)
    docs = field_docstrings(CommandOptions)
    for each in fields(CommandOptions):
        yield _entry(each.name, types[each.name], getattr(defaults, each.name), docs[each.name])


def _entry(option: str, kind: Any, default: Any, text: str) -> _Entry:
    # A blank at a line's end would be a paragraph to tyro.
    argument = tyro.conf.arg(name=option, help=" ".join(text.split()))
    return (_identifier(option), Annotated[kind, argument], field(default=default))


def _mitigation_entry(each: Mitigation) -> _Entry:
    types, docs = get_type_hints(type(each)), field_docstrings(type(each))
    entries = [
        _entry(f.name.replace("_", "-"), types[f.name], getattr(each, f.name), docs.get(f.name, ""))
        for f in fields(each)
    ]
    return _group(each.name, entries, first_line(type(each)))


def _override_entry(each: Mitigation, given: Mapping[str, Any]) -> _Entry:
    types, docs = get_type_hints(type(each)), field_docstrings(type(each))
    entries = [
        _entry(
            f.name.replace("_", "-"),
            types[f.name] | None,
            given.get(f.name),
            f"{docs.get(f.name, '')} None: the actor's.",
        )
        for f in fields(each)
    ]
    return _group(each.name, entries, f"Settings of the critic's {each.name}.")


def _group(name: str, entries: list[_Entry], text: str) -> _Entry:
    kind = _dataclass(name, entries)
    argument = tyro.conf.arg(name=name, help=text)
    return (_identifier(name), Annotated[kind, argument], field(default_factory=kind))


def _dataclass(name: str, entries: list[_Entry]) -> type:
    made = dataclasses.make_dataclass(_identifier(name), entries, frozen=True, kw_only=True)
    made.__doc__ = ""  # else a signature, which help texts would show
    return made


def _identifier(option: str) -> str:
    return option.replace("-", "_")


def first_line(kind: type) -> str:
    """Return the first line of a class's docstring."""
    return (kind.__doc__ or "").strip().split("\n")[0]
