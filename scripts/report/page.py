"""Self-contained HTML page of a report: interactive figures and sortable tables, and nothing is linked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from plasticity.scripts.report.across import (
    Across,
    across_headline,
    across_notes,
    across_table,
    improvement_table,
)
from plasticity.scripts.report.captions import caption
from plasticity.scripts.report.charts import as_json, page_data
from plasticity.scripts.report.comparison import Comparison
from plasticity.scripts.report.differences import DIFFERENCES_NOTE, differences_table
from plasticity.scripts.report.headline import headline
from plasticity.scripts.report.html import document
from plasticity.scripts.report.metric_names import in_words
from plasticity.scripts.report.prediction import prediction_note, prediction_table
from plasticity.scripts.report.provenance import common_settings, continue_commands, recorded
from plasticity.scripts.report.settings_map import SettingsMap, settings_map
from plasticity.scripts.report.significance import significance_notes, significance_table
from plasticity.scripts.report.tables import (
    Cell,
    Table,
    best_table,
    description_table,
    metric_table,
    settings_table,
    task_table,
)
from plasticity.scripts.report.vega import bundle

FOLDER = Path(__file__).parent

SCRIPTS = ("tables.js", "charts.js", "controls.js")
"""Scripts that sort the tables, draw the charts, and do what the controls say."""

CONTROLS = """
<noscript><p>The interactive figures need JavaScript; the same figures are beside this page.</p></noscript>
<form id="controls" aria-label="What is drawn">
<div class="row">
<label>Metric <select id="metric"></select></label>
<label>Layer <select id="layer"></select></label>
<label>Smoothing <select id="smoothing"><option value="1">none</option><option value="3">3 rows</option>
<option value="5">5 rows</option><option value="11">11 rows</option><option value="25">25 rows</option>
</select></label>
<label><input type="checkbox" id="intervals" checked> intervals</label>
<label><input type="checkbox" id="seeds"> single seeds</label>
</div>
<fieldset id="methods"><legend>Methods</legend></fieldset>
<fieldset id="benchmarks"><legend>Benchmarks</legend></fieldset>
</form>
<p id="caption"></p>
<div id="charts" class="charts"></div>
"""
"""Controls of the charts, which the script fills, and the place for the charts."""


def page(
    comparisons: Sequence[Comparison], found: Across | None, files: Sequence[Sequence[str]]
) -> str:
    """Return the page.

    Args:
        comparisons: Comparisons, one per benchmark.
        found: Scores on all of them, if there are several.
        files: Names of the static figures that stand beside the page, by what they show.

    Returns:
        A complete HTML document, to be encoded as UTF-8.
    """
    benchmarks = ", ".join(comparison.benchmark for comparison in comparisons)
    data = page_data(comparisons, found)
    parts = [
        "<h1>Plasticity report</h1>",
        _headlines(comparisons, found),
        "<h2>Figures</h2>",
        CONTROLS,
    ]
    share = f"{100 * comparisons[0].confidence:g} %"
    thinned = f" Of long runs one row in {data['stride']} is drawn." if data["stride"] > 1 else ""
    parts.append(
        f'<p class="lead">Bands: {share} t intervals of the mean over seeds; with smoothing, of each'
        f" run's moving average.{thinned} Among single seeds, a cross ends the line of a run that"
        " diverged.</p>"
    )
    parts.append(_for_papers(name for names in files for name in names))
    if found is not None:
        parts.append(_all_benchmarks(found, comparisons))
    parts += map(_section, comparisons)
    own = "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS)
    scripts = (
        f"<script>{bundle()}</script>\n"
        f'<script type="application/json" id="report-data">{as_json(data)}</script>\n'
        f"<script>(() => {{\n{own}}})();</script>"
    )
    main = "\n".join(parts)
    return document(f"plasticity: {benchmarks}", f"<main>\n{main}\n</main>\n{scripts}")


def _headlines(comparisons: Sequence[Comparison], found: Across | None) -> str:
    """Return two sentences per benchmark, after those on all of them."""
    lines = [] if found is None else [f"<p>{escape(across_headline(found))}</p>"]
    for comparison in comparisons:
        start = f"<b>{escape(comparison.benchmark)}.</b> " if len(comparisons) > 1 else ""
        lines.append(f"<p>{start}{escape(headline(comparison))}</p>")
    return f'<div class="headline">{"".join(lines)}</div>'


def _for_papers(names: Iterable[str]) -> str:
    links = "".join(f'<li><a href="{quote(name)}">{escape(name)}</a></li>' for name in names)
    return f"<details><summary>Figures for papers, beside this page</summary><ul>{links}</ul></details>"


def _all_benchmarks(found: Across, comparisons: Sequence[Comparison]) -> str:
    by_benchmark = differences_table(comparisons)
    tables = (across_table(found), by_benchmark, improvement_table(found))
    every = "\n".join(_table(table) for table in tables if table is not None)
    notes = across_notes(found)
    if by_benchmark is not None:
        notes.append(DIFFERENCES_NOTE)
    return f'<h2>All benchmarks</h2>\n{every}\n{_notes(notes)}\n<div id="profile" class="charts"></div>'


def _section(comparison: Comparison) -> str:
    arms, seeds = len(comparison.arms), {run.seed for run in comparison.runs}
    against = comparison.baseline
    lead = f"{_count(arms, 'arm')}, {_count(len(seeds), 'seed')}"
    lead += f"; differences to {against.label}, paired by seed" if against is not None else ""
    if len(seeds) > 1:
        share = f"{100 * comparison.confidence:g} %"
        lead += f". Values are means over seeds, with [{share} t interval] and ({share} bootstrap interval)"
    parts = [f"<h2>{escape(comparison.benchmark)}</h2>", f'<p class="lead">{escape(lead)}.</p>']
    if comparison.is_sweep:
        parts.append(_table(best_table(comparison)))
    parts += [
        _table(metric_table(comparison, metric, comparison.chosen, full=False))
        for metric in comparison.leading_metrics
    ]
    evidence = significance_table(comparison)
    if evidence is not None:
        parts.append(_table(evidence))
    parts.append(_notes([*comparison.notes, *significance_notes(comparison)]))
    settings = settings_map(comparison)
    if settings is not None:
        parts.append(_map(comparison, settings))
    if task_table(comparison) is not None:
        parts.append(_tasks(comparison))
    predicted = prediction_table(comparison)
    if predicted is not None:
        parts += [_table(predicted), _notes([prediction_note(comparison.confidence)])]
    parts.append(_all_metrics(comparison))
    parts += _making(comparison)
    return "\n".join(parts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _table(table: Table) -> str:
    names = [escape(name).replace("\n", "<br>") for name in table.columns]
    headings = "".join(f'<th scope="col">{name}</th>' for name in names)
    rows = []
    for name, *cells in table.rows:
        row = f'<th scope="row">{_text(name)}</th>'
        row += "".join(f"<td>{_text(cell)}</td>" for cell in cells)
        rows.append(f"<tr>{row}</tr>")
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(table.title, quote=True)}">'
        f"<table><caption>{escape(table.title)}</caption>"
        f"<thead><tr>{headings}</tr></thead>\n<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _text(cell: Cell) -> str:
    return escape(cell.text) + "".join(f"<small>{escape(line)}</small>" for line in cell.details)


def _notes(notes: Iterable[str]) -> str:
    return f'<ul class="notes">{"".join(f"<li>{escape(note)}</li>" for note in notes)}</ul>'


def _map(comparison: Comparison, settings: SettingsMap) -> str:
    """Return the place where the script draws the map of settings, and what else there is to compare."""
    values = "; ".join(
        f"{' '.join(name.split())} {value:.{settings.decimals}f}"
        for name, value in settings.references
    )
    others = f" The others, at their best: {values}." if values else ""
    text = caption(comparison, "map").replace(" On the right: the other methods.", others)
    return (
        f"<h3>Map of settings</h3>\n<figure><figcaption>{escape(text)}</figcaption>"
        f'<div class="charts" id="map-{escape(comparison.benchmark, quote=True)}"></div></figure>'
    )


def _tasks(comparison: Comparison) -> str:
    tables = {"return of each task": task_table(comparison)}
    for key in comparison.described:
        tables[f"{in_words(key)} by seed"] = description_table(comparison, key)
    shown = {title: table for title, table in tables.items() if table is not None}
    inside = "\n".join(map(_table, shown.values()))
    summary = ", ".join(shown)
    summary = summary[:1].upper() + summary[1:]
    return f"<details><summary>{summary}</summary>\n{inside}\n</details>"


def _all_metrics(comparison: Comparison) -> str:
    tables = "\n".join(
        _table(metric_table(comparison, metric, comparison.arms, full=True))
        for metric in comparison.metrics
    )
    count = _count(len(comparison.metrics), "metric")
    return (
        f"<h3>All metrics</h3>\n<details><summary>{count}, every arm, with all differences"
        f"</summary>\n{tables}\n</details>"
    )


def _making(comparison: Comparison) -> list[str]:
    settings = {key: str(value) for key, value in common_settings(comparison).items()}
    settings["versions"] = "; ".join(recorded(comparison, "versions"))
    settings["git commit"] = "; ".join(recorded(comparison, "git_commit"))
    rows = "".join(
        f'<tr><th scope="row">{escape(key)}</th><td>{escape(value)}</td></tr>'
        for key, value in settings.items()
    )
    parts = [
        "<h3>Configuration</h3>",
        _table(settings_table(comparison)),
        "<details open><summary>Settings that all arms share</summary>"
        '<div class="scroll" tabindex="0" role="group" aria-label="Shared settings">'
        f'<table class="settings"><tbody>{rows}</tbody></table></div></details>',
    ]
    commands = continue_commands(comparison.unfinished)
    if commands:
        lines = escape("\n".join(commands))
        parts.append(f'<h3>To continue the unfinished runs</h3>\n<pre tabindex="0">{lines}</pre>')
    return parts
