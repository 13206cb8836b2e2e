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


# YAML 1.1, which PyYAML reads, takes a number with an exponent and no point for text, 010 for 8 and 1:30
# for 90.
@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("1e-3", 1e-3), ("-1E5", -1e5), ("1.5e+3", 1500.0), (".5", 0.5), ("2.", 2.0)],
        *[("12", 12), ("1_000", 1000), ("-3", -3), ("0", 0), (".inf", math.inf)],
        *[("010", "010"), ("1:30", "1:30"), ("0x10", "0x10"), ("0b1", "0b1")],
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
        ("a.json", "{", ValueError, "is not valid JSON"),
        ("a.yaml", "a: [", ValueError, "is not valid YAML"),
        ("a.yaml", "a: !!python/object:os.system {}", ValueError, "is not valid YAML"),
        ("a.yaml", "a: 1\na: 2", ValueError, "is not valid YAML: 'a' is given twice"),
        ("a.yaml", "b: {a: 1, a: 1}", ValueError, "is not valid YAML: 'a' is given twice"),
        ("a.json", '{"b": {"a": 1, "a": 1}}', ValueError, "is not valid JSON: 'a' is given twice"),
        ("a.yaml", "1: 2", ValueError, "is not valid YAML: the name 1 is not text"),
        ("a.yaml", "{a: {true: 2}}", ValueError, "is not valid YAML: the name True is not text"),
        ("a.yaml", "? [1]\n: 2", ValueError, r"is not valid YAML: the name \[1\] is not text"),
        ("a.yaml", "a: &a\n  b: *a", ValueError, "is not valid YAML: found unconstructable"),
        ("a.yaml", "[" * 5000, ValueError, "is not valid YAML"),
        ("a.json", "[" * 100_000, ValueError, "is not valid JSON"),
        ("a.json", "[1]", TypeError, "holds no object of names and values"),
        ("a.yaml", "text", TypeError, "holds no object of names and values"),
        ("a.yaml", "", TypeError, "holds no object of names and values"),
    ],
)
def test_wrong_files_are_refused(tmp_path, name, text, error, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(error, match=f"--config .*{name} {message}"):
        read_config_file(tmp_path / name)


def test_a_mark_of_the_encoding_and_merged_objects(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1}', encoding="utf-8-sig")
    assert read_config_file(tmp_path / "a.json") == {"a": 1}
    (tmp_path / "a.yaml").write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n")
    assert read_config_file(tmp_path / "a.yaml")["b"] == {"x": 3, "y": 2}


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(ValueError, match=r"--config .*a\.json cannot be read: No such file"):
        read_config_file(tmp_path / "a.json")
