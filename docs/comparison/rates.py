"""Methods at other learning rates than those that they were tuned to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from formatting import MINUS, decimals, interval, mean, table
from measures import (
    SYRE,
    Stream,
    comparison_of,
    difference,
    first_and_last_task,
    primary,
    span_of,
)

from plasticity.scripts.report.aggregates import holm
from plasticity.scripts.report.arms import Arm
from plasticity.scripts.report.significance import p_text


def rates_table(stream: Stream, file: str, others: Sequence[str]) -> list[str]:
    """Return the methods of a file, by learning rate, against others as tuned."""
    finals, digits = primary(stream), decimals(stream.metric) + 1
    values, found = primary(stream, file), comparison_of(file, stream)
    rows = []
    for arm in found.arms:
        ours = values[arm.label]
        ends = [mean(each, digits - 1) for each in first_and_last_task(arm, stream.metric)]
        to_them = [interval(difference(ours, finals[each]), digits) for each in others]
        cells = [f"`{arm.method}`", f"{_rate(arm):g}", mean(ours.values(), digits - 1), *to_them]
        rows.append([*cells, *ends])
    to = [f"{MINUS} {each} as tuned" for each in others]
    headings = ["method", "learning rate", span_of(found.arms[0]), *to, "first task", "last task"]
    return table(headings, rows)


def same_rate_table(stream: Stream, file: str) -> list[str]:
    """Return methods against the plain one at their own learning rate, where it has been run at that."""
    plain = {
        _rate(arm): primary(stream, file)[arm.label]
        for arm in comparison_of(file, stream).arms
        if arm.method == "none"
    }
    rates = {arm.label: _rate(arm) for arm in comparison_of(stream.file, stream).arms}
    found = {
        label: difference(values, plain[rates[label]])
        for label, values in primary(stream).items()
        if rates[label] in plain
    }
    adjusted = holm({label: each.p_value for label, each in found.items()})
    digits = decimals(stream.metric) + 1
    rows = [
        [f"`{label}`", f"{rates[label]:g}", interval(found[label], digits), p_text(adjusted[label])]
        for label in sorted(found, key=lambda label: -found[label].mean)
    ]
    return table(["method", "learning rate", f"{MINUS} none at that rate", "p, adjusted"], rows)


def _rate(arm: Arm) -> float:
    return float(arm.started[0].flat_config["agent.learning_rate"])


def lower_rates_table(files: Mapping[str, Stream]) -> list[str]:
    """Return the plain network at lower learning rates, by file of its runs."""
    rows = []
    for file, stream in files.items():
        finals, digits = primary(stream), decimals(stream.metric) + 1
        (tuned,) = (a for a in comparison_of(stream.file, stream).arms if a.label == "none")
        for arm in comparison_of(file, stream).arms:
            ours = primary(stream, file)[arm.label]
            to_them = [interval(difference(ours, finals[each]), digits) for each in ("none", SYRE)]
            rates = [f"{_rate(tuned):g}", f"{_rate(arm):g}"]
            rows.append([str(stream.number), *rates, mean(ours.values(), digits - 1), *to_them])
    to = [f"{MINUS} {each} as tuned" for each in ("none", SYRE)]
    return table(["stream", "tuned rate", "lower rate", "none at the lower rate", *to], rows)
