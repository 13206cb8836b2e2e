"""Tables in Markdown."""

import pytest

from plasticity.scripts.reference.markdown import table


def test_a_cell_has_no_line_break_and_no_bare_bar():
    found = table(("type", "meaning"), [("`int | None`", "first | or\n  second")])
    assert found.splitlines() == [
        "",
        "| type | meaning |",
        "| --- | --- |",
        r"| `int | None` | first \| or second |",
    ]


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"\['a'\] has 1 cells, and the header 2"):
        table(("one", "two"), [("a",)])
