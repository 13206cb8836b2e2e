"""Tables of docs/comparison.md, from the rows in this folder: python docs/comparison/tables.py."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from failures import failures_table
from formatting import MINUS, decimals, interval, mean, number, table, verdict
from measures import (
    FOLDER,
    STREAMS,
    SYRE,
    Stream,
    Values,
    comparison_of,
    difference,
    first_and_last_task,
    over_streams,
    primary,
    span_of,
    to,
)
from order import forms_table, reversed_table, tau_table, to_syre_table, unmixed_table
from rates import lower_rates_table, rates_table, same_rate_table

from plasticity.scripts.report.across import across, across_table
from plasticity.scripts.report.aggregates import (
    LEVEL,
    holm,
    interquartile_mean,
    stratified_bootstrap,
)
from plasticity.scripts.report.arms import Arm
from plasticity.scripts.report.costs import read_costs
from plasticity.scripts.report.metric_names import (
    GAP,
    LOSS_GAP,
    factor_of,
    is_better_lower,
)
from plasticity.scripts.report.prediction import prediction_table
from plasticity.scripts.report.run_folders import Run
from plasticity.scripts.report.significance import p_text
from plasticity.scripts.report.statistics import Array

LAYER_NORM = "layer-norm"
SIGMA_SEEDS = range(10)


def settings_of(file: str) -> dict[str, str]:
    """Return the tuned settings of each method as text."""
    tuned = json.loads((FOLDER / f"{file}_tuned.json").read_text(encoding="utf-8"))["methods"]
    return {
        method: ", ".join(
            f"{path.split('.')[-1].replace('learning-rate', 'lr')} {value:g}"
            for path, value in each["settings"].items()
        )
        for method, each in tuned.items()
    }


def stream_table(stream: Stream, file: str, reference: str) -> list[str]:
    """Return the methods of a stream, the best one first, with their differences to one of them."""
    values, metric = primary(stream, file), stream.metric
    digits, settings = decimals(metric), settings_of(file)
    lower = is_better_lower(metric)
    arms = {arm.label: arm for arm in comparison_of(file, stream).arms}
    order = sorted(
        values, key=lambda label: np.mean(list(values[label].values())) * (1 if lower else -1)
    )
    to_it = {
        label: over_streams(_pair(label, reference, stream, file))[stream.number]
        for label in order
        if label != reference
    }
    rows = []
    for label in order:
        found = to_it.get(label)
        rows.append(
            [
                f"`{label}`",
                mean(values[label].values(), digits),
                interval(found, digits + 1) if found else "",
                p_text(found.p_value) if found else "",
                *_secondary(arms[label], metric, digits),
                settings.get(label, ""),
            ]
        )
    arm = next(iter(arms.values()))
    headings = [
        "method",
        span_of(arm),
        f"{MINUS} {reference.replace(LAYER_NORM, 'LayerNorm')}",
        "p",
        "first task",
        "last task",
        *_secondary_headings(arm),
        "settings",
    ]
    return table(headings, rows)


def _pair(
    label: str, reference: str, stream: Stream, file: str
) -> Callable[[Stream], tuple[Values, Values] | None]:
    """Return both methods' values by stream; of a file that is no stream's finals, on that stream alone."""

    def pair(each: Stream) -> tuple[Values, Values] | None:
        if file != stream.file and each != stream:
            return None
        values = primary(each, file if each == stream else None)
        return (values[label], values[reference]) if label in values else None

    return pair


def _layer(arm: Arm) -> str | None:
    """Return the name of the last hidden layer, of the policy where there is one."""
    layers = [name.partition("/")[2] for name in arm.metrics if name.startswith("effective_rank/")]
    policy = [name for name in layers if name.startswith("actor.")] or layers
    return policy[-1] if policy else None


def _gap(arm: Arm) -> tuple[str, int] | None:
    """Return the metric of the gap, and the last task that has one."""
    for metric in (GAP, LOSS_GAP):
        if metric in arm.metrics:
            return metric, arm.positions_of(metric)[-1]
    return None


def _secondary_headings(arm: Arm) -> list[str]:
    gap = _gap(arm)
    headings = [] if gap is None else [f"gap, task {gap[1]}"]
    return [*headings, "rank", "dead", "norm"]


def _secondary(arm: Arm, metric: str, digits: int) -> list[str]:
    def of(name: str, position: int, digits: int) -> str:
        return mean([run.value(name, position) for run in arm.started], digits, factor_of(name))

    last, layer, gap = arm.positions[-1], _layer(arm), _gap(arm)
    ends = first_and_last_task(arm, metric)
    cells = [mean(each, digits, factor_of(metric)) for each in ends]
    if gap is not None:
        cells.append(of(*gap, digits))
    return [
        *cells,
        of(f"effective_rank/{layer}", last, 1),
        of(f"dead_fraction/{layer}", last, 0),
        of("weight_norm/total", last, 0),
    ]


def what_it_adds(stream: Stream, file: str) -> list[str]:
    """Return the differences of every method with LayerNorm to the same one without, and to syre."""
    without, digits = primary(stream), decimals(stream.metric) + 1
    rows = []
    for label, values in primary(stream, file).items():
        method = label.partition("+")[2] or "none"
        found = difference(values, without[method])
        to_syre = interval(difference(values, without[SYRE]), digits)
        rows.append([f"`{method}`", interval(found, digits), p_text(found.p_value), to_syre])
    headings = [f"with LayerNorm {MINUS} without", "p", f"with LayerNorm {MINUS} syre without"]
    return table(["method", *headings], rows)


def activations_table(stream: Stream, file: str, learning_rate: float) -> list[str]:
    """Return methods at another learning rate, against themselves as tuned and others."""
    finals, digits = primary(stream), decimals(stream.metric) + 1
    rows = []
    for label, values in primary(stream, file).items():
        found = [interval(difference(values, finals[m]), digits) for m in (label, SYRE, "none")]
        rows.append([f"`{label}`", mean(values.values(), digits - 1), *found])
    others = [f"{MINUS} {each}" for each in ("as tuned", SYRE, "none")]
    return table(
        [f"at {learning_rate:g}", span_of(comparison_of(file, stream).arms[0]), *others], rows
    )


def sigma_table(stream: Stream, file: str, tuned: float) -> list[str]:
    """Return the tuned syre at other sigmas, against the tuned one and weight decay."""
    finals, others = primary(stream), primary(stream, file)
    arms = {float(arm.settings["sigma"]): arm for arm in comparison_of(file, stream).arms}
    values = {sigma: others[arm.label] for sigma, arm in arms.items()}
    values[tuned] = {seed: finals[SYRE][seed] for seed in SIGMA_SEEDS}
    arms[tuned] = next(a for a in comparison_of(stream.file, stream).arms if a.label == SYRE)
    found = {each: difference(values[each], values[tuned]) for each in values if each != tuned}
    adjusted = holm({str(each): one.p_value for each, one in found.items()})
    digits = decimals(stream.metric) + 1
    rows = []
    for sigma in sorted(values):
        arm = arms[sigma]
        ends = [run for run in arm.started if run.seed in SIGMA_SEEDS]
        rows.append(
            [
                f"{sigma:g}" + (" (tuned)" if sigma == tuned else ""),
                mean(values[sigma].values(), digits),
                interval(found[sigma], digits) if sigma in found else "",
                p_text(adjusted[str(sigma)]) if sigma in found else "",
                interval(difference(values[sigma], finals["weight-decay"]), digits),
                _end(ends, f"effective_rank/{_layer(arm)}", 1),
                _end(ends, f"dead_fraction/{_layer(arm)}", 0),
            ]
        )
    headings = ["sigma", span_of(arms[tuned]), f"{MINUS} tuned ({tuned:g})", "p, adjusted"]
    return table([*headings, f"{MINUS} weight decay", "rank", "dead"], rows)


def decoupled_table(stream: Stream, file: str) -> list[str]:
    """Return syre with the smallest sigma against weight decay, both decoupled, at equal strength."""
    values, digits = primary(stream, file), decimals(stream.metric) + 1
    found: dict[float, dict[str, Values]] = {}
    for arm in comparison_of(file, stream).arms:
        found.setdefault(float(arm.settings["strength"]), {})[arm.method] = values[arm.label]
    rows = [
        [f"{strength:g}", interval(difference(each[SYRE], each["weight-decay"]), digits)]
        for strength, each in sorted(found.items())
    ]
    return table(["strength, decoupled", f"syre {MINUS} weight decay"], rows)


def _end(runs: Sequence[Run], metric: str, digits: int) -> str:
    values = [value for run in runs if (value := run.rows[-1][metric]) is not None]
    return number(factor_of(metric) * float(np.mean(values)), digits)


def question_table(first: str, second: str) -> list[str]:
    """Return whether one method is better than another on each stream."""
    rows = []
    for stream in STREAMS:
        found = to(first, second)[stream.number]
        digits = decimals(stream.metric) + 1
        said = verdict(found, digits, lower=is_better_lower(stream.metric))
        rows.append([str(stream.number), interval(found, digits), p_text(found.p_value), said])
    return table(["stream", f"{first} {MINUS} {second}", "p, adjusted", ""], rows)


def prediction(stream: Stream) -> list[str]:
    """Return what predicts the gap on a stream."""
    found = prediction_table(comparison_of(stream.file, stream))
    assert found is not None
    cells = [
        [cell.text + (f" {cell.details[0]}" if cell.details else "") for cell in row]
        for row in found.rows
    ]
    rows = [[each.replace("-", MINUS).replace("+", "") for each in row] for row in cells]
    return table([heading.replace("\n", " ") for heading in found.columns], rows)


def cheapest() -> list[str]:
    """Return the methods by cost, and the streams on which they are worse than the best one."""
    every = read_costs(FOLDER / "costs.json").values()
    costs = {
        method: float(np.exp(np.mean([np.log(each[method]) for each in every])))
        for method in primary(STREAMS[0])
    }
    best = {}
    for stream in STREAMS:
        choose = min if is_better_lower(stream.metric) else max
        means = {label: np.mean(list(each.values())) for label, each in primary(stream).items()}
        best[stream.number] = choose(means, key=means.__getitem__)
    rows = []
    for method in sorted(costs, key=costs.__getitem__):
        found = over_streams(_against_best(method, best))
        cells = []
        for stream in STREAMS:
            each = found.get(stream.number)
            if each is None:
                cells.append("best")
                continue
            worse = "**" if each.p_value < LEVEL else ""
            cells.append(f"{worse}{interval(each, decimals(stream.metric) + 1)}{worse}")
        rows.append([f"`{method}`", f"{costs[method]:.2f}", *cells])
    headings = ["method", "cost", *(f"stream {each.number}: {MINUS} best" for each in STREAMS)]
    return table(headings, rows)


def _against_best(
    method: str, best: Mapping[int, str]
) -> Callable[[Stream], tuple[Values, Values] | None]:
    def pair(stream: Stream) -> tuple[Values, Values] | None:
        leader = best[stream.number]
        values = primary(stream)
        return None if method == leader else (values[method], values[leader])

    return pair


def scores_table() -> list[str]:
    """Return the scores over all streams, the best method first."""
    found = across([comparison_of(stream.file, stream) for stream in STREAMS])
    assert found is not None
    scores = replace(found, baseline=SYRE).scores
    cells = zip(scores, across_table(replace(found, baseline=SYRE)).rows, strict=True)
    middles = {label: float(interquartile_mean(each)) for label, each in scores.items()}
    rows = {
        label: [
            f"`{label}`",
            " ".join((middle.text, *middle.details)),
            _apart(scores[label], scores[SYRE]) if label != SYRE else "",
            f"{scores[label].mean():.3f}",
            " ".join((probability.text, *probability.details)),
        ]
        for label, (_, middle, probability) in cells
    }
    order = sorted(rows, key=middles.__getitem__, reverse=True)
    headings = [
        "interquartile mean",
        f"{MINUS} {SYRE}",
        "mean",
        f"probability of improvement over {SYRE}",
    ]
    return table(["method", *headings], [rows[label] for label in order])


def _apart(ours: Array, theirs: Array) -> str:
    """Return the difference of two interquartile means, and its bootstrap interval."""

    def apart(first: Array, second: Array) -> Array:
        return np.asarray(interquartile_mean(first) - interquartile_mean(second))

    low, high = stratified_bootstrap(apart, ours, theirs)
    value = number(float(apart(ours, theirs)), 3, signed=True)
    return f"{value} ({number(float(low), 3)}, {number(float(high), 3)})"


def references() -> list[str]:
    """Return the primary measure of each stream over that of fresh networks of the plain method."""
    rows = []
    for stream in STREAMS:
        plain = next(a for a in comparison_of(stream.file, stream).arms if a.label == "none")
        name = f"reference_{stream.metric}"
        found = [
            value
            for run in plain.started
            for row in run.rows
            if (value := row.get(name)) is not None
        ]
        if not found:
            continue
        fresh = factor_of(stream.metric) * float(np.mean(found))
        means = {
            label: float(np.mean(list(each.values()))) for label, each in primary(stream).items()
        }
        leader = (min if is_better_lower(stream.metric) else max)(means, key=means.__getitem__)
        cells = [f"{means[label] / fresh:.3f}" for label in ("none", SYRE, leader)]
        cells[-1] += f" (`{leader}`)"
        rows.append([str(stream.number), number(fresh, decimals(stream.metric)), *cells])
    return table(["stream", "fresh networks", "none / fresh", "syre / fresh", "best / fresh"], rows)


def sections() -> dict[str, list[str]]:
    """Return every table by its heading."""
    found = {}
    for stream in STREAMS:
        found[f"Stream {stream.number}"] = stream_table(stream, stream.file, SYRE)
    found["Failures, stream 7"] = failures_table(STREAMS[-1], 10)
    found["Learning rates, stream 7"] = rates_table(STREAMS[-1], "rates_7", ("none", SYRE))
    found["At equal rates, stream 7"] = same_rate_table(STREAMS[-1], "rates_7")
    supervised = STREAMS[:4]
    found["Lower learning rates"] = lower_rates_table(
        {f"rates_{each.number}": each for each in supervised}
    )
    first = STREAMS[0]
    found["Activations, stream 2"] = activations_table(STREAMS[1], "activations_2", 0.05)
    found["Activations, stream 3"] = activations_table(STREAMS[2], "activations_3", 0.001)
    found["Width, stream 4"] = rates_table(STREAMS[3], "width_4", ("none", "crelu"))
    found["LayerNorm, stream 1"] = stream_table(first, "finals_1_layer_norm", LAYER_NORM)
    found["LayerNorm added, stream 1"] = what_it_adds(first, "finals_1_layer_norm")
    found["Sigma, stream 1"] = sigma_table(first, "sigma_1", 0.5)
    found["Decoupled, stream 1"] = decoupled_table(first, "decoupled_1")
    found["Sigma, stream 2"] = sigma_table(STREAMS[1], "sigma_2", 0.01)
    found["Sigma, stream 3"] = sigma_table(STREAMS[2], "sigma_3", 1)
    found["Over streams"] = scores_table()
    found["syre and weight decay"] = question_table(SYRE, "weight-decay")
    found["syre and L2-init"] = question_table(SYRE, "l2-init")
    for stream in STREAMS:
        if any(map(_gap, comparison_of(stream.file, stream).arms)):
            found[f"What predicts the gap, stream {stream.number}"] = prediction(stream)
    found["Cost"] = cheapest()
    found["Abrupt and gradual"] = forms_table()
    found["Unmixed, abrupt and gradual"] = unmixed_table()
    found["Against syre, abrupt and gradual"] = to_syre_table()
    found["Order, abrupt and gradual"] = tau_table()
    found["Reversed, abrupt and gradual"] = reversed_table()
    found["Fresh networks"] = references()
    return found


if __name__ == "__main__":
    for heading, lines in sections().items():
        print(f"## {heading}\n", *lines, "", sep="\n")
