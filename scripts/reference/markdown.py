"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown, with a blank line on either side.

    Args:
        header: Titles of the columns.
        rows: Cells of each row; line breaks in a cell become blanks. A bar is escaped, except in code.

    Raises:
        ValueError: if a row has another number of cells than the header.
    """
    lines = [_line(header), _line(["---"] * len(header))]
    for row in rows:
        if len(row) != len(header):
            raise ValueError(
                f"The row {list(row)} has {len(row)} cells, and the header {len(header)}: give one for"
                " each column."
            )
        lines.append(_line([_cell(each) for each in row]))
    return "\n" + "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    parts = text.split("`")  # every second one is code, in which a backslash would be shown
    parts[::2] = [each.replace("|", r"\|") for each in parts[::2]]
    return " ".join("`".join(parts).split())
