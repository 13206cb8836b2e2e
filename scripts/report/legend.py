"""Legends of figures: entries in as many columns as the width has room for."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.lines import Line2D

INCHES_PER_CHARACTER = 0.085  # of a legend, at ten points
LEGEND_MARK = 0.98  # inches of the line of an entry, and the space around it
LEGEND_MARGIN = 0.2  # inches
MAX_CHARACTERS = 40  # in a line of a legend: a single long name leaves room for a second column


def legend_handles(styles: Mapping[str, tuple[str, Any, str]], width: float) -> list[Line2D]:
    """Return the entries of a legend, each in lines that a figure has room for.

    Args:
        styles: Colour, dash pattern and marker by label.
        width: Width of the figure, in inches.
    """
    room = int((width - 2 * LEGEND_MARGIN - LEGEND_MARK) / INCHES_PER_CHARACTER)
    room = min(room, MAX_CHARACTERS)
    handles = []
    for label, (colour, dash, marker) in styles.items():
        handles.append(Line2D([], [], color=colour, linestyle=dash, marker=marker, lw=2, ms=6))
        handles[-1].set_label(textwrap.fill(label, room))
    return handles


def legend_columns(handles: Sequence[Line2D], width: float) -> int:
    """Return the largest number of columns of a legend that fit into a width, in inches."""
    for columns in range(len(handles), 1, -1):
        longest = [
            max(len(line) for entry in entries for line in str(entry.get_label()).splitlines())
            for entries in _entries_by_column(handles, columns)
        ]
        inches = sum(LEGEND_MARK + INCHES_PER_CHARACTER * length for length in longest)
        if inches <= width - 2 * LEGEND_MARGIN:
            return columns
    return 1


def legend_lines(handles: Sequence[Line2D], columns: int) -> int:
    """Return the number of lines of the longest column, at least 1."""
    return max(
        sum(len(str(entry.get_label()).splitlines()) for entry in entries) or 1
        for entries in _entries_by_column(handles, columns)
    )


def _entries_by_column(handles: Sequence[Line2D], columns: int) -> list[Sequence[Line2D]]:
    """Return the entries of each column as matplotlib fills them: the first ones take what is over."""
    short, over = divmod(len(handles), columns)
    starts = [each * short + min(each, over) for each in range(columns + 1)]
    return [handles[start:end] for start, end in itertools.pairwise(starts)]
