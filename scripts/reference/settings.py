"""Page of the settings: the fields of every dataclass that a run's configuration can hold."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import plasticity.scripts.reproduce  # noqa: F401  (registers figures, which are left out)
from plasticity.agents.networks import NETWORKS
from plasticity.mitigations import MITIGATIONS
from plasticity.scripts.config.benchmarks import BENCHMARKS
from plasticity.scripts.config.run_config import RunConfig
from plasticity.scripts.reference.fields import fields_table
from plasticity.scripts.reference.markdown import table
from plasticity.scripts.reproduce.figure import FIGURES

SECTIONS = ("stream", "agent", "tracking")
"""Keys of a configuration whose dataclass differs from benchmark to benchmark."""


def settings_page() -> str:
    """Return the page in Markdown: a table for each dataclass of settings."""
    parts = [
        "# Settings",
        "A run's `config.json`, a file for `--config`, the options of the command line and the axes of a"
        " `--grid` have the same settings: the fields of the dataclasses below. In a file they stand in"
        " sections (`stream`, `agent`, `network`, `tracking`, `method`). Defaults are those of the"
        " classes; a benchmark has its own where it says so: `plasticity run BENCHMARK --help`.",
        "## Benchmarks",
        _benchmarks_table(),
        "## Every run",
        fields_table(RunConfig, without=(*SECTIONS, "network")),
    ]
    for section in SECTIONS:
        parts.append(f"## {section.capitalize()}")
        for kind in kinds_of(section):
            parts += _part(kind.__name__, kind)
    parts.append("## Network")
    for name, kind in NETWORKS.items():
        parts += _part(f"--architecture {name}", kind)
    parts += ["## Method", "Each mitigation is described on [its own page](../mitigations.md)."]
    for name, kind in MITIGATIONS.items():
        parts += _part(name, kind)
    return "\n\n".join(parts) + "\n"


def benchmarks() -> dict[str, RunConfig]:
    """Return the configurations of the benchmarks by name, without those that are made for one figure."""
    figures = {each.config.benchmark for each in FIGURES.values()}
    return {name: each.config for name, each in BENCHMARKS.items() if name not in figures}


def kinds_of(section: str) -> list[type]:
    """Return the dataclasses that benchmarks have in one section, each once, in the benchmarks' order."""
    found = (type(getattr(config, section)) for config in benchmarks().values())
    return list(dict.fromkeys(found))


def _part(title: str, kind: type) -> Iterator[str]:
    yield f"### {title}"
    yield inspect.cleandoc(kind.__doc__ or "").split("\n\n", maxsplit=1)[0]
    yield fields_table(kind)


def _benchmarks_table() -> str:
    rows = [
        (
            f"`{name}`",
            *(f"`{type(getattr(each.config, section)).__name__}`" for section in SECTIONS),
        )
        for name, each in BENCHMARKS.items()
    ]
    return table(("benchmark", *SECTIONS), rows)
