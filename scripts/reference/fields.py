"""Rows of a table for the fields of a dataclass: name, type, default and docstring."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from plasticity.scripts.config.nested import field_docstrings
from plasticity.scripts.reference.markdown import table


def fields_table(
    kind: type,
    *,
    options: bool = False,
    without: tuple[str, ...] = (),
    required: str = "required",
) -> str:
    """Return a table of the fields that the constructor of a dataclass takes.

    Args:
        kind: The dataclass.
        options: Whether to name the options of the command line (`--num-tasks`) rather than the keys of a
            configuration file (`num_tasks`).
        without: Names of fields to leave out.
        required: Text in the place of a default where there is none.

    Returns:
        The table in Markdown; a sentence that says so where there are no fields.
    """
    rows = list(_rows(kind, options, without, required))
    if not rows:
        return "\nIt has no settings.\n"
    return table(("option" if options else "key", "type", "default", "meaning"), rows)


def _rows(
    kind: type, options: bool, without: tuple[str, ...], required: str
) -> Iterator[tuple[str, ...]]:
    annotations = get_type_hints(kind, include_extras=True)
    docs = field_docstrings(kind)
    for each in fields(kind):
        if not each.init or each.name in without:
            continue
        name = (
            f"--{each.metadata.get('option', each.name.replace('_', '-'))}"
            if options
            else each.name
        )
        type_text = type_name(annotations[each.name])
        yield f"`{name}`", f"`{type_text}`", default_text(each) or required, docs.get(each.name, "")


def default_text(each: Field[Any]) -> str | None:
    """Return the default of a field as code; None if it has none."""
    if each.default is not MISSING:
        value: Any = each.default
    elif each.default_factory is not MISSING:
        value = each.default_factory()
    else:
        return None
    if is_dataclass(value):
        return f"those of `{type(value).__name__}`"
    if isinstance(value, Path):
        value = str(value)
    return f"`{value!r}`"


def type_name(annotation: Any) -> str:
    """Return an annotation as a reader would write it: `int | None`, `tuple[str, ...]`."""
    if get_origin(annotation) is Annotated:
        return type_name(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return " | ".join(type_name(each) for each in get_args(annotation))
    if get_origin(annotation) is Literal:
        return " | ".join(repr(each) for each in get_args(annotation))
    if annotation is type(None):
        return "None"
    if get_origin(annotation) is not None:
        inner = ", ".join(
            "..." if each is ... else type_name(each) for each in get_args(annotation)
        )
        return f"{get_origin(annotation).__name__}[{inner}]"
    return re.sub(r"^.*\.", "", getattr(annotation, "__name__", str(annotation)))
