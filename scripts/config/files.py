"""Configurations from files: JSON, such as a run's `config.json`, and YAML."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

_MAP, _MERGE = "tag:yaml.org,2002:map", "tag:yaml.org,2002:merge"
_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads numbers as JSON and Python do, and refuses a name that is given twice.

    YAML 1.1 takes 1e-3 for text, 010 for 8 and 1:30 for 90; PyYAML keeps the last of two equal names.
    """

    def construct_object_of_names(self, node: yaml.MappingNode) -> dict[str, Any]:
        """Make a dictionary; as a whole, so that a node that contains itself is refused."""
        own = [key for key, _ in node.value if key.tag != _MERGE]
        _require_names([self.construct_object(key, deep=True) for key in own])
        return {str(name): each for name, each in self.construct_mapping(node, deep=True).items()}


_Loader.add_constructor(_MAP, _Loader.construct_object_of_names)
_Loader.yaml_implicit_resolvers = {
    first: [entry for entry in resolvers if entry[0] not in (_INT, _FLOAT)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_INT, re.compile(r"^[-+]?(0|[1-9][\d_]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(
        r"^[-+]?(\d[\d_]*\.[\d_]*|\.\d[\d_]*|\d[\d_]*(?=[eE]))([eE][-+]?\d+)?$|^[-+]?\.(inf|nan)$"
    ),
    list("-+.0123456789"),
)


def _require_names(names: Sequence[object]) -> None:
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"the name {name!r} is not text: write it in quotes")
        if names.count(name) > 1:
            raise ValueError(f"{name!r} is given twice in one object: once is enough")


def _parsed_yaml(text: str) -> Any:
    return yaml.load(text, _Loader)


def _parsed_json(text: str) -> Any:
    def object_of_names(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        _require_names([name for name, _ in pairs])
        return dict(pairs)

    return json.loads(text, object_pairs_hook=object_of_names)


def read_config_file(file: Path) -> Mapping[str, Any]:
    """Read the object that a JSON or YAML file holds.

    Args:
        file: Read as YAML if its name ends with .yaml or .yml, else as JSON.

    Raises:
        ValueError: if the file cannot be read, its content is malformed, or an object gives a name twice.
        TypeError: if it holds something other than an object.
    """
    is_yaml = file.suffix.lower() in (".yaml", ".yml")
    try:
        text = file.read_text(encoding="utf-8-sig")  # some editors mark the encoding
        content = _parsed_yaml(text) if is_yaml else _parsed_json(text)
    except OSError as error:
        raise ValueError(f"--config {file} cannot be read: {error.strerror}.") from error
    except (ValueError, TypeError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(
            f"--config {file} is not valid {'YAML' if is_yaml else 'JSON'}: {error}."
        ) from error
    if not isinstance(content, Mapping):
        raise TypeError(
            f"--config {file} holds no object of names and values: give a run's config.json, or a file"
            " with some of its keys."
        )
    return content
