"""Pages of the Python interface: a page for each package, an entry for each public name."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator

import plasticity
from plasticity.mitigations import MITIGATIONS
from plasticity.scripts.reference.markdown import table

PACKAGES = (
    "plasticity.optim",
    "plasticity.mitigations",
    "plasticity.metrics",
    "plasticity.symmetry",
    "plasticity.units",
    "plasticity.modules",
    "plasticity.stacking",
    "plasticity.sb3",
    "plasticity.agents",
    "plasticity.agents.networks",
    "plasticity.tasks",
)
"""Packages with public names, which their `__all__` lists."""

MODULES = (
    "plasticity.integrations.hugging_face",
    "plasticity.integrations.lightning",
    "plasticity.scripts.report.aggregates",
    "plasticity.scripts.report.statistics",
)
"""Modules outside of those packages that are documented whole; some need an extra and are not imported."""

TOP = "plasticity"
"""Package whose names are, but for a few of its own, those of other packages."""


def interface_pages() -> dict[str, str]:
    """Return the pages in Markdown, by the last part of their path: `plasticity.metrics.md`."""
    pages = {f"{TOP}.md": _top_page()}
    pages |= {f"{name}.md": _package_page(name) for name in PACKAGES}
    pages |= {f"{name}.md": f"# {name}\n\n::: {name}\n" for name in MODULES}
    return pages


def public_names(package: str) -> list[str]:
    """Return the documented names of a package: its `__all__`, and of the mitigations each class."""
    names = list(importlib.import_module(package).__all__)
    if package == "plasticity.mitigations":
        names += [kind.__name__ for kind in MITIGATIONS.values() if kind.__name__ not in names]
    return names


def _package_page(package: str) -> str:
    module = importlib.import_module(package)
    return "\n\n".join([f"# {package}", inspect.getdoc(module) or "", *_entries(package)]) + "\n"


def _entries(package: str) -> Iterator[str]:
    for name in public_names(package):
        yield f"::: {path_of(package, name)}"


def path_of(package: str, name: str) -> str:
    """Return the path of a public name, as tools that read sources find it.

    That is `package.name`, or where a module has the name as well, the place of its definition.
    """
    path = f"{package}.{name}"
    return f"{path}.{name}" if path in sys.modules else path


def _top_page() -> str:
    """Return the page of the package at the top: its own names, and where the others are described."""
    elsewhere = {name: each for each in PACKAGES for name in importlib.import_module(each).__all__}
    own = [name for name in plasticity.__all__ if name not in elsewhere]
    rows = [
        (f"[`{name}`][{path_of(elsewhere[name], name)}]", _summary(name))
        for name in plasticity.__all__
        if name in elsewhere
    ]
    parts = [f"# {TOP}", inspect.getdoc(plasticity) or ""]
    parts += [f"::: {TOP}.{name}" for name in own]
    parts += ["## Names of other packages", table(("name", ""), rows)]
    return "\n\n".join(parts) + "\n"


def _summary(name: str) -> str:
    """Return the first line of a docstring; of a constant, its kind."""
    found = getattr(plasticity, name)
    is_documented = inspect.isroutine(found) or inspect.isclass(found)
    return (inspect.getdoc(found) or "").split("\n")[0] if is_documented else type(found).__name__
