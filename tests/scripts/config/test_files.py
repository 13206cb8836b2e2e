import json
import math

import pytest
import yaml

from plasticity.scripts.config.files import read_config_file

CONTENT = {"seed": 3, "agent": {"learning_rate": 0.001, "hidden": [64, 64], "compile": False}}


@pytest.mark.parametrize("name", ["a.json", "a.config", "a"])
def test_json(tmp_path, name):
    (tmp_path / name).write_text(json.dumps(CONTENT))
    assert read_config_file(tmp_path / name) == CONTENT


@pytest.mark.parametrize("name", ["a.yaml", "a.yml", "a.YAML"])
def test_yaml(tmp_path, name):
    (tmp_path / name).write_text(yaml.safe_dump(CONTENT))
    assert read_config_file(tmp_path / name) == CONTENT


# YAML 1.1, which PyYAML reads, takes a number with an exponent and no point for text.
@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("1e-3", 1e-3), ("-1E5", -1e5), ("1.5e+3", 1500.0), (".5", 0.5), ("2.", 2.0)],
        *[("12", 12), ("1_000", 1000), ("-3", -3), (".inf", math.inf)],
        *[("true", True), ("null", None), ("none", "none"), ("1e", "1e"), ("e3", "e3")],
    ],
)
def test_numbers_in_yaml(tmp_path, text, value):
    (tmp_path / "a.yaml").write_text(f"it: {text}\n")
    found = read_config_file(tmp_path / "a.yaml")["it"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "error", "message"),
    [
        ("a.json", "{", ValueError, "is not JSON"),
        ("a.yaml", "a: [", ValueError, "is not YAML"),
        ("a.yaml", "a: !!python/object:os.system {}", ValueError, "is not YAML"),
        ("a.json", "[1]", TypeError, "holds no object of names and values"),
        ("a.yaml", "text", TypeError, "holds no object of names and values"),
        ("a.yaml", "", TypeError, "holds no object of names and values"),
    ],
)
def test_wrong_files_are_refused(tmp_path, name, text, error, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(error, match=f"--config .*{name} {message}"):
        read_config_file(tmp_path / name)


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(ValueError, match=r"--config .*a\.json cannot be read: No such file"):
        read_config_file(tmp_path / "a.json")
