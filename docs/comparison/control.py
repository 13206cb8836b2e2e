"""Tables of stream 7: tasks that fail, and other learning rates."""

from __future__ import annotations

from formatting import MINUS, decimals, interval, mean, table
from measures import (
    SYRE,
    Stream,
    comparison_of,
    difference,
    first_and_last_task,
    last_task,
    primary,
    span_of,
    values_in_task,
)

from plasticity.scripts.report.aggregates import holm
from plasticity.scripts.report.arms import Arm
from plasticity.scripts.report.significance import p_text

OTHERS = ("none", SYRE)
"""Methods that others are compared with at other learning rates."""


def failures_table(stream: Stream, least: float) -> list[str]:
    """Return how many tasks after the first, and runs with such tasks, have a return below the least."""
    arms = comparison_of(stream.file, stream).arms
    found = {}
    for arm in arms:
        failed = [
            seed
            for task in range(1, last_task(arm) + 1)
            for seed, value in values_in_task(arm, stream.metric, task).items()
            if value is not None and value < least
        ]
        found[arm.label] = len(failed), len(set(failed))
    rows = [
        [f"`{label}`", *map(str, found[label])] for label in sorted(found, key=found.__getitem__)
    ]
    num_runs = len(arms[0].started)
    tasks = f"tasks below {least:g}, of {num_runs * last_task(arms[0])}"
    return table(["method", tasks, f"runs with one, of {num_runs}"], rows)


def rates_table(stream: Stream, file: str) -> list[str]:
    """Return methods at other learning rates, against the plain one and syre as tuned."""
    finals, digits = primary(stream), decimals(stream.metric) + 1
    values, found = primary(stream, file), comparison_of(file, stream)
    rows = []
    for arm in found.arms:
        ours = values[arm.label]
        ends = [mean(each, digits - 1) for each in first_and_last_task(arm, stream.metric)]
        to_them = [interval(difference(ours, finals[each]), digits) for each in OTHERS]
        cells = [f"`{arm.method}`", f"{_rate(arm):g}", mean(ours.values(), digits - 1), *to_them]
        rows.append([*cells, *ends])
    to = [f"{MINUS} {each} as tuned" for each in OTHERS]
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
