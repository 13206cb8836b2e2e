"""Settings of each method that a search found: the file that `plasticity tune` writes and `run` reads."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from plasticity.checks import require_known
from plasticity.scripts.config.nested import require_object
from plasticity.scripts.config.options import RunOptions
from plasticity.scripts.config.settings_by_option import settings_by_option, with_options


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """Settings that a search found."""

    benchmark: str
    """Name of the benchmark that was searched on."""

    seeds: tuple[int, ...]
    """Seeds of the search, on which the settings must not be evaluated."""

    methods: Mapping[str, Mapping[str, Any]]
    """Best settings of each method, by option."""


def read_tuned(file: Path) -> Tuned:
    """Read the file of a search.

    Raises:
        ValueError: if it cannot be read, or is none; the message says how to make one.
    """
    remedy = f"make it with plasticity tune BENCHMARK --methods … --out {file.parent}."
    try:
        plain = require_object(json.loads(file.read_text(encoding="utf-8")), str(file))
        methods = {
            method: {
                option: tuple(value) if isinstance(value, list) else value
                for option, value in require_object(found["settings"], method).items()
            }
            for method, found in require_object(plain["methods"], "methods").items()
        }
        seeds = tuple(int(seed) for seed in plain["seeds"])
        benchmark = plain["benchmark"]
    except OSError as error:
        raise ValueError(f"--tuned {file} cannot be read ({error.strerror}): {remedy}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"--tuned {file} is not the file of a search ({error!r}): {remedy}"
        ) from error
    return Tuned(benchmark=str(benchmark), seeds=seeds, methods=methods)


def require_tuned(options: RunOptions, given: Collection[str] = ()) -> None:
    """Raise an error unless the tuned settings fit the options.

    Args:
        options: Options with a file of tuned settings, or without.
        given: Names of the options that were typed.

    Raises:
        ValueError: if the file is of another benchmark, lacks a method, has an unknown setting or one that
            was typed too; or if a seed of the search is to be evaluated.
    """
    if options.tuned is None:
        return
    tuned = read_tuned(options.tuned)
    if tuned.benchmark != options.benchmark:
        raise ValueError(
            f"--tuned {options.tuned} was searched on {tuned.benchmark}, not on {options.benchmark}: tune on"
            " the benchmark that is run."
        )
    both = sorted(set(tuned.seeds) & set(options.seeds))
    if both:
        raise ValueError(
            f"--seeds {' '.join(map(str, both))} chose the settings of --tuned {options.tuned}: evaluate on"
            " other seeds, which had no part in the choice."
        )
    settings = settings_by_option(options)
    for method in options.methods:
        if method not in tuned.methods:
            raise ValueError(
                f"--tuned {options.tuned} has no settings of {method}, only of {', '.join(tuned.methods)}:"
                " tune it with the same budget, or leave it out."
            )
        for option, value in tuned.methods[method].items():
            require_known(f"setting in {options.tuned}", option, settings)
            if option in given:
                raise ValueError(
                    f"--{option} is given, and --tuned {options.tuned} sets it to {value} for {method}: leave"
                    " one of them out."
                )


def with_tuned(options: RunOptions, method: str) -> RunOptions:
    """Return the options of one method: with its tuned settings, if there are any."""
    if options.tuned is None:
        return options
    tuned = read_tuned(options.tuned)
    found = with_options(options, tuned.methods[method])
    return replace(found, config=replace(found.config, tuned_on=tuned.seeds))
