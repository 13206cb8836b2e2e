"""Options of `plasticity run` and `plasticity sweep`, made from the configuration of a benchmark."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin, get_type_hints

import torch
import tyro

from plasticity.checks import nearest
from plasticity.mitigations import MITIGATIONS, Mitigation, method_name, mitigation_names
from plasticity.scripts.config.benchmarks import (
    Presets,
    named_benchmark,
    presets_of,
    require_benchmark,
)
from plasticity.scripts.config.nested import (
    Setting,
    field_docstrings,
    flattened,
    setting_at,
    settings_of,
    with_values,
)
from plasticity.scripts.config.run_config import (
    METHOD_FIELDS,
    ControlRunConfig,
    RunConfig,
    method_from_plain,
)
from plasticity.scripts.config.seed_ranges import Seeds

DEVICES = ("cpu", "cuda", "mps")
"""Kinds of devices that a run can use."""

CRITIC = "critic"
"""Prefix of the options for the mitigations of a critic: --critic.syre.sigma."""

NOT_OPTIONS = ("benchmark", "seed", "device", *METHOD_FIELDS)
"""Fields of a run that the command's own options fill in."""

StackSize = int | Literal["auto"]
"""Number of runs that one process trains stacked; "auto": by the device."""


@dataclass(frozen=True, kw_only=True)
class CommandOptions:
    """Options of the command itself: which runs there are, where they go, and how they share the machine."""

    methods: tuple[str, ...]
    """Methods to compare (see `plasticity list`); first+second combines two."""

    seeds: Seeds
    """Seeds, one run for each method and seed: numbers, and ranges with both ends counted (0..31)."""

    out: Path
    """Folder of the runs: OUT/BENCHMARK/METHOD/seed_N."""

    device: str = "auto"
    """Device to train on: auto (a GPU if there is one), cpu, cuda, mps."""

    jobs: int | None = None
    """Processes at once. None: the number of cores on a CPU, one on a GPU."""

    stack: StackSize = "auto"
    """Runs that each process trains stacked: of image benchmarks (but for the method shift) and of
    slippery-ant-warp. auto: one on a CPU; on CUDA as many as its memory holds."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(CommandOptions):
    """Runs to be done: the command's options, and the configuration that the runs share."""

    config: RunConfig
    """Configuration of the runs, but for their method, seed and device."""

    mitigations: Mapping[str, Mitigation]
    """Settings of the mitigations, by name."""

    critic: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings that the critic's mitigations have instead, by name."""

    presets: Mapping[str, Presets] = field(default_factory=dict)
    """Options that choose between named groups of values; none where the defaults are of a file."""

    @property
    def benchmark(self) -> str:
        """Name of the benchmark."""
        return self.config.benchmark

    def run_config(self, method: str, seed: int) -> RunConfig:
        """Return the configuration of one run.

        Raises:
            ValueError: if the method or the device is unknown, or a value is out of range.
        """
        names = mitigation_names(method)
        changes: dict[str, Any] = {}
        if isinstance(self.config, ControlRunConfig) and any(self.critic.get(n) for n in names):
            changes["critic_method"] = tuple(
                replace(self.mitigations[name], **self.critic.get(name, {})) for name in names
            )
        return replace(
            self.config,
            method=tuple(self.mitigations[name] for name in names),
            seed=seed,
            device=chosen_device(self.device),
            **changes,
        )


def default_options(benchmark_name: str, presets: Mapping[str, str] | None = None) -> RunOptions:
    """Return the options of a benchmark before the user changes any.

    Args:
        benchmark_name: One of `BENCHMARKS`.
        presets: Name of the chosen group of values, by option. None: the benchmark's defaults.

    Raises:
        ValueError: if the benchmark is unknown or has no such presets.
    """
    benchmark = require_benchmark(benchmark_name)
    return RunOptions(
        methods=benchmark.methods,
        seeds=benchmark.seeds,
        out=Path("runs") / benchmark_name,
        config=replace(presets_of(benchmark, presets or {}), device="auto"),
        mitigations={name: benchmark.mitigation(name) for name in MITIGATIONS},
        presets=benchmark.presets,
    )


def options_from_config(benchmark_name: str, saved: Mapping[str, Any]) -> RunOptions:
    """Return the options that a configuration file asks for, on top of the defaults of a benchmark.

    Missing keys have the values of the benchmark, as options that are not given. (In the `config.json` of a
    run folder, which says what a run was, they have the defaults of their dataclasses.)

    Args:
        benchmark_name: Benchmark of the runs to come, which may be another than the saved one.
        saved: Content of a `config.json`, or a part of it.

    Raises:
        ValueError, TypeError: if it is not a configuration, or one of another kind of benchmark.
    """
    named = require_benchmark(named_benchmark(saved, benchmark_name)).config
    options = default_options(benchmark_name)
    if type(named) is not type(options.config):
        raise ValueError(
            f"it is of {named.benchmark}, whose settings mean nothing to {benchmark_name}."
        )
    _require_fixed(saved, named)
    config = type(named).from_json({**saved, "benchmark": benchmark_name}, options.config)
    fixed = {path: setting_at(options.config, path) for path in config.fixed}
    plain = {name: saved[name] for name in METHOD_FIELDS if saved.get(name) is not None}
    method = method_from_plain(plain.get("method", {}), "method", options.mitigations)
    mitigations = {**options.mitigations, **{each.name: each for each in method}}
    methods = (method_name(method),) if "method" in plain else options.methods
    return replace(
        options,
        methods=methods,
        seeds=(config.seed,) if "seed" in saved else options.seeds,
        device=config.device if "device" in saved else options.device,
        config=with_values(config, {**fixed, **{name: _NO_METHOD[name] for name in plain}}),
        mitigations=mitigations,
        critic=_critic_settings(plain["critic_method"], methods, mitigations)
        if "critic_method" in plain
        else {},
        presets={},
    )


_NO_METHOD = {"method": (), "critic_method": None}


def _critic_settings(
    plain: object, methods: Sequence[str], actors: Mapping[str, Mitigation]
) -> dict[str, dict[str, Any]]:
    """Return the settings that a file gives the critic's mitigations; others are the actor's."""
    critic = method_from_plain(plain, "critic_method", actors)
    if method_name(critic) not in methods:
        raise ValueError(
            f"critic_method {method_name(critic)} must have the mitigations of method, which is"
            f" {' or '.join(methods)}: give the same ones, with other settings."
        )
    given = plain if isinstance(plain, Mapping) else {}
    return {
        each.name: {key: getattr(each, key) for key in given.get(each.name) or {}}
        for each in critic
    }


def _require_fixed(saved: Mapping[str, Any], named: RunConfig) -> None:
    """Raise a ValueError if a setting that the benchmark's name implies has another value."""
    given = flattened(saved)
    for path in named.fixed:
        expected = setting_at(named, path)
        if given.get(path, expected) != expected:
            raise ValueError(
                f"{path} must be {expected!r}, that of {named.benchmark}, not {given[path]!r}."
            )


# ---- the command line -------------------------------------------------------------------------------


def run_settings(config: RunConfig) -> dict[str, Setting]:
    """Return the settings of a run that the command line changes, by option name.

    Raises:
        ValueError: if two settings have the same option.
    """
    found: dict[str, Setting] = {}
    taken = {each.name.replace("_", "-") for each in fields(CommandOptions)}
    for each in settings_of(config):
        if each.path in (*NOT_OPTIONS, *config.fixed):
            continue
        if each.option in taken | set(found):
            raise ValueError(
                f"Two settings of {config.benchmark} have the option --{each.option}"
                f" ({each.path} is one): give one of them another name."
            )
        found[each.option] = each
    return found


def parse_options(
    defaults: RunOptions, arguments: Sequence[str], *, program: str, description: str
) -> tuple[RunOptions, tuple[str, ...]]:
    """Read the command line.

    Args:
        defaults: Options before the user changes any.
        arguments: What follows the name of the benchmark.
        program: Name of the command, for help and messages.
        description: Text of the help before the options.

    Returns:
        The options, and the words of --grid, which only a sweep has.

    Raises:
        SystemExit: after a help text, or an error of the user, which is printed.
        ValueError: if --grid is given twice.
    """
    # The second would replace the first, as with every option: here, half of a sweep.
    if sum(word.partition("=")[0] == "--grid" for word in arguments) > 1:
        raise ValueError("--grid is given twice: give it once, with all settings after it.")
    kind = _parsed_type(defaults, with_grid=" sweep" in program)
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
    if isinstance(defaults.config, ControlRunConfig):
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


# ---- checks -----------------------------------------------------------------------------------------


def require_meaning(options: RunOptions, defaults: RunOptions) -> None:
    """Refuse a setting of a mitigation that none of the methods uses.

    Raises:
        ValueError: naming the option and its value.
    """
    used = {name for method in options.methods for name in mitigation_names(method)}
    for name, each in options.mitigations.items():
        if name in used:
            continue
        changed = {
            f"{name}.{key}": value
            for key, value in vars(each).items()
            if value != getattr(defaults.mitigations[name], key)
        }
        for key, value in options.critic.get(name, {}).items():
            if (key, value) not in defaults.critic.get(name, {}).items():
                changed[f"{CRITIC}.{name}.{key}"] = value
        for option, value in changed.items():
            raise ValueError(
                f"--{option.replace('_', '-')} {value} means nothing to {', '.join(options.methods)}:"
                f" leave it out, or add {name} to --methods."
            )


def chosen_device(name: str) -> str:
    """Return the device that an option names; "auto" takes a GPU if there is one.

    Raises:
        ValueError: if it is unknown or cannot be used here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind = name.split(":", maxsplit=1)[0]
    if kind not in DEVICES:
        raise ValueError(f"Unknown --device {name!r}.{nearest(kind, ('auto', *DEVICES))}")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        first_line = str(error).splitlines()[0].split(". ")[0]  # torch tells a page about mps
        raise ValueError(
            f"--device {name} cannot be used here ({first_line}): give cpu, or leave it out."
        ) from error
    return name
