"""HTML page of all figures that have a result: claim, what came out, verdict, picture, command."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from plasticity.scripts.report.html import document, embedded_figure
from plasticity.scripts.reproduce.figure import FIGURES, SCALES
from plasticity.scripts.reproduce.record import Record, load_all
from plasticity.scripts.reproduce.verdict import Check
from plasticity.scripts.run import atomic_files
from plasticity.scripts.run.atomic_files import explained


def write_page(out: Path) -> Path | None:
    """Write the page of all results in a folder, and return its path; None if there is no result.

    A result that is broken is named on the page.

    Raises:
        RunError: if it cannot be written.
    """
    results, broken = load_all(out, FIGURES, SCALES)
    if not results:
        return None
    path = out / "figures.html"
    with explained(out):
        atomic_files.write_whole(path, page(results, broken).encode())
    return path


def page(results: Sequence[tuple[Record, bytes]], broken: Iterable[str] = ()) -> str:
    """Return the page.

    Args:
        results: Record and picture (PNG) of each figure.
        broken: Message for each result that is left out, because it cannot be read.
    """
    sections = "\n".join(_section(record, picture) for record, picture in results)
    left_out = "".join(f"<p><b>Left out:</b> {escape(each)}</p>\n" for each in broken)
    body = f"<h1>Figures of the papers, reproduced</h1>\n{left_out}{_table(results)}\n{sections}"
    return document("plasticity: figures of the papers", body)


def _table(results: Iterable[tuple[Record, bytes]]) -> str:
    columns = ("figure", "scale", "paper's", "claim", "verdict", "seeds", "minutes", "date")
    headings = "".join(f'<th scope="col">{each}</th>' for each in columns)
    rows = []
    for record, _ in results:
        values = (
            record.scale,
            record.number,
            record.claim,
            record.outcome,
            str(len(record.seeds)),
            "" if record.minutes is None else f"{record.minutes:.3g}",
            record.date,
        )
        link = f'<a href="#{_anchor(record)}">{escape(record.figure)}</a>'
        cells = "".join(f"<td>{escape(each)}</td>" for each in values)
        rows.append(f'<tr><th scope="row">{link}</th>{cells}</tr>')
    return (
        f'<div class="scroll"><table class="settings"><thead><tr>{headings}</tr></thead>\n'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _anchor(record: Record) -> str:
    return f"{record.figure}-{record.scale}"


def _section(record: Record, picture: bytes) -> str:
    title = f"{record.figure}: {record.outcome}"
    lead = f"{record.number} of: {record.paper}. Scale {record.scale}, {len(record.seeds)} seeds."
    described = f"{record.figure}: {record.sentence}"
    parts = [
        f'<h2 id="{_anchor(record)}">{escape(title)}</h2>',
        f'<p class="lead">{escape(lead)}</p>',
        f"<p><b>Claim:</b> {escape(record.claim)}.</p>",
        f"<p><b>Came out:</b> {escape(record.sentence)}.</p>",
        embedded_figure(picture, described, ""),
        _checks("What the plain arm must reach", record.requirements),
        _checks("What must be seen", record.claims),
        f"<pre>{escape(record.command)}</pre>",
    ]
    if record.diverged:
        parts.append(f"<p>{len(record.diverged)} runs diverged, and were left out.</p>")
    return "\n".join(parts)


def _checks(title: str, checks: Sequence[Check]) -> str:
    if not checks:
        return ""
    items = "".join(f"<li>{escape(str(each))}</li>" for each in checks)
    return f"<p><b>{title}</b></p><ul>{items}</ul>"
