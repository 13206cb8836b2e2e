"""Nested dataclasses as settings with names: listed with their documentation, changed, saved and read."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from functools import cache, reduce
from types import MappingProxyType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from plasticity.checks import require_known

_Config = TypeVar("_Config")


@dataclass(frozen=True)
class Setting:
    """One field of a nested configuration that holds a plain value."""

    path: str
    """Names of the fields that lead to this one, joined by dots: `agent.learning_rate`."""

    type: Any
    """Annotation of the field, evaluated."""

    value: Any
    """Value in the configuration."""

    help: str
    """Docstring of the field."""

    option: str
    """Name of its option on the command line."""


def settings_of(config: Any, prefix: str = "") -> Iterator[Setting]:
    """Yield the settings of a dataclass instance and of those nested in it, in the order of its fields.

    An option is named as its field, unless the field's metadata has another name under "option". Fields that
    a class fixes (`init=False`) are no settings.
    """
    types = get_type_hints(type(config), include_extras=True)
    docs = field_docstrings(type(config))
    for each in fields(config):
        path, value = f"{prefix}{each.name}", getattr(config, each.name)
        if not each.init:
            continue
        if is_dataclass(value):
            yield from settings_of(value, f"{path}.")
        else:
            option = each.metadata.get("option", each.name.replace("_", "-"))
            yield Setting(path, types[each.name], value, docs.get(each.name, ""), option)


def setting_at(config: Any, path: str) -> Any:
    """Return the value of one setting."""
    return reduce(getattr, path.split("."), config)


def with_values(config: _Config, values: Mapping[str, Any]) -> _Config:
    """Return a copy of a nested configuration with other values, by path.

    Each dataclass is made once, from all of its new values, so that it checks them against each other.

    Raises:
        ValueError, TypeError: what the dataclasses raise.
    """
    changes: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        name, _, rest = path.partition(".")
        if rest:
            nested.setdefault(name, {})[rest] = value
        else:
            changes[name] = value
    for name, inner in nested.items():
        changes[name] = with_values(changes.get(name, getattr(config, name)), inner)
    return replace(config, **changes) if changes else config  # type: ignore[type-var]


def to_plain(value: Any) -> Any:
    """Return a configuration as JSON can hold it: dataclasses as objects, tuples as lists."""
    if is_dataclass(value):
        return {each.name: to_plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, tuple):
        return [to_plain(each) for each in value]
    return value


def from_plain(
    kind: type[_Config],
    plain: object,
    where: str,
    fallback: _Config | None = None,
    kinds: Mapping[str, type] = MappingProxyType({}),
) -> _Config:
    """Make a dataclass, and those nested in it, from what `to_plain` gives.

    A whole number in a field of floats becomes a float: 1 and 1.0 are one setting, also where it is saved.
    Values of fields that a class fixes (`init=False`) are ignored: they tell `kinds` which class to make.

    Args:
        kind: The dataclass to make.
        plain: The values, by field.
        where: Path of this part of the configuration, for messages; empty for the whole.
        fallback: Configuration that missing keys take their values from. None: a missing key has the
            default of its dataclass.
        kinds: Dataclasses that fields hold instead of what they are annotated with, by path: those of the
            streams, of which each benchmark has its own.

    Raises:
        ValueError: if a key is unknown (the message suggests the nearest), or missing without a default;
            or what the dataclasses raise.
        TypeError: if a list, an object or a plain value stands where another of them is expected.
    """
    part = where or "the configuration"
    values = dict(require_object(plain, part))
    known = {each.name: each for each in fields(kind)}  # type: ignore[arg-type]
    for name in values:
        require_known(f"key of {part}", name, known)
    types = get_type_hints(kind)
    for name, each in known.items():
        if not each.init:
            values.pop(name, None)
        elif name in values:
            inner = None if fallback is None else getattr(fallback, name)
            path = f"{where}.{name}" if where else name
            values[name] = _value(kinds.get(path, types[name]), values[name], path, inner, kinds)
        elif fallback is not None:
            values[name] = getattr(fallback, name)
        elif not _has_default(each):
            raise ValueError(f"{part} lacks {name}: give it.")
    return kind(**values)


def require_object(plain: object, where: str) -> Mapping[str, Any]:
    """Return a JSON object, or raise a TypeError that says where one was expected."""
    if not isinstance(plain, Mapping):
        raise TypeError(f"{where} must be an object of names and values, not {plain!r}.")
    return plain


def _has_default(each: Field[Any]) -> bool:
    return each.default is not MISSING or each.default_factory is not MISSING


def _value(kind: Any, plain: Any, where: str, fallback: Any, kinds: Mapping[str, type]) -> Any:
    if is_dataclass(kind):
        assert isinstance(kind, type)
        same_kind = fallback if isinstance(fallback, kind) else None
        return from_plain(kind, plain, where, same_kind, kinds)
    if get_origin(kind) is tuple:
        if not isinstance(plain, (list, tuple)):
            raise TypeError(f"{where} must be a list, not {plain!r}.")
        return tuple(_number(get_args(kind)[0], each) for each in plain)
    if isinstance(plain, (list, tuple, Mapping)):
        raise TypeError(f"{where} must be a single value, not {plain!r}.")
    return _number(kind, plain)


def _number(kind: Any, plain: Any) -> Any:
    """Return a value; an int as a float where the annotation has floats and no ints."""
    kinds = get_args(kind) or (kind,)
    is_whole = isinstance(plain, int) and not isinstance(plain, bool)
    return float(plain) if is_whole and float in kinds and int not in kinds else plain


def flattened(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested objects by path; those of empty objects are None."""
    flat: dict[str, Any] = {}
    for name, value in plain.items():
        if isinstance(value, Mapping) and value:
            flat.update(flattened(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = None if isinstance(value, Mapping) else value
    return flat


def field_docstrings(kind: type) -> dict[str, str]:
    """Return the string under each field of a dataclass, those of its base classes included.

    Read from the source, as Python keeps none of them.
    """
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if is_dataclass(each):
            found.update(_own_docstrings(each))
    return found


@cache  # reading a source costs milliseconds
def _own_docstrings(kind: Any) -> dict[str, str]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, TypeError):  # a class without a file, made in a console: its help is empty
        return {}
    (definition,) = tree.body
    assert isinstance(definition, ast.ClassDef)
    return {
        before.target.id: inspect.cleandoc(after.value.value)
        for before, after in zip(definition.body, definition.body[1:], strict=False)
        if isinstance(before, ast.AnnAssign)
        and isinstance(before.target, ast.Name)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
        and isinstance(after.value.value, str)
    }


def shortest(number: float) -> str:
    """Return a number in at most six digits if they are exact, and otherwise in all that it has."""
    text = f"{number:g}"
    return text if float(text) == number else repr(number)
