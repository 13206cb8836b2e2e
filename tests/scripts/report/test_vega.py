"""The plotting library of the page is the pinned one, with its licences."""

import re
from pathlib import Path

import pytest

from plasticity.scripts.report.vega import FILE, bundle, made_anew


def test_the_library_can_stand_in_a_page_that_loads_nothing():
    text = bundle()
    assert "</script" not in text
    assert "import(" not in text
    assert "window.vegaEmbed" in text
    assert len(text.encode()) < 950_000


def test_its_licences_go_where_it_goes():
    text = bundle()
    assert text.startswith("/*")
    for expected in ("University of Washington Interactive Data Lab", "Mike Bostock", "ISC", "MIT"):
        assert expected in text[: text.index("*/")]


def test_the_file_is_what_the_pinned_version_gives():
    vl_convert = pytest.importorskip("vl_convert")
    constraints = Path(__file__).parents[3] / "constraints.txt"
    (pinned,) = re.findall(r"vl-convert-python==(\S+)", constraints.read_text())
    if not pinned.startswith(vl_convert.__version__):
        pytest.skip(f"vl-convert-python is {vl_convert.__version__}, not {pinned}")
    assert FILE.read_text(encoding="utf-8") == made_anew()
