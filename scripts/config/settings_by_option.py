"""Settings of the runs by their option: the benchmark's own, the mitigations', and those of the critic.

A mitigation's setting has a dotted option, `syre.sigma`; the critic may have a value of its own,
`critic.syre.sigma`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

from plasticity.mitigations import mitigation_names
from plasticity.scripts.config.nested import Setting, settings_of, with_values
from plasticity.scripts.config.options import CRITIC, CommandOptions, RunOptions
from plasticity.scripts.config.run_config import RunConfig

NOT_OPTIONS = ("benchmark", "seed", "device", "imports", "tuned_on")
"""Fields of a run that the command's own options fill in, as they do those of its methods."""


def run_settings(config: RunConfig) -> dict[str, Setting]:
    """Return the settings of a run that the command line changes, but for its mitigations', by option.

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


def settings_by_option(options: RunOptions) -> dict[str, Setting]:
    """Return all settings of the runs; one of the critic that is None has the actor's value.

    Raises:
        ValueError: if two settings have the same option.
    """
    found = run_settings(options.config)
    for name, each in options.mitigations.items():
        found |= {f"{name}.{setting.option}": setting for setting in settings_of(each)}
    for name, each in options.mitigations.items() if options.config.has_critic() else ():
        given = options.critic.get(name, {})
        for setting in settings_of(each):
            found[f"{CRITIC}.{name}.{setting.option}"] = replace(
                setting,
                type=setting.type | None,
                value=given.get(setting.path),
                help=f"{setting.help} None: the actor's.",
            )
    return found


def with_options(options: RunOptions, values: Mapping[str, Any]) -> RunOptions:
    """Return options with other values of some settings, by option; None for the critic is the actor's.

    Raises:
        ValueError, TypeError: if a value is out of range or does not go with others.
    """
    settings = settings_by_option(options)
    groups: dict[str, dict[str, Any]] = {}
    for option, value in values.items():
        group, _, _ = option.rpartition(".")
        groups.setdefault(group, {})[settings[option].path] = value
    mitigations = {
        name: replace(each, **groups.get(name, {})) for name, each in options.mitigations.items()
    }
    critic: dict[str, dict[str, Any]] = {}
    for name in mitigations:
        typed = groups.get(f"{CRITIC}.{name}", {})
        kept = {k: v for k, v in options.critic.get(name, {}).items() if k not in typed}
        critic[name] = kept | {k: v for k, v in typed.items() if v is not None}
    return replace(
        options,
        config=with_values(options.config, groups.get("", {})),
        mitigations=mitigations,
        critic={name: each for name, each in critic.items() if each},
    )


def mitigation_of(option: str) -> str | None:
    """Return the name of the mitigation that an option belongs to; None for a setting of all runs."""
    *prefixes, _ = option.split(".")
    return prefixes[-1] if prefixes else None


def concerns(option: str, method: str) -> bool:
    """Return whether the runs of a method make use of an option."""
    mitigation = mitigation_of(option)
    return mitigation is None or mitigation in mitigation_names(method)


def require_use(option: str, options: RunOptions, shown: str) -> None:
    """Refuse an option of a mitigation that none of the methods uses.

    Args:
        option: Name of the option.
        options: Options with the methods.
        shown: The option as it was typed, for the message.

    Raises:
        ValueError: if no method uses it.
    """
    if not any(concerns(option, method) for method in options.methods):
        raise ValueError(
            f"{shown} means nothing to {', '.join(options.methods)}: leave it out, or add"
            f" {mitigation_of(option)} to --methods."
        )


def require_meaning(options: RunOptions, given: Iterable[str]) -> None:
    """Refuse a given setting of a mitigation that none of the methods uses.

    Args:
        options: Options with their values.
        given: Names of the options that were typed.

    Raises:
        ValueError: naming the option and its value.
    """
    settings = settings_by_option(options)
    for option in given:
        require_use(option, options, f"--{option} {settings[option].value}")
