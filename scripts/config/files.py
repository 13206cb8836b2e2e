"""Configurations from files: JSON, such as a run's `config.json`, and YAML."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-3 as a number, as JSON and Python do; YAML 1.1 takes it for text."""


_Loader.yaml_implicit_resolvers = {
    first: [entry for entry in resolvers if entry[0] != "tag:yaml.org,2002:float"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(\d[\d_]*\.[\d_]*|\.\d[\d_]*|\d[\d_]*(?=[eE]))([eE][-+]?\d+)?$|^[-+]?\.(inf|nan)$"
    ),
    list("-+.0123456789"),
)


def read_config_file(file: Path) -> Mapping[str, Any]:
    """Read the object that a JSON or YAML file holds.

    Args:
        file: Read as YAML if its name ends with .yaml or .yml, else as JSON.

    Raises:
        ValueError: if the file cannot be read or its content is malformed.
        TypeError: if it holds something other than an object.
    """
    is_yaml = file.suffix.lower() in (".yaml", ".yml")
    try:
        text = file.read_text(encoding="utf-8")
        content = yaml.load(text, _Loader) if is_yaml else json.loads(text)
    except OSError as error:
        raise ValueError(f"--config {file} cannot be read: {error.strerror}.") from error
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(
            f"--config {file} is not {'YAML' if is_yaml else 'JSON'}: {error}."
        ) from error
    if not isinstance(content, Mapping):
        raise TypeError(
            f"--config {file} holds no object of names and values: give a run's config.json, or a file"
            " with some of its keys."
        )
    return content
