"""Self-contained HTML page of a report: figures are embedded, and nothing is linked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from plasticity.scripts.report.comparison import (
    Comparison,
    common_settings,
    continue_commands,
    recorded,
)
from plasticity.scripts.report.html import document, embedded_figure
from plasticity.scripts.report.metric_names import GAP, headlines, in_words
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

CAPTIONS = {
    "accuracy": "after each task (test, train) and while it was learnt (online): mean over seeds.{gap}",
    "return": "of the episodes that ended since the previous row (undiscounted), and their length:"
    " mean over seeds.",
    "tasks": "(mean over all episodes of each task that was played to its end, then over seeds).",
    "progress": "over the run: mean over seeds.",
    "ranks": "of the hidden layers' activations on {probe}, one panel per layer.",
    "units": "that are dead, dormant or nearly always positive (linearised) on {probe}, as a share of their"
    " layer, and the share of outputs that are active.",
    "norms": "of the whole network's parameters, and of each layer's activations.",
    "weights": "that moved since the row before, relative to their norm there, and the distance of their"
    " Gram matrices to the identity.",
    "steps": "at the end of each task: change of the outputs by its last step (churn), and curvature of the"
    " loss, on {probe}.",
    "updates": "of the latest update at each row: entropy of the policy, approximate Kullback-Leibler"
    " divergence (of the last epoch), share of clipped actions, share of the returns' variance that the"
    " critic explains (cut off below -1), both losses, weight of the entropy, share of random actions; of"
    " each, what the algorithm has.",
    "map": "over the two settings of a sweep, with the best outlined. On the right: the other methods.",
}
"""Captions of the figures, by name; the title goes before."""

TITLES = {
    "accuracy": "Accuracy",
    "return": "Return",
    "tasks": "Return per task",
    "progress": "Progress",
    "ranks": "Ranks",
    "units": "Units",
    "norms": "Norms",
    "weights": "Weights",
    "steps": "Last step",
    "updates": "Updates of the agent",
    "map": "Map of settings",
}


def page(comparisons: Sequence[Comparison], figures: Sequence[Mapping[str, bytes]]) -> str:
    """Return the page.

    Args:
        comparisons: Comparisons, one per benchmark.
        figures: Contents of PNG files by name, for each comparison.

    Returns:
        A complete HTML document, to be encoded as UTF-8.
    """
    benchmarks = ", ".join(comparison.benchmark for comparison in comparisons)
    sections = "\n".join(
        _section(comparison, images)
        for comparison, images in zip(comparisons, figures, strict=True)
    )
    return document(f"plasticity: {benchmarks}", f"<h1>Plasticity report</h1>\n{sections}")


def _section(comparison: Comparison, images: Mapping[str, bytes]) -> str:
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
        for metric in headlines(comparison.chosen_metrics)
    ]
    evidence = significance_table(comparison)
    if evidence is not None:
        parts.append(_table(evidence))
    parts.append(_notes([*comparison.notes, *significance_notes(comparison)]))
    for name, png in images.items():
        parts.append(_figure(comparison, name, png))
        if name == "tasks":
            parts.append(_tasks(comparison))
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
        f'<div class="scroll"><table><caption>{escape(table.title)}</caption>'
        f"<thead><tr>{headings}</tr></thead>\n<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _text(cell: Cell) -> str:
    return escape(cell.text) + "".join(f"<small>{escape(line)}</small>" for line in cell.details)


def _notes(notes: Iterable[str]) -> str:
    return f'<ul class="notes">{"".join(f"<li>{escape(note)}</li>" for note in notes)}</ul>'


def _figure(comparison: Comparison, name: str, png: bytes) -> str:
    title = TITLES[name]
    subject = in_words(comparison.headline).capitalize() if name == "map" else title
    has_gap = GAP in comparison.chosen_metrics
    gap = (
        " Plasticity gap: a fresh network's accuracy on the task minus the run's."
        if has_gap
        else ""
    )
    caption = f"{subject} {CAPTIONS[name].format(probe=comparison.axis.probe, gap=gap)}"
    described = f"{comparison.benchmark}: {caption}"
    return f"<h3>{escape(title)}</h3>\n{embedded_figure(png, described, caption)}"


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
        '<details open><summary>Settings that all arms share</summary><div class="scroll">'
        f'<table class="settings"><tbody>{rows}</tbody></table></div></details>',
    ]
    commands = continue_commands(comparison.unfinished)
    if commands:
        lines = escape("\n".join(commands))
        parts.append(f"<h3>To continue the unfinished runs</h3>\n<pre>{lines}</pre>")
    return parts
