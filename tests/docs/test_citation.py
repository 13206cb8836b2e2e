"""CITATION.cff: readable, and of the version that is built."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_it_names_the_version_and_the_license_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = (ROOT / "pyproject.toml").read_text()
    assert citation["version"] == re.search(r'^version = "(.+)"$', project, re.MULTILINE)[1]
    assert citation["license"] == re.search(r'^license = "(.+)"$', project, re.MULTILINE)[1]
    # What the format requires (citation-file-format.github.io, 1.2.0).
    assert citation.keys() >= {"cff-version", "message", "title", "authors"}
    assert citation["cff-version"] == "1.2.0"
